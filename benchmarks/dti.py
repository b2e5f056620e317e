"""Tensor fit: voxels per CPU-second and agreement against dipy and MRtrix3, and peak memory.

`python3 run.py bench dti` writes benchmarks/results/dti.json. Needs MRtrix3's dwi2tensor on PATH
for its row, some 6 GiB of memory and 5 GB of disk for the large scan (`--no-large` leaves it out).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "dti.json"
LARGE = (145, 174, 145, 288)
ROUNDS, ROUND_S = 5, 1.0


def clock() -> np.ndarray:
    """Wall seconds, and CPU seconds of this process (all threads) and its ended children."""
    t = os.times()
    return np.array(
        [time.perf_counter(), time.process_time() + t.children_user + t.children_system]
    )


def timed(work) -> tuple[float, float]:
    """Wall and CPU seconds of a call: the best of some rounds, each long enough for the clocks."""
    work()
    start = clock()
    work()
    calls = max(1, int(ROUND_S / max((clock() - start)[0], 1e-4)))
    rounds = []
    for _ in range(ROUNDS):
        start = clock()
        for _ in range(calls):
            work()
        rounds.append((clock() - start) / calls)
    wall, cpu = np.min(rounds, axis=0)
    return float(wall), float(cpu)


SCANS = {
    "b<=1000": (1000.0, 1),
    "all": (1e5, 1),
    "brain-sized b<=1000": (1000.0, 16),
    "brain-sized all": (1e5, 16),
}
"""Highest b and number of copies of the two real slices."""


def peers(threads: int) -> dict:
    """Time every program on every scan, in this process, which runs with that many threads."""
    import torch

    import DMRIMicroLib as dm
    from DMRIMicroLib.io.example import fetch

    torch.set_num_threads(threads)
    image, mask = fetch()
    rows = {}
    for label, (b_max, copies) in SCANS.items():
        scan = dm.load(image, mask=mask)
        scan = repeated(scan.select(np.flatnonzero(scan.acquisition.bvals <= b_max)), copies)
        rows[label] = compare(scan, threads)
    return rows


def compare(scan, threads: int) -> dict:
    """Speed of every program on one scan, and how far our maps are from dipy's."""
    import DMRIMicroLib as dm

    n, theirs, ours = int(scan.mask.sum()), {}, {}

    def by_us() -> None:
        ours["maps"] = dm.fit(scan, "dti", b_max=1e5, device="cpu")

    works = {
        "dipy WLS, FA MD AD RD V1": lambda: theirs.update(by_dipy(scan)),
        "DMRIMicro fit(), FA MD AD RD V1 tensor": by_us,
        "DMRIMicro solver and metrics": solver(scan, 1),
        "DMRIMicro solver and metrics, 2 passes": solver(scan, 2),
    }
    speed = {}
    for name, work in works.items():
        wall, cpu = timed(work)
        speed[name] = {"voxels_per_cpu_s": round(n / cpu), "voxels_per_s": round(n / wall)}
    dipy = speed["dipy WLS, FA MD AD RD V1"]["voxels_per_cpu_s"]
    speed |= by_mrtrix(scan, threads)
    for row in speed.values():
        row["times_dipy_per_cpu_s"] = round(row["voxels_per_cpu_s"] / dipy, 1)
    agreement = agree(theirs, ours["maps"], scan.signal)
    volumes = len(scan.acquisition)
    return {"volumes": volumes, "voxels": n, "speed": speed, "agreement": agreement}


