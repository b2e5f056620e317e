"""Make mamba_reference.npz: what mamba_ssm's own code in plain PyTorch gives.

The package's compiled part needs a GPU, and its installation a CUDA compiler, so tests cannot ask
for it. Its reference scan and its block run anywhere, and this script keeps their numbers:

    pip download --no-binary :all: --no-deps --no-build-isolation mamba-ssm==2.3.2.post1
    tar xzf mamba_ssm-2.3.2.post1.tar.gz
    pip install einops
    python Testing/mamba_reference.py mamba_ssm-2.3.2.post1

(MAMBA_SKIP_CUDA_BUILD=TRUE for the first line; it also wants torch, setuptools, wheel, packaging.)
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
GPU_ONLY = {
    "selective_scan_cuda": (),
    "mamba_ssm.ops.triton.layer_norm": (
        "_layer_norm_fwd",
        "RMSNorm",
        "layer_norm_fn",
        "rms_norm_fn",
    ),
}
"""Modules that cannot be imported without a GPU, and the names that others take from them."""


def load(source: Path) -> tuple[ModuleType, ModuleType]:
    """Import their scan and their block from unpacked source, GPU-only modules left empty."""
    package = ModuleType("mamba_ssm")
    package.__path__ = [str(source / "mamba_ssm")]  # its __init__ imports everything: passed over
    sys.modules["mamba_ssm"] = package
    for name, members in GPU_ONLY.items():
        sys.modules[name] = ModuleType(name)
        for member in members:
            setattr(sys.modules[name], member, None)
    import mamba_ssm.modules.mamba_simple as block
    import mamba_ssm.ops.selective_scan_interface as scan

    block.selective_scan_fn = scan.selective_scan_ref
    return scan, block


def scan_numbers(scan: ModuleType) -> dict[str, np.ndarray]:
    """Input, output and gradients of their scan, tokens last as they have them."""
    torch.manual_seed(0)
    b, d, n, length = 2, 6, 8, 45
    inputs = {
        "u": torch.randn(b, d, length),
        "dt": torch.rand(b, d, length).exp() * 0.2,
        "A": -torch.rand(d, n).mul(2).exp(),
        "B": torch.randn(b, n, length),
        "C": torch.randn(b, n, length),
        "D": torch.randn(d),
    }
    for tensor in inputs.values():
        tensor.requires_grad_()
    y = scan.selective_scan_ref(*inputs.values())
    return _kept("scan", inputs, y)


def block_numbers(block: ModuleType) -> dict[str, np.ndarray]:
    """Weights, input, output and gradients of their block, away from its first weights."""
    torch.manual_seed(1)
    mamba = block.Mamba(20, d_state=16, use_fast_path=False)
    for weight in mamba.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    x = torch.randn(2, 45, 20, requires_grad=True)
    return _kept("block", {"x": x, **dict(mamba.named_parameters())}, mamba(x))


def _kept(what: str, inputs: dict[str, torch.Tensor], y: torch.Tensor) -> dict[str, np.ndarray]:
    """Everything by name, with the gradients of sum(w y)."""
    w = torch.randn_like(y)
    grads = torch.autograd.grad((w * y).sum(), list(inputs.values()))
    kept = {f"{what}/in/{k}": v for k, v in inputs.items()}
    kept |= {f"{what}/grad/{k}": v for k, v in zip(inputs, grads, strict=True)}
    kept |= {f"{what}/y": y, f"{what}/w": w}
    return {k: v.detach().numpy() for k, v in kept.items()}


def main() -> None:
    """Write the file beside this script."""
    source = Path(sys.argv[1]).resolve()
    version = re.search(r"^Version: (.+)$", (source / "PKG-INFO").read_text(), re.M).group(1)
    scan, block = load(source)
    numbers = scan_numbers(scan) | block_numbers(block)
    np.savez_compressed(HERE / "mamba_reference.npz", version=version, **numbers)


if __name__ == "__main__":
    main()
