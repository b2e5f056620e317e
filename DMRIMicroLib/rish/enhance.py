"""From a scan to what a better scanner would have made of it.

Features of each shell, with less noise (`directions`), go through a method (`table.METHODS`), which
says what they would be at 7 T; lambda, their ratio to those of the scan, scales the spherical
harmonics of the shell. Which way those point, neighbours tell (`directions`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import Cancelled, InputError
from ..fitting.estimate import choose_device
from ..masking import brain_mask
from ..physics.sh import rish
from ..scan import Scan
from ..sigma import REMOVED
from ..version import __version__
from .directions import LeftOver, calmed
from .features import ORDER, Harmonics, shells_for
from .noise import Field
from .plan import HIGH, KEEP, Plan, plan
from .rescale import Images, Scaled, alike, interpolated, rescale, steady
from .result import Enhanced
from .scale import LIMITS, TAU, scale_maps
from .table import AUTO, Method, open_method
from .tiles import LARGE, Corner, over_tiles, overlap_of, tile_of

AROUND = 8
"""Empty voxels around the brain that a network is shown."""

READ, CALMED, SAID = 0.3, 0.4, 0.8
"""Share of the work that is done when the volumes lie on the new grid, when noise is out of their
harmonics, and when the method has said its features (about)."""

QUIET = "quiet"
"""Directions of harmonics: those of neighbours, too; or `KEEP`, of the scan."""

Progress = Callable[[float, str], None]


def enhance(
    scan: Scan,
    method: str = AUTO,
    resolution: str | float = HIGH,
    *,
    directions: str = QUIET,
    samples: int = 1,
    seed: int = 0,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Enhanced:
    """Make a scan that looks as if a better scanner had made it.

    Parameters
    ----------
    scan : Scan
        With a b0 volume and a shell of 15 directions or more at a b-value that the method learned
        (`Setting.knows`); with a mask, or one is estimated.
    method : str
        One of `table.METHODS`; "auto": the best one that has weights.
    resolution : str or float
        "7T": the voxels of that scanner (1.05 mm); "keep": the scan's own; or an edge [mm], no
        coarser than the scan's.
    directions : {"quiet", "keep"}
        "quiet": harmonics point where a local PCA of all shells says, which has less noise; "keep":
        as they do in the scan, scaled by lambda only.
    samples : int
        Draws of a generative method. One: what it thinks best. Several: their mean, and their
        standard deviation in `Enhanced.sd`.
    seed : int
        Of the draws.
    weights : str or path, optional
        Of the method.
    device : str or torch.device, optional
        By default CUDA where there is one, else the CPU.
    tile, overlap : int
        Voxels that a network looks at at a time, and that neighbours share, along each edge; see
        `tiles.over_tiles`. By default the patches of its training, and half of that.
    progress, cancelled : callable, optional
        As of `fit`.

    Returns
    -------
    Enhanced

    Raises
    ------
    InputError
        If the scan lacks b0 or directions, there is no such method, or it has no weights: then the
        message says which command trains it.
    Cancelled
        If `cancelled` said so.

    Notes
    -----
    Volumes are interpolated by cubic splines, b0 volumes too, and divided by the mean b0 then.
    Lambda cannot turn an order's peaks, it scales them; all shells have the same one of order 0.
    Nor does it take the noise floor out: order 0 of some voxels together stays (`Scan.lifted`).
    Memory: the new scan in float32 once, twice with several samples; and to take noise out 80
    volumes of the scan's own grid a shell, and then 15 of the new one's tissue for directions.
    """
    if samples < 1:
        raise InputError(f"there are {samples} samples", "Ask for one at least.")
    check_directions(directions)
    device = choose_device(device)
    opened = open_method(method, weights, device)
    shells = shells_for(scan.acquisition, opened.setting, ORDER)
    scan = brain_mask(scan)
    grids, ask = plan(scan, opened, resolution), _asking(progress, cancelled)
    noise, notes = None, [*grids.notes]
    if opened.features is not None and (directions == QUIET or opened.setting.quiet):
        noise = LeftOver(scan.acquisition, shells, ORDER)
        if not noise.told:
            noise = None
            notes.append(
                "gradients are too few or too alike to tell noise: harmonics stay as noisy as they "
                "are in the scan"
            )
    reading = _part(ask, 0, READ)
    images, own = interpolated(scan, shells, ORDER, grids.out, device, reading, noise)
    ways: dict[float, Tensor] = {}
    less_noisy: list[Tensor | None] = [None] * len(shells)
    if noise is not None:
        # of all shells together, though pairs have one each: less noise is left, and errors of
        # networks are smaller than with what they learned from
        less = _calmed(own, noise, scan, _part(ask, READ, CALMED - READ))
        for k, shell in enumerate(shells):
            found = grids.out.bring(less[k].weighted).cpu()[:, torch.from_numpy(images.inside)]
            if directions == QUIET:
                ways[shell.b] = found
            if opened.setting.quiet:
                less_noisy[k] = rish((found / images.b0).T, ORDER).T
        own = less if opened.setting.quiet else own
        del less
    before = [rish(images.coefficients(shell, ORDER).T, ORDER).T for shell in shells]
    draws = range(samples) if samples > 1 and opened.random else [None]
    tile = tile or (LARGE if opened.everywhere else tile_of(opened.setting.patch))
    overlap = overlap_of(tile) if overlap is None else overlap
    saying = _Saying(opened, grids, images.inside, (seed, tile, overlap))
    work = [(k, draw) for k in range(len(shells)) for draw in draws]
    each, runs = (SAID - CALMED) / len(work), []
    for number, (k, draw) in enumerate(work):
        tell = _part(ask, CALMED + each * number, each)
        runs.append(saying.scale(own[k], less_noisy[k], before[k], draw, tell))
    made = torch.stack(runs).split(len(draws))
    if opened.features is not None and not opened.everywhere:
        # simulated pairs do not tell how two scanners differ in their level
        level = not opened.setting.clean
        made[0][:, 0] = steady(made[0][:, 0], before[0][0], images, level)
    scales = alike({shell.b: scale for shell, scale in zip(shells, made, strict=True)})
    done = rescale(images, scales, ORDER, _part(ask, SAID, 1 - SAID), ways)
    notes += done.notes
    if samples > 1 and not opened.random:
        notes.append(f"{opened.name} has one answer: no samples were drawn")
    told = _provenance(scan, opened, grids, notes, device)
    told |= {"samples": len(draws), "seed": seed, "b": list(scales), "tile": [tile, overlap]}
    told |= {"directions": QUIET if ways else KEEP}
    return _result(scan, grids, images, before[0], made[0], done, told)


def check_directions(directions: str) -> None:
    """Refuse what is to become of directions if there is no such way."""
    if directions not in (QUIET, KEEP):
        raise InputError(f"directions are {directions!r}", f"Choose from: {QUIET}, {KEEP}.")


def _calmed(own: list[Harmonics], noise: LeftOver, scan: Scan, tell: Progress) -> list[Harmonics]:
    """Return harmonics of each shell with less noise."""
    assert scan.mask is not None
    mask = torch.from_numpy(np.asarray(scan.mask)).to(own[0].b0.device)
    return calmed(own, noise, mask, lambda share: tell(share, "Noise"))


@dataclass(frozen=True, eq=False)
class _Saying:
    """What a method says of a scan.

    Attributes
    ----------
    method : Method
    grids : Plan
    inside : (x, y, z) bool array
        Voxels with tissue on the new grid.
    settings : (int, int, int)
        Seed, tile and overlap.
    """

    method: Method
    grids: Plan
    inside: np.ndarray
    settings: tuple[int, int, int]

    def scale(
        self,
        seen: Harmonics,
        less_noisy: Tensor | None,
        before: Tensor,
        draw: int | None,
        tell: Progress,
    ) -> Tensor:
        """Return lambda of a shell on the new grid: (3, n).

        Of the harmonics on the scan's grid that the method looks at, their features on the new one
        if they have less noise than the scan's, (3, n), and those of the scan.
        """
        if self.method.features is None:
            return torch.ones_like(before)
        work, out, units = self.grids.work, self.grids.out, self.method.setting.units
        here = self._here(seen)
        high = self._features(units.to_network(here), draw, tell)
        if self.grids.sharpened:
            assert self.method.finer is not None
            fine = self.method.finer(high, work.over(out), out.shape)
            target = units.from_network(fine).cpu()[:, torch.from_numpy(self.inside)]
            return scale_maps(target, before)
        maps = scale_maps(units.from_network(high), here)
        maps = torch.where(work.mask.to(maps.device), maps, 1.0)
        maps = work.to(out, maps).cpu()[:, torch.from_numpy(self.inside)]
        if less_noisy is None:
            return maps
        return scale_maps(maps.square() * (less_noisy + TAU), before)

    def _here(self, own: Harmonics) -> Tensor:
        """Features of a shell on the working grid, none outside the brain: (3, x, y, z)."""
        work = self.grids.work
        found = Harmonics(work.bring(own.weighted), work.bring(own.b0), ORDER, own.dark)
        return found.rish() * work.mask.to(own.b0.device)

    def _features(self, low: Tensor, draw: int | None, tell: Progress) -> Tensor:
        """Have the method look at the box that holds the brain, tile by tile: (3, x, y, z)."""
        seed, tile, overlap = self.settings
        features = self.method.features
        assert features is not None

        def say(patch: Tensor, corner: Corner) -> Tensor:
            drawn = None if draw is None else Field(seed, draw, corner, patch.shape[1:])
            return features(patch, drawn)

        box = (slice(None), *_box(self.grids.work.mask))
        out = low.clone()
        out[box] = over_tiles(
            say, low[box], tile, overlap, lambda share: tell(share, self.method.name)
        )
        return out


def _box(mask: Tensor) -> tuple[slice, ...]:
    """Box around a mask, with some voxels more."""
    found = mask.nonzero()
    low, high = found.amin(0) - AROUND, found.amax(0) + 1 + AROUND
    return tuple(
        slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, mask.shape, strict=True)
    )


def _asking(progress: Progress | None, cancelled: Callable[[], bool] | None) -> Progress:
    """Return what tells how far the work is, and stops it."""

    def ask(share: float, text: str) -> None:
        if progress is not None:
            progress(share, text)
        if cancelled is not None and cancelled():
            raise Cancelled("Stopped; nothing was written.")

    return ask


def _part(ask: Progress, start: float, length: float) -> Progress:
    """Return what tells of a part of the work."""
    return lambda share, text: ask(start + length * share, text)


def _result(
    scan: Scan,
    grids: Plan,
    images: Images,
    before: Tensor,
    scale: Tensor,
    done: Scaled,
    told: dict[str, Any],
) -> Enhanced:
    """Put everything on the new grid."""
    made = Scan(
        np.moveaxis(images.signal, 0, -1),
        grids.out.affine,
        scan.acquisition,
        grids.out.mask.numpy(),
        name=f"{scan.name}-enhanced",
        notes=tuple(told["notes"]),
        lifted=scan.lifted,
    )
    after = scale.mean(0).square() * before  # of the mean signal over the samples
    maps = [images.on_grid(v) for v in (before, after)]
    sd = None if done.sd is None else np.moveaxis(done.sd, 0, -1)
    return Enhanced(made, *maps, images.on_grid(scale.mean(0), 1.0), sd, told)


def _provenance(
    scan: Scan, method: Method, grids: Plan, notes: list[str], device: torch.device
) -> dict[str, Any]:
    """Tell what was made of what, and by what."""
    return {
        "software": "DMRIMicro",
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "scan": {
            "name": scan.name,
            "file": None if scan.source is None else scan.source.name,
            "shape": [*scan.shape, len(scan.acquisition)],
            "voxel_size_mm": [round(v, 4) for v in scan.voxel_size],
            "fingerprint": scan.fingerprint,
        },
        "acquisition": {
            "summary": scan.acquisition.describe(),
            "sha256": scan.acquisition.digest,
        },
        "method": method.name,
        "weights": method.provenance or None,
        "setting": method.setting.told(),
        "lambda": {"tau": TAU, "limits": list(LIMITS)},
        "super_resolution": grids.sharpened,
        "noise_floor": "that of the scan" if scan.lifted else REMOVED,
        "device": str(device),
        "torch": torch.__version__,
        "notes": [*scan.notes, *notes],
    }
