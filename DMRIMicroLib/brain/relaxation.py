"""Water, relaxation and noise by tissue and field strength: how bright a voxel is.

Relaxation rates are straight lines in the field strength B0, through what is reported of healthy
adults:

- T2 at 50 mT: white 102, grey 106 ms, fluid 1.6 s (T. O'Reilly, A. G. Webb, Magn. Reson. Med. 87
  (2022) 884-895); at 1.5 and 3 T: white 72 and 69, grey 95 and 99 ms (G. J. Stanisz et al., Magn.
  Reson. Med. 54 (2005) 507-512), and 80 and 110 ms at 3 T (J. P. Wansapura et al., J. Magn. Reson.
  Imaging 9 (1999) 531-538); at 7 T: white 46, grey 55 ms (E. Yacoub et al., Magn. Reson. Med. 49
  (2003) 655-664). R2 of grey matter is 1.74 B0 + 7.77 / s (K. Uludag, B. Mueller-Bierl, K. Ugurbil,
  NeuroImage 48 (2009) 150-165). Deep nuclei hold iron: R2 rises faster (range chosen).
- T1 follows a power of the Larmor frequency (W. D. Rooney et al., Magn. Reson. Med. 57 (2007)
  308-318); that of fluid is 4.3 s at any field (the same). Fluid that flows in between two
  excitations has not been excited: the T1 of fluid here is an apparent one (moved from 4.3 to 2.5 s
  towards the b0 of real scans with a short TR).
- Water content: white 0.70, grey 0.82 (P. Tofts, Quantitative MRI of the Brain (2003), chapter 4);
  deep nuclei lie between (range chosen).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .anatomy import CLASSES
from .volume import StateVolume

LARMOR = 42.577e6
"""Frequency of protons [Hz/T]."""

FIELDS = (0.05, 7.5)
"""Field strengths [T] between which the numbers below were reported."""

SNR_SCALE = 5.7
"""SNR of a voxel of 1 mm of pure, relaxed water at 1 T. Chosen so that the b0 image of white
matter at 3 T, 2 mm and TE 80 ms has an SNR near 30, and at 7 T, 1.05 mm, near 20 (S. N.
Sotiropoulos et al., NeuroImage 80 (2013) 125-143; A. T. Vu et al., NeuroImage 122 (2015) 318-331).
"""

SNR_POWER = 1.65
"""SNR grows with this power of B0 (R. Pohmann, O. Speck, K. Scheffler, Magn. Reson. Med. 75 (2016)
801-809)."""

LOW_FIELD = 1.5
"""Below this field [T] scanners sample for longer and average, in proportion to 1 / B0 (range
chosen: white matter at 64 mT then has an SNR of 5 to 10)."""


@dataclass(frozen=True)
class Relaxation:
    """One tissue class.

    Attributes
    ----------
    water : float
        Water content relative to pure water.
    rate, slope : float
        R2 = rate + slope B0 [1/s], [1/s/T].
    t1, power : float
        T1 = t1 (Larmor frequency in Hz)^power [s].
    """

    water: float
    rate: float
    slope: float
    t1: float
    power: float

    def t2(self, field: float) -> float:
        """T2 [ms] at a field strength [T]."""
        return 1e3 / (self.rate + self.slope * field)

    def t1_at(self, field: float) -> float:
        """T1 [s] at a field strength [T]."""
        return self.t1 * (LARMOR * field) ** self.power


RELAXATION = {
    "white": Relaxation(0.70, 9.7, 1.72, 0.00071, 0.382),
    "cortex": Relaxation(0.82, 8.6, 1.40, 0.00116, 0.376),
    "deep": Relaxation(0.78, 8.6, 2.20, 0.00116, 0.365),
    "csf": Relaxation(1.00, 0.55, 0.05, 2.5, 0.0),
}
"""By class of `anatomy.CLASSES`. T1 of deep nuclei lies between white and grey matter's (Rooney et
al.), hence the smaller power."""


def brightness(field: float, TE: float, TR: float, like: Tensor) -> Tensor:
    """Signal of each class without diffusion weighting, relative to pure, relaxed water: (4,).

    Parameters
    ----------
    field : float
        [T]
    TE : float
        [ms]
    TR : float
        [s]
    like : tensor
        Type and device of the result.
    """
    if not FIELDS[0] <= field <= FIELDS[1]:
        raise InputError(
            f"the field strength is {field:g} T", f"Give one from {FIELDS[0]} to {FIELDS[1]} T."
        )
    classes = [RELAXATION[name] for name in CLASSES]
    echo = torch.tensor([TE / c.t2(field) for c in classes])
    recovery = torch.tensor([TR / c.t1_at(field) for c in classes])
    water = torch.tensor([c.water for c in classes])
    return (water * torch.exp(-echo) * -torch.expm1(-recovery)).to(like)


def unweighted(volume: StateVolume, field: float, TE: float, TR: float) -> Tensor:
    """Signal without diffusion weighting of tissue that fills its voxel: (n,).

    Free water is as bright as fluid, wherever it is: oedema and old lesions shine. The fractions
    of a state are fractions of the signal, so that brightnesses mix as 1 / S = f / S_fluid +
    (1 - f) / S_tissue.
    """
    bright = brightness(field, TE, TR, volume.tissue)
    solid, fluid = volume.tissue[:3], bright[3]
    amount = solid.sum(0)
    some = amount > torch.finfo(amount.dtype).eps
    tissue = torch.where(some, bright[:3] @ solid / torch.where(some, amount, 1), bright[1])
    return 1 / (volume.state.free / fluid + (1 - volume.state.free) / tissue)


def water_snr(field: float, voxel: tuple[float, float, float], sensitivity: float = 1.0) -> float:
    """SNR of a voxel of pure, relaxed water.

    The signal grows with the voxel's volume; the noise falls with the root of the samples of a
    slice, which at one field of view are as many as there are voxels in it: what is left is the
    thickness of the slice times the root of the pixel's area.

    Parameters
    ----------
    field : float
        [T]
    voxel : (float, float, float)
        Edges [mm], the last one the thickness of a slice.
    sensitivity : float
        Of the coil and the sequence, relative to a usual one.
    """
    size = voxel[2] * (voxel[0] * voxel[1]) ** 0.5
    averages = max(1.0, LOW_FIELD / field)
    return sensitivity * SNR_SCALE * field**SNR_POWER * size * averages
