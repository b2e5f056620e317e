"""3 T to 7 T on simulated pairs that no training saw: the tables of Zhu et al. (MICCAI 2024).

`python3 run.py bench rish_ldm NAME=WEIGHTS ...` writes benchmarks/results/rish_ldm.json; names are
free, e.g. ldm=run/rish-ldm-1.0.0.safetensors, "ldm, 7 T from scratch"=..., cnn=... Interpolation is
always among them, of the scan and of its harmonics after the local PCA that networks look at
("local PCA", `rish.directions`: nothing is learned). Each pair is one piece of one head in the
Human Connectome Project's two scanners; each method is asked through `DMRIMicroLib.enhance`. Heads
are those that trainings do not have: weights that come with the library learned from the icbm-*
heads, pairs here are of the sri24-* ones (`--anatomies`), and their seed is that of no training
(`rish.data.TEST`). Parts (`--parts`):

- table: NMSE and SSIM (3-D) of the RISH features of orders 0, 2, 4 and of FA against the 7 T scan,
  free of noise and as measured, on its grid; with super-resolution, and without: enhanced on the
  3 T grid, then interpolated (B-splines). SSIM also of the whole image, as the paper has it, where
  air is 0. Voxels are the same for all methods and both ways: those that both scans show as brain.
  Beside it how near the 7 T scan free of noise comes to the one as measured. Seconds of a pair; and
  what "interpolate" changes of a scan whose grid is kept (identity).
- head: SSIM of a whole field of view with the air around the head, as the paper's images have it:
  mean over its nine slabs, each with its own range of values.
- directions: change of the principal direction on the scan's own grid, where FA is above 0.3: of
  scale maps alone ("directions kept"), and with the noise taken out of directions, too.
- downstream: errors of FA, V1 (where FA is above 0.3), NDI and ODI against the 7 T scan free of
  noise, of enhanced scans with b = 1000 and 2000 s/mm2, with directions kept, too, beside those of
  the 7 T scan as measured and of the interpolated scan after MP-PCA.
- lesion: contrast of a tumour, an acute stroke, a demyelination and two kinds that no training has
  to the tissue around in FA, MD and RISH, beside that of the 7 T scan, and whether it is that of
  the 7 T scan free of noise within 10 %: whether a method invents or loses any.
- inversion: how far latents of the 3 T scan are from themselves after the way up to noise and back
  under their own label, for some numbers of DDIM steps: as the paper has it, and with the noise
  asked for at both ends of a step (`diffusion.invert`).
- steps: NMSE of latent diffusion for the same numbers of steps.

`--scans FOLDER` asks of real scans in place of simulated ones: BIDS with ses-3T and ses-7T, or the
HCP's layout with T1w/Diffusion and T1w/Diffusion_7T; of the last `--pairs` subjects, whom `train
--bids FOLDER` holds out up to a tenth of all, and for the part "table" alone, which then is the
paper's Table 1.

`--pairs`, `--slabs`, `--downstream`, `--lesions` and `--sampling` tell how many pairs each part
has, `--patch` their voxels, `--voxels` to how many of a pair NODDI is fitted, `--seed` is that of
the trainings, `--workers` the number of processes of one thread, `--name` that of the file. Every
pair is written when it is done; the same command takes up what was stopped. A method that is new,
or has other weights, is added to the pairs that are there; other heads, seeds or sizes begin anew.
`--keep FOLDER` keeps simulated pairs, 160 MB each, and slabs, 600 MB each, for the next time;
`--both NAMES` asks only these without super-resolution, too. `--plain NAMES` asks latent diffusion
of these names also as the paper has it, without what gives back what its codes lose ("NAME,
plain"); its super-resolution has learned with that. NAMES stand between semicolons.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np
from _common import Results, rounded
from _rish import PARTS, plain, unlearned
from _rish_pairs import PLAIN, SLABS, Asked

HEADS = "sri24-afni,sri24-dsistudio,sri24-niivue,sri24-tractseg"
UNLEARNED = "local PCA"
RAW, ASKED, WEIGHTS, DONE = "pairs", "asked", "weights", "done"


def summary(rows: list) -> object:
    """Mean and standard deviation over pairs of the same nested numbers; not all have all."""
    if isinstance(rows[0], dict):
        keys = dict.fromkeys(key for row in rows for key in row)
        return {key: summary([row[key] for row in rows if key in row]) for key in keys}
    spread = float(np.std(rows, ddof=1)) if len(rows) > 1 else 0.0
    return {"mean": rounded(float(np.mean(rows))), "sd": rounded(spread), "pairs": len(rows)}


def opened(name: str, asked: Asked) -> Results:
    """Open the results of the same question, or begin anew."""
    told = {"anatomies": asked.anatomies, "seed": asked.seed}
    told |= {"patch": asked.patch, "voxels": asked.voxels}
    told |= {"scans": Path(asked.scans).name} if asked.scans else {}
    results = Results(name)
    if results.content.get(ASKED) != told:
        results = Results(name, fresh=True)
        results.put(ASKED, value=told)
    files = {n: hashlib.sha256(Path(f).read_bytes()).hexdigest()[:12] for n, f in asked.weights}
    results.put(WEIGHTS, value=results.content.get(WEIGHTS, {}) | files | {PLAIN: ""})
    return results


def lacking(results: Results, asked: Asked, part: str, number: int) -> tuple[str, ...]:
    """Name the methods that a pair lacks, or has with other weights."""
    done = results.content.get(DONE, {}).get(part, {}).get(str(number), {})
    now = results.content[WEIGHTS]
    return tuple(name for name in asked.methods if done.get(name) != now[name])


def merged(one: dict, other: dict) -> dict:
    """Put nested numbers together, the second's first."""
    both = {
        k: merged(one[k], v) if isinstance(v, dict) and k in one else v for k, v in other.items()
    }
    return {**one, **both}


