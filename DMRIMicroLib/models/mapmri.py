"""Mean apparent propagator MRI, with Laplacian regularisation (MAPL).

E. Özarslan, C. G. Koay, T. M. Shepherd, M. E. Komlosh, M. O. İrfanoğlu, C. Pierpaoli,
P. J. Basser, NeuroImage 78 (2013) 16-32; R. H. J. Fick, D. Wassermann, E. Caruyer, R. Deriche,
NeuroImage 134 (2016) 365-385.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..acquisition import Acquisition, Needs
from ..errors import InputError
from ..metric import Metric
from ..physics.hermite import (
    HermiteSum,
    hermite_basis,
    hermite_integral_signs,
    hermite_orders,
    hermite_origin,
    laplacian_products,
    laplacian_scales,
)
from ..physics.legendre import check_order
from ..physics.weighting import weighting
from .dti import DTI
from .framed import FramedModel

NEEDS = Needs(volumes=22, shells=2, directions=20, timing=True)
"""Data must decide the 22 coefficients up to radial order 4, which, like those of kurtosis, take
two shells and 15 directions; the penalty may decide those of order 6. 20 directions, because the
penalty pulls more where there are fewer: with 10 directions on each shell of the example scan RTOP
is 10 % above what 30 and 60 of them give, with 20 on each 6 %."""

MM_UM = 1e-3
"""1 um in mm."""

DIFFUSIVITIES = (0.1, 10.0)
"""Range that the tensor's eigenvalues are held to for the scales [um2/ms]. The lower end is
dipy's; noise alone goes beyond the upper one (free water at body temperature has 3)."""

EXTRAPOLATED_B = 6000.0
"""b-value [s/mm2] up to which A. V. Avram et al., NeuroImage 127 (2016) 422-434, measured the
propagator in the living brain."""

S0_FLOOR = 1e-3
"""The signal at b = 0 is held above this share of the largest that the coefficients could add up
to, so that no voxel divides by 0. In voxels of a brain it is above 0.2."""


SCALE_FLOOR = 1e-2
"""Scales [um] are held above this, which is less than any diffusion time gives."""


def diffusion_time(acq: Acquisition) -> float:
    """Return tau = Delta - delta / 3 [ms]; InputError where the timing is unknown."""
    if acq.delta is None or acq.Delta is None:
        raise InputError(
            "the gradient timing (delta and Delta) is unknown, so q-values are",
            "Give delta and Delta in ms.",
        )
    return acq.Delta - acq.delta / 3


