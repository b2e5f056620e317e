"""How near features come to those of the better scan, and which way of sampling comes nearest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..rish.blocks import CHANNELS
from ..rish.ldm import LatentDiffusion, Sampling
from ..rish.units import Units
from .rish_stream import Read

GUIDANCES = (0.0, 1.0, 2.0, 4.0)
"""w of eq. 10 (Zhu et al. 2024) that are tried; the paper does not say its own."""

DEPTHS = (0.1, 0.25, 0.5)
"""Noise levels that are tried, as shares of all times; a quarter is usual."""


def squares(said: Tensor, wanted: Tensor, mask: Tensor, units: Units) -> Tensor:
    """Add up squared errors, and squared features: (3, x, y, z) and (x, y, z) to (2, 3)."""
    one, other = (units.from_network(v)[:, mask].double() for v in (said, wanted))
    return torch.stack([(one - other).square().sum(1), other.square().sum(1)])


def nmse(
    say: Callable[[Tensor], Tensor], files: Iterable[Path], read: Read, units: Units
) -> list[float]:
    """Normalised mean squared error of the energies of each order, over all voxels of all pairs.

    sum (said - wanted)^2 / sum wanted^2, as in the tables of Zhu et al. (2024), within the brain.
    """
    totals = torch.zeros(2, CHANNELS, dtype=torch.float64)
    for file in files:
        low, high, mask = read(file)
        totals += squares(say(low.float()).cpu(), high.float(), mask, units)
    return _ratio(totals)


@torch.no_grad()
def choose(
    network: LatentDiffusion,
    files: Sequence[Path],
    read: Read,
    units: Units,
    tell: Callable[[float], None] = lambda share: None,
) -> tuple[Sampling, list[dict]]:
    """Choose guidance, noise level and detail on pairs that no training step saw.

    Returns
    -------
    Sampling
        The best of the tried ones: guidance and depth order by order, detail for all.
    list of dict
        The curve: guidance, depth, detail and NMSE of each order.
    """
    network = network.eval()
    device = next(network.parameters()).device
    curve = []
    tried = [(w, d) for d in DEPTHS for w in GUIDANCES]
    for number, (guidance, depth) in enumerate(tried):
        totals = torch.zeros(2, 2, CHANNELS, dtype=torch.float64)
        for file in files:
            low, high, mask = read(file)
            given = low.float().to(device)[None]
            encoded = network.low.encode(given)
            made = network.high.decode(network.translate(encoded, guidance, depth))
            detailed = given + made - network.low.decode(encoded)
            for row, said in zip(totals, (made, detailed), strict=True):
                row += squares(said[0].cpu(), high.float(), mask, units)
        for detail, row in zip((False, True), totals, strict=True):
            told = {"guidance": guidance, "depth": depth, "detail": detail}
            curve.append(told | {"nmse": _ratio(row)})
        tell((number + 1) / len(tried))
    return best_of(curve, network.sampling), curve


def best_of(curve: Sequence[dict], sampling: Sampling | None = None) -> Sampling:
    """Take the best row of each order, with or without detail, whichever is better on the whole.

    On the whole: the product of the three errors, so that no order outweighs the others.
    """
    found = {}
    for detail in (False, True):
        rows = [row for row in curve if row["detail"] == detail]
        if not rows:
            continue
        best = [min(rows, key=lambda row, k=k: row["nmse"][k]) for k in range(CHANNELS)]
        product = 1.0
        for k, row in enumerate(best):
            product *= row["nmse"][k]
        found[detail] = (product, best)
    detail = min(found, key=lambda key: found[key][0])
    best = found[detail][1]
    return replace(
        sampling or Sampling(),
        guidance=tuple(row["guidance"] for row in best),
        depth=tuple(row["depth"] for row in best),
        detail=detail,
    )


def _ratio(totals: Tensor) -> list[float]:
    return [round(float(v), 5) for v in totals[0] / totals[1].clamp(min=1e-12)]