def by_dipy(scan) -> dict:
    """Fit with dipy."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    acq = scan.acquisition
    table = gradient_table(acq.bvals, bvecs=acq.bvecs, b0_threshold=50)
    fit = TensorModel(table, fit_method="WLS").fit(scan.signal, mask=scan.mask)
    return {"FA": fit.fa, "MD": fit.md, "AD": fit.ad, "RD": fit.rd, "V1": fit.evecs[..., 0]}


def solver(scan, passes: int):
    """Our solver and metrics alone, on voxels already gathered, without maps on a grid."""
    import torch

    from DMRIMicroLib.fitting.linear import WeightedLeastSquares
    from DMRIMicroLib.models import DTI

    voxels, model = torch.from_numpy(scan.voxels(scan.mask)), DTI()
    design, cpu = model.design(scan.acquisition), torch.device("cpu")

    def work() -> None:
        wls = WeightedLeastSquares(design, passes, device=cpu, dtype=torch.float32)
        for batch in voxels.split(32768):
            model.derive(wls.fit(batch).parameters)

    return work


def repeated(scan, copies: int):
    """Stack copies of the slices, to the number of voxels of a whole brain."""
    from dataclasses import replace

    signal = np.concatenate([scan.signal] * copies, axis=2)
    return replace(scan, signal=signal, mask=np.concatenate([scan.mask] * copies, axis=2))


def by_mrtrix(scan, threads: int) -> dict:
    """Time dwi2tensor on an uncompressed copy; file reading and writing are part of it."""
    if shutil.which("dwi2tensor") is None:
        return {}
    from DMRIMicroLib.io import nifti

    with tempfile.TemporaryDirectory() as folder:
        image = nifti.save(scan, Path(folder) / "dwi.nii")
        command = ["dwi2tensor", str(image), f"{folder}/dt.mif", "-force", "-quiet"]
        command += ["-fslgrad", f"{folder}/dwi.bvec", f"{folder}/dwi.bval"]
        command += ["-mask", f"{folder}/dwi_mask.nii.gz"]
        command += ["-nthreads", str(threads if threads > 1 else 0)]
        wall, cpu = timed(lambda: subprocess.run(command, check=True))
        version = subprocess.run(
            ["dwi2tensor", "-version"], capture_output=True, text=True
        ).stdout.split("\n")[0]
    n = int(scan.mask.sum())
    name = "MRtrix3 dwi2tensor, tensor only, 2 passes"
    return {
        name: {
            "voxels_per_cpu_s": round(n / cpu),
            "voxels_per_s": round(n / wall),
            "version": version.strip("= "),
        }
    }


def agree(theirs: dict, maps, signal: np.ndarray) -> dict:
    """Differences from dipy, over all fitted voxels and where all samples are positive."""
    from phantom import angle_deg

    inside = maps.mask
    clean = inside & (signal > 0).all(-1)
    out = {"voxels": int(inside.sum()), "voxels_all_samples_positive": int(clean.sum())}
    for name in ("FA", "MD", "AD", "RD"):
        difference = np.abs(theirs[name] - np.asarray(maps[name]))
        out[name] = {
            "median": float(np.median(difference[inside])),
            "p99_clean": float(np.percentile(difference[clean], 99)),
        }
    fibre = inside & (theirs["FA"] > 0.2)
    angle = angle_deg(theirs["V1"], np.asarray(maps["V1"]))
    out["V1_deg_FA>0.2"] = {
        "median": float(np.median(angle[fibre])),
        "p99_clean": float(np.percentile(angle[fibre & clean], 99)),
        "max_clean": float(angle[fibre & clean].max()),
        "share_within_0.1": float((angle[fibre] < 0.1).mean()),
    }
    return out


def large(folder: Path) -> dict:
    """Fit a simulated scan of the largest promised size from disk, every voxel in the mask."""
    import nibabel as nib
    from phantom import protocol

    import DMRIMicroLib as dm

    acq = protocol({1000.0: 90, 2000.0: 90, 3000.0: 90}, b0=18)
    image = folder / "large.nii"
    header = nib.Nifti1Header()
    header.set_data_shape(LARGE)
    header.set_data_dtype(np.float32)
    header["vox_offset"] = 352
    header.set_sform(np.diag([1.25, 1.25, 1.25, 1]), 1)
    rng = np.random.default_rng(0)
    with open(image, "wb") as file:
        header.write_to(file)
        file.write(b"\0" * (352 - file.tell()))
        for b in acq.bvals:  # a Gaussian, isotropic brain is enough to measure memory
            volume = 1000 * np.exp(-b * 0.8e-3) + rng.normal(0, 20, LARGE[2::-1]).astype(np.float32)
            file.write(np.maximum(volume, 1).astype(np.float32).tobytes())
    np.savetxt(folder / "large.bval", acq.bvals[None])
    np.savetxt(folder / "large.bvec", acq.bvecs.T)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = clock()
    maps = dm.fit(
        dm.load(image).with_mask(np.ones(LARGE[:3], bool)), "dti", b_max=1e5, device="cpu"
    )
    wall, cpu = clock() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    signal = int(np.prod(LARGE)) * 4
    return {
        "shape": LARGE,
        "signal_float32_GiB": round(signal / 2**30, 2),
        "peak_GiB": round(peak / 2**30, 2),
        "peak_over_signal": round(peak / signal, 3),
        "peak_before_fit_GiB": round(before * 1024 / 2**30, 2),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "voxels_per_cpu_s": round(maps.mask.sum() / cpu),
    }


def child(part: str, threads: int = 2) -> dict:
    """Run a part in a process of its own, so that threads and peak memory are its own."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parent / "Testing")]),
    }
    env |= {k: str(threads) for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, __file__, "--part", part, "--threads", str(threads)]
    return json.loads(
        subprocess.run(
            command, env=env, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.splitlines()[-1]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["peers", "large"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-large", action="store_true")
    options = parser.parse_args()
    if options.part == "peers":
        print(json.dumps(peers(options.threads)))
    elif options.part == "large":
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(large(Path(folder))))
    else:
        import dipy
        import torch

        result = {
            "machine": {
                "cpu": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "load": os.getloadavg()[0],
            },
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "dipy": dipy.__version__,
            },
            "threads_1": child("peers", 1),
            "threads_2": child("peers", 2),
        }
        if not options.no_large:
            result["large"] = child("large")
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
        print(RESULT.read_text())


if __name__ == "__main__":
    main()