@dataclass(frozen=True)
class MAPMRI(FramedModel):
    """Signal in Hermite functions along the axes of the voxel's tensor; return probabilities.

    Parameters, in order: the k coefficients a_j [signal units] in the order of
    `physics.hermite.hermite_orders`, the three scales u [um] by falling size, and the axes that
    the first and the second belong to (unit vectors in RAS, 3 rows each).

    Attributes
    ----------
    radial_order : int
        Highest n1 + n2 + n3, even: 6 means 50 coefficients, 4 means 22. Along one direction the
        signal has order / 2 + 1 of them, so b = 0 and order / 2 shells determine it.
    weight : float
        Weight of the squared Laplacian of the signal, integrated over q [1/mm: with q in 1/mm, the
        integral has the dimension of a length]. It pulls towards a smooth signal whatever the
        noise: RTOP of Gaussian diffusion without noise is 16 % too high in a fibre (1.7 and
        0.3 um2/ms) and 9 % where it is isotropic, at order 4 with 40 directions on two shells.
    tensor : DTI
        How the tensor is fitted: by default to b <= 1500 s/mm2, where ln S is near linear in b. In
        simulated crossings at SNR 30 this brings RTOP nearer to the truth than a tensor of all
        volumes, ``DTI(b_high=float("inf"))``, does (median 3 % instead of 6 % above it).

    Notes
    -----
    The conventions are those of `dipy.reconst.mapmri`:

    - tau = Delta - delta / 3 and 2 pi q = sqrt(b / tau); scales u_i = sqrt(2 lambda_i tau) with
      eigenvalues lambda_i of a tensor by weighted least squares, not below 1e-4 mm2/s;
    - the penalty has the weight 0.2 with lengths in mm, whatever the number of samples is;
    - coefficients are divided by the fitted signal at b = 0, not by a measured one.

    Differences: dipy fits the tensor to all volumes unless its `bval_threshold` says otherwise
    (on the example scan this raises RTOP and RTAP by 5 %), it takes samples of 0 for 1e-4, which
    are left out here, has no upper limit of lambda_i, and leaves the noise floor in the samples.
    `fit` takes it out where the noise is known, unless the likelihood is "gaussian".
    """

    name: ClassVar[str] = "mapmri"
    title: ClassVar[str] = "Mean apparent propagator"
    radial_order: int = 6
    weight: float = 0.2
    tensor: DTI = field(default_factory=DTI)

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("RTOP", "Return-to-origin probability", "1/mm3", 0, 1e8, (0, 1.5e6), needs=NEEDS),
        Metric("RTAP", "Return-to-axis probability", "1/mm2", 0, 1e6, (0, 2e4), needs=NEEDS),
        Metric("RTPP", "Return-to-plane probability", "1/mm", 0, 1e3, (0, 100), needs=NEEDS),
    )

    def __post_init__(self) -> None:
        check_order(self.radial_order)
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"weight is {self.weight}", "Give a number >= 0, in 1/mm.")

    @property
    def coefficients(self) -> int:
        """Number k of coefficients."""
        return len(hermite_orders(self.radial_order))

    @property
    def size(self) -> int:
        """Number p of parameters."""
        return self.coefficients + 9

    def cautions(self, acq: Acquisition) -> tuple[str, ...]:
        """Say what the user must know of maps from `acq`, although it is enough for a fit."""
        notes, highest = [], acq.bvals.max()
        if highest < EXTRAPOLATED_B:
            notes.append(
                "RTOP, RTAP and RTPP are integrals of the signal over all b; beyond "
                f"b = {highest:.0f} s/mm2 it is extrapolated. Compare them only between scans with "
                "the same b-values and gradient timing."
            )
        if len(acq.shells) < (wanted := self.radial_order // 2):
            notes.append(
                f"A propagator of radial order {self.radial_order} takes {wanted} shells (there "
                f"are {len(acq.shells)}): the rest follows from its smoothness, which can put RTOP "
                "some 30 % off where diffusion is very anisotropic."
            )
        return tuple(notes)

    def frame(self, acq: Acquisition, values: Tensor, axes: Tensor) -> Tensor:
        """Scales [um] and axes from the tensor's: (3, n) [um2/ms], (2, 3, n) -> (9, n).

        The scales are sqrt(2 lambda tau), so that the first basis function is the tensor's signal.
        """
        scales = torch.sqrt(2 * diffusion_time(acq) * values.clamp(*DIFFUSIVITIES))
        return torch.cat([scales, axes.flatten(0, 1)])

    def basis(self, acq: Acquisition, frame: Tensor) -> Tensor:
        """Basis functions at the samples: (9, n) frame -> (n, m, k)."""
        return hermite_basis(_coordinates(acq, frame), self.radial_order).mT

    def expand(self, acq: Acquisition, frame: Tensor, coefficients: Tensor) -> Tensor:
        """Sum basis functions at the samples: (9, n) frame, (n, c, k) -> (n, c, m)."""
        return HermiteSum.apply(_coordinates(acq, frame), coefficients, self.radial_order)

    def penalty(self, frame: Tensor) -> Tensor:
        """Integrated squared Laplacian of the signal [mm]: (9, n) frame -> (n, k, k)."""
        products = frame.new_tensor(laplacian_products(self.radial_order))
        scales = laplacian_scales(frame[:3] * MM_UM)
        return (scales @ products.flatten(1)).unflatten(1, products.shape[1:])

    def at_origin(self, like: Tensor) -> Tensor:
        """Basis functions without diffusion weighting: (k,)."""
        return like.new_tensor(hermite_origin(self.radial_order))

    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Return probabilities of Özarslan et al.: (p, n) parameters -> each (n,).

        Integrals of the normalised signal over all q (RTOP, eq. 43), over the plane across the
        first axis (RTAP, eq. 44a) and along the first axis (RTPP, eq. 42). RTAP and RTPP are
        integrals over two and one of the axes, at q = 0 on the rest.
        """
        k = self.coefficients
        coefficients = parameters[:k]
        first, second, third = parameters[k : k + 3].clamp(min=SCALE_FLOOR) * MM_UM
        origin = self.at_origin(parameters)
        x, y, z = parameters.new_tensor(hermite_integral_signs(self.radial_order)).T
        sums = origin * torch.stack([torch.ones_like(x), x * y * z, y * z, x])
        s0, rtop, rtap, rtpp = sums @ coefficients
        # relative to the largest possible s0
        floor = S0_FLOOR * (origin @ coefficients.abs()) + torch.finfo(s0.dtype).tiny
        s0 = torch.maximum(s0, floor)
        width = math.sqrt(2 * math.pi)
        return {
            "RTOP": rtop / s0 / (width**3 * first * second * third),
            "RTAP": rtap / s0 / (width**2 * second * third),
            "RTPP": rtpp / s0 / (width * first),
        }


def _coordinates(acq: Acquisition, frame: Tensor) -> Tensor:
    """2 pi u q along the axes of each voxel: (9, n) frame -> (n, 3, m)."""
    scales, first, second = frame.split(3)
    axes = torch.stack([first, second, torch.linalg.cross(first, second, dim=0)])
    weights = weighting(acq, frame)
    wave = weights.g * torch.sqrt(weights.b / diffusion_time(acq))[:, None]  # 2 pi q [1/um]
    return (scales[:, None] * axes).permute(2, 0, 1) @ wave.T
