"""Pretraining: ways from one q-space scheme to another, and what pretraining is good for.

`python3 run.py bench pretraining` writes benchmarks/results/pretraining.json. `--parts` takes some:

- interpolation: the example scan (real). Some b2000 volumes are left out and predicted from all
  others; and all other volumes are predicted from 1 + 15 + 15 and from 1 + 6 + 6. Error by shell,
  as a share of the signal's root mean square, beside what the noise alone makes of it. The
  dictionary is learned on one slice and used on the other, both ways round. `--voxels` of every
  slice and `--subsets` of the volumes.
- digital: auxiliary brains of one scanner (3 T, three shells, 1.25 mm), target brains of another
  (1.5 T, two shells, 2.5 mm), scanned with 1 + 15 + 15 volumes in the end. Root mean squared error
  of FA, NDI, ODI and MK against the truth on target brains that no training saw: of the weights
  that come with the library, of weights that learned from 1, 2, 5 and 10 target subjects from
  scratch, of weights that learned from the auxiliary brains only, and of these fine-tuned on as
  many target subjects. Hours.
- real: the example scan; one slice to fine-tune on, the other for the test, both ways round. The
  reference are the fits to all its volumes. Minutes.

`--steps` shortens every training, `--subjects` lists how many target subjects there are.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import _sparse
import numpy as np
from _common import HERE, Results, rounded

CACHE = HERE / "cache" / "pretraining"

LEFT_OUT = 15
"""Volumes of b2000 that are predicted from all others."""

FEW = ("P15+15", "P6+6")
"""Protocols of `_sparse` from which all other directions are predicted."""

METRICS = ("FA", "NDI", "ODI", "MK")

SEED = 80_100_000
"""Of the digital brains: the auxiliary, the target's and those of the test follow each other."""

AUXILIARY, TEST = 8, 5

SLAB = 16
"""Slices of a digital brain that are kept, around its middle."""

SPARSE = {1000.0: 15, 2000.0: 15}
"""Directions of the target's short scans; one b0 volume."""

SNR = (15.0, 30.0)
"""Of the target's b0, as trainings are told it."""


# --- interpolation ----------------------------------------------------------------------------


