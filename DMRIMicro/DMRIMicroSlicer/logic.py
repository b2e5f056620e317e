"""What the module does, for the widget, for the Python console and for tests: no GUI, no qt.

>>> logic = slicer.util.getModuleLogic("DMRIMicro")         # doctest: +SKIP
>>> dwi = logic.importNifti("dwi.nii.gz")                    # doctest: +SKIP
>>> nodes = logic.fit(dwi, models=("dti",))                  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from DMRIMicroLib.errors import InputError

from .job import FitJob, start_fit
from .nodes import acquisition_from_node, node_from_scan, scan_from_node
from .notes import fit_notes, tell
from .results import show_maps


class DMRIMicroLogic:
    """Console verbs; names follow Slicer's camelCase."""

    def fit(
        self,
        dwiNode,
        models: Sequence[str] | str = ("dti",),
        maskNode=None,
        segmentID: str | None = None,
        device: str | None = None,
        progress: Callable[[float, str], None] | None = None,
    ) -> list:
        """Fit in this process and show the maps; what the user must know goes to the log.

        Parameters
        ----------
        dwiNode : vtkMRMLDiffusionWeightedVolumeNode
        models : str or sequence of str
            Names from `models`.
        maskNode : vtkMRMLScalarVolumeNode or vtkMRMLSegmentationNode, optional
        segmentID : str, optional
            One segment of `maskNode`; all of them by default.
        device : str, optional
            "cpu", "cuda"; chosen by itself by default.
        progress : callable(fraction, text), optional

        Returns
        -------
        list of vtkMRMLVolumeNode
            One node a map, see `results.show_maps`.
        """
        from DMRIMicroLib import fit

        scan = scan_from_node(dwiNode, maskNode, segmentID)
        maps = fit(scan, _names(models), device=device, progress=progress)
        nodes = show_maps(maps, scan.name)
        tell(fit_notes(maps))
        return nodes

    def start(
        self,
        dwiNode,
        models: Sequence[str] | str = ("dti",),
        maskNode=None,
        segmentID: str | None = None,
        device: str | None = None,
        onProgress: Callable[[float, str], None] | None = None,
        onDone: Callable[[list], None] | None = None,
        onError: Callable[[str], None] | None = None,
        onNote: Callable[[str], None] | None = None,
    ) -> FitJob:
        """Fit in a child process; call ``job.poll()`` from a timer, ``job.cancel()`` to stop.

        `onDone` gets the new nodes. The scene does not change before that. `onNote` gets, once the
        fit has ended well, each thing that the user must know; the log does by default.
        """
        scan = scan_from_node(dwiNode, maskNode, segmentID)
        name = scan.name  # the node may be gone when the fit ends

        def done(maps) -> None:
            try:
                nodes = show_maps(maps, name)
            except Exception as error:
                if onError:
                    onError(f"The maps cannot be shown: {error}")
                return
            tell(fit_notes(maps), onNote)
            if onDone:
                onDone(nodes)

        return start_fit(
            scan,
            _names(models),
            device=device,
            on_progress=onProgress,
            on_done=done,
            on_error=onError,
        )

    def importNifti(
        self,
        path: str,
        bval: str | None = None,
        bvec: str | None = None,
        onNote: Callable[[str], None] | None = None,
    ):
        """Load NIfTI with bval and bvec files (found beside it by default) as a DWI node.

        `onNote` gets what was recognised or converted on the way; the log does by default.
        """
        from DMRIMicroLib import load

        scan = load(path, bval=bval or None, bvec=bvec or None)
        node = node_from_scan(scan)
        tell(scan.notes, onNote)
        return node

    def models(self) -> dict:
        """Return the registry: name to model."""
        from DMRIMicroLib.models import MODELS

        return dict(MODELS)

    def reasonsAgainst(self, model, dwiNode) -> tuple[str, ...]:
        """Say why this scan cannot determine `model`; empty if it can, or without a scan."""
        if dwiNode is None:
            return ()
        try:
            return tuple(model.missing(acquisition_from_node(dwiNode)))
        except InputError as error:
            return (str(error),)

    def describe(self, dwiNode) -> str:
        """Say what was found: '1 b0, 30 x b1000; 96 x 96 x 60 voxels of 2 x 2 x 2 mm'."""
        acquisition = acquisition_from_node(dwiNode)
        size = " x ".join(str(n) for n in dwiNode.GetImageData().GetDimensions())
        spacing = " x ".join(f"{np.round(v, 2):g}" for v in dwiNode.GetSpacing())
        return f"{acquisition.describe()}; {size} voxels of {spacing} mm"


def _names(models: Sequence[str] | str) -> list[str]:
    return [models] if isinstance(models, str) else list(models)
