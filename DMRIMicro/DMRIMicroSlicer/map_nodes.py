"""Map nodes back to maps: what tractography reads of the scene."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from .geometry import check_axes, frame_matrix, rotation, world_affine
from .results import DEVIATION_OF, METRIC, PROVENANCE, UNIT
from .words import _

if TYPE_CHECKING:
    from DMRIMicroLib.maps import Map, MapSet

TENSOR_CLASS = "vtkMRMLDiffusionTensorVolumeNode"
VECTOR_CLASS = "vtkMRMLVectorVolumeNode"

NINE_TO_SIX = (0, 4, 8, 1, 2, 5)
"""xx, yy, zz, xy, xz, yz among the nine values of a 3x3 tensor."""

SAME_GRID = 1e-3
"""Affines that differ by less than this [mm] are the same."""

FIX = _("Give the nodes that a fit of this module has made, or the diffusion scan itself.")


@dataclass(frozen=True)
class Look:
    """How a map node is shown: its colour node, and the window."""

    colours: str
    window: tuple[float, float]


def maps_of(node) -> list:
    """Return the nodes of all maps of the scan that a map node was made of.

    Of several maps of one metric the one of the same fit as `node` is taken, or else by the same
    method, or else the first in the scene; a standard deviation only with the map of its own fit.
    """
    model, mark = _made(node)
    every = [n for n in slicer.util.getNodesByClass("vtkMRMLVolumeNode") if _marked(n)]
    mine = [n for n in every if _made(n)[1] == mark and _grid(n) == _grid(node)]
    mine.sort(key=lambda n: (n is not node, not _of_one_fit(n, node), _made(n)[0] != model))
    taken: dict[tuple, Any] = {}
    for other in mine:
        taken.setdefault(_name(other), other)
    return [n for (of, spread_of), n in taken.items() if of or _belongs(n, taken, spread_of)]


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
    maps, settled = open_maps(nodes)
    return settled(maps)


def open_maps(nodes: Sequence) -> tuple[MapSet, Callable[[MapSet], MapSet]]:
    """Do as `maps_from_nodes`, but leave for later what takes time.

    Returns
    -------
    MapSet
        Its arrays are views of the nodes' memory; tensors are as Slicer keeps them, and the mask is
        empty.
    callable
        Makes such maps, or some of them, what they ought to be. It may be called in a thread.
    """
    from DMRIMicroLib.maps import MapSet

    if not nodes:
        raise InputError(_("there are no maps"), FIX)
    first, maps, made = nodes[0], {}, {}
    spreads = [node for node in nodes if node.GetAttribute(DEVIATION_OF)]
    affine = world_affine(first)
    for node in nodes:
        if not _marked(node):
            raise InputError(
                _("'{node}' is no map of this module").format(node=node.GetName()), FIX
            )
        if _size(node) != _size(first) or not np.allclose(
            world_affine(node), affine, atol=SAME_GRID
        ):
            raise InputError(
                _("'{node}' and '{first}' lie on different grids").format(
                    node=node.GetName(), first=first.GetName()
                ),
                _("Give maps of one scan."),
            )
        if node in spreads:
            continue
        item = _map(node)
        if item.metric.name in maps:
            raise InputError(
                _("there are two maps {name}").format(name=item.metric.name), _("Give one of them.")
            )
        maps[item.metric.name] = item
        made |= _provenance(node)
    for node in spreads:
        name = node.GetAttribute(DEVIATION_OF)
        if name in maps:
            maps[name] = replace(maps[name], uncertainty=_scalars(node))
    tensors = [node for node in nodes if node.GetClassName() == TENSOR_CLASS]
    for node in tensors:
        check_axes(node)
    turns = {node.GetAttribute(METRIC): rotation(node) @ frame_matrix(node) for node in tensors}

    def settled(maps: MapSet) -> MapSet:
        items = {
            name: replace(item, data=_turned(item.data, turns[name])) if name in turns else item
            for name, item in maps.maps.items()
        }
        mask = np.logical_or.reduce([_answered(item.data) for item in items.values()])
        return replace(maps, maps=items, mask=mask)

    return MapSet(maps, affine, np.zeros(_size(first), dtype=bool), made), settled


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
    return images_later(images)(folder)


def images_later(images: Mapping[str, Any] | None) -> Callable[[Path], dict[str, Path]]:
    """Read nodes; return what does the rest of `write_images`, in any thread."""
    for name in images or {}:
        if not name.isidentifier():
            raise InputError(
                _("an image is called {name!r}").format(name=name), _("Give a name of one word.")
            )
    opened = {name: (_scalars(node), world_affine(node)) for name, node in (images or {}).items()}

    def write(folder: Path) -> dict[str, Path]:
        import nibabel as nib

        files = {name: folder / f"image-{name}.nii" for name in opened}
        for name, (data, affine) in opened.items():
            nib.save(nib.Nifti1Image(data, affine), files[name])
        return files

    return write


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
    """Return a scalar volume as (i, j, k), a view of the node's memory if it can be."""
    if not node.IsA("vtkMRMLScalarVolumeNode") or node.GetImageData() is None:
        raise InputError(
            _("'{node}' is no scalar volume with data").format(node=node.GetName()), _("Give one.")
        )
    array = slicer.util.arrayFromVolume(node)
    if array.ndim != 3:
        raise InputError(
            _("'{node}' has several values a voxel").format(node=node.GetName()),
            _("Give a scalar volume."),
        )
    return array.transpose(2, 1, 0).astype(np.float32, copy=False)


def _tensors(node) -> NDArray:
    """Return the tensors of a node as they are, a view of its memory: (i, j, k, 3, 3)."""
    rows = node.GetImageData().GetPointData().GetTensors()
    i, j, k = node.GetImageData().GetDimensions()
    return vtk_to_numpy(rows).reshape(k, j, i, 3, 3).transpose(2, 1, 0, 3, 4)


def _turned(nine: NDArray, turn: NDArray) -> NDArray[np.float32]:
    """Turn tensors (i, j, k, 3, 3) into RAS: (i, j, k, 6)."""
    if not np.allclose(turn, np.eye(3), atol=1e-9):
        nine = turn @ nine.astype(np.float64) @ turn.T
    return nine.reshape(*nine.shape[:3], 9)[..., NINE_TO_SIX].astype(np.float32)


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


def _belongs(spread, taken: Mapping[tuple, Any], of: str | None) -> bool:
    """Whether a standard deviation is that of the map that was taken."""
    its_map = taken.get((of, None))
    return its_map is not None and _of_one_fit(spread, its_map)


def _of_one_fit(one, other) -> bool:
    return one.GetAttribute(PROVENANCE) == other.GetAttribute(PROVENANCE)


def _provenance(node) -> dict[str, Any]:
    try:
        told = json.loads(node.GetAttribute(PROVENANCE))
    except (TypeError, ValueError):
        told = None
    if not isinstance(told, dict) or len(told) != 1:
        raise InputError(_("'{node}' is no map of this module").format(node=node.GetName()), FIX)
    return told


def _made(node) -> tuple[str, str]:
    """Return the method of a map, and what tells the scan that it was made of."""
    ((model, made),) = _provenance(node).items()
    return model, made.get("scan", {}).get("fingerprint", "")


def _size(node) -> tuple[int, ...]:
    return tuple(node.GetImageData().GetDimensions())


def _grid(node) -> tuple:
    return _size(node), tuple(np.round(world_affine(node), 3).ravel())
