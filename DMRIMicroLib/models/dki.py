"""Diffusion kurtosis imaging.

J. H. Jensen, J. A. Helpern, A. Ramani, H. Lu, K. Kaczynski, Magn. Reson. Med. 53 (2005) 1432-1440;
A. Tabesh, J. H. Jensen, B. A. Ardekani, J. A. Helpern, Magn. Reson. Med. 65 (2011) 823-836, which
defines the three kurtoses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import factorial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import roots_jacobi
from torch import Tensor

from ..acquisition import Acquisition, Needs
from ..metric import Metric
from ..physics.linalg import eigh3
from .base import LinearModel
from .dti import DTI

NEEDS = Needs(volumes=22, shells=2, directions=15)

LOW, HIGH = -3 / 7, 10.0
"""Range of a kurtosis: that of water in equal spherical pores (Jensen et al. 2005), and a bound far
above any tissue, which dipy has too."""

ELEMENTS = (
    *("xxxx", "yyyy", "zzzz"),
    *("xxxy", "xxxz", "xyyy", "yyyz", "xzzz", "yzzz"),
    *("xxyy", "xxzz", "yyzz", "xxyz", "xyyz", "xyzz"),
)
"""The distinct elements of a symmetric tensor of fourth order, in the order of the parameters."""

PAIRS = ("xx", "yy", "zz", "xy", "xz", "yz")
"""Those of second order, in the order of the tensor."""

INDEX = [ELEMENTS.index("".join(sorted(left + right))) for left in PAIRS for right in PAIRS]
"""Element of fourth order that belongs to two of second order."""

TWICE = (1.0, 1.0, 1.0, 2.0, 2.0, 2.0)
"""How often each element of second order stands in the full 3x3 matrix."""

SMALLEST = 1e-3
"""Smallest eigenvalue in um2/ms, and as a share of the largest, with which kurtoses are computed:
averages over K(n) = V(n) / D(n)^2 exist only where D(n) > 0."""

NODES = 20
"""Of the quadrature for MK: relative error below 2e-9 while the largest eigenvalue is up to 100
times the smallest, and 1e-4 at 1000 times."""


@dataclass(frozen=True)
class DKI(LinearModel):
    """ln S(b, g) = ln S0 - b D(g) + b^2 V(g) / 6.

    D(g) = D_ij g_i g_j and V(g) = V_ijkl g_i g_j g_k g_l, where V = MD^2 W is the kurtosis tensor
    W times the squared mean diffusivity, which makes ln S linear.

    Parameters, in order: Dxx, Dyy, Dzz, Dxy, Dxz, Dyz [um2/ms], the 15 `ELEMENTS` of V
    [um4/ms2], ln S0.
    """

    name: ClassVar[str] = "dki"
    title: ClassVar[str] = "Diffusion kurtosis"
    size: ClassVar[int] = 22  # type: ignore[assignment]
    b_high: float = 3100.0
    """Higher b-values [s/mm2] are left out where the rest suffices: the series in b holds up to
    2000-3000 in the brain (J. H. Jensen, J. A. Helpern, NMR Biomed. 23 (2010) 698-710). 100 more,
    so that a shell of 3000 whose b-values jitter is not cut in two."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("MK", "Mean kurtosis", "", LOW, HIGH, (0, 1.5), needs=NEEDS),
        Metric("AK", "Axial kurtosis", "", LOW, HIGH, (0, 1.5), needs=NEEDS),
        Metric("RK", "Radial kurtosis", "", LOW, HIGH, (0, 2), needs=NEEDS),
    )

    def volumes(self, acq: Acquisition) -> list[int]:
        """Volumes to fit by default: b <= `b_high` where these suffice, else all."""
        low = [v for v, b in enumerate(acq.bvals) if b <= self.b_high]
        return low if low and not self.missing(acq.subset(low)) else list(range(len(acq)))

    def design(self, acq: Acquisition) -> Tensor:
        """Design matrix of ln S: (m, 22) float64, b in ms/um2."""
        tensor = DTI().design(acq)
        b = torch.tensor(acq.bvals / 1e3)[:, None]
        g = torch.tensor(acq.bvecs)
        places = torch.tensor([["xyz".index(axis) for axis in name] for name in ELEMENTS])
        quartic = g[:, places].prod(-1)
        # a weak weighting without a direction: V averaged over the sphere is V_iijj / 5
        average = torch.tensor([_isotropic(name) for name in ELEMENTS], dtype=g.dtype)
        quartic = torch.where(g.any(-1, keepdim=True), quartic, average)
        count = torch.tensor([_count(name) for name in ELEMENTS], dtype=g.dtype)
        return torch.cat([tensor[:, :6], b**2 / 6 * count * quartic, tensor[:, 6:]], -1)

    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Kurtoses from the parameters: (22, n) -> each (n,).

        K(n) = V(n) / D(n)^2 along the first eigenvector (AK), averaged over the circle
        perpendicular to it (RK), and averaged over the sphere (MK).

        Values are not limited to the metrics' range. A tensor with an eigenvalue below `SMALLEST`
        is lifted isotropically for MK and RK, which have no meaning there but must be finite.
        """
        tensor, quartic = parameters[:6], parameters[6:21]
        values, v1 = eigh3(tensor)
        axis = _square(v1)
        along = _contract(quartic, axis)
        axial = _dot(along, axis) / values[0].clamp(min=SMALLEST) ** 2
        lift = (SMALLEST * values[0].clamp(min=1) - values[2]).clamp(min=0)
        identity = tensor.new_tensor([1.0, 1, 1, 0, 0, 0])[:, None]
        tensor, values = tensor + lift * identity, values + lift
        inside = _contract(quartic, tensor)
        whole = _contract(quartic, identity)
        return {
            "MK": _mean_kurtosis(quartic, tensor, values, inside, whole),
            "AK": axial,
            "RK": _radial_kurtosis(tensor, values, axis, along, inside, whole),
        }

    def curvature(self, parameters: Tensor, covariance: Tensor) -> dict[str, Tensor]:
        """Variance of AK because noise turns its axis: (22, n), (22, 22, n) -> (n,).

        The elements a_k = v_k' dD v_1 turn v_1 by t_k = a_k / g_k, where g_k = l_1 - l_k, and raise
        l_1 by the sum of g_k t_k^2 (T. Kato, Perturbation Theory for Linear Operators, 1966,
        chapter II). To second order V(v_1) / l_1^2 hence changes by t'Ht / 2 with

            H_jk = (12 V_11jk - 4 V_1111 (1 + g_k / l_1) delta_jk) / l_1^2,

        whose mean square for a Gaussian t of covariance O is tr(HOHO) / 2 + tr(HO)^2 / 4. Products
        of t with other noise are left out: around the estimate they cancel some of it, but noise
        widens the estimated gap and so hides how far the axis may be turned.
        """
        tensor, quartic = parameters[:6], parameters[6:21]
        values, v1 = eigh3(tensor)
        axis, largest = _square(v1), values[0].clamp(min=SMALLEST)
        # lowered along the first eigenvector, the second comes first, perpendicular even if equal
        _, v2 = eigh3(tensor - (values[0] - values[2] + largest) * axis)
        v3 = torch.linalg.cross(v1, v2, dim=0)
        gap = values[0] - values[1:]
        turn = _turn(torch.stack([_product(v1, v2), _product(v1, v3)]), gap, covariance[:6, :6])
        along = _contract(quartic, axis)
        fall = 4 * _dot(along, axis) * (1 + gap / largest)
        mixed = 12 * _dot(along, _product(v2, v3))
        second = 12 * _dot(along, _square(v2)) - fall[0]
        third = 12 * _dot(along, _square(v3)) - fall[1]
        # rows of H O, times l_1^2
        a, b = second * turn[0] + mixed * turn[1], second * turn[1] + mixed * turn[2]
        c, d = mixed * turn[0] + third * turn[1], mixed * turn[1] + third * turn[2]
        spread = (a * a + 2 * b * c + d * d) / 2 + (a + d) ** 2 / 4
        return {"AK": spread / largest**4}


def _turn(elements: Tensor, gap: Tensor, covariance: Tensor) -> Tensor:
    """Covariance of the first eigenvector's turn towards the two others: (3, n): 22, 23, 33.

    Parameters
    ----------
    elements : (2, 6, n) tensor
        The products v_1 v_k.
    gap : (2, n) tensor
        l_1 - l_k.
    covariance : (6, 6, n) tensor
        Of D.

    Notes
    -----
    With the variance s2_k of a_k, the gap is (g_k^2 + 3 s2_k)^(1/2): where it is lost in the noise,
    a component of v_1 has the variance 1/3 of a uniform distribution over the sphere, not more.
    """
    elements = elements * elements.new_tensor(TWICE)[:, None]
    spread = (covariance[None] * elements[:, None]).sum(2)  # (2, 6, n): C b_k
    s22, s33 = (spread * elements).sum(1).clamp(min=0)
    tiny = torch.finfo(gap.dtype).tiny
    over2, over3 = (gap * gap + 3 * torch.stack([s22, s33])).clamp(min=tiny).rsqrt()
    s23 = (spread[0] * elements[1]).sum(0)
    return torch.stack([s22 * over2 * over2, s23 * over2 * over3, s33 * over3 * over3])


def _mean_kurtosis(
    quartic: Tensor, tensor: Tensor, values: Tensor, inside: Tensor, whole: Tensor
) -> Tensor:
    """Mean of V(n) / D(n)^2 over the sphere, without elliptic integrals.

    The quotient depends on the direction only, so its mean is its expectation for a Gaussian x.
    With 1 / D^2 = int t exp(-t D) dt and x'x -> x' M x for M = (I + 2 t D)^-1, by Isserlis'
    theorem,

        MK = 3 int_0^inf t V_ijkl M_ij M_kl det(M)^(1/2) dt.

    2 t = (1 - z) / z makes this 3/4 int_0^1 (1 - z) z^(1/2) P(z) / q(z)^(5/2) dz, where
    q(z) = det(z I + (1 - z) D), P(z) = V_ijkl A_ij A_kl for the adjugate A of the same matrix, and
    for an isotropic D of 1 P and q are constant: hence Gauss-Jacobi quadrature and D in units of
    the geometric mean of its outer eigenvalues. Unlike the closed form (Tabesh et al. 2011) it has
    no exceptions for equal eigenvalues.
    """
    unit = (values[0] * values[2]).sqrt()
    l1, l2, l3 = values / unit
    xx, yy, zz, xy, xz, yz = tensor / unit
    identity = tensor.new_tensor([1.0, 1, 1, 0, 0, 0])[:, None]
    # adjugate of z I + w D: z^2 I + z w (tr(D) I - D) + w^2 adj(D), with w = 1 - z
    second = (l1 + l2 + l3) * identity - tensor / unit
    third = torch.stack(
        [
            *(yy * zz - yz * yz, xx * zz - xz * xz, xx * yy - xy * xy),
            *(xz * yz - xy * zz, xy * yz - xz * yy, xy * xz - yz * xx),
        ]
    )
    by_second = (l1 + l2 + l3) * whole - inside / unit
    by_third = _contract(quartic, third)
    numerator = torch.stack(
        [
            _dot(whole, identity),
            2 * _dot(by_second, identity),
            _dot(by_second, second) + 2 * _dot(by_third, identity),
            2 * _dot(by_third, second),
            _dot(by_third, third),
        ]
    )
    invariants = [torch.ones_like(l1), l1 + l2 + l3, l1 * l2 + l1 * l3 + l2 * l3, l1 * l2 * l3]
    to_numerator, to_determinant, weights = (tensor.new_tensor(a) for a in _quadrature())
    root = (to_determinant @ torch.stack(invariants)).rsqrt()
    return weights @ (to_numerator @ numerator * root**5) / unit**2


@lru_cache(maxsize=1)
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Powers of z and 1 - z at the nodes of `_mean_kurtosis` (k, 5) and (k, 4), weights (k,)."""
    x, weights = roots_jacobi(NODES, 1, 0.5)  # for (1 - x) (1 + x)^(1/2) on [-1, 1]
    z = (1 + x)[:, None] / 2
    powers = [z ** np.arange(d, -1, -1) * (1 - z) ** np.arange(d + 1) for d in (4, 3)]
    return powers[0], powers[1], 3 / 4 * weights / 2**2.5


