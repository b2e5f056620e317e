"""Pretraining: ways from one q-space scheme to another, and what pretraining is good for.

`python3 run.py bench pretraining` writes benchmarks/results/pretraining.json. `--parts` takes some:

- interpolation: the example scan (real). Some b2000 volumes are left out and predicted from all
  others; and all other volumes are predicted from 1 + 15 + 15 and from 1 + 6 + 6. Error by shell,
  as a share of the signal's root mean square, beside what noise as strong as that of the b0 repeats
  would make of it: more than what is found at high b, so that it is no floor. The dictionary is
  learned on one slice and used on the other, both ways round. `--voxels` of every slice and
  `--subsets` of the volumes.
- digital: slabs of simulated brains. Auxiliary scans of one scanner (3 T, three shells, 1.25 mm),
  target scans of another (1.5 T, two shells, 2.5 mm), scanned with 1 + 15 + 15 volumes in the end.
  Root mean squared error of FA, NDI, ODI and MK against the truth on target brains and heads that
  no training of this table saw: of fits, of the weights that come with the library, of weights that
  learned from 1, 2, 5 and 10 target subjects from scratch, of weights that learned from the
  auxiliary brains only, and of these fine-tuned on as many target subjects.
- real: the example scan; one slice to fine-tune on, the other for the test, both ways round. The
  reference are the fits to the volumes that the network does not see.

Trainings are of minutes, to compare by, and one after the other: `--budget-minutes` ends the table
in the middle of anything, and the same command goes on. `--subjects` lists how many target subjects
there are, `--pretraining` and `--tuning` are steps, `--anew` deletes rows and their weights.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import _sparse
import numpy as np
from _common import Results, rounded  # first: it puts the library where Python looks
from _pretraining import Budget, Lengths, TimeIsUp, digital, forget, real

from DMRIMicroLib.errors import Cancelled

LEFT_OUT = 15
"""Volumes of b2000 that are predicted from all others."""

LEARNED_ON = 1500
"""Voxels of a slice that teach the dictionary, about."""

FEW = ("P15+15", "P6+6")
"""Protocols of `_sparse` from which all other directions are predicted."""


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
    acq, signal = whole.acquisition, torch.from_numpy(whole.voxels(whole.mask))
    b0 = signal[:, acq.is_b0.copy()].mean(1, keepdim=True)
    noise = whole.noise.sigma / float(b0.median())
    bright = (signal[:, acq.is_b0.copy()] > 0).all(1).numpy()  # any b0 volume may be the only one
    parts = [torch.from_numpy(np.flatnonzero((level == k) & bright)) for k in np.unique(level)]
    found: dict = {}
    for train, test in ((0, 1), (1, 0)):
        learned_on, asked_of = thinned(parts[train], LEARNED_ON), thinned(parts[test], voxels)
        every = ways((signal / b0)[learned_on], noise)
        for job in ("b2000 left out", *FEW):
            place = found.setdefault(job, {})
            for seed in range(subsets):
                seen, asked = volumes(job, seed)
                own, bvals = signal[asked_of], acq.bvals[asked]
                s0 = own[:, seen][:, acq.is_b0[seen]].mean(1, keepdim=True)
                wanted = own[:, asked] / b0[asked_of]
                for name, way in every.items():
                    told = way.predict(own[:, seen] / s0, acq.subset(seen), acq.subset(asked))
                    told = told.clamp(0, 1) * s0 / b0[asked_of]
                    score(place.setdefault(name, {}), told, wanted, bvals)
                level_of_noise = (noise * b0.median() / b0[asked_of]).expand_as(wanted)
                score(
                    place.setdefault("noise of b0 repeats", {}),
                    wanted + level_of_noise,
                    wanted,
                    bvals,
                )
            print(f"learned on slice {train}, {job}", file=sys.stderr, flush=True)
    for job, told in found.items():
        table = {
            name: {b: rounded(float(np.mean(v))) for b, v in e.items()} for name, e in told.items()
        }
        results.put("interpolation", job, value=table)
    about = {"voxels of each slice": voxels, "subsets": subsets, "noise / b0": rounded(noise)}
    results.put("interpolation", "settings", value=about)


def thinned(voxels, count: int):
    """Take about so many of some voxels, evenly."""
    return voxels[:: max(1, len(voxels) // count)]


def score(place: dict, told, wanted, bvals: np.ndarray) -> None:
    """Add the normalised error of every shell."""
    for b in _sparse.SHELLS:
        at = np.flatnonzero(np.abs(bvals - b) < _sparse.SHELL_WIDTH)
        if len(at):
            wrong = (told - wanted)[:, at].square().mean() / wanted[:, at].square().mean()
            place.setdefault(f"b{b:.0f}", []).append(float(wrong.sqrt()))


def main() -> None:
    """Run the parts that are asked for."""
    usual = Lengths()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="interpolation,digital,real")
    parser.add_argument("--voxels", type=int, default=400)
    parser.add_argument("--subsets", type=int, default=3)
    parser.add_argument("--subjects", default="1,2,5,10")
    parser.add_argument("--pretraining", type=int, default=usual.pretraining)
    parser.add_argument("--tuning", type=int, default=usual.tuning)
    parser.add_argument("--budget-minutes", type=float)
    parser.add_argument("--anew", action="store_true", help="delete what was learned before")
    options = parser.parse_args()
    parts, results = options.parts.split(","), Results("pretraining")
    budget = Budget(options.budget_minutes)
    lengths = Lengths(options.pretraining, options.tuning)
    if options.anew:
        forget(results)
    try:
        if "interpolation" in parts:
            interpolation(results, options.voxels, options.subsets)
        if "digital" in parts:
            digital(results, [int(n) for n in options.subjects.split(",")], lengths, budget)
        if "real" in parts:
            real(results, lengths, budget)
    except (TimeIsUp, Cancelled):
        print("The time is up; the same command goes on.", file=sys.stderr)


if __name__ == "__main__":
    main()
