"""Which scanners there are: well-known ones by name, and random ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..acquisition import Acquisition
from .scanner import Scanner

VOXELS = {0.064: (2.5, 4.0), 0.55: (2.0, 3.0), 1.5: (1.8, 3.0), 3.0: (1.25, 2.6), 7.0: (1.05, 2.0)}
"""Smallest and largest in-plane voxel [mm] by field strength [T] (range chosen)."""

THICK = {0.064: 2.0, 0.55: 2.0, 1.5: 1.8, 3.0: 1.5, 7.0: 1.2}
"""Largest ratio of slice thickness to in-plane voxel (range chosen)."""

SCANNERS = {
    "hcp3t": Scanner(
        "HCP 3 T", 3.0, (1.25,) * 3, TR=5.52, sensitivity=1.2, noise_profile=0.4, ringing=True,
        partial=0.75, bias=0.08, receive=0.2, transmit=0.15, ghost=0.01, eddy=0.03,
        pulsation=0.03, moves=1, degrees=0.3, mm=0.3, turned=0.3, scaled=0.01, level=16000.0,
    ),
    "hcp7t": Scanner(
        "HCP 7 T", 7.0, (1.05,) * 3, TR=7.0, noise_profile=0.5, ringing=True, partial=0.75,
        bias=0.15, receive=0.3, transmit=0.35, ghost=0.01, eddy=0.03, pulsation=0.03, moves=1,
        degrees=0.3, mm=0.3, turned=0.3, scaled=0.01, level=16000.0,
    ),
    "clinical3t": Scanner(
        "clinical 3 T", 3.0, (2.0, 2.0, 2.0), TR=7.0, noise_profile=0.3, ringing=True, partial=0.8,
        bias=0.08, receive=0.35, transmit=0.15, ghost=0.01, eddy=0.075, pulsation=0.03, moves=1,
        degrees=0.5, mm=0.4, turned=0.5, scaled=0.01, level=8000.0,
    ),
    "clinical1.5t": Scanner(
        "clinical 1.5 T", 1.5, (2.5, 2.5, 3.0), TR=8.0, noise_profile=0.2, ringing=True,
        partial=0.75, bias=0.06, receive=0.3, transmit=0.08, ghost=0.02, eddy=0.1, pulsation=0.03,
        moves=1, degrees=0.6, mm=0.5, turned=0.5, scaled=0.02, level=4000.0,
    ),
    "lowfield": Scanner(
        "portable 64 mT", 0.064, (2.5, 2.5, 6.0), TR=1.5, ringing=True, kept=0.85, bias=0.15,
        ghost=0.03, moves=2, degrees=1.0, mm=1.0, turned=1.5, scaled=0.05, level=2000.0,
    ),
}  # fmt: skip
"""Scanners by name."""


@dataclass(frozen=True)
class ScannerConfig:
    """Ranges of random scanners; strengths of artefacts are drawn from 0 to the number given.

    Attributes
    ----------
    fields : pairs of field strength [T], one of `VOXELS`, and weight
    spread : float
        Standard deviation of the logarithm of a scanner's sensitivity.
    many_coils : float
        Share of scanners that take the root sum of squares of 2 to 8 coils.
    boxes : float
        Share without Gibbs ringing.
    gap : float
        Share with a gap between slices, of 5 to 30 % of their thickness.
    bias, receive, noise_profile, window, ghost, dropouts, eddy, pulsation, degrees, mm, turned,
    scaled : float
        See `Scanner`.
    still : float
        Share of scans in which the head does not move.
    moves : int
        At most.
    """

    fields: tuple[tuple[float, float], ...] = (
        (0.064, 0.08), (0.55, 0.07), (1.5, 0.2), (3.0, 0.5), (7.0, 0.15),
    )  # fmt: skip
    spread: float = 0.25
    many_coils: float = 0.2
    boxes: float = 0.2
    gap: float = 0.15
    bias: float = 0.25
    receive: float = 0.6
    window: float = 0.6
    eddy: float = 0.3
    pulsation: float = 0.1
    noise_profile: float = 0.8
    ghost: float = 0.06
    dropouts: float = 0.05
    degrees: float = 1.0
    mm: float = 1.0
    turned: float = 1.5
    scaled: float = 0.03
    still: float = 0.5
    moves: int = 3


def draw_scanner(
    generator: torch.Generator,
    config: ScannerConfig | None = None,
    acquisition: Acquisition | None = None,
) -> Scanner:
    """Draw a scanner.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU.
    config : ScannerConfig, optional
    acquisition : Acquisition, optional
        What it is to play: TR leaves time for its TE.
    """
    config = config or ScannerConfig()
    u = torch.rand(25, generator=generator, dtype=torch.float64).tolist()
    tone = float(torch.randn(1, generator=generator, dtype=torch.float64))
    fields, weights = zip(*config.fields, strict=True)
    field = fields[int(torch.multinomial(torch.tensor(weights), 1, generator=generator))]
    small, large = VOXELS[field]
    plane = round(small + (large - small) * u[0], 2)
    thick = plane if u[1] < 0.6 else round(plane * (1 + (THICK[field] - 1) * u[2]), 2)
    late = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    still = u[3] < config.still
    slowest = 0.0 if acquisition is None or acquisition.TE is None else acquisition.TE / 1e3
    return Scanner(
        f"random {field:g} T",
        field=field,
        voxel=(plane, plane, thick),
        gap=round(thick * (0.05 + 0.25 * u[4]), 2) if u[5] < config.gap else 0.0,
        TR=round(20 * slowest + 1.5 + 8 * u[6], 2),
        sensitivity=math.exp(config.spread * tone),
        coils=2 + int(7 * u[7]) if u[8] < config.many_coils else 1,
        noise_profile=config.noise_profile * u[9],
        ringing=u[10] >= config.boxes,
        kept=1.0 if u[11] < 0.5 else 0.75 + 0.25 * u[12],
        partial=(1.0, 0.875, 0.8, 0.75)[int(4 * u[13])],
        phase=int(u[14] < 0.8),
        bias=config.bias * u[15],
        transmit=0.06 * field * (0.5 + 0.5 * u[16]),
        receive=config.receive * late[0],
        window=config.window * late[1],
        eddy=config.eddy * late[2] ** 2,
        pulsation=config.pulsation * late[3],
        ghost=config.ghost * u[17] ** 2,
        dropouts=config.dropouts * u[18] ** 2,
        moves=0 if still else 1 + int(config.moves * u[19]),
        degrees=config.degrees * u[20],
        mm=config.mm * u[21],
        turned=config.turned * u[22],
        scaled=config.scaled * u[23],
        level=float(round(1000 * math.exp(u[24] * math.log(30)))),
    )
