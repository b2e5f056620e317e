"""Console verbs of the methods of the trained network, in this process or in one of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from . import networks
from .background import Steps, at_once
from .job import FitJob
from .networks import CODEBOOK, PIGMENT, WEIGHTS, Method
from .nodes import open_node, scan_from_node
from .notes import fit_notes, tell
from .steps import check_preparations, prepared, shows
from .worker import start_maps

PRESET = "standard"
"""Of PIGMENT, see `DMRIMicroLib.prior.estimate.PRESETS`."""


class NetworkVerbs:
    """The codebook and PIGMENT, for the logic; names follow Slicer's camelCase."""

    def codebook(
        self,
        dwiNode,
        maskNode=None,
        segmentID: str | None = None,
        device: str | None = None,
        progress: Callable[[float, str], None] | None = None,
        *,
        uncertainty: bool = False,
        weights: str = WEIGHTS,
        extra: Sequence[str] = (),
        **preparations,
    ) -> list:
        """Estimate all 24 metrics by the codebook in this process and show the maps.

        Parameters
        ----------
        dwiNode : vtkMRMLDiffusionWeightedVolumeNode
            Of any protocol; one b0 volume and one shell are enough.
        maskNode, segmentID, device, progress
            As of `fit`.
        uncertainty : bool
            Show the standard deviation of every metric, too.
        weights : str
            Name of the network's weights, or their .safetensors file.
        extra : sequence of str
            Files of metrics that `dmrimicro adapt` made for these weights.
        **preparations
            As of `DMRIMicroLib.preprocess.prepare`: denoise="mppca", degibbs=True, noise="pca".

        Returns
        -------
        list of vtkMRMLScalarVolumeNode
            One node a metric, ``"<scan> codebook FA"``, and the residual. Nodes of metrics that
            this acquisition by itself does not determine have the attribute
            ``DMRIMicro.prior_driven``, which says what it lacks.
        """
        from DMRIMicroLib import codebook as estimate

        scan = _scan(CODEBOOK, dwiNode, maskNode, segmentID, progress, preparations)
        maps = estimate(scan, weights=weights, extra=extra, device=device, progress=progress)
        return _shown(CODEBOOK, maps, scan.name, dwiNode.GetID(), uncertainty)

    def startCodebook(
        self,
        dwiNode,
        maskNode=None,
        segmentID: str | None = None,
        *,
        weights: str = WEIGHTS,
        extra: Sequence[str] = (),
        **rest,
    ) -> FitJob:
        """Run the codebook in a child process, as `start` does a fit.

        Parameters
        ----------
        dwiNode, maskNode, segmentID, weights, extra
            As of `codebook`.
        **rest
            device, onProgress, onDone, onError, onNote as of `start`; uncertainty and preparations
            as of `codebook`.
        """
        words = [word for file in extra for word in ("--extra", str(file))]
        return _start(CODEBOOK, dwiNode, maskNode, segmentID, weights, words, **rest)

    def pigment(
        self,
        dwiNode,
        maskNode=None,
        segmentID: str | None = None,
        device: str | None = None,
        progress: Callable[[float, str], None] | None = None,
        *,
        models: Sequence[str] | str = PIGMENT.models,
        preset: str = PRESET,
        samples: int | None = None,
        uncertainty: bool = False,
        weights: str = WEIGHTS,
        **preparations,
    ) -> list:
        """Estimate metrics of very few volumes by PIGMENT in this process and show the maps.

        Parameters
        ----------
        dwiNode : vtkMRMLDiffusionWeightedVolumeNode
            Of any protocol; one b0 volume and one shell are enough.
        maskNode, segmentID, device, progress
            As of `fit`.
        models : str or sequence of str
            Whose metrics are wanted; "dti,noddi" is two models, "all" all of them.
        preset : str
            How much work is done: "fast", "standard" or "best".
        samples : int, optional
            In place of the preset's.
        uncertainty, weights, **preparations
            As of `codebook`.

        Returns
        -------
        list of vtkMRMLScalarVolumeNode
            One node a metric, ``"<scan> pigment FA"``, the prior's share of the answer, and the
            residual; prior-driven ones are marked as those of `codebook`.
        """
        from DMRIMicroLib import pigment as estimate

        options = {"preset": preset, "samples": samples, "weights": weights, "device": device}
        scan = _scan(PIGMENT, dwiNode, maskNode, segmentID, progress, preparations)
        found = estimate(scan, models, **options, progress=progress)
        return _shown(PIGMENT, found.maps, scan.name, dwiNode.GetID(), uncertainty)

    def startPigment(
        self,
        dwiNode,
        maskNode=None,
        segmentID: str | None = None,
        *,
        models: Sequence[str] | str = PIGMENT.models,
        preset: str = PRESET,
        samples: int | None = None,
        weights: str = WEIGHTS,
        **rest,
    ) -> FitJob:
        """Run PIGMENT in a child process; options as of `pigment`, `rest` as of `startCodebook`."""
        names = models if isinstance(models, str) else ",".join(models)
        words = ["--models", names, "--preset", preset]
        words += [] if samples is None else ["--samples", str(samples)]
        return _start(PIGMENT, dwiNode, maskNode, segmentID, weights, words, **rest)


def _scan(
    method: Method,
    node,
    mask,
    segment: str | None,
    progress: Callable[[float, str], None] | None,
    preparations: Mapping,
):
    """Return a node's scan after the steps that were asked for."""
    check_preparations(method.called, preparations)
    return prepared(scan_from_node(node, mask, segment), progress, preparations)


def _shown(method: Method, maps, scan_name: str, scan_id: str, uncertainty: bool) -> list:
    """Show the maps of this process and log what the user must know of them."""
    nodes = at_once(networks.showing(method, maps, scan_name, scan_id, uncertainty=uncertainty))
    tell(fit_notes(maps))
    return nodes


def _start(
    method: Method,
    node,
    mask,
    segment: str | None,
    weights: str,
    words: Sequence[str],
    *,
    device: str | None = None,
    onProgress: Callable[[float, str], None] | None = None,
    onDone: Callable[[list], None] | None = None,
    onError: Callable[[str], None] | None = None,
    onNote: Callable[[str], None] | None = None,
    uncertainty: bool = False,
    **preparations,
) -> FitJob:
    """Start a method in a child process; `words` are those of its own on the command line."""
    from DMRIMicroLib.weights import verify

    check_preparations(method.called, preparations)
    verify(weights, WEIGHTS)  # says what to do before any work
    scan, masked = open_node(node, mask, segment)
    name, node_id = scan.name, node.GetID()  # the node may be gone when the job ends

    def shown(maps) -> Steps:
        return networks.showing(method, maps, name, node_id, uncertainty=uncertainty)

    return start_maps(
        method.name,
        scan,
        ["--weights", str(weights), *words],
        masked=masked,
        device=device,
        options=preparations,
        on_progress=onProgress,
        on_done=shows(shown, onDone, onError, onNote),
        on_error=onError,
    )
