"""The scan on its new grid, and its harmonics there, shell by shell.

Each shell is scaled by its own lambda; but that of order 0 is the one of the shell that the method
knows best (`alike`): noise of b = 0, ringing and how voxels mix tissue are the same for all shells,
so that a network's errors in two shells differ more than the scan's do, and what the ratio of
shells tells, such as NDI, would get worse. A shell that the method does not know, or that has too
few directions, is scaled by lambda of the nearest one, order by order: what differs between two
scanners, their noise and how voxels mix tissue, it does in all shells alike, to some degree. The
law of Gaussian diffusion, lambda_0 to the power of b / 1000, is not used: tissue is not Gaussian.
`benchmarks/rish_shells.py` holds the rules for such shells against simulated pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..acquisition import Acquisition, Shell
from ..scan import Scan
from .directions import LeftOver, turned
from .features import Harmonics, coefficient_count, dark_level, harmonic_fit, order_of
from .grid import edges_of
from .plan import Place
from .scale import scaled_signal

SLOW = 3.0
"""Standard deviation of the window about a voxel whose mean amplitude stays [mm]."""

VOLUMES = 8
"""Volumes that are worked on at a time: 200 MB of the HCP's grid at 7 T."""

Tell = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class Images:
    """All volumes of a scan on the new grid.

    Attributes
    ----------
    signal : (m, x, y, z) float32 array
        Changed in place by `rescale`.
    acquisition : Acquisition
    inside : (x, y, z) bool array
        Voxels with tissue: of the mask, and not dark.
    b0 : (n,) tensor
        Mean of the b0 volumes there.
    edges : (float, float, float)
        Of a voxel [mm].
    """

    signal: NDArray[np.float32]
    acquisition: Acquisition
    inside: NDArray[np.bool_]
    b0: Tensor
    edges: tuple[float, float, float]

    def ratio(self, volumes: list[int]) -> Tensor:
        """Signals of volumes relative to b = 0: (k, n)."""
        rows = [torch.from_numpy(self.signal[v][self.inside]) for v in volumes]
        return torch.stack(rows) / self.b0

    def coefficients(self, shell: Shell, order: int) -> Tensor:
        """Harmonics of a shell: (c, n)."""
        matrix = harmonic_fit(self.acquisition, shell, order).float()
        out = torch.zeros(len(matrix), len(self.b0))
        for part in chunks(len(shell)):
            out += matrix[:, part] @ self.ratio(list(shell.indices[part]))
        return out

    def on_grid(self, values: Tensor, empty: float = 0.0) -> NDArray[np.float32]:
        """Put values of the voxels with tissue on the grid: (k, n) -> (k, x, y, z)."""
        out = np.full((len(values), *self.inside.shape), empty, np.float32)
        out[:, self.inside] = values.numpy()
        return out


def chunks(count: int) -> Iterator[slice]:
    """Yield slices of so many volumes."""
    return (slice(k, min(k + VOLUMES, count)) for k in range(0, count, VOLUMES))


def interpolated(
    scan: Scan,
    shells: Sequence[Shell],
    order: int,
    out: Place,
    device: torch.device,
    tell: Tell,
    noise: LeftOver | None = None,
) -> tuple[Images, list[Harmonics]]:
    """Read a scan once: its volumes on the new grid, and harmonics of some shells on its own.

    What tells noise, if there is such, gets all volumes.

    Returns
    -------
    Images
    list of Harmonics
        On `device`.
    """
    acq, count = scan.acquisition, len(scan.acquisition)
    signal = np.empty((count, *out.shape), np.float32)
    terms = coefficient_count(order)
    matrix = torch.zeros(1 + terms * len(shells), count, dtype=torch.float64)
    matrix[0, np.flatnonzero(acq.is_b0)] = 1 / int(acq.is_b0.sum())
    for k, shell in enumerate(shells):
        matrix[1 + k * terms : 1 + (k + 1) * terms, list(shell.indices)] = harmonic_fit(
            acq, shell, order
        )
    linear = torch.zeros(len(matrix), *scan.shape, device=device)
    for part in chunks(count):
        volumes = np.nan_to_num(scan.volumes(np.arange(count)[part]), posinf=0.0, neginf=0.0)
        read = torch.from_numpy(np.ascontiguousarray(np.moveaxis(volumes, -1, 0))).to(device)
        linear += torch.tensordot(matrix[:, part].to(read), read, dims=1)
        if noise is not None:
            noise.add(read, part)
        signal[part] = out.bring(read).clamp(min=0).cpu().numpy()  # splines overshoot at edges
        tell(part.stop / count, "Interpolating")
    dark = dark_level(linear[0])
    own = [Harmonics(part, linear[0], order, dark) for part in linear[1:].split(terms)]
    b0 = torch.from_numpy(signal[acq.is_b0].mean(0))
    inside = (out.mask & (b0 > dark)).numpy()
    images = Images(signal, acq, inside, b0[torch.from_numpy(inside)], edges_of(out.affine))
    return images, own


