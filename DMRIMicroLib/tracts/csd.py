"""Fibre orientation distributions by constrained spherical deconvolution.

J.-D. Tournier, F. Calamante, A. Connelly, NeuroImage 35 (2007) 1459-1472; the response is that of
the voxels with the highest anisotropy (J.-D. Tournier et al., NeuroImage 23 (2004) 1176-1185).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..acquisition import Shell
from ..errors import InputError
from ..physics.legendre import legendre
from ..physics.linalg import eigh3, packed_index
from ..physics.sh import sh_basis, sh_degrees
from ..scan import Scan

Progress = Callable[[float], None]

HIGHEST_ORDER = 8
"""Order of the distribution; lower where there are fewer directions than coefficients."""
LEAST_ORDER = 4

SINGLE = 300
"""Voxels of the highest anisotropy that give the response of a single fibre."""
ANISOTROPIC = 0.5
"""They are at least this anisotropic, else there is no single fibre to learn from."""

START_ORDER = 4
"""Order of the unconstrained first estimate (Tournier et al. 2007, section 2.2)."""
SMALL = 0.1
"""Amplitudes below this share of the mean of the first estimate are held near 0 (tau there)."""
WEIGHT = 1.0
"""Weight of holding them there, in units of the data's own (lambda there)."""
MOST_ROUNDS = 30

SPREAD = 4
"""Subdivisions of an octahedron on whose vertices amplitudes are held."""

BATCH = 2048
"""Voxels at a time."""


