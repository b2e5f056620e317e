"""One pair of simulated scans and what methods make of the 3 T one: the parts of rish_ldm.py."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from _common import clock
from _rish_pairs import PLAIN, SHELL, SHELLS, Asked, Seen, lesioned, pair, slab
from scipy import ndimage

MEASURED, CLEAN = "7 T as measured", "7 T free of noise"
METRICS = ("RISH_L0", "RISH_L2", "RISH_L4", "FA")
SHARPENED, WITHOUT = "with super-resolution", "without super-resolution"

ANISOTROPIC = 0.3
"""FA beyond which a fibre has a direction."""

SSIM_SIGMA, SSIM_K = 1.5, (0.01, 0.03)
"""Window [voxels] and constants of Z. Wang et al., IEEE Trans. Image Process. 13 (2004) 600-612."""

STEPS, DEPTH = (5, 10, 20, 50, 100), 0.25
"""Of DDIM over all times, and the noise level, as a share of them, at which steps are compared."""

LESIONS = ("tumour", "stroke_acute", "demyelination", "lymphoma", "abscess")
"""Kinds by turns, pair by pair; the last two no training has (`_lesions.UNSEEN`)."""

KEPT = 0.1
"""Share of a contrast up to which it may change."""

CONTRASTS = ("FA", "MD", "RISH_L0", "RISH_L2")
NEAR, FAR = 1, 4
"""The surround: from so many voxels beyond the lesion to so many."""

KEEPING = "{}, directions kept"
"""Name of a method without the local PCA of directions."""

FLUID = 1.5e-3
"""Surround has a true mean diffusivity below [mm2/s]."""


def ways(name: str, weights: str | None) -> dict[str, str]:
    """Names of what is asked of a method, and what becomes of directions."""
    return {name: "quiet", KEEPING.format(name): "keep"} if weights else {name: "keep"}


def enhanced(seen: Seen, weights: str | None, way: str = SHARPENED, directions: str = "quiet"):
    """Enhance the 3 T scan on the 7 T grid, with or without super-resolution; the common mask."""
    from DMRIMicroLib import enhance

    method = "auto" if weights else PLAIN
    options = {"weights": weights, "directions": directions}
    if way == SHARPENED:
        made = enhance(seen.low, method, "7T", **options).scan
    else:
        made = finer(enhance(seen.low, method, "keep", **options).scan, seen.high)
    same = made.shape == seen.high.shape and np.allclose(made.affine, seen.high.affine, atol=1e-3)
    if not same and seen.clean is not None:
        raise RuntimeError(f"the enhanced scan does not lie on the 7 T grid: {made.shape}")
    return (made if same else moved(made, seen.high)).with_mask(seen.mask)


def moved(scan, target):
    """Bring a scan to the grid of another one in the same space, by cubic splines."""
    import torch

    from DMRIMicroLib.rish.grid import resampled
    from DMRIMicroLib.scan import Scan

    rows = torch.from_numpy(np.moveaxis(np.asarray(scan.signal), -1, 0))
    made = [resampled(row[None], scan.affine, target.affine, target.shape)[0] for row in rows]
    data = np.stack([row.numpy() for row in made], -1).clip(min=0)
    return Scan(data, target.affine, scan.acquisition, target.mask)


def finer(scan, target):
    """Bring a scan to the finer grid about the same middle by cubic B-splines."""
    import torch

    from DMRIMicroLib.rish.grid import resized
    from DMRIMicroLib.scan import Scan

    if not np.allclose(middle(scan), middle(target), atol=1e-3):
        return moved(scan, target)
    factors = tuple(a / b for a, b in zip(scan.voxel_size, target.voxel_size, strict=True))
    data = torch.from_numpy(np.moveaxis(np.asarray(scan.signal), -1, 0).copy())
    made = np.moveaxis(resized(data, factors, target.shape).numpy(), 0, -1)
    return Scan(made.clip(min=0), target.affine, scan.acquisition, target.mask)


def middle(scan) -> np.ndarray:
    """Return the middle of a scan's grid: (3,) RAS [mm]."""
    return scan.affine[:3, :3] @ ((np.array(scan.shape) - 1) / 2) + scan.affine[:3, 3]