@dataclass(frozen=True, eq=False)
class Scaled:
    """What scaling gave.

    Attributes
    ----------
    sd : (m, x, y, z) float32 array or None
        Of the signal, over samples.
    notes : tuple of str
    """

    sd: NDArray[np.float32] | None
    notes: tuple[str, ...]


def steady(scale: Tensor, energy: Tensor, images: Images, level: bool) -> Tensor:
    """Leave order 0 as it is in the scan but for what differs from voxel to voxel.

    Noise, ringing and how voxels mix tissue are matters of single voxels. What a scan shows of
    order 0 over some voxels together it shows well, and a network that says otherwise has not seen
    such tissue: lesions would lose contrast. So lambda of order 0 is divided by what it does to the
    mean amplitude about each voxel; and, for networks that know two
    real scanners, multiplied by what it does to that of the brain.

    Parameters
    ----------
    scale : (s, n) tensor
        Lambda of order 0, of each sample.
    energy : (n,) tensor
        Of order 0.
    images : Images
    level : bool
        Whether the mean amplitude of the brain is to become what `scale` makes of it.

    Returns
    -------
    (s, n) tensor
    """
    root, widths = energy.clamp(min=0).sqrt(), [SLOW / edge for edge in images.edges]

    def about(amplitude: Tensor) -> Tensor:
        grid = images.on_grid(amplitude[None])[0]
        return torch.from_numpy(gaussian_filter(grid, widths, mode="constant")[images.inside])

    own, out = about(root), []
    for one in scale:
        whole = float((one * root).sum() / root.sum().clamp(min=1e-12)) if level else 1.0
        out.append(whole * one * own / about(one * root).clamp(min=1e-12))
    return torch.stack(out)


def alike(scales: Mapping[float, Tensor]) -> dict[float, Tensor]:
    """Give order 0 of all shells lambda of the first one: (s, k, n) each."""
    first = next(iter(scales.values()))[:, :1]
    return {b: torch.cat([first, scale[:, 1:]], 1) for b, scale in scales.items()}


def rescale(
    images: Images,
    scales: Mapping[float, Tensor],
    order: int,
    tell: Tell,
    quieter: Mapping[float, Tensor] | None = None,
) -> Scaled:
    """Scale the harmonics of all shells, in place, and keep signals from growing beyond b = 0.

    Parameters
    ----------
    images : Images
    scales : mapping of b-value to (s, k, n) tensor
        Lambda of each sample and order, of the voxels with tissue; a shell takes the nearest one.
    order : int
        Of the scale maps.
    tell : callable
        Gets the share that is done and a text.
    quieter : mapping of b-value to (c, n) tensor, optional
        Harmonics of shells whose directions are to be taken (`directions.calmed`).
    """
    samples = len(next(iter(scales.values())))
    sd = np.zeros_like(images.signal) if samples > 1 else None
    acq, notes = images.acquisition, []
    clipped = done = 0
    for shell in acq.shells:
        own = order_of(shell, order)
        if own < order:
            notes.append(
                f"b = {shell.b:.0f}: {shell.directions} directions tell harmonics up to order "
                f"{own}; what is beyond was left as it is"
            )
        found = images.coefficients(shell, own)
        ways = None
        if quieter and shell.b in quieter:
            ways = turned(found, quieter[shell.b], own)
        known = min(scales, key=lambda b: abs(b - shell.b))
        if known != shell.b and bool((scales[known] != 1).any()):
            stay = "; its directions stay" if quieter else ""
            notes.append(f"lambda of b = {known:.0f} was used for b = {shell.b:.0f}, too{stay}")
        for part in chunks(len(shell)):
            volumes = list(shell.indices[part])
            directions = torch.from_numpy(acq.bvecs[volumes]).float()
            ratio, runs = images.ratio(volumes), []
            highest = ratio.clamp(min=1)  # noise of the scan itself stays: lambda of 1 is the scan
            for one in scales[known]:
                changed = scaled_signal(ratio, found, one, directions, own, ways)
                kept = changed.clamp(min=0).minimum(highest)
                clipped += int((kept != changed).sum())
                runs.append(kept)
            _write(images, volumes, torch.stack(runs), sd)
            done += len(volumes)
            tell(done / int((~acq.is_b0).sum()), "Scaling")
    share = clipped / max(1, done * len(images.b0) * samples)
    notes.append(f"{share:.2%} of the signals in the brain were clipped to 0 or to that of b = 0")
    return Scaled(sd, tuple(notes))


def _write(
    images: Images, volumes: list[int], runs: Tensor, sd: NDArray[np.float32] | None
) -> None:
    """Put mean and standard deviation over samples on the grid: (s, k, n)."""
    mean = (runs.mean(0) * images.b0).numpy()
    for v, row in zip(volumes, mean, strict=True):
        images.signal[v][images.inside] = row
    if sd is not None:
        spread = (runs.std(0) * images.b0).numpy()
        for v, row in zip(volumes, spread, strict=True):
            sd[v][images.inside] = row
