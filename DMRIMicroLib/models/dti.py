"""Diffusion tensor imaging.

P. J. Basser, J. Mattiello, D. LeBihan, J. Magn. Reson. B 103 (1994) 247-254.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..acquisition import Acquisition, Needs
from ..metric import Metric
from ..physics.linalg import eigh3
from .base import LinearModel

NEEDS = Needs(volumes=7, shells=1, directions=6)

MM2_S = 1e-3
"""1 um2/ms in mm2/s."""


@dataclass(frozen=True)
class DTI(LinearModel):
    """ln S(b, g) = ln S0 - b g'Dg: one Gaussian tensor a voxel.

    Parameters, in order: Dxx, Dyy, Dzz, Dxy, Dxz, Dyz [um2/ms], ln S0.
    """

    name: ClassVar[str] = "dti"
    title: ClassVar[str] = "Diffusion tensor"
    size: ClassVar[int] = 7  # type: ignore[assignment]
    b_high: float = 1500.0
    """Higher b-values [s/mm2] are left out where the rest suffices: ln S is not linear in b there
    (J. H. Jensen, J. A. Helpern, NMR Biomed. 23 (2010) 698-710)."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("FA", "Fractional anisotropy", window=(0, 1), needs=NEEDS),
        Metric("MD", "Mean diffusivity", "mm2/s", 0, 5e-3, (0, 2e-3), needs=NEEDS),
        Metric("AD", "Axial diffusivity", "mm2/s", 0, 5e-3, (0, 2.5e-3), needs=NEEDS),
        Metric("RD", "Radial diffusivity", "mm2/s", 0, 5e-3, (0, 2e-3), needs=NEEDS),
        Metric(
            "tensor",
            "Diffusion tensor",
            "mm2/s",
            -5e-3,
            5e-3,
            (-1e-3, 1e-3),
            kind="tensor",
            needs=NEEDS,
        ),
        Metric("V1", "Principal direction", "", -1, 1, (-1, 1), kind="vector", needs=NEEDS),
    )

    def volumes(self, acq: Acquisition) -> list[int]:
        """Volumes to fit by default: b <= `b_high` where these suffice, else all."""
        low = [v for v, b in enumerate(acq.bvals) if b <= self.b_high]
        return low if low and not self.missing(acq.subset(low)) else list(range(len(acq)))

    def design(self, acq: Acquisition) -> Tensor:
        """Design matrix of ln S: (m, 7) float64, b in ms/um2."""
        b = torch.tensor(acq.bvals / 1e3)
        x, y, z = torch.tensor(acq.bvecs).unbind(-1)
        square = torch.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], -1)
        # a weak weighting without a direction: gg' averaged over the sphere is a third of I
        average = torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=b.dtype) / 3
        square = torch.where(square.any(-1, keepdim=True), square, average)
        return torch.cat([-b[:, None] * square, torch.ones(len(b), 1, dtype=b.dtype)], -1)

    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Metrics from the parameters: (7, n) -> each (n,), tensor (6, n), V1 (3, n).

        Eigenvalues below 0 are physically impossible and are set to 0, as dipy does.
        """
        tensor = parameters[:6]
        values, v1 = eigh3(tensor)
        values = values.clamp(min=0)
        l1, l2, l3 = values
        return {
            "FA": fractional_anisotropy(values),
            "MD": values.mean(0) * MM2_S,
            "AD": l1 * MM2_S,
            "RD": (l2 + l3) / 2 * MM2_S,
            "tensor": tensor * MM2_S,
            "V1": v1,
        }


def fractional_anisotropy(values: Tensor) -> Tensor:
    """Anisotropy of tensors with these eigenvalues >= 0: (3, n) -> (n,).

    Eq. 28 of P. J. Basser, C. Pierpaoli, J. Magn. Reson. B 111 (1996) 209-219; 0 where all are 0.
    """
    spread = ((values - values.mean(0)) ** 2).sum(0)
    size = (values**2).sum(0)
    square = 1.5 * spread / torch.where(size > 0, size, 1)
    flat = square == 0  # where the root has no derivative
    return torch.where(flat, 0, torch.where(flat, 1, square).sqrt()).clamp(max=1)
