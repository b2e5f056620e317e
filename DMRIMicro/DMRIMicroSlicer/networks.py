"""The methods of the trained network among the models: codebook and PIGMENT.

Whether they can run, what their maps lean on, how they are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from DMRIMicroLib.errors import InputError

from .background import Steps
from .results import showing_maps
from .suitability import Suitability
from .words import _

WEIGHTS = "codebook"
"""Name and kind of the network's weights, which both methods use."""


@dataclass(frozen=True)
class Method:
    """A way to use the network.

    Attributes
    ----------
    name : str
        Of its maps' model, of its verb on the command line, and in the list of models.
    title : str
    called : str
        What sentences call it.
    labels : dict of str to str
        What nodes of its quality maps are called behind the scan's name and its own.
    models : tuple of str
        Whose metrics it gives; all that the network knows if empty.
    caution : str
        What the user must know of its maps from any scan.
    """

    name: str
    title: str
    called: str
    labels: dict[str, str]
    models: tuple[str, ...] = ()
    caution: str = ""


CODEBOOK = Method(
    "codebook",
    _("Codebook (all 24 metrics, any protocol)"),
    "the codebook",
    {"codebook_residual": "residual"},
)

PIGMENT = Method(
    "pigment",
    _("PIGMENT (very few volumes; takes minutes)"),
    "PIGMENT",
    {"pigment_residual": "residual", "prior_share": "prior share"},
    ("dti", "dki", "noddi"),
    _(
        "where its map 'prior share' is near 1, the others show what tissue usually looks like, "
        "and a lesion may be missing or invented"
    ),
)

METHODS = {method.name: method for method in (CODEBOOK, PIGMENT)}


@dataclass(frozen=True)
class Offer:
    """A method as the list of models shows it.

    Attributes
    ----------
    method : Method
    metrics : tuple of Metric
        Empty if there are no weights.
    problem : str
        Why it cannot run on any scan and what to do; empty if it can.
    """

    method: Method
    metrics: tuple = ()
    problem: str = ""

    @property
    def name(self) -> str:
        """Of the method."""
        return self.method.name

    @property
    def title(self) -> str:
        """Of the method."""
        return self.method.title


def offers(weights: str = "") -> dict[str, Offer]:
    """Look for the weights, those that come with the library by default, and verify them."""
    try:
        from DMRIMicroLib.codebooks.estimate import metric_of
        from DMRIMicroLib.weights import verify
    except ImportError:
        return {name: Offer(method) for name, method in METHODS.items()}  # Apply installs it
    try:
        card = verify(weights or WEIGHTS, WEIGHTS)[1]
    except InputError as error:
        return {name: Offer(method, problem=str(error)) for name, method in METHODS.items()}
    known = card.data.get("metrics", ())
    return {
        name: Offer(method, tuple(metric_of(key) for key in known if _gives(method.models, key)))
        for name, method in METHODS.items()
    }


def _gives(models: Sequence[str], metric: str) -> bool:
    """Whether a metric is among those of some models; of no models, it is."""
    from DMRIMicroLib.codebooks.estimate import owner

    model = owner(metric)
    return not models or (model is not None and model.name in models)


def suitability(offered: Offer, acquisition=None) -> Suitability:
    """Say what a scan means for a method, or what can be said without a scan."""
    if offered.problem:
        return Suitability(lacks=(offered.problem,))
    if acquisition is None or not offered.metrics:
        return Suitability()
    needs = {"a b0 volume": acquisition.is_b0.any(), "a weighted volume": acquisition.shells}
    if lacks := tuple(need for need, there in needs.items() if not there):
        return Suitability(lacks=lacks)
    from DMRIMicroLib.codebooks.estimate import prior_driven

    leaning = prior_driven([metric.name for metric in offered.metrics], acquisition)
    caution = _(
        "metrics that this acquisition by itself does not determine lean on what tissue usually "
        "looks like (prior-driven): {metrics}"
    ).format(metrics=", ".join(leaning))
    cautions = filter(None, [caution if leaning else "", offered.method.caution])
    return Suitability(cautions=tuple(cautions), prior_driven=leaning)


def showing(method: Method, maps, scan_name: str, scan_id: str, *, uncertainty: bool) -> Steps:
    """Add a method's maps to the scene, named apart from a fit's: ``"<scan> codebook FA"``."""
    shown = {}
    for name, item in maps.items():
        label = method.labels.get(name, name)
        shown[label] = item if uncertainty else replace(item, uncertainty=None)
    return showing_maps(replace(maps, maps=shown), f"{scan_name} {method.name}", scan_id)
