"""Console verbs of tractography: seeds and streamlines, here or in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .background import at_once
from .hierarchy import file_nodes
from .jobs import Chained
from .map_nodes import image_files, maps_of
from .results import METRIC
from .tract_inputs import INSIDE, SEEDS, Maps, Tracking, start_points
from .tract_nodes import DIRECTION, show_seeds, showing_lines
from .tract_worker import start_tracts
from .worker import start_fit

SCALAR = "vtkMRMLScalarVolumeNode"


class TractVerbs:
    """Tractography, for the logic; names follow Slicer's camelCase.

    Where maps are asked for, give a map node (all maps of its scan are meant then), a sequence of
    map nodes, or a diffusion volume: then the tensor is fitted first.
    """

    def mapNames(self, mapNode) -> list[str]:
        """Name the scalar maps of the scan that a map node was made of; rules may read them."""
        nodes = maps_of(mapNode)
        named = [node.GetAttribute(METRIC) for node in nodes if node.GetClassName() == SCALAR]
        return [name for name in named if name]

    def seeds(
        self,
        maps,
        rule: str = SEEDS,
        within=None,
        *,
        density: float | None = None,
        count: int | None = None,
        images: Mapping[str, Any] | None = None,
        seed: int = 0,
    ):
        """Choose seeds of streamlines by a rule on the maps, and show them.

        Parameters
        ----------
        maps : node or sequence of nodes
        rule : str
            E.g. ``"NDI > 0.4 and FWF < 0.2 and NDI_sd < 0.1"``, see `DMRIMicroLib.tracts.rules`.
        within : node or (node, str), optional
            A label map, a segmentation (or one segment of it) or a box, which seeds lie in.
        density : float, optional
            Seeds a voxel, 1 by default.
        count : int, optional
            Seeds in all, instead.
        images : dict of str to vtkMRMLScalarVolumeNode, optional
            Further images that the rule may name.
        seed : int
            Of the random numbers.

        Returns
        -------
        vtkMRMLModelNode
            Points ``"<scan> seeds"``, RAS.
        """
        opened = Maps.of(maps)
        chosen = start_points(opened, rule, within, density, count, images, seed)
        node = show_seeds(chosen, f"{opened.name} seeds")
        file_nodes([node], opened.name)
        return node

    def tracts(
        self,
        maps,
        seeds: Any = SEEDS,
        *,
        within=None,
        density: float | None = None,
        count: int | None = None,
        include=None,
        exclude=None,
        ends=None,
        inside: str = INSIDE,
        colourBy: str = DIRECTION,
        along: Sequence[str] = (),
        images: Mapping[str, Any] | None = None,
        dwiNode=None,
        maskNode=None,
        device: str | None = None,
        progress: Callable[[float, str], None] | None = None,
        **options,
    ):
        """Track fibres in this process and show them.

        Parameters
        ----------
        maps : node or sequence of nodes
            With a tensor.
        seeds : str, node or (n, 3) array
            A rule; seeds of `seeds`; a list of control points; or RAS millimetres.
        within, density, count
            Of the seeds of a rule, as of `seeds`.
        include, exclude, ends : node, (node, str) or sequence of these, optional
            Lines pass all of `include`, none of `exclude`; an end lies in `ends`, or one in each of
            two. Label maps, segmentations or one segment of them, boxes.
        inside : str
            Rule of the voxels that lines may enter.
        colourBy : str
            "direction", or a map, whose values along the lines are kept.
        along : sequence of str
            Further maps to keep along the lines.
        images : dict of str to vtkMRMLScalarVolumeNode, optional
            Further images that rules may name.
        dwiNode : vtkMRMLDiffusionWeightedVolumeNode, optional
            For ``odf="csd"``.
        maskNode : node, optional
            Of the fit, if `maps` is a diffusion volume.
        device, progress
            As of `fit`.
        **options
            odf, method, step, max_angle, min_length, max_length, seed: see `DMRIMicroLib.tracts`.

        Returns
        -------
        vtkMRMLModelNode or vtkMRMLFiberBundleNode
            ``"<scan> tracts"``: a bundle where SlicerDMRI is installed.
        """
        from DMRIMicroLib.tracts.track import tracts as track

        opened = Maps.of(maps, maskNode, fit_device=device)
        asked = Tracking(
            seeds, within, density, count, include, exclude, ends, inside, colourBy, tuple(along),
            images, dwiNode or opened.dwi, options,
        )  # fmt: skip
        with image_files(images) as files:
            lines = track(
                opened.maps,
                asked.points(opened),
                scan=asked.scan(),
                inside=inside,
                files=files,
                **asked.regions(),
                **options,
                device=device,
                progress=progress,
            )
            if kept := asked.kept():
                lines = lines.along(opened.maps, kept, files=files)
        look = opened.looks.get(colourBy)
        node = at_once(showing_lines(lines, f"{opened.name} tracts", look, colourBy))
        file_nodes([node], opened.name)
        return node

    def startTracts(
        self,
        maps,
        seeds: Any = SEEDS,
        *,
        dwiNode=None,
        maskNode=None,
        device: str | None = None,
        onProgress: Callable[[float, str], None] | None = None,
        onDone: Callable[[list], None] | None = None,
        onError: Callable[[str], None] | None = None,
        onNote: Callable[[str], None] | None = None,
        **rest,
    ):
        """Track fibres in a child process, as `start` fits; all else as of `tracts`."""
        opened = Maps.unfitted(maps, maskNode)
        asked = Tracking.of(seeds, dwiNode or opened.dwi, **rest)
        heard = {"on_done": onDone, "on_note": onNote}
        if opened.scan is None:
            asked.check(opened)
            return start_tracts(
                opened, asked, device, on_progress=onProgress, on_error=onError, **heard
            )
        from DMRIMicroLib.models import choose

        models, _ = choose(["dti"], opened.scan.acquisition)
        fitting = {"device": device, "options": {"uncertainty": True}, "masked": opened.masked}
        return Chained(
            lambda told: start_fit(opened.scan, models, **fitting, **told),
            lambda fitted, told: start_tracts(
                opened.fitted(fitted), asked, device, **told, **heard
            ),
            on_progress=onProgress,
            on_error=onError,
        )
