"""All models on a scan of a million voxels and 288 volumes on a GPU, against the chip's limits.

`python3 run.py bench gpu` writes benchmarks/results/gpu.json. The bytes that pass through memory
and the arithmetic are counted operation by operation (inputs read and outputs written in full, one
floating-point operation an element, matrix products by their sizes) on some thousand voxels, and
scaled to all; caches can make the true traffic smaller. The limits are measured on the same device:
a copy for the bandwidth, a float32 matrix product for the arithmetic.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from _common import S0, Results, hcp, rounded
from _tissue import mixed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KINDS = 4000
"""Different tissues among the voxels."""

SNR = 30
WANTED_S = 60
FREE = ("view", "_unsafe_view", "expand", "slice", "select", "unbind", "split", "permute")
FREE += ("t", "transpose", "unsqueeze", "squeeze", "detach", "alias", "as_strided", "diagonal")
"""Operations that move nothing."""


class Traffic(TorchDispatchMode):
    """Counts bytes and floating-point operations of what runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.flops = self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in FREE:
            read = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
            made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in (*read, *made))
            inner = 2 * read[-2].shape[-1] if "mm" in name and len(read) > 1 else 1
            self.flops += sum(x.numel() for x in made if x.is_floating_point()) * inner
            self.operations += 1
        return out


def large(voxels: int, acq):
    """Return a scan of noisy tissue in host memory, every voxel in the mask."""
    from DMRIMicroLib.scan import Scan

    few = (S0 * mixed(acq, KINDS, np.random.default_rng(0)).signal).astype(np.float32)
    data = np.empty((voxels, len(acq)), np.float32)
    rng = np.random.default_rng(1)
    for start in range(0, voxels, KINDS):
        part = few[: voxels - start]
        noise = rng.standard_normal((2, *part.shape), dtype=np.float32) * (S0 / SNR)
        data[start : start + len(part)] = np.hypot(part + noise[0], noise[1])
    return Scan(data[:, None, None], np.eye(4), acq, np.ones((voxels, 1, 1), bool), name="large")


def some(scan, voxels: int):
    """Return the same scan with only its first voxels in the mask."""
    return scan.with_mask(np.arange(scan.shape[0])[:, None, None] < voxels)


def limits(device: torch.device) -> dict[str, float]:
    """Bandwidth [bytes/s] and float32 arithmetic [1/s] that the device reaches."""
    elements = 2**28 if device.type == "cuda" else 2**25
    side = 8192 if device.type == "cuda" else 1024
    source = torch.zeros(elements, device=device)
    target, square = torch.empty_like(source), torch.randn(side, side, device=device)
    copied = seconds(lambda: target.copy_(source), device)
    product = seconds(lambda: square @ square, device)
    return {"bandwidth": 8 * elements / copied, "arithmetic": 2 * side**3 / product}


def seconds(work, device: torch.device, rounds: int = 5) -> float:
    """Wall seconds of a call: the best of some."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def measure(scan, model: str, device: torch.device, sample: int, top: dict) -> dict:
    """Time of one model on all voxels, and its counted work against the limits."""
    import DMRIMicroLib as dm

    voxels = int(scan.mask.sum())
    few = some(scan, min(sample, voxels))
    dm.fit(few, model, device=device)  # what is computed once
    with Traffic() as traffic:
        dm.fit(few, model, device=device)
    wall = seconds(lambda: dm.fit(scan, model, device=device), device, 1)
    share = voxels / int(few.mask.sum())
    bandwidth, arithmetic = traffic.bytes * share / wall, traffic.flops * share / wall
    return {
        "wall s": rounded(wall, 3),
        "voxels per s": rounded(voxels / wall, 3),
        "counted GB": rounded(traffic.bytes * share / 1e9, 3),
        "achieved GB/s": rounded(bandwidth / 1e9, 3),
        "share of bandwidth": rounded(bandwidth / top["bandwidth"], 2),
        "achieved GFLOP/s": rounded(arithmetic / 1e9, 3),
        "share of arithmetic": rounded(arithmetic / top["arithmetic"], 2),
        "operations per batch": traffic.operations,
    }


def main() -> None:
    from DMRIMicroLib.models import MODELS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=8192, help="voxels to count the work on")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--name", default="gpu", help="of the file under results/")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no CUDA device here; --device cpu tries the benchmark itself.")
    import DMRIMicroLib as dm

    results, acq = Results(options.name, fresh=True), hcp()
    top, scan = limits(device), large(options.voxels, acq)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    about = {"device": name, "voxels": options.voxels, "volumes": len(acq)}
    about["measured limits"] = {
        "GB/s": rounded(top["bandwidth"] / 1e9, 3),
        "GFLOP/s, float32": rounded(top["arithmetic"] / 1e9, 3),
    }
    results.put("about", value=about)
    dm.fit(some(scan, options.sample), "all", device=device)
    wall = seconds(lambda: dm.fit(scan, "all", device=device), device, 1)
    value = {"wall s": rounded(wall, 3), "wanted s": WANTED_S}
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        value["peak GiB on the device"] = rounded(peak / 2**30, 3)
    results.put("all models", value=value)
    for model in MODELS:
        results.put(model, value=measure(scan, model, device, options.sample, top))
    print(results.file.read_text())


if __name__ == "__main__":
    main()