def csd(
    scan: Scan,
    tensor: NDArray,
    mask: NDArray[np.bool_],
    *,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Deconvolve a shell of the scan by the response of a single fibre.

    Parameters
    ----------
    scan : Scan
    tensor : (x, y, z, 6) array
        Diffusion tensor (xx, yy, zz, xy, xz, yz) in RAS, for finding single fibres.
    mask : (x, y, z) bool array
        Voxels to work on.
    device : str or torch.device
    progress : callable, optional
        Called with the finished share; an exception from it stops the work.

    Returns
    -------
    (x, y, z, c) float32 array
        Coefficients in the basis of `physics.sh`, in RAS; 0 outside `mask`.

    Raises
    ------
    InputError
        If no shell has enough directions, or there is no anisotropic voxel.
    """
    shell, order = choose_shell(scan)
    volumes = list(shell.indices)
    usable = mask & np.isfinite(scan.b0) & (scan.b0 > 0)
    signal = scan.select(volumes).voxels(usable) / scan.b0[usable][:, None]
    signal = np.nan_to_num(signal, posinf=0.0, neginf=0.0)
    directions = torch.tensor(scan.acquisition.bvecs[volumes])
    response = single_fibre(signal, directions, tensor[usable], order)
    rows = deconvolve(
        torch.from_numpy(signal).to(device), directions.to(device), response, progress
    )
    out = np.zeros((*mask.shape, rows.shape[1]), dtype=np.float32)
    out[usable] = rows.cpu().numpy()
    return out


def choose_shell(scan: Scan) -> tuple[Shell, int]:
    """Return the shell of most directions, the highest b of equals, and the order that it bears."""
    shells = sorted(scan.acquisition.shells, key=lambda s: (s.directions, s.b))
    least = (LEAST_ORDER + 1) * (LEAST_ORDER + 2) // 2
    if not shells or shells[-1].directions < least:
        most = shells[-1].directions if shells else 0
        raise InputError(
            f"spherical deconvolution needs a shell of {least} directions, there are {most}",
            'Track on the tensor (odf="tensor").',
            file=scan.source,
        )
    order = HIGHEST_ORDER
    while (order + 1) * (order + 2) // 2 > shells[-1].directions:
        order -= 2
    return shells[-1], order


def single_fibre(signal: NDArray, directions: Tensor, tensor: NDArray, order: int) -> Tensor:
    """Signal of a single fibre as Legendre coefficients: (order / 2 + 1,) float64.

    S(theta) = sum_l a_l P_l(cos theta), fitted to the most anisotropic voxels along their V1.

    Parameters
    ----------
    signal : (n, m) array
        Relative to b = 0.
    directions : (m, 3) tensor
    tensor : (n, 6) array
    order : int
    """
    from ..models.dti import fractional_anisotropy

    values, v1 = eigh3(torch.tensor(tensor, dtype=torch.float64).T.contiguous())
    fa = fractional_anisotropy(values.clamp(min=0))
    # an eigenvalue below 0 makes FA 1, by noise
    fa = torch.where(values[2] > 0, fa, 0)
    best = fa.topk(min(SINGLE, len(fa))).indices
    best = best[fa[best] >= ANISOTROPIC]
    if not len(best):
        raise InputError(
            f"no voxel has an FA of {ANISOTROPIC}: there is no single fibre to learn from",
            'Check the mask, or track on the tensor (odf="tensor").',
        )
    cosine = (v1[:, best].T @ directions.T).abs().clamp(max=1)
    design = legendre(cosine, order).reshape(-1, order // 2 + 1)
    rows = torch.tensor(signal)[best].double().reshape(-1, 1)
    return torch.linalg.lstsq(design, rows).solution[:, 0]


def deconvolve(
    signal: Tensor, directions: Tensor, response: Tensor, progress: Progress | None = None
) -> Tensor:
    """Deconvolve signals: (n, m), (m, 3), (order / 2 + 1,) -> (n, c) coefficients."""
    order = 2 * (len(response) - 1)
    degrees = sh_degrees(order)[0].to(signal.device)
    # s_lm = 4 pi / (2 l + 1) a_l f_lm: the addition theorem of the harmonics
    factor = 4 * math.pi / (2 * degrees + 1) * response.to(signal)[degrees // 2]
    design = sh_basis(directions.to(signal), order) * factor
    held = sh_basis(_spread().to(signal), order)
    first = (START_ORDER + 1) * (START_ORDER + 2) // 2
    start = torch.linalg.pinv(design[:, :first])
    # the constraint weighs as the isotropic part of the data does
    weight = WEIGHT * (design[:, 0].square().sum() / held[:, 0].square().sum()).sqrt()
    out = signal.new_empty(len(signal), design.shape[1])
    for at in range(0, len(signal), BATCH):
        if progress is not None:
            progress(at / len(signal))
        part = signal[at : at + BATCH]
        begin = torch.nn.functional.pad(part @ start.T, (0, design.shape[1] - first))
        out[at : at + BATCH] = _constrained(part, begin, design, weight * held)
    return out


def _constrained(signal: Tensor, begin: Tensor, design: Tensor, held: Tensor) -> Tensor:
    """Repeat eq. 4 of Tournier et al. 2007 until the set of small amplitudes stays: (n, c)."""
    c = design.shape[1]
    row, column = packed_index(c)
    small = SMALL * (begin @ held.T).mean(1, keepdim=True)
    normal, right = design.T @ design, signal @ design
    squares = held[:, row] * held[:, column]
    found, low = begin.clone(), (begin @ held.T < small).to(signal)
    moving = torch.arange(len(signal), device=signal.device)
    for _ in range(MOST_ROUNDS):
        matrix = normal.expand(len(moving), c, c).clone()
        matrix[:, row, column] += low @ squares
        matrix[:, column, row] = matrix[:, row, column]
        new = torch.linalg.solve(matrix, right[moving])
        found[moving] = new
        before, low = low, (new @ held.T < small[moving]).to(signal)
        changed = (before != low).any(1)
        moving, low = moving[changed], low[changed]
        if not len(moving):
            break
    return found


def _spread() -> Tensor:
    """Directions on half a sphere, evenly: (k, 3)."""
    from dipy.core.subdivide_octahedron import create_unit_hemisphere

    return torch.tensor(create_unit_hemisphere(recursion_level=SPREAD).vertices)
