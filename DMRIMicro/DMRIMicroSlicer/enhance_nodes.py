"""An enhanced scan to MRML: a diffusion volume beside the one that it was made of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray

from DMRIMicroLib.scan import Scan
from DMRIMicroLib.sigma import REMOVED

from .attributes import ENHANCED_BY, UNLIFTED
from .background import Steps
from .hierarchy import file_beside
from .nodes import adding_scan, unique_name, window_of
from .results import DEVIATION_OF, GREY, PROVENANCE, mark_scan, remove
from .worker import ENHANCED

KEY = "enhance"
"""Of the provenance in its attribute, where maps have the name of their model."""

LEARNED = (
    "7 T-like scan made from '{name}' by the method {method}, which learned from pairs of scans; "
    "it is no measurement, and small lesions may be changed"
)
INTERPOLATED = "Scan '{name}', interpolated: no network has changed it"


@dataclass(frozen=True)
class Source:
    """What the node that is enhanced gives to the new one.

    Attributes
    ----------
    name, node_id : str
    acquisition : Acquisition
        In world coordinates.
    """

    name: str
    node_id: str
    acquisition: Any

    @classmethod
    def of(cls, node, scan: Scan) -> Source:
        """Remember a node, which may be gone when the work is done."""
        return cls(scan.name, node.GetID(), scan.acquisition)


@dataclass(frozen=True, eq=False)
class Made:
    """An enhanced scan, from here or from a worker.

    Attributes
    ----------
    signal : (x, y, z, m) array
    affine : (4, 4) array
    sd : (x, y, z, m) array or None
        Standard deviation over draws.
    provenance : dict
    """

    signal: NDArray
    affine: NDArray[np.float64]
    sd: NDArray | None
    provenance: dict[str, Any]

    @property
    def notes(self) -> list[str]:
        """What the user must know."""
        return list(dict.fromkeys(self.provenance["notes"]))


def read(folder: Path, notes: Iterable[str] = ()) -> Made:
    """Read what `dmrimicro enhance` wrote; `notes` are those that its input did not hold."""
    from DMRIMicroLib.io.nifti import read_volume, stem

    image = folder / ENHANCED
    base = stem(image)
    told = json.loads((folder / f"{base}.json").read_text(encoding="utf-8"))
    told["notes"] = [*notes, *told["notes"]]
    signal, affine = read_volume(image)
    spread = folder / f"{base}_sd.nii.gz"
    return Made(signal, affine, read_volume(spread)[0] if spread.exists() else None, told)


def showing(made: Made, source: Source) -> Steps:
    """Add the scan to the scene, and the spread of its draws if known; on failure add nothing."""
    name = f"{source.name} enhanced"
    nodes: list = []
    try:
        scan = Scan(made.signal, made.affine, source.acquisition, name=name)
        nodes.append((yield from adding_scan(scan)))
        if made.sd is not None:
            values, window = yield partial(_spread, made, source)
            nodes.append(_add_spread(values, window, made, source))
        for node in nodes:
            yield
            _mark(node, made, source)
            file_beside([node], slicer.mrmlScene.GetNodeByID(source.node_id))
    except BaseException:
        for node in nodes:
            remove(node)
        raise
    return nodes


def _spread(made: Made, source: Source) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Return one number a voxel, the root mean square over the weighted volumes; and a window."""
    assert made.sd is not None
    weighted = made.sd[..., ~source.acquisition.is_b0].astype(np.float64)
    values = np.sqrt(np.square(weighted).mean(-1)).astype(np.float32)
    return values, window_of(values)


def _add_spread(
    values: NDArray[np.float32], window: tuple[float, float], made: Made, source: Source
):
    """Add it as a node."""
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode", unique_name(f"{source.name} enhanced SD")
    )
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(GREY)
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(*window)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(values.transpose(2, 1, 0)))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(made.affine))
    node.SetAttribute(DEVIATION_OF, "signal")
    return node


def _mark(node, made: Made, source: Source) -> None:
    """Say in a node how it was made."""
    method = made.provenance["method"]
    words = INTERPOLATED if method == "interpolate" else LEARNED
    told = words.format(name=source.name, method=method)
    if node.GetAttribute(DEVIATION_OF):
        draws = made.provenance["samples"]
        told = f"Standard deviation over {draws} draws, of the weighted volumes (rms). {told}"
    node.SetDescription(told)
    node.SetAttribute(ENHANCED_BY, method)
    if made.provenance.get("noise_floor") == REMOVED:
        node.SetAttribute(UNLIFTED, "1")
    mark_scan(node, source.node_id)
    node.SetAttribute(PROVENANCE, json.dumps({KEY: made.provenance}, ensure_ascii=False))
