"""Which tissue kernels make up each voxel: the codebook as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import staged
from ..fitting.estimate import choose_device
from ..physics.tissue import D_FREE
from ..scan import Scan
from .kernels import Kernels
from .network import Prediction
from .slices import WEIGHTS, Progress, open_codebook, predictions
from .stack import slice_order

STEM = "model-codebook_desc-kernels_dwimap"
IMAGE, TABLE = f"{STEM}.nii.gz", f"{STEM}.json"
"""What the files are called."""

STEPS = 65535
"""Weights are stored in whole steps of 1 / 65535."""


@dataclass(frozen=True, eq=False)
class KernelMaps:
    """Weights of the kernels.

    Attributes
    ----------
    weights : (x, y, z, k) float32 array
        Signal fractions, with the sum 1 in every voxel of the mask and 0 elsewhere.
    table : list of dict
        What each kernel is, in the order of the last axis: its kind, and ``D_par`` and ``D_perp``
        [um2/ms] or ``radius`` [um].
    affine : (4, 4) array
    provenance : dict
        Name and sha256 of the network's weights.
    """

    weights: NDArray[np.float32]
    table: list[dict[str, Any]]
    affine: NDArray[np.float64]
    provenance: dict[str, Any]

    def save(self, folder: str | Path) -> Path:
        """Write a 4-D image with the table beside it; return the image's path."""
        told = {
            "title": "Signal fraction of each tissue kernel",
            "volumes": self.table,
            "units": {"D_par": "um2/ms", "D_perp": "um2/ms", "D": "um2/ms", "radius": "um"},
            "weights": self.provenance,
        }
        stored = np.round(self.weights * np.float32(STEPS)).astype(np.uint16)
        image = nib.Nifti1Image(stored, self.affine)
        image.header.set_slope_inter(1 / STEPS, 0)
        image.header.set_xyzt_units("mm")
        with staged(folder) as stage:
            nib.save(image, stage / IMAGE)
            text = json.dumps(told, indent=2) + "\n"
            (stage / TABLE).write_text(text, encoding="utf-8")
        return Path(folder) / IMAGE


def kernel_maps(
    scan: Scan,
    *,
    weights: str | Path = WEIGHTS,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> KernelMaps:
    """Estimate the weight of every kernel in every voxel; parameters as of `codebook`."""
    loaded = open_codebook(weights)

    def keep(found: Prediction, means: Tensor) -> tuple[Tensor, ...]:
        return (found.weights,)

    chosen = choose_device(device)
    scan, usable, (found,) = predictions(scan, loaded, keep, chosen, progress, cancelled)
    image = np.zeros((usable.size, found.shape[1]), np.float32)
    image[slice_order(usable)] = found.numpy()
    table = describe(loaded.network.kernels)
    own = loaded.card.provenance()
    return KernelMaps(image.reshape(*scan.shape, -1), table, scan.affine, own)


def describe(kernels: Kernels) -> list[dict[str, Any]]:
    """Say what each kernel is."""
    along, across = (v.tolist() for v in kernels.diffusivities())
    table: list[dict[str, Any]] = [
        {"kind": "zeppelin", "D_par": round(a, 4), "D_perp": round(b, 4)}
        for a, b in zip(along, across, strict=True)
    ]
    table += [{"kind": "sphere", "radius": round(r, 3)} for r in kernels.radii().tolist()]
    return [*table, {"kind": "free water", "D": D_FREE}, {"kind": "still water", "D": 0.0}]