def alone() -> None:
    """Take one thread."""
    import torch

    torch.set_num_threads(1)


def measure(results: Results, asked: Asked, counts: dict[str, int], workers: int) -> None:
    """Measure what is missing, pair by pair, in several processes."""
    todo = [(k, part) for part, count in counts.items() for k in range(count)]
    todo = [(k, part, lacking(results, asked, part, k)) for k, part in sorted(todo)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=alone) as pool:
        tasks = {
            pool.submit(PARTS[part], replace(asked, only=names), k): (part, k, names)
            for k, part, names in todo
            if names
        }
        try:
            for task in as_completed(tasks):
                part, k, names = tasks[task]
                rows = results.content.get(RAW, {}).get(part, {})
                row = merged(rows.get(str(k), {}), task.result())
                done = {name: results.content[WEIGHTS][name] for name in names}
                results.put(RAW, part, str(k), value=row)
                before = results.content.get(DONE, {}).get(part, {}).get(str(k), {})
                results.put(DONE, part, str(k), value=before | done)
                results.put(part, value=summary(list(results.content[RAW][part].values())))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", nargs="*", help="NAME=FILE")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--pairs", type=int, default=17)
    parser.add_argument("--slabs", type=int, default=SLABS, help="of heads of nine each")
    parser.add_argument("--downstream", type=int, default=4)
    parser.add_argument("--lesions", type=int, default=10)
    parser.add_argument("--sampling", type=int, default=3, help="pairs of the last two parts")
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--voxels", type=int, default=2000)
    parser.add_argument("--anatomies", default=HEADS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="rish_ldm")
    parser.add_argument("--keep", default="")
    parser.add_argument("--scans", default="", help="data set of real scans")
    parser.add_argument("--plain", default="", help="NAMES to ask without detail, too")
    parser.add_argument("--both", default="", help="NAMES to ask without super-resolution, too")
    given = parser.parse_args(arguments)
    parts = given.parts.split(",")
    if wrong := [p for p in parts if p not in PARTS] + [t for t in given.weights if "=" not in t]:
        parser.error(f"{wrong[0]!r} is neither a part ({', '.join(PARTS)}) nor NAME=FILE")
    weights = dict(text.split("=", 1) for text in given.weights)
    without = tempfile.TemporaryDirectory()
    for name in filter(None, given.plain.split(";")):
        weights[f"{name}, plain"] = plain(weights[name], without.name)
    weights[UNLEARNED] = unlearned(without.name)
    weights = tuple(weights.items())
    asked = Asked(weights, given.anatomies, given.seed, given.patch, given.voxels, given.keep)
    asked = replace(asked, both=tuple(filter(None, given.both.split(";"))), scans=given.scans)
    if given.scans and parts != ["table"]:
        parser.error("real scans have the part table alone: --parts table")
    counts = {"table": given.pairs, "directions": given.pairs}
    counts |= {"head": given.slabs, "downstream": given.downstream, "lesion": given.lesions}
    counts |= {"inversion": given.sampling, "steps": given.sampling}
    chosen = {part: counts[part] for part in parts}
    measure(opened(given.name, asked), asked, chosen, given.workers)


if __name__ == "__main__":
    main(sys.argv[1:])