def volumes(job: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Volumes that are seen, and those that are predicted."""
    acq = _sparse.scan().acquisition
    if job in FEW:
        seen = np.array(_sparse.subset(job, seed))
        asked = np.setdiff1d(np.flatnonzero(~acq.is_b0), seen)
        return seen, asked
    high = np.flatnonzero(np.abs(acq.bvals - 2000) < _sparse.SHELL_WIDTH)
    asked = np.sort(np.random.default_rng(seed).choice(high, LEFT_OUT, replace=False))
    return np.setdiff1d(np.arange(len(acq)), asked), asked


def ways(learned_on, noise: float) -> dict:
    """Every way, by name."""
    from DMRIMicroLib.codebooks.slices import open_codebook
    from DMRIMicroLib.pretrain.dictionary import begin, learn
    from DMRIMicroLib.pretrain.qspace import Harmonics, Numbers, Propagator, Shore

    learned = learn(learned_on, _sparse.scan().acquisition, noise)
    return {
        "dictionary": learned,
        "dictionary before learning": replace(
            begin(len(learned.use), noise), weight=learned.weight
        ),
        "SH order 4": Harmonics(order=4),
        "SH order 8": Harmonics(),
        "SHORE": Shore(),
        "MAP-MRI": Propagator(),
        "signal space": Numbers(open_codebook().space, noise),
    }


def interpolation(results: Results, voxels: int, subsets: int) -> None:
    """Predict volumes of the example scan by every way."""
    import torch

    whole, level = _sparse.scan(), _sparse.slices()
    acq, signal = whole.acquisition, torch.from_numpy(_sparse.scan().voxels(_sparse.scan().mask))
    b0 = signal[:, acq.is_b0.copy()].mean(1, keepdim=True)
    noise = whole.noise.sigma / float(b0.median())
    found: dict = {}
    for train, test in ((0, 1), (1, 0)):
        parts = [
            torch.from_numpy(np.flatnonzero(level == np.unique(level)[k])) for k in (train, test)
        ]
        here = [p[:: max(1, len(p) // voxels)] for p in parts]
        for name, way in ways(
            (signal / b0)[parts[0]][:: max(1, len(parts[0]) // 1500)], noise
        ).items():
            for job in ("b2000 left out", *FEW):
                for seed in range(subsets):
                    seen, asked = volumes(job, seed)
                    own = signal[here[1]]
                    s0 = own[:, seen][:, acq.is_b0[seen]].mean(1, keepdim=True)
                    told = way.predict(own[:, seen] / s0, acq.subset(seen), acq.subset(asked))
                    wanted = own[:, asked] / b0[here[1]]
                    told = told.clamp(0, 1) * s0 / b0[here[1]]
                    score(
                        found.setdefault(job, {}).setdefault(name, {}),
                        told,
                        wanted,
                        acq.bvals[asked],
                    )
                    level_of_noise = (noise * b0.median() / b0[here[1]]).expand_as(wanted)
                    place = found[job].setdefault("noise alone", {})
                    score(place, wanted + level_of_noise, wanted, acq.bvals[asked])
            print(name, file=sys.stderr, flush=True)
    for job, told in found.items():
        table = {
            name: {b: rounded(float(np.mean(v))) for b, v in e.items()} for name, e in told.items()
        }
        results.put("interpolation", job, value=table)
    about = {"voxels of each slice": voxels, "subsets": subsets, "noise / b0": rounded(noise)}
    results.put("interpolation", "settings", value=about)


def score(place: dict, told, wanted, bvals: np.ndarray) -> None:
    """Add the normalised error of every shell."""
    for b in _sparse.SHELLS:
        at = np.flatnonzero(np.abs(bvals - b) < _sparse.SHELL_WIDTH)
        if len(at):
            wrong = (told - wanted)[:, at].square().mean() / wanted[:, at].square().mean()
            place.setdefault(f"b{b:.0f}", []).append(float(wrong.sqrt()))


# --- what pretraining is good for ---------------------------------------------------------------


def write_bids(folder: Path, scans: list) -> Path:
    """Write scans with masks as a raw data set, one subject each."""
    import nibabel as nib

    from DMRIMicroLib.io import nifti

    for number, scan in enumerate(scans):
        home = folder / f"sub-{number:02d}" / "dwi"
        nifti.save(scan, home / f"sub-{number:02d}_dwi.nii.gz")
        mask = nib.Nifti1Image(scan.mask.astype(np.uint8), scan.affine)
        nib.save(mask, home / f"sub-{number:02d}_desc-brain_mask.nii.gz")
    return folder


def files_of(folder: Path, count: int | None = None) -> list:
    """Return the scans of the first subjects of a data set."""
    from DMRIMicroLib.cohort.dataset import Dataset

    return list(Dataset.open(folder).scans())[:count]


def digital_scan(seed: int, target: bool):
    """Simulate a brain; return the slab of its scan, and of the truth of each metric."""
    from DMRIMicroLib.brain.anatomy import available
    from DMRIMicroLib.brain.machines import SCANNERS
    from DMRIMicroLib.brain.ownscan import open_anatomy
    from DMRIMicroLib.brain.simulate import simulate

    names = [name for name in available() if name != "small"] or ["small"]
    anatomy = open_anatomy(names[seed % len(names)])
    scanner = SCANNERS["clinical1.5t" if target else "hcp3t"]
    scanner = replace(scanner, voxel=(2.5,) * 3) if target else scanner
    protocol = "b1k_b2k" if target else "hcp3t"
    made = simulate(
        anatomy, seed=seed, protocol=protocol, scanner=scanner, models=["dti", "noddi", "dki"]
    )
    slab = slice(*(made.scan.shape[2] // 2 + k * SLAB // 2 for k in (-1, 1)))
    affine = made.scan.affine.copy()
    affine[:3, 3] += slab.start * affine[:3, 2]
    scan = replace(
        made.scan,
        signal=made.scan.signal[:, :, slab],
        affine=affine,
        mask=made.scan.mask[:, :, slab],
    )
    truth = {}
    for name in METRICS:
        item = made.truth[name]
        good = made.truth.flags[item.model][:, :, slab] == 1
        truth[name] = np.where(good, np.asarray(item.data)[:, :, slab], np.nan)
    return scan, truth


def errors_of(weights: str | Path, tests: list) -> dict[str, float]:
    """Root mean squared error of each metric over (short scan, truth) pairs."""
    import DMRIMicroLib as dm

    wrong: dict[str, list] = {name: [] for name in METRICS}
    for scan, truth in tests:
        maps = dm.codebook(scan, weights=str(weights))
        for name in METRICS:
            at = scan.mask & np.isfinite(truth[name])
            wrong[name].append(np.asarray(maps[name].data)[at] - truth[name][at])
    return {k: rounded(float(np.sqrt(np.mean(np.concatenate(v) ** 2)))) for k, v in wrong.items()}


def shortened(scan):
    """Take the target's short scan out of a full one, and its acquisition."""
    short = scan.select(scan.acquisition.subsample(SPARSE, b0=1))
    return short, short.acquisition


def compare(
    results: Results, part: str, folder: Path, tests: list, counts: list[int], steps
) -> None:
    """Train every row of the table, and score it."""
    from DMRIMicroLib.pretrain import Settings, Target, finetune, pretrain
    from DMRIMicroLib.pretrain.make import GENTLE

    acq = tests[0][0].acquisition
    target = Target(acq, tuple(float(v) for v in tests[0][0].voxel_size), SNR)
    usual, gentle = Settings(), Settings(**GENTLE)
    if steps is not None:
        usual, gentle = (
            replace(s, steps=steps, check=min(s.check, steps)) for s in (usual, gentle)
        )
    results.put(part, "as shipped", value=errors_of("codebook", tests))
    own, base = folder / "target", "codebook"
    if (folder / "auxiliary").exists():
        card = pretrain(
            base,
            files_of(folder / "auxiliary"),
            target,
            folder / "pretrained",
            settings=usual,
            fresh=True,
        )
        base = str(card)
        results.put(part, "pre-trained", value=errors_of(base, tests))
    for count in counts:
        scans = files_of(own, count)
        tuned = finetune(base, scans, folder / f"tuned-{count}", target=target, settings=gentle)
        results.put(part, f"pre-trained, fine-tuned on {count}", value=errors_of(tuned, tests))
        place = folder / f"scratch-{count}"
        scratch = pretrain("codebook", scans, target, place, settings=usual, fresh=True)
        results.put(part, f"from scratch on {count}", value=errors_of(scratch, tests))


def digital(results: Results, counts: list[int], steps: int | None, anew: bool) -> None:
    """Compare on simulated brains."""
    folder = CACHE / "digital"
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
    if not (folder / "auxiliary").exists():
        scans = [digital_scan(SEED + k, target=False)[0] for k in range(AUXILIARY)]
        write_bids(folder / "auxiliary", scans)
        scans = [digital_scan(SEED + 100 + k, target=True)[0] for k in range(max(counts))]
        write_bids(folder / "target", scans)
    tests = []
    for k in range(TEST):
        scan, truth = digital_scan(SEED + 200 + k, target=True)
        tests.append((shortened(scan)[0], truth))
    compare(results, "digital", folder, tests, counts, steps)


def real(results: Results, steps: int | None, anew: bool) -> None:
    """Compare on the two slices of the example scan; the shipped weights are the pre-trained."""
    import DMRIMicroLib as dm

    whole = _sparse.scan()
    for train in (0, 1):
        folder = CACHE / f"real {train}"
        if anew:
            shutil.rmtree(folder, ignore_errors=True)
        test = slice(1 - train, 2 - train)
        scan = replace(whole, signal=whole.signal[:, :, test], mask=whole.mask[:, :, test])
        maps = dm.fit(scan, ["dti", "noddi", "dki"])
        truth = {
            name: np.where(maps.flags[maps[name].model] == 1, maps[name].data, np.nan)
            for name in METRICS
        }
        if not (folder / "target").exists():
            write_bids(folder / "target", [halves(whole, train)])
        tests = [(shortened(scan)[0], truth)]
        compare(results, f"real, test on slice {1 - train}", folder, tests, [1], steps)


def halves(scan, level: int):
    """Lay the front and the back half of a slice on each other: something has to be held out."""
    middle = scan.shape[1] // 2
    parts = [slice(0, middle), slice(middle, 2 * middle)]
    signal = np.stack([scan.signal[:, p, level] for p in parts], 2)
    return replace(scan, signal=signal, mask=np.stack([scan.mask[:, p, level] for p in parts], 2))


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="interpolation,digital,real")
    parser.add_argument("--voxels", type=int, default=400)
    parser.add_argument("--subsets", type=int, default=3)
    parser.add_argument("--subjects", default="1,2,5,10")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--anew", action="store_true", help="delete what was made before")
    options = parser.parse_args()
    parts = options.parts.split(",")
    results = Results("pretraining")
    if "interpolation" in parts:
        interpolation(results, options.voxels, options.subsets)
    if "digital" in parts:
        counts = [int(n) for n in options.subjects.split(",")]
        digital(results, counts, options.steps, options.anew)
    if "real" in parts:
        real(results, options.steps, options.anew)


if __name__ == "__main__":
    main()
