"""What tractography is given: maps of a scan, and how to track."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from DMRIMicroLib.errors import InputError

from .map_nodes import Look, image_files, looks, maps_of, open_maps, readable
from .nodes import DWI_CLASS, open_node, scan_from_node
from .region_nodes import region_from, regions_later
from .results import METRIC
from .tract_nodes import DIRECTION, points_from_node
from .words import _

SEEDS, INSIDE = "FA > 0.3", "FA > 0.15"
"""Rules of the voxels that lines start in, and run in."""

CSD = "csd"

OPTIONS = ("odf", "method", "step", "max_angle", "min_length", "max_length", "seed")
"""Of `DMRIMicroLib.tracts`, that verbs here pass on."""


def _as_it_is(given):
    return given


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps that nodes hold.

    Attributes
    ----------
    maps : MapSet or None
        None as long as the scan is not fitted. Not `settled` yet if they come from `unfitted`.
    name : str
        Of the scan, with which new nodes' names begin.
    looks : dict of str to Look
        How the maps are shown.
    scan : Scan or None
        What is to be fitted first. Not `masked` yet.
    settled, masked : callable
        What makes maps, or the scan, what they ought to be; for a thread, see
        `map_nodes.open_maps` and `nodes.open_node`.
    dwi : vtkMRMLDiffusionWeightedVolumeNode or None
        Its node.
    """

    maps: Any
    name: str
    looks: Mapping[str, Look] = field(default_factory=dict)
    scan: Any = None
    settled: Callable = _as_it_is
    masked: Callable = _as_it_is
    dwi: Any = None

    @classmethod
    def unfitted(cls, given: Any, mask: Any = None) -> Maps:
        """Read nodes; a diffusion volume is not fitted yet."""
        if given is None:
            raise InputError(_("there are no maps"), _("Fit the tensor first, or give the scan."))
        if hasattr(given, "GetClassName"):
            if given.IsA(DWI_CLASS):
                scan, masked = open_node(given, mask)
                return cls(None, scan.name, scan=scan, masked=masked, dwi=given)
            nodes = maps_of(given)
        else:
            nodes = readable(given)
        maps, settled = open_maps(nodes)
        return cls(maps, _scan_name(maps, nodes), looks(nodes), settled=settled)

    @classmethod
    def of(cls, given: Any, mask: Any = None, fit_device: str | None = None) -> Maps:
        """Read nodes; the tensor is fitted to a diffusion volume, in this process."""
        found = cls.unfitted(given, mask)
        if found.scan is None:
            return found.fitted(found.settled(found.maps))
        from DMRIMicroLib import fit

        return found.fitted(
            fit(found.masked(found.scan), ["dti"], uncertainty=True, device=fit_device)
        )

    def fitted(self, maps) -> Maps:
        """Return the same with maps that are as they ought to be."""
        return replace(self, maps=maps, settled=_as_it_is, scan=None, masked=_as_it_is)


@dataclass(frozen=True, eq=False)
class Tracking:
    """How to track; attributes are the arguments of `TractVerbs.tracts`."""

    seeds: Any
    within: Any = None
    density: float | None = None
    count: int | None = None
    include: Any = None
    exclude: Any = None
    ends: Any = None
    inside: str = INSIDE
    colour_by: str = DIRECTION
    along: Sequence[str] = ()
    images: Mapping[str, Any] | None = None
    dwi: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, seeds: Any, dwi: Any, colourBy: str = DIRECTION, **words: Any) -> Tracking:
        """Take apart the words of `TractVerbs.tracts`; what no attribute holds is an option."""
        own = {name: words.pop(name) for name in cls.__dataclass_fields__ if name in words}
        return cls(seeds, colour_by=colourBy, dwi=dwi, options=words, **own)

    def __post_init__(self) -> None:
        """Refuse options that there are not, before any work."""
        if strangers := set(self.options) - set(OPTIONS):
            raise TypeError(
                f"tracking has no option {strangers.pop()!r}; there are {', '.join(OPTIONS)}"
            )

    @property
    def by_rule(self) -> bool:
        """Whether the seeds are a rule."""
        return isinstance(self.seeds, str)

    def points(self, maps: Maps):
        """Return the points to start from."""
        if self.by_rule:
            seed = int(self.options.get("seed", 0))
            return start_points(
                maps, self.seeds, self.within, self.density, self.count, self.images, seed
            )
        if self.within is not None or self.density is not None or self.count is not None:
            raise InputError(
                _("seeds are given, which within, density and count do not change"),
                _("Leave these out, or give a rule."),
            )
        if hasattr(self.seeds, "GetClassName"):
            return points_from_node(self.seeds)
        return np.asarray(self.seeds, dtype=np.float64)

    def scan(self):
        """Return the scan that deconvolution needs, if it is asked for."""
        if self.options.get("odf") != CSD:
            return None
        if self.dwi is None:
            raise InputError(
                _("deconvolution needs the scan"), _("Give dwiNode, or follow the tensor.")
            )
        return scan_from_node(self.dwi)

    def regions(self) -> dict[str, list]:
        """Return the regions by what lines do there."""
        return {
            role: [region() for region in found] for role, found in self.regions_later().items()
        }

    def regions_later(self) -> dict[str, list[Callable]]:
        """Read the regions; what is returned makes them, in any thread."""
        return {role: regions_later(getattr(self, role)) for role in ("include", "exclude", "ends")}

    def kept(self) -> list[str]:
        """Names of the maps whose values are kept along the lines."""
        coloured = [self.colour_by] if self.colour_by not in ("", DIRECTION) else []
        return list(dict.fromkeys([*coloured, *self.along]))

    def names(self) -> set[str]:
        """Names of all maps that are read; refuses what is no rule."""
        from DMRIMicroLib.tracts.rules import Rule

        rules = [self.inside, *([self.seeds] if self.by_rule else [])]
        return {name for rule in rules for name in Rule.parse(rule).names} | set(self.kept())

    def check(self, maps: Maps) -> None:
        """Refuse rules with maps that are not there, before any work."""
        from DMRIMicroLib.tracts.rules import Layers

        if "tensor" not in maps.maps:
            raise InputError(
                _("there is no tensor among these maps"),
                _("Fit the model dti, or give the diffusion scan."),
            )
        for name in sorted(self.names() - set(self.images or {})):
            Layers(maps.maps)[name]


def start_points(
    maps: Maps,
    rule: str,
    within: Any,
    density: float | None,
    count: int | None,
    images: Mapping[str, Any] | None,
    seed: int,
):
    """Choose seeds by a rule; see `TractVerbs.seeds`."""
    from DMRIMicroLib import seeds

    region = None if within is None else region_from(within)
    with image_files(images) as files:
        return seeds(
            maps.maps, rule, within=region, files=files, density=density, count=count, seed=seed
        )


def _scan_name(maps, nodes: Sequence) -> str:
    """Name of the scan that maps were made of."""
    told = [made.get("scan", {}).get("name") for made in maps.provenance.values()]
    first = nodes[0]
    return next(filter(None, told), first.GetName().removesuffix(f" {first.GetAttribute(METRIC)}"))
