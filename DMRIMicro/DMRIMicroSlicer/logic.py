"""What the module does, for the widget, for the Python console and for tests: no GUI, no qt.

>>> logic = slicer.util.getModuleLogic("DMRIMicro")         # doctest: +SKIP
>>> dwi = logic.importNifti("dwi.nii.gz")                    # doctest: +SKIP
>>> nodes = logic.fit(dwi, models=("dti",))                  # doctest: +SKIP
>>> nodes = logic.codebook(dwi, uncertainty=True)            # doctest: +SKIP
>>> nodes = logic.pigment(dwi, preset="fast")                # doctest: +SKIP
>>> finer, *sd = logic.enhance(dwi, resolution="7T")         # doctest: +SKIP
>>> bundle = logic.tracts(nodes[0], "FA > 0.3")              # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from DMRIMicroLib.errors import InputError

from . import attributes, networks, suitability
from .bundle_verbs import BundleVerbs
from .enhance_verbs import EnhanceVerbs
from .importing import read_scan, start_import
from .job import FitJob
from .job_base import Job
from .network_verbs import NetworkVerbs
from .nodes import acquisition_from_node, node_from_scan, open_node, scan_from_node
from .notes import fit_notes, tell
from .results import show_maps, showing_maps
from .steps import PREPARATIONS, prepared, shows
from .suitability import Suitability
from .tract_verbs import TractVerbs
from .worker import start_fit


class DMRIMicroLogic(NetworkVerbs, EnhanceVerbs, TractVerbs, BundleVerbs):
    """Console verbs; names follow Slicer's camelCase."""

    def __init__(self) -> None:
        self._asked = ""
        self._suitability: dict[str, Suitability] = {}

    def fit(
        self,
        dwiNode,
        models: Sequence[str] | str = ("dti",),
        maskNode=None,
        segmentID: str | None = None,
        device: str | None = None,
        progress: Callable[[float, str], None] | None = None,
        **options,
    ) -> list:
        """Fit in this process and show the maps; what the user must know goes to the log.

        Parameters
        ----------
        dwiNode : vtkMRMLDiffusionWeightedVolumeNode
        models : str or sequence of str
            Names from `models`, or "all" for those that the scan allows.
        maskNode : vtkMRMLScalarVolumeNode or vtkMRMLSegmentationNode, optional
        segmentID : str, optional
            One segment of `maskNode`; all of them by default.
        device : str, optional
            "cpu", "cuda"; chosen by itself by default.
        progress : callable(fraction, text), optional
        **options
            Those of `DMRIMicroLib.fit`: uncertainty=True, robust=True, likelihood="gaussian" ...;
            and of `DMRIMicroLib.preprocess.prepare`: denoise="mppca", degibbs=True, noise="pca".

        Returns
        -------
        list of vtkMRMLVolumeNode
            One node a map, see `results.show_maps`.
        """
        from DMRIMicroLib import fit

        preparing = {name: options.pop(name) for name in PREPARATIONS if name in options}
        scan = prepared(scan_from_node(dwiNode, maskNode, segmentID), progress, preparing)
        maps = fit(scan, _names(models), device=device, progress=progress, **options)
        nodes = show_maps(maps, scan.name, dwiNode.GetID())
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
        **options,
    ) -> FitJob:
        """Fit in a child process; call ``job.poll()`` from a timer, ``job.cancel()`` to stop.

        `onDone` gets the new nodes. The scene does not change before that. `onNote` gets, once the
        fit has ended well, each thing that the user must know; the log does by default. The
        options are those of `fit`.
        """
        from DMRIMicroLib.models import choose

        lacking = partial(suitability.lacks, options=options)
        scan, masked = open_node(dwiNode, maskNode, segmentID)
        chosen, notes = choose(_names(models), scan.acquisition, lacking)
        name, node_id = scan.name, dwiNode.GetID()  # the node may be gone when the fit ends
        return start_fit(
            scan.with_notes(*notes),
            chosen,
            masked=masked,
            device=device,
            options=options,
            on_progress=onProgress,
            on_done=shows(lambda maps: showing_maps(maps, name, node_id), onDone, onError, onNote),
            on_error=onError,
        )

    def importNifti(
        self,
        path: str,
        bval: str | None = None,
        bvec: str | None = None,
        onNote: Callable[[str], None] | None = None,
        **acquisition: float | None,
    ):
        """Load NIfTI with bval and bvec files (found beside it by default) as a DWI node.

        DWI NRRD files and folders of DICOM files are taken, too.

        `onNote` gets what was recognised or converted on the way; the log does by default.
        `acquisition` holds b0_threshold [s/mm2], delta, Delta, TE [ms], see `setAcquisition`.
        """
        scan = read_scan(path, {"bval": bval or None, "bvec": bvec or None, **acquisition})
        node = node_from_scan(scan)
        tell(scan.notes, onNote)
        return node

    def startImportNifti(
        self,
        path: str,
        bval: str | None = None,
        bvec: str | None = None,
        onProgress: Callable[[float, str], None] | None = None,
        onDone: Callable[[Any], None] | None = None,
        onError: Callable[[str], None] | None = None,
        onNote: Callable[[str], None] | None = None,
        **acquisition: float | None,
    ) -> Job:
        """Import as `importNifti`, without keeping the window; poll and cancel as of `start`.

        `onDone` gets the node. Before that nothing is added.
        """
        return start_import(
            path,
            {"bval": bval or None, "bvec": bvec or None, **acquisition},
            on_progress=onProgress,
            on_done=onDone,
            on_error=onError,
            on_note=onNote,
        )

    def setAcquisition(self, dwiNode, **values: float | None) -> None:
        """Keep with a DWI node what its file does not tell.

        Parameters
        ----------
        dwiNode : vtkMRMLDiffusionWeightedVolumeNode
        **values
            b0_threshold: volumes with b up to this count as b0 [s/mm2]; delta, Delta, TE: gradient
            duration, gradient separation and echo time [ms], None if not known.
        """
        attributes.write(dwiNode, **values)

    def loadModels(self, path: str) -> list[str]:
        """Add the models of the user's own that a Python file defines; return their names."""
        from DMRIMicroLib.models import load_models

        self._suitability = {}  # a model may have changed
        return [model.name for model in load_models(path)]

    def models(self) -> dict:
        """Return the registry: name to model."""
        from DMRIMicroLib.models import MODELS

        return dict(MODELS)

    def offers(self, weights: str = "") -> dict[str, networks.Offer]:
        """Say what codebook and PIGMENT give with these weights, or why not and what to do."""
        for name in networks.METHODS:
            self._suitability.pop(name, None)
        return networks.offers(weights)

    def reasonsAgainst(self, model, dwiNode) -> tuple[str, ...]:
        """Say why this scan cannot determine `model`; empty if it can, or without a scan."""
        return self.suitability(dwiNode, [model])[model.name].lacks

    def suitability(
        self, dwiNode, models: Sequence | None = None, **options
    ) -> dict[str, Suitability]:
        """Say what a scan means for each of some models or offers, all by default.

        The options are those of `fit`; some models cannot be fitted with robust=True, say.
        """
        wanted = list(self.models().values()) if models is None else models
        if dwiNode is None:
            return {model.name: _without_scan(model) for model in wanted}
        try:
            acquisition = acquisition_from_node(dwiNode)
        except InputError as error:
            return {model.name: Suitability(lacks=(str(error),)) for model in wanted}
        # a second for a long scan, and the panel asks at every click
        asked = f"{acquisition.digest} {sorted(options.items())}"
        if asked != self._asked:
            self._asked, self._suitability = asked, {}
        for model in wanted:
            if model.name not in self._suitability:
                self._suitability[model.name] = _suitable(model, acquisition, options)
        return {model.name: self._suitability[model.name] for model in wanted}

    def describe(self, dwiNode) -> str:
        """Say what was found: '1 b0, 30 x b1000; 96 x 96 x 60 voxels of 2 x 2 x 2 mm'."""
        acquisition = acquisition_from_node(dwiNode)
        size = " x ".join(str(n) for n in dwiNode.GetImageData().GetDimensions())
        spacing = " x ".join(f"{np.round(v, 2):g}" for v in dwiNode.GetSpacing())
        return f"{acquisition.describe()}; {size} voxels of {spacing} mm"


def _without_scan(model) -> Suitability:
    return networks.suitability(model) if isinstance(model, networks.Offer) else Suitability()


def _suitable(model, acquisition, options: Mapping) -> Suitability:
    if isinstance(model, networks.Offer):
        return networks.suitability(model, acquisition)
    return suitability.of_model(model, acquisition, options)


def _names(models: Sequence[str] | str) -> list[str] | str:
    """Return names, or "all"; 'dti,dki' is two names."""
    if not isinstance(models, str):
        return list(models)
    return models if models.strip().lower() == "all" else [n.strip() for n in models.split(",")]