def tensors(scan) -> dict[str, np.ndarray]:
    """Fit tensors to the volumes up to b = 1000: FA, MD and V1, 0 where there is no answer."""
    import DMRIMicroLib as dm

    few = np.flatnonzero(scan.acquisition.bvals < 1.25 * SHELL)
    found = dm.fit(scan.select(few), "dti")
    return {name: np.nan_to_num(np.asarray(found[name].data)) for name in ("FA", "MD", "V1")}


def images(scan) -> dict[str, np.ndarray]:
    """RISH features and tensors of a scan."""
    from DMRIMicroLib.rish.own import look_at

    rish = look_at(scan).harmonics.rish().numpy()
    return dict(zip(METRICS, rish, strict=False)) | tensors(scan)


def nmse(said: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Squared errors over squared truth, both summed over a mask."""
    said, truth = said[mask].astype(np.float64), truth[mask].astype(np.float64)
    return float(((said - truth) ** 2).sum() / (truth**2).sum())


def ssim(said: np.ndarray, truth: np.ndarray, mask: np.ndarray, air: bool = False) -> float:
    """Structural similarity in 3-D, mean over a mask or all voxels; the range is that of truth."""

    def blur(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, SSIM_SIGMA, truncate=3.5)

    said, truth = said.astype(np.float64), truth.astype(np.float64)
    extent = float(truth[mask].max() - truth[mask].min())
    one, two = ((k * extent) ** 2 for k in SSIM_K)
    a, b = said * mask, truth * mask
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    both = blur(a * b) - mean_a * mean_b
    index = (2 * mean_a * mean_b + one) * (2 * both + two)
    index /= (mean_a**2 + mean_b**2 + one) * (var_a + var_b + two)
    return float(index.mean() if air else index[mask].mean())


def degrees(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angle between axes (n, 3) [degrees]: (n,)."""
    return np.degrees(np.arccos(np.abs((one * other).sum(-1)).clip(max=1)))


def table(asked: Asked, number: int) -> dict:
    """NMSE and SSIM of RISH and FA, against both truths; seconds; what "interpolate" changes.

    And how near the 7 T scan free of noise comes to the one as measured.
    """
    import DMRIMicroLib as dm

    seen = pair(asked, number)
    truths = {MEASURED: images(seen.high.with_mask(seen.mask))}
    out: dict = {SHARPENED: {}, WITHOUT: {}}
    if seen.clean is not None:
        truths[CLEAN] = images(seen.clean.with_mask(seen.mask))
        out[CLEAN] = {MEASURED: score(truths[CLEAN], truths[MEASURED], seen.mask)}
    for name, weights in asked.methods.items():
        for way in (SHARPENED, WITHOUT):
            if way == WITHOUT and asked.both and name not in asked.both:
                continue
            began = clock()
            made = enhanced(seen, weights, way)
            wall, cpu = (clock() - began).tolist()
            said, row = images(made), out[way].setdefault(name, {})
            row |= {key: score(said, truth, seen.mask) for key, truth in truths.items()}
            row["time [s]"] = {"wall": wall, "CPU": cpu}
    own = dm.enhance(seen.low, PLAIN, "keep").scan
    before, after = (np.asarray(s.signal)[np.asarray(seen.low.mask)] for s in (seen.low, own))
    return out | {"identity": float(np.abs(after - before).max() / before.max())}


def head(asked: Asked, number: int) -> dict:
    """SSIM of a slab of a whole head, air included; 1 where there is air alone."""
    seen = slab(asked, number)
    out: dict = {"share of brain": float(seen.mask.mean()), SHARPENED: {}}
    truth = images(seen.clean.with_mask(seen.mask)) if seen.mask.any() else None
    for name, weights in asked.methods.items():
        said = None if truth is None else images(enhanced(seen, weights))
        alike = {m: ssim(said[m], truth[m], seen.mask, air=True) if said else 1.0 for m in METRICS}
        out[SHARPENED][name] = {CLEAN: {m: {"SSIM, with air": v} for m, v in alike.items()}}
    return out


def score(said: dict, truth: dict, mask: np.ndarray) -> dict:
    """NMSE and SSIM of each metric, within the brain; SSIM of the whole image, where air is 0."""
    parts = {"NMSE": nmse, "SSIM": ssim, "SSIM, with air": lambda *args: ssim(*args, air=True)}
    return {m: {k: f(said[m], truth[m], mask) for k, f in parts.items()} for m in METRICS}


def directions(asked: Asked, number: int) -> dict:
    """Change of the principal direction on the scan's own grid, where FA is above 0.3 [degrees].

    With directions kept it is that of scale maps; else most of it is noise that was taken out.
    """
    import DMRIMicroLib as dm

    seen, out = pair(asked, number), {}
    before = tensors(seen.low)
    where = np.asarray(seen.low.mask) & (before["FA"] > ANISOTROPIC)
    for method, weights in asked.methods.items():
        for name, directions in ways(method, weights).items():
            options = {"weights": weights, "directions": directions}
            made = dm.enhance(seen.low, "auto" if weights else PLAIN, "keep", **options).scan
            change = degrees(tensors(made)["V1"][where], before["V1"][where])
            told = {"median": np.median(change), "95 %": np.quantile(change, 0.95)}
            out[name] = {key: float(value) for key, value in told.items()}
    return out


def downstream(asked: Asked, number: int) -> dict:
    """Errors of FA, V1, NDI and ODI against the 7 T scan free of noise, in some voxels."""
    import DMRIMicroLib as dm
    from DMRIMicroLib.preprocess import denoise

    seen = pair(asked, number, SHELLS)
    places = np.flatnonzero(seen.mask)
    few = np.zeros(seen.mask.size, bool)
    few[np.random.default_rng(number).permutation(places)[: asked.voxels]] = True
    few = few.reshape(seen.mask.shape)

    def maps(scan) -> dict[str, np.ndarray]:
        scan = scan.with_mask(few)
        noddi = dm.fit(scan, "noddi")
        told = {name: np.asarray(noddi[name].data) for name in ("NDI", "ODI", "FWF")}
        return {name: value[few] for name, value in (tensors(scan) | told).items()}

    truth = maps(seen.clean)
    out = {MEASURED: apart(maps(seen.high), truth)}
    for method, weights in asked.methods.items():
        for name, directions in ways(method, weights).items():
            out[name] = apart(maps(enhanced(seen, weights, directions=directions)), truth)
    if PLAIN in asked.methods:
        quiet = replace(seen, low=denoise(seen.low, "mppca"))
        out[f"{PLAIN}, after MP-PCA"] = apart(maps(enhanced(quiet, None)), truth)
    return out


def apart(said: dict, truth: dict) -> dict[str, float]:
    """Mean absolute errors, those of NODDI weighted by tissue; median angle of V1 [degrees]."""
    fibre = truth["FA"] > ANISOTROPIC
    out = {"FA": float(np.abs(said["FA"] - truth["FA"]).mean())}
    out["V1 [degrees]"] = float(np.median(degrees(said["V1"][fibre], truth["V1"][fibre])))
    for name in ("NDI", "ODI"):
        known = np.isfinite(said[name] + truth[name] + truth["FWF"])
        weight = 1 - truth["FWF"][known]
        error = np.abs(said[name] - truth[name])[known]
        out[name] = float((weight * error).sum() / weight.sum())
    return out


def lesion(asked: Asked, number: int) -> dict:
    """Mean in a lesion less mean around it, by method, beside both 7 T scans; by kind."""
    kind = LESIONS[number % len(LESIONS)]
    seen = lesioned(asked, number, kind)
    clean = images(seen.clean.with_mask(seen.mask))
    inside = (seen.ill >= 0.5) & seen.mask
    reach = [ndimage.binary_dilation(seen.ill > 0, iterations=n) for n in (NEAR, FAR)]
    around = reach[1] & ~reach[0] & seen.mask & (clean["MD"] < FLUID)

    def contrast(maps: dict) -> dict[str, float]:
        return {m: float(maps[m][inside].mean() - maps[m][around].mean()) for m in CONTRASTS}

    out = {CLEAN: contrast(clean), MEASURED: contrast(images(seen.high.with_mask(seen.mask)))}
    for name, weights in asked.methods.items():
        out[name] = contrast(images(enhanced(seen, weights)))
    true = out[CLEAN]
    out["within 10 %"] = {
        name: {m: float(abs(row[m] / true[m] - 1) <= KEPT) for m in CONTRASTS}
        for name, row in out.items()
    }
    return {kind: out | {"voxels": {"lesion": int(inside.sum()), "around": int(around.sum())}}}


def diffusions(asked: Asked) -> dict[str, str]:
    """Weights of latent diffusion among the methods, by name."""
    from DMRIMicroLib.weights import verify

    given = {name: file for name, file in asked.methods.items() if file}
    return {name: file for name, file in given.items() if verify(file)[1].kind == "rish-ldm"}


def inversion(asked: Asked, number: int) -> dict:
    """Latents up to noise and back under one label: RMS of the change over that of the latents."""
    from DMRIMicroLib.rish.blocks import EDGE_CELL, filled
    from DMRIMicroLib.rish.diffusion import LOW
    from DMRIMicroLib.rish.methods import load_method
    from DMRIMicroLib.rish.own import look_at
    from DMRIMicroLib.rish.units import Setting

    low, out = pair(asked, number).low, {}
    for name, file in diffusions(asked).items():
        found = load_method("ldm", file)
        setting = Setting.read(found.data)
        look = look_at(low, setting)
        rish = look.harmonics.rish() * look.mask
        seen = filled(setting.units.to_network(rish)[None], EDGE_CELL)
        network = found.network
        encoded, units = network.low.encode(seen), network.denoiser.to_units
        before = units(encoded)
        rows = out.setdefault(name, {})
        for refine in (0, 1):
            for steps in STEPS:
                network.sampling = replace(network.sampling, steps=steps, refine=refine)
                after = network.down(network.up(encoded, DEPTH), 0.0, DEPTH, label=LOW)
                told = (units(after) - before).square().mean() / before.square().mean()
                rows.setdefault(f"refine {refine}", {})[f"{steps} steps"] = float(told.sqrt())
    return out


def steps(asked: Asked, number: int) -> dict:
    """NMSE against the 7 T scan as measured, of other numbers of steps; depth as in inversion."""
    seen = pair(asked, number)
    truth, out = images(seen.high.with_mask(seen.mask)), {}
    for name, file in diffusions(asked).items():
        for count in STEPS:
            with sampled(file, steps=count, depth=[DEPTH] * 3) as weights:
                said = images(enhanced(seen, weights))
            errors = {m: nmse(said[m], truth[m], seen.mask) for m in METRICS}
            out.setdefault(name, {})[f"{count} steps"] = errors
    return out


@contextmanager
def sampled(weights: str, **sampling) -> Iterator[str]:
    """Give weights of latent diffusion whose card says that it samples otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(shutil.copy(weights, folder))
        card = json.loads(Path(weights).with_suffix(".json").read_text(encoding="utf-8"))
        card["data"]["sampling"] |= sampling
        file.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
        yield str(file)


def plain(weights: str, folder: str) -> str:
    """Write weights of latent diffusion without what gives back what its codes lose."""
    from DMRIMicroLib.weights import load
    from DMRIMicroLib.weights.store import save

    tensors, card = load(weights)
    kept = {k: v for k, v in tensors.items() if not k.startswith("method.detail.")}
    method = card.arguments["method"] | {"detail": None}
    card = replace(card, arguments=card.arguments | {"method": method})
    stem = f"{Path(weights).parent.name}-{Path(weights).stem}-plain"
    return str(save(kept, card, Path(folder), stem=stem).with_suffix(".safetensors"))


def unlearned(folder: str) -> str:
    """Write three numbers that change nothing of harmonics with less noise: the simple baseline."""
    import torch

    from DMRIMicroLib.rish.linear import save_linear
    from DMRIMicroLib.rish.units import Setting

    setting = Setting(shells=(700.0, 3000.0), quiet=True)
    card = save_linear(torch.ones(3), setting, Path(folder), source="nothing")
    return str(card.with_suffix(".safetensors"))


PARTS: dict[str, Callable[[Asked, int], dict]] = {
    "table": table,
    "head": head,
    "directions": directions,
    "downstream": downstream,
    "lesion": lesion,
    "inversion": inversion,
    "steps": steps,
}
