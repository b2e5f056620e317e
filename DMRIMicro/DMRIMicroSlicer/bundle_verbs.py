"""Console verbs of what bundles tell: profiles, connectomes, structures at risk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .hierarchy import file_beside, file_nodes
from .job import FitJob
from .map_nodes import image_files
from .plan_worker import named, start_plan
from .region_nodes import labels_from, region_from
from .table_nodes import show_connectome, show_plan, show_profiles
from .tract_inputs import Maps
from .tract_nodes import bundles_of_scene, lines_from_node


class BundleVerbs:
    """What bundles tell, for the logic; maps are given as for `TractVerbs`."""

    def profile(
        self,
        tracts,
        maps,
        metrics: Sequence[str] | str = ("FA",),
        *,
        points: int = 100,
        start=None,
        images: Mapping[str, Any] | None = None,
        csv: str | Path | None = None,
    ) -> list:
        """Follow maps along a bundle, with their uncertainty, and show a table and charts.

        Parameters
        ----------
        tracts : vtkMRMLModelNode or vtkMRMLFiberBundleNode
            One bundle.
        maps : node or sequence of nodes
        metrics : str or sequence of str
        points : int
            Along the bundle.
        start : node or (node, str), optional
            Region of the end to begin at.
        images : dict of str to vtkMRMLScalarVolumeNode, optional
            Further images to follow.
        csv : path-like, optional
            Table to write, too.

        Returns
        -------
        list of nodes
            The table; for every map a plot chart and its series: mean over the lines, their
            spread, and the map's own uncertainty where it is known. They lie in a folder together.
        """
        from DMRIMicroLib import profile

        names = [n.strip() for n in metrics.split(",")] if isinstance(metrics, str) else metrics
        opened = Maps.of(maps)
        begin = None if start is None else region_from(start)
        with image_files(images) as files:
            found = profile(
                lines_from_node(tracts),
                opened.maps,
                list(names),
                files=files,
                points=points,
                start=begin,
            )
        if csv is not None:
            found.save(csv, overwrite=True)
        nodes = show_profiles(found, f"{tracts.GetName()} profile")
        file_nodes(nodes, opened.name, nodes[0].GetName())
        return nodes

    def connectome(
        self,
        tracts,
        parcellation,
        weight: str = "count",
        maps=None,
        *,
        reach: float | None = None,
        images: Mapping[str, Any] | None = None,
        csv: str | Path | None = None,
    ):
        """Make a matrix of the regions that lines connect, as a table.

        Parameters
        ----------
        tracts : vtkMRMLModelNode or vtkMRMLFiberBundleNode
        parcellation : vtkMRMLLabelMapVolumeNode or vtkMRMLSegmentationNode
            Regions are called as their colours, or segments, are.
        weight : str
            "count", "length" [mm], or a map: its mean along the lines.
        maps : node or sequence of nodes, optional
            With that map.
        reach : float, optional
            An end belongs to the nearest region within so many millimetres, 4 by default.
        images : dict of str to vtkMRMLScalarVolumeNode, optional
            Further images that `weight` may name.
        csv : path-like, optional
            Matrix to write, too.

        Returns
        -------
        vtkMRMLTableNode
            ``"<tracts> connectome"``, beside the lines: a row and a column for every region.
        """
        from DMRIMicroLib import connectome

        labels, affine, names = labels_from(parcellation)
        more = {} if reach is None else {"reach": reach}
        with image_files(images) as files:
            found = connectome(
                lines_from_node(tracts),
                (labels, affine),
                weight=weight,
                maps=None if maps is None else Maps.of(maps).maps,
                files=files,
                names=names,
                **more,
            )
        if csv is not None:
            found.save(csv, overwrite=True)
        table = show_connectome(found, f"{tracts.GetName()} connectome")
        file_beside([table], tracts)
        return table

    def structuresAtRisk(
        self,
        lesion,
        tracts,
        maps,
        distance: float = 10.0,
        *,
        metrics: Sequence[str] | None = None,
        rim: float = 5.0,
        images: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
    ) -> tuple[list, Path]:
        """Tell which bundles run near a lesion, and how its tissue is. Research use only.

        Parameters
        ----------
        lesion : node or (node, str)
            A label map, a segmentation or one segment of it.
        tracts : node, sequence of nodes or dict of str to node
            Bundles, by name.
        maps : node or sequence of nodes
        distance : float
            Bundles within so many millimetres are at risk.
        metrics : sequence of str, optional
            Maps to tell of; all if left out.
        rim : float
            Width of the rim around the lesion [mm].
        images : dict of str to vtkMRMLScalarVolumeNode, optional
            Further images to tell of.
        folder : path-like, optional
            Where the page goes; a new temporary folder if left out.

        Returns
        -------
        list of vtkMRMLTableNode
            Bundles, the nearest first; and maps in the lesion, its rim and opposite.
        Path
            ``planning.html``, to be read or printed.
        """
        from DMRIMicroLib import planning
        from DMRIMicroLib.tracts.planning import NOTICE

        opened = Maps.of(maps)
        bundles = {name: lines_from_node(node) for name, node in named(tracts).items()}
        with image_files(images) as files:
            plan = planning(
                opened.maps,
                region_from(lesion),
                bundles,
                metrics=metrics,
                files=files,
                distance=distance,
                rim=rim,
            )
        page = plan.save(
            tempfile.mkdtemp(prefix="dmrimicro-planning-") if folder is None else folder,
            overwrite=True,
        )
        tables = show_plan(plan, NOTICE)
        file_nodes(tables, opened.name)
        return tables, page

    def startStructuresAtRisk(
        self,
        lesion,
        tracts,
        maps,
        distance: float = 10.0,
        *,
        onProgress: Callable[[float, str], None] | None = None,
        onDone: Callable[[list], None] | None = None,
        onError: Callable[[str], None] | None = None,
        onNote: Callable[[str], None] | None = None,
        **rest,
    ) -> FitJob:
        """Do as `structuresAtRisk` in a child process, as `start` fits.

        The attribute ``DMRIMicro.page`` of the tables, which `onDone` gets, is the file of the
        page. Without `folder` it lies next to the scene if that has been saved.

        Parameters
        ----------
        lesion, tracts, maps, distance
            As of `structuresAtRisk`.
        onProgress, onDone, onError, onNote
            As of `start`.
        **rest
            metrics, rim, images, folder as of `structuresAtRisk`.
        """
        return start_plan(
            lesion,
            named(tracts),
            Maps.unfitted(maps),
            distance,
            on_progress=onProgress,
            on_error=onError,
            on_done=onDone,
            on_note=onNote,
            **rest,
        )

    def bundles(self) -> list:
        """Return the nodes of the scene that hold streamlines."""
        return bundles_of_scene()
