"""How near features come to those of the better scan, and which way of sampling comes nearest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..files import staged
from ..rish.blocks import CHANNELS
from ..rish.ldm import LatentDiffusion, Sampling
from ..rish.units import Units
from .rish_stream import Read, pairs_of

GUIDANCES = (0.0, 1.0, 2.0, 4.0)
"""w of eq. 10 (Zhu et al. 2024) that are tried; the paper does not say its own."""

DEPTHS = (0.1, 0.25, 0.5)
"""Noise levels that are tried, as shares of all times; a quarter is usual."""

ALIKE = 1.01
"""Errors that differ by less are alike (chosen): a deep noise level takes five times as long."""

TOGETHER = 8
"""Pairs that go through the networks at a time."""


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


def middles(read: Read, edge: int) -> Read:
    """Return what reads the middle of a pair: a cube of the size that networks learned from."""

    def middle(file: Path) -> tuple[Tensor, Tensor, Tensor]:
        low, high, mask = read(file)
        starts = [max(0, (n - edge) // 2) for n in mask.shape]
        box = (..., *(slice(start, start + edge) for start in starts))
        return low[box], high[box], mask[box]

    return middle


def measured(
    say: Callable[[Tensor], Tensor], files: Sequence[Path], units: Units
) -> dict[str, dict[str, list[float]]]:
    """Measure a method on pairs held out, on the 3 T grid, beside the scan as it is."""
    read = pairs_of(units)
    told = {
        "3 T scan": nmse(lambda low: low, files, read, units),
        "7 T-like": nmse(say, files, read, units),
    }
    return {f"NMSE of RISH 0, 2, 4 on pairs held out of the training ({len(files)})": told}


def choose(
    network: LatentDiffusion,
    files: Sequence[Path],
    read: Read,
    units: Units,
    kept: Path,
    tell: Callable[[int, int], None] = lambda done, count: None,
) -> tuple[Sampling, list[dict]]:
    """Choose guidance and noise level on pairs that no training step saw.

    Encodings go up to each noise level once: on the way up there is no guidance.

    Parameters
    ----------
    network : LatentDiffusion
    files, read, units
        Of the pairs.
    kept : path
        File of the rows that are known; what it lacks is found and added, row by row.
    tell : callable
        Gets the ways that were tried and those in all, after each; what it raises stops the work.

    Returns
    -------
    Sampling
        The best of the tried ones, order by order.
    list of dict
        The curve: guidance, depth and NMSE of each order of what the 7 T autoencoder decodes.
    """
    curve = _curve(network.eval(), files, read, units, kept, tell)
    return best_of(curve, network.sampling), curve


@torch.no_grad()
def _curve(
    network: LatentDiffusion,
    files: Sequence[Path],
    read: Read,
    units: Units,
    kept: Path,
    tell: Callable[[int, int], None],
) -> list[dict]:
    """Find the rows that are not known yet; return all."""
    of = {"pairs": [file.name for file in files], "network": _digest(network)}
    of["steps"] = network.sampling.steps
    rows = _known(kept, of)
    count, looks = len(DEPTHS) * len(GUIDANCES), None
    tell(len(rows), count)
    for depth in DEPTHS:
        known = {row["guidance"] for row in rows if row["depth"] == depth}
        missing = [guidance for guidance in GUIDANCES if guidance not in known]
        if not missing:
            continue
        looks = looks or _looks(network, files, read)
        ups = [network.up(part.encoded, depth) for part in looks]
        for guidance in missing:
            rows.append(_row(network, zip(looks, ups, strict=True), guidance, depth, units))
            with staged(kept.parent) as stage:
                text = json.dumps({"of": of, "rows": rows}, indent=1) + "\n"
                (stage / kept.name).write_text(text, encoding="utf-8")
            tell(len(rows), count)
    return rows


def _known(kept: Path, of: dict) -> list[dict]:
    """Read the rows of a file; those of other pairs, steps or weights do not count."""
    if not kept.exists():
        return []
    told = json.loads(kept.read_text(encoding="utf-8"))
    return told["rows"] if told["of"] == of else []


def _digest(network: LatentDiffusion) -> str:
    """Fingerprint of a network's weights."""
    told = hashlib.sha256()
    for value in network.state_dict().values():
        told.update(value.detach().cpu().contiguous().numpy().tobytes())
    return told.hexdigest()


class _Looks(NamedTuple):
    """Some pairs: 7 T features (b, 3, x, y, z), masks (b, x, y, z), encoded 3 T features."""

    wanted: Tensor
    mask: Tensor
    encoded: Tensor


@torch.no_grad()
def _looks(network: LatentDiffusion, files: Sequence[Path], read: Read) -> list[_Looks]:
    """Read pairs and encode them, some at a time."""
    device, out = next(network.parameters()).device, []
    for first in range(0, len(files), TOGETHER):
        rows = [read(file) for file in files[first : first + TOGETHER]]
        low, high, mask = (torch.stack(v) for v in zip(*rows, strict=True))
        out.append(_Looks(high.float(), mask, network.low.encode(low.float().to(device))))
    return out


def _row(
    network: LatentDiffusion,
    looks: Iterable[tuple[_Looks, Tensor]],
    guidance: float,
    depth: float,
    units: Units,
) -> dict:
    """Measure one guidance and noise level."""
    total = torch.zeros(2, CHANNELS, dtype=torch.float64)
    for part, up in looks:
        made = network.high.decode(network.down(up, guidance, depth)).cpu()
        for one in zip(made, part.wanted, part.mask, strict=True):
            total += squares(*one, units)
    return {"guidance": guidance, "depth": depth, "nmse": _ratio(total)}


def best_of(curve: Sequence[dict], sampling: Sampling | None = None) -> Sampling:
    """Take for each order the least costly of the rows that are as good as the best (`ALIKE`)."""
    best = []
    for k in range(CHANNELS):
        least = min(row["nmse"][k] for row in curve)
        alike = [row for row in curve if row["nmse"][k] <= ALIKE * least]
        best.append(min(alike, key=lambda row: (row["depth"], row["guidance"])))
    return replace(
        sampling or Sampling(),
        guidance=tuple(row["guidance"] for row in best),
        depth=tuple(row["depth"] for row in best),
    )


def _ratio(totals: Tensor) -> list[float]:
    return [round(float(v), 5) for v in totals[0] / totals[1].clamp(min=1e-12)]
