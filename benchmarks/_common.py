"""What the benchmarks share: protocols, synthetic scans, clocks, and how results are kept."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
sys.path[:0] = [str(ROOT), str(ROOT / "Testing")]  # also where the package is not installed

S0 = 1000.0
"""Signal of the synthetic voxels without weighting."""

EXAMPLE_TIMING = {"delta": 16.2, "Delta": 26.5, "TE": 60.0}
"""Gradient timing of the example scan [ms], from the protocol file that comes with MDT."""

HCP_TIMING = {"delta": 10.6, "Delta": 43.1, "TE": 89.5}
"""Gradient timing of the HCP's 3 T scans [ms] (S. N. Sotiropoulos et al., NeuroImage 80 (2013)
125-143)."""

SOMA_TIMING = {"delta": 7.0, "Delta": 24.0}
"""Gradient timing of SANDI on a strong-gradient scanner [ms] (S. Schiavi et al., Hum. Brain Mapp.
44 (2023) 4792-4811)."""

PEERS = ("dipy", "dmri-amico", "dmipy-fit")


def hcp():
    """Like the Human Connectome Project: 18 b0, 90 directions each at b = 1000, 2000, 3000."""
    return shells({1000.0: 90, 2000.0: 90, 3000.0: 90}, b0=18, **HCP_TIMING)


def mdt():
    """Return the acquisition of the example scan: 13 b0, 30 b1000, 60 b2000."""
    return example().acquisition


def soma():
    """For SANDI, in the manner of Schiavi et al.: seven shells up to b = 8000."""
    count = {500.0: 30, 1000.0: 30, 2000.0: 30, 3000.0: 30, 4000.0: 60, 6000.0: 60, 8000.0: 60}
    return shells(count, b0=16, **SOMA_TIMING)


PROTOCOLS = {"hcp": hcp, "mdt": mdt, "soma": soma}


def shells(count: dict[float, int], b0: int, **timing: float):
    """Acquisition of well spread directions, b0 volumes first."""
    from dataclasses import replace

    from phantom import protocol

    return replace(protocol(count, b0=b0), **timing)


def example():
    """Return the real two-slice scan, with its mask and gradient timing, in memory."""
    import DMRIMicroLib as dm
    from DMRIMicroLib.io.example import fetch

    image, mask = fetch()
    scan = dm.load(image, mask=mask, **EXAMPLE_TIMING)
    return scan.select(np.arange(len(scan.acquisition)))


def synthetic(signal: np.ndarray, acq, snr: float | None, seed: int):
    """Return a scan of (n, m) noise-free signals relative to S0, with Rician noise unless None."""
    from DMRIMicroLib.scan import Scan

    data = S0 * signal
    if snr is not None:
        rng = np.random.default_rng(seed)
        first, second = rng.normal(0, S0 / snr, (2, *data.shape))
        data = np.hypot(data + first, second)
    grid = data.astype(np.float32)[:, None, None, :]
    return Scan(grid, np.eye(4), acq, np.ones(grid.shape[:3], bool), name="synthetic")


def errors(estimate: np.ndarray, truth: np.ndarray, weight: np.ndarray | None = None) -> dict:
    """Root mean square error and bias, weighted if need be."""
    difference = np.asarray(estimate, np.float64).ravel() - truth
    w = np.ones_like(difference) if weight is None else weight
    mean = float((w * difference).sum() / w.sum())
    square = float((w * difference**2).sum() / w.sum())
    return {"rmse": rounded(square**0.5), "bias": rounded(mean)}


def rounded(value: float, digits: int = 4) -> float:
    """Round to significant digits."""
    return float(f"{value:.{digits}g}")


def clock() -> np.ndarray:
    """Wall seconds, and CPU seconds of this process (all threads) and its ended children."""
    t = os.times()
    children = t.children_user + t.children_system
    return np.array([time.perf_counter(), time.process_time() + children])


def cpu_model() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def circumstances() -> dict:
    """When, with which versions, on what."""
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("numpy", *PEERS):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "versions": versions,
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
        },
    }


class Results:
    """A JSON file that is written after every entry, so that a benchmark can be taken up again."""

    def __init__(self, name: str, fresh: bool = False) -> None:
        self.file = RESULTS / f"{name}.json"
        self.content: dict = {}
        if self.file.exists() and not fresh:
            self.content = json.loads(self.file.read_text())

    def put(self, *keys: str, value: object) -> None:
        """Keep a value under nested keys, with the circumstances of now beside it."""
        self.content["circumstances"] = circumstances()
        place = self.content
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(self.content, indent=1) + "\n")

    def has(self, *keys: str) -> bool:
        """Tell whether there is such an entry already."""
        place = self.content
        for key in keys:
            if key not in place:
                return False
            place = place[key]
        return True
