"""Console verbs of enhancement, a 7 T-like scan of a 3 T one, here or in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .background import at_once
from .enhance_nodes import Made, Source, read, showing
from .job import FitJob
from .nodes import open_node, scan_from_node
from .notes import tell
from .steps import check_preparations, prepared, shows
from .worker import start_enhance

CALLED = "the enhancement"
"""What sentences call it."""


class EnhanceVerbs:
    """Enhancement, for the logic; names follow Slicer's camelCase."""

    def enhance(
        self,
        dwiNode,
        method: str = "auto",
        resolution: str | float = "7T",
        samples: int = 1,
        maskNode=None,
        segmentID: str | None = None,
        device: str | None = None,
        progress: Callable[[float, str], None] | None = None,
        *,
        directions: str = "quiet",
        seed: int = 0,
        weights: str = "",
        **preparations,
    ) -> list:
        """Make a 7 T-like scan of a node in this process and show it.

        Parameters
        ----------
        dwiNode : vtkMRMLDiffusionWeightedVolumeNode
            With a b0 volume and 15 directions or more in a shell that the method learned.
        method : str
            One of `DMRIMicroLib.rish.table.METHODS`, or "auto", the best that has weights.
            "interpolate" needs none.
        resolution : str or float
            "7T": voxels of 1.05 mm; "keep": those of the scan; or an edge [mm].
        samples : int
            Draws of a method that can draw; several give their mean, and an uncertainty volume.
        maskNode, segmentID, device, progress
            As of `fit`.
        directions : {"quiet", "keep"}
            Of the harmonics: with noise taken out, or those of the scan.
        seed : int
            Of the draws.
        weights : str
            File of the method's weights; empty for those that come with the library.
        **preparations
            As of `DMRIMicroLib.preprocess.prepare`: denoise="mppca", degibbs=True, noise="pca".

        Returns
        -------
        list of vtkMRMLVolumeNode
            The diffusion volume ``"<scan> enhanced"`` on the finer grid, beside the scan in the
            hierarchy; with several draws a scalar volume ``"<scan> enhanced SD"``, too.
        """
        from DMRIMicroLib import enhance

        check_preparations(CALLED, preparations)
        scan = scan_from_node(dwiNode, maskNode, segmentID)
        source = Source.of(dwiNode, scan)
        made = enhance(
            prepared(scan, progress, preparations),
            method,
            resolution,
            directions=directions,
            samples=samples,
            seed=seed,
            weights=weights or None,
            device=device,
            progress=progress,
        )
        found = Made(made.scan.signal, made.scan.affine, made.sd, made.provenance)
        nodes = at_once(showing(found, source))
        tell(found.notes)
        return nodes

    def startEnhance(
        self,
        dwiNode,
        method: str = "auto",
        resolution: str | float = "7T",
        samples: int = 1,
        maskNode=None,
        segmentID: str | None = None,
        device: str | None = None,
        *,
        directions: str = "quiet",
        seed: int = 0,
        weights: str = "",
        **rest,
    ) -> FitJob:
        """Enhance in a child process, as `start` does a fit.

        Parameters
        ----------
        dwiNode, method, resolution, samples, maskNode, segmentID, device, directions, seed, weights
            As of `enhance`.
        **rest
            onProgress, onDone, onError, onNote as of `start`; preparations as of `enhance`.
        """
        words = ["--method", method, "--resolution", str(resolution), "--samples", str(samples)]
        words += ["--directions", directions, "--seed", str(seed)]
        words += ["--weights", str(weights)] if weights else []
        return _start(dwiNode, maskNode, segmentID, words, device, **rest)


def _start(
    node,
    mask,
    segment: str | None,
    words: Sequence[str],
    device: str | None,
    *,
    onProgress: Callable[[float, str], None] | None = None,
    onDone: Callable[[list], None] | None = None,
    onError: Callable[[str], None] | None = None,
    onNote: Callable[[str], None] | None = None,
    **preparations,
) -> FitJob:
    """Start it; `words` are those of its own on the command line."""
    check_preparations(CALLED, preparations)
    scan, masked = open_node(node, mask, segment)
    source = Source.of(node, scan)
    return start_enhance(
        scan,
        words,
        lambda folder: read(folder, scan.notes),
        masked=masked,
        device=device,
        options=preparations,
        on_progress=onProgress,
        on_done=shows(
            lambda made: showing(made, source), onDone, onError, onNote, lambda made: made.notes
        ),
        on_error=onError,
    )