def _radial_kurtosis(
    tensor: Tensor, values: Tensor, axis: Tensor, along: Tensor, inside: Tensor, whole: Tensor
) -> Tensor:
    """Mean of V(n) / D(n)^2 over the directions perpendicular to the first eigenvector.

    For the 2x2 block G of D there, the mean of ln(n'Gn) is ln(T / 4), T = tr G + 2 d with
    d = sqrt(det G); minus its second derivatives with respect to G are the means of
    n_i n_j n_k n_l / (n'Gn)^2. Contracted with V, with C = adj G and N = I + C / d,

        RK = V_ijkl N_ij N_kl / T^2 + V_ijkl C_ij C_kl / (2 d^3 T).

    C is written in three dimensions, so that the second and third eigenvector, which noise turns
    freely where their eigenvalues are close, are not needed.
    """
    l1, l2, l3 = values
    identity = tensor.new_tensor([1.0, 1, 1, 0, 0, 0])[:, None]
    plane, by_plane = identity - axis, whole - along
    adjugate = (l2 + l3) * plane - tensor + l1 * axis
    by_adjugate = (l2 + l3) * by_plane - inside + l1 * along
    root = (l2 * l3).sqrt()
    trace = l2 + l3 + 2 * root
    twice = _dot(by_adjugate, adjugate) / root**2
    once = 2 * _dot(by_adjugate, plane) / root
    return (_dot(by_plane, plane) + once + twice) / trace**2 + twice / (2 * root * trace)


