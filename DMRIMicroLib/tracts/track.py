"""Streamlines from maps: deterministic, probabilistic, or through samples of a posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.streamlines import ArraySequence
from numpy.typing import NDArray

from ..errors import Cancelled, InputError
from ..maps import MapSet
from ..scan import Scan
from ..version import __version__
from .engine import DETERMINISTIC, PROBABILISTIC, Steps, grow
from .field import Field, odf_field, tensor_deviation, tensor_draws, tensor_field
from .regions import Region, selected
from .rules import Layers, Rule
from .seeds import Seeds
from .tractogram import Tractogram

Progress = Callable[[float, str], None]

DRAWS = 24
"""Tensors that are drawn from the fit's uncertainty."""

FITTED = 0.3
"""Share of the work that deconvolution takes, about."""


def tracts(
    maps: MapSet,
    seeds: Seeds | NDArray,
    *,
    scan: Scan | None = None,
    odf: Literal["tensor", "csd"] | NDArray = "tensor",
    samples: Sequence[NDArray] | None = None,
    method: str = DETERMINISTIC,
    inside: str = "FA > 0.15",
    files: dict[str, str | Path] | None = None,
    include: Sequence[Region] = (),
    exclude: Sequence[Region] = (),
    ends: Sequence[Region] = (),
    step: float | None = None,
    max_angle: float | None = None,
    min_length: float = 20.0,
    max_length: float = 250.0,
    seed: int = 0,
    threads: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Tractogram:
    """Track fibres.

    Parameters
    ----------
    maps : MapSet
        With the tensor of a fit (model ``dti``), and what `inside` names.
    seeds : Seeds or (n, 3) array
        RAS millimetres, see `tracts.seeds`. A line starts along every axis of a seed's voxel.
    scan : Scan, optional
        Needed for ``odf="csd"``, on the grid of the maps.
    odf : {"tensor", "csd"} or (x, y, z, c) array
        What to follow: the tensor; fibre distributions by spherical deconvolution; or harmonics in
        the basis of `physics.sh`, in RAS.
    samples : sequence of (x, y, z, 6) or (x, y, z, c) arrays, optional
        Samples of a posterior, tensors or harmonics as `odf` says (``"csd"`` counts as
        harmonics): each seed tracks in one of them, seed i in sample i modulo their number.
    method : {"deterministic", "probabilistic"}
        The probabilistic variant of harmonics draws every step from them. That of a tensor with
        standard deviations (a fit with ``uncertainty=True``) draws tensors from it, `DRAWS` in
        all, independent in each voxel, and each seed tracks in one; it then tells of the noise
        alone. Without them, every step is drawn from how freely water moves in each direction
        (`tracts.field.tensor_odf`), which is wider than the truth.
    inside : str
        Rule of the voxels that lines may enter, see `tracts.rules`; they also stay in the mask.
    files : dict of str to path-like, optional
        Further images that the rule may name.
    include, exclude, ends : sequence of Region
        Lines pass through all of `include` and none of `exclude`. One region in `ends`: an end lies
        in it; two: one end in each.
    step : float, optional
        [mm]; half the smallest voxel edge if left out.
    max_angle : float, optional
        Between steps [degrees]; see `tracts.engine.MAX_ANGLE`.
    min_length, max_length : float
        Shorter and longer lines are left out [mm].
    seed : int
        Of the random numbers: the same gives the same lines, whatever the threads.
    threads : int
        CPU threads; 0 for all.
    device : str, optional
        For deconvolution: cpu, cuda; the best there is if left out.
    progress : callable, optional
        Called with the finished share (0 to 1) and a few words.
    cancelled : callable, optional
        Asked about once a second; True stops the work.

    Raises
    ------
    InputError
        If the maps lack what is asked for, or an option is unusable.
    Cancelled
        If `cancelled` said so.
    """
    points = _points(seeds)
    lengths = (min_length, max_length)
    steps = Steps.checked(maps.affine, method, step, max_angle, lengths, threads)
    rule = Rule.parse(inside)
    allowed = rule.where(Layers(maps, files or {})) & maps.mask
    watch = _Watch(progress, cancelled)
    stack, what = _stack(maps, scan, odf, samples, method, allowed, seed, device, watch)
    watch.base = watch.done
    kept: list[NDArray] = []
    sample: list[int] = []
    for number, (field, share) in enumerate(stack):
        # drawn tensors hold the uncertainty already
        used = steps if field.odf is not None else replace(steps, method=DETERMINISTIC)
        mine = points[number :: what.count]
        random = seed * what.count + number
        for lines in grow(field, allowed, mine, used, random, watch.part(share, what.text)):
            keep = selected(lines, include=include, exclude=exclude, ends=ends)
            kept += [line for line, good in zip(lines, keep, strict=True) if good]
            sample += [number] * int(keep.sum())
    watch(1.0, "Done")
    made = _provenance(maps, seeds, what, steps, rule, (include, exclude, ends), seed)
    per_line = {"sample": np.array(sample, dtype=np.float32)[:, None]} if what.count > 1 else {}
    return Tractogram(
        ArraySequence(kept), maps.affine, maps.mask.shape, per_line=per_line, provenance=made
    )


@dataclass
class _What:
    """What is followed: words for the provenance and the progress bar, and number of samples."""

    name: str
    text: str
    count: int = 1


class _Watch:
    """Progress and cancel checks of the whole work."""

    def __init__(self, progress: Progress | None, cancelled: Callable[[], bool] | None) -> None:
        self.progress = progress or (lambda share, text: None)
        self.cancelled = cancelled
        self.base = self.done = 0.0

    def __call__(self, share: float, text: str) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("Tracking was cancelled; nothing was written.")
        self.done = max(self.done, share)
        self.progress(self.done, text)

    def part(self, share: tuple[float, float], text: str) -> Callable[[float], None]:
        """Return what reports a part of the tracking as a part of the whole."""
        low, high = (self.base + (1 - self.base) * s for s in share)
        return lambda done: self(low + (high - low) * done, text)


def _stack(
    maps: MapSet,
    scan: Scan | None,
    odf: str | NDArray,
    samples: Sequence[NDArray] | None,
    method: str,
    allowed: NDArray[np.bool_],
    seed: int,
    device: str | None,
    watch: _Watch,
) -> tuple[Iterator[tuple[Field, tuple[float, float]]], _What]:
    """Return the fields to track in, each with its share of the work, and what they are."""
    drawn = method == PROBABILISTIC
    named = isinstance(odf, str)
    if named and odf not in ("tensor", "csd"):
        raise InputError(f"there is no odf {odf!r}", "Give tensor, csd, or an array of harmonics.")
    of_tensors = named and odf == "tensor"
    name = odf if named else "given harmonics"
    text = f"Tracking ({method})"
    if samples is not None:
        if not len(samples):
            raise InputError("the stack of samples is empty", "Give one sample or more.")
        images: Any = samples
        what = _What(f"{len(samples)} samples of {'tensors' if of_tensors else 'harmonics'}", text)
        what.count = len(samples)
    elif of_tensors:
        tensor = _tensor(maps)
        deviation = tensor_deviation(maps) if drawn else None
        if deviation is None:
            images, what = [tensor], _What("tensor", text)
        else:
            images = tensor_draws(tensor, deviation, DRAWS, np.random.default_rng(seed))
            what = _What(f"tensor, {DRAWS} draws from its standard deviation", text, DRAWS)
            drawn = False
    else:
        image = _deconvolved(maps, scan, allowed, device, watch) if named else odf
        images, what = [image], _What(str(name), text)

    def tick() -> None:
        watch(watch.done, text)

    def fields() -> Iterator[tuple[Field, tuple[float, float]]]:
        for k, image in enumerate(images):
            checked = _checked(image, allowed.shape, 6 if of_tensors else None)
            if of_tensors:
                field = tensor_field(checked, allowed, maps.affine, drawn=drawn, tick=tick)
            else:
                field = odf_field(checked, allowed, maps.affine, tick=tick)
            yield field, (k / what.count, (k + 1) / what.count)

    return fields(), what


def _tensor(maps: MapSet) -> NDArray:
    if "tensor" not in maps:
        raise InputError(
            "there is no tensor among these maps",
            "Fit the model dti into the same folder, or give an odf.",
        )
    return maps["tensor"].data


def _deconvolved(
    maps: MapSet,
    scan: Scan | None,
    allowed: NDArray[np.bool_],
    device: str | None,
    watch: _Watch,
) -> NDArray:
    from ..fitting.estimate import choose_device
    from .csd import csd

    if scan is None:
        raise InputError("deconvolution needs the scan", "Give it (--scan), or follow the tensor.")
    if scan.shape != maps.mask.shape or not np.allclose(scan.affine, maps.affine, atol=1e-3):
        raise InputError(
            "the scan and the maps lie on different grids", "Give the scan that was fitted."
        )
    text = "Deconvolving"
    found = csd(
        scan,
        _tensor(maps),
        allowed,
        device=choose_device(device),
        progress=lambda done: watch(FITTED * done, text),
    )
    watch(FITTED, text)
    return found


def _checked(image: NDArray, shape: tuple[int, ...], channels: int | None) -> NDArray:
    image = np.asarray(image)
    if image.ndim != 4 or image.shape[:3] != shape or channels not in (None, image.shape[3]):
        raise InputError(
            f"an image to follow has shape {image.shape}, the maps {shape}",
            f"Give (*{shape}, {channels or 'coefficients'}).",
        )
    return image


def _points(seeds: Seeds | NDArray) -> NDArray[np.float64]:
    points = np.asarray(seeds, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise InputError(f"the seeds have shape {points.shape}", "Give (n, 3), one or more.")
    if not np.isfinite(points).all():
        raise InputError("some seeds are not finite", "Leave them out.")
    return points


def _provenance(
    maps: MapSet,
    seeds: Seeds | NDArray,
    what: _What,
    steps: Steps,
    rule: Rule,
    regions: tuple[Sequence[Region], ...],
    seed: int,
) -> dict[str, Any]:
    names = dict(zip(("include", "exclude", "ends"), regions, strict=True))
    return {
        "software": "DMRIMicro",
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "followed": what.name,
        "method": steps.method,
        "step_mm": steps.step,
        "max_angle_deg": steps.max_angle,
        "length_mm": [steps.min_length, steps.max_length],
        "inside": rule.text,
        "seeds": getattr(seeds, "provenance", {}) | {"count": len(np.asarray(seeds))},
        "seed": seed,
        **{role: [region.name for region in given] for role, given in names.items()},
        "maps": {name: made.get("scan", {}) for name, made in maps.provenance.items()},
    }
