"""Map nodes back to maps: what tractography reads of the scene."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray
from vtk.util.numpy_support import vtk_to_numpy

from DMRIMicroLib.errors import InputError
from DMRIMicroLib.metric import Metric

from .flags import FLAGS_OF
from .geometry import frame_matrix, rotation, world_affine
from .results import DEVIATION_OF, METRIC, PROVENANCE, UNIT

if TYPE_CHECKING:
    from DMRIMicroLib.maps import Map, MapSet

TENSOR_CLASS = "vtkMRMLDiffusionTensorVolumeNode"
VECTOR_CLASS = "vtkMRMLVectorVolumeNode"

NINE_TO_SIX = (0, 4, 8, 1, 2, 5)
"""xx, yy, zz, xy, xz, yz among the nine values of a 3x3 tensor."""

SAME_GRID = 1e-3
"""Affines that differ by less than this [mm] are the same."""

FIX = "Give the nodes that a fit of this module has made, or the diffusion scan itself."


@dataclass(frozen=True)
class Look:
    """How a map node is shown: its colour node, and the window."""

    colours: str
    window: tuple[float, float]


def maps_of(node) -> list:
    """Return the nodes of all maps of the scan that a map node was made of.

    Of several maps of one metric (of a fit and of the codebook, say) the one by the same method as
    `node` is taken, or else the first in the scene.
    """
    model, mark = _made(node)
    every = [n for n in slicer.util.getNodesByClass("vtkMRMLVolumeNode") if _marked(n)]
    mine = [n for n in every if _made(n)[1] == mark and _grid(n) == _grid(node)]
    mine.sort(key=lambda n: (n is not node, _made(n)[0] != model))
    taken: dict[tuple, Any] = {}
    for other in mine:
        taken.setdefault(_name(other), other)
    return list(taken.values())


def readable(nodes: Iterable) -> list:
    """Leave out what a fit gives besides: flags and directions, which no rule can read."""
    return [
        node
        for node in nodes
        if node.GetAttribute(FLAGS_OF) is None and node.GetClassName() != VECTOR_CLASS
    ]


def maps_from_nodes(nodes: Sequence) -> MapSet:
    """Make a set of maps of map nodes on one grid, in world coordinates.

    Parameters
    ----------
    nodes : sequence of vtkMRMLVolumeNode
        As `results.show_maps` has made them: scalar maps, their standard deviations, tensors. A
        linear parent transform is applied, and turns tensors.
    """
    from DMRIMicroLib.maps import MapSet

    if not nodes:
        raise InputError("there are no maps", FIX)
    first, maps, made = nodes[0], {}, {}
    spreads = [node for node in nodes if node.GetAttribute(DEVIATION_OF)]
    affine = world_affine(first)
    for node in nodes:
        if not _marked(node):
            raise InputError(f"'{node.GetName()}' is no map of this module", FIX)
        if _size(node) != _size(first) or not np.allclose(
            world_affine(node), affine, atol=SAME_GRID
        ):
            raise InputError(
                f"'{node.GetName()}' and '{first.GetName()}' lie on different grids",
                "Give maps of one scan.",
            )
        if node in spreads:
            continue
        item = _map(node)
        if item.metric.name in maps:
            raise InputError(f"there are two maps {item.metric.name}", "Give one of them.")
        maps[item.metric.name] = item
        made |= _provenance(node)
    for node in spreads:
        name = node.GetAttribute(DEVIATION_OF)
        if name in maps:
            maps[name] = replace(maps[name], uncertainty=_scalars(node))
    mask = np.logical_or.reduce([_answered(item.data) for item in maps.values()])
    return MapSet(maps, affine, mask, made)


def trimmed(maps: MapSet, names: Iterable[str]) -> MapSet:
    """Keep the maps of these names, or of ``NAME_sd``, and the tensor with what tells its noise."""
    wanted = {"tensor", "AD", "RD", *(name.removesuffix("_sd") for name in names)}
    kept = {name: item for name, item in maps.items() if name in wanted}
    models = {item.model for item in kept.values()}
    return replace(
        maps, maps=kept, provenance={k: v for k, v in maps.provenance.items() if k in models}
    )


def looks(nodes: Iterable) -> dict[str, Look]:
    """Say how the scalar maps among some nodes are shown, by metric."""
    found = {}
    for node in nodes:
        display = node.GetDisplayNode()
        if node.GetAttribute(METRIC) and node.IsA("vtkMRMLScalarVolumeNode") and display:
            window = (display.GetWindowLevelMin(), display.GetWindowLevelMax())
            found[node.GetAttribute(METRIC)] = Look(display.GetColorNodeID(), window)
    return found


@contextmanager
def image_files(images: Mapping[str, Any] | None) -> Iterator[dict[str, Path]]:
    """Give files of further images by the names that rules use; they are gone afterwards."""
    with TemporaryDirectory(prefix="dmrimicro-") as folder:
        yield write_images(images, Path(folder))


def write_images(images: Mapping[str, Any] | None, folder: Path) -> dict[str, Path]:
    """Write scalar volumes as NIfTI in world coordinates."""
    import nibabel as nib

    files = {}
    for name, node in (images or {}).items():
        if not name.isidentifier():
            raise InputError(f"an image is called {name!r}", "Give a name of one word.")
        files[name] = folder / f"image-{name}.nii"
        nib.save(nib.Nifti1Image(_scalars(node), world_affine(node)), files[name])
    return files


def _map(node) -> Map:
    from DMRIMicroLib.maps import Map

    model = _made(node)[0]
    name, unit = node.GetAttribute(METRIC), node.GetAttribute(UNIT) or ""
    if node.GetClassName() == TENSOR_CLASS:
        metric = Metric(name, node.GetDescription() or name, unit, kind="tensor")
        return Map(metric, model, _tensors(node))
    look = looks([node]).get(name)
    metric = Metric(
        name, node.GetDescription() or name, unit, window=look.window if look else (0.0, 1.0)
    )
    return Map(metric, model, _scalars(node))


def _scalars(node) -> NDArray[np.float32]:
    """Return a scalar volume as (i, j, k)."""
    if not node.IsA("vtkMRMLScalarVolumeNode") or node.GetImageData() is None:
        raise InputError(f"'{node.GetName()}' is no scalar volume with data", "Give one.")
    array = slicer.util.arrayFromVolume(node)
    if array.ndim != 3:
        raise InputError(f"'{node.GetName()}' has several values a voxel", "Give a scalar volume.")
    return array.transpose(2, 1, 0).astype(np.float32)


def _tensors(node) -> NDArray[np.float32]:
    """Return the tensors of a node in RAS: (i, j, k, 6)."""
    rows = node.GetImageData().GetPointData().GetTensors()
    i, j, k = node.GetImageData().GetDimensions()
    nine = vtk_to_numpy(rows).reshape(k, j, i, 3, 3).transpose(2, 1, 0, 3, 4)
    turn = rotation(node) @ frame_matrix(node)
    if not np.allclose(turn, np.eye(3), atol=1e-9):
        nine = turn @ nine.astype(np.float64) @ turn.T
    return nine.reshape(i, j, k, 9)[..., NINE_TO_SIX].astype(np.float32)


def _answered(data: NDArray) -> NDArray[np.bool_]:
    return data != 0 if data.ndim == 3 else (data != 0).any(-1)


def _marked(node) -> bool:
    """Whether a node is a map that tractography can read, or a standard deviation of one."""
    if node.GetAttribute(PROVENANCE) is None or node.GetImageData() is None:
        return False
    if node.GetClassName() == TENSOR_CLASS:
        return node.GetAttribute(METRIC) is not None
    named = node.GetAttribute(METRIC) or node.GetAttribute(DEVIATION_OF)
    return named is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode"


def _name(node) -> tuple[str | None, str | None]:
    return node.GetAttribute(METRIC), node.GetAttribute(DEVIATION_OF)


def _provenance(node) -> dict[str, Any]:
    try:
        told = json.loads(node.GetAttribute(PROVENANCE))
    except (TypeError, ValueError):
        told = None
    if not isinstance(told, dict) or len(told) != 1:
        raise InputError(f"'{node.GetName()}' is no map of this module", FIX)
    return told


def _made(node) -> tuple[str, str]:
    """Return the method of a map, and what tells the scan that it was made of."""
    ((model, made),) = _provenance(node).items()
    return model, made.get("scan", {}).get("fingerprint", "")


def _size(node) -> tuple[int, ...]:
    return tuple(node.GetImageData().GetDimensions())


def _grid(node) -> tuple:
    return _size(node), tuple(np.round(world_affine(node), 3).ravel())