def _contract(quartic: Tensor, square: Tensor) -> Tensor:
    """V_ijkl A_kl: (15, n), (6, n) -> (6, n)."""
    weighted = square * square.new_tensor(TWICE)[:, None]
    return (quartic[INDEX].unflatten(0, (6, 6)) * weighted).sum(1)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """A_ij B_ij: (6, n), (6, n) -> (n,)."""
    return (left * right * left.new_tensor(TWICE)[:, None]).sum(0)


def _square(vector: Tensor) -> Tensor:
    """v_i v_j: (3, n) -> (6, n)."""
    x, y, z = vector
    return torch.stack([x * x, y * y, z * z, x * y, x * z, y * z])


def _product(left: Tensor, right: Tensor) -> Tensor:
    """(u_i v_j + v_i u_j) / 2: (3, n), (3, n) -> (6, n)."""
    return (_square(left + right) - _square(left - right)) / 4


def _count(name: str) -> int:
    """How often an element of fourth order stands in the full tensor."""
    ways = factorial(len(name))
    for axis in "xyz":
        ways //= factorial(name.count(axis))
    return ways


def _isotropic(name: str) -> float:
    """Mean of n_i n_j n_k n_l over the sphere: 1/5 for xxxx, 1/15 for xxyy, else 0."""
    if any(name.count(axis) % 2 for axis in "xyz"):
        return 0.0
    return 1 / 5 if len(set(name)) == 1 else 1 / 15
