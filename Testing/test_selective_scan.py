"""The selective scan: by lanes as token by token, and as mamba_ssm's own reference."""

from pathlib import Path

import numpy as np
import pytest
import torch

from DMRIMicroLib.codebooks import scan as scans
from DMRIMicroLib.codebooks.scan import chosen, lane_length, selective_scan
from DMRIMicroLib.errors import InputError

THEIRS = np.load(Path(__file__).parent / "mamba_reference.npz")
NAMES = ("u", "dt", "A", "B", "C", "D")


def inputs(b: int, length: int, d: int = 5, n: int = 3, dtype=torch.float64) -> list[torch.Tensor]:
    """Random u, dt, A, B, C, D whose decays lie between almost none and almost all."""
    g = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    dt, A = normal(b, length, d).exp() * 0.3, -normal(d, n).exp()
    tokens = normal(b, length, d), dt, A, normal(b, length, n), normal(b, length, n), normal(d)
    return [x.to(dtype).requires_grad_() for x in tokens]


def outcome(tensors: list[torch.Tensor], **options) -> list[torch.Tensor]:
    """Output, and gradients of a weighted sum of it."""
    y = selective_scan(*tensors, **options)
    w = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad((w * y).sum(), tensors)]


def theirs(kind: str) -> list[torch.Tensor]:
    """mamba_ssm's numbers in our order of axes: tokens before channels."""
    tensors = [torch.tensor(THEIRS[f"scan/{kind}/{name}"]) for name in NAMES]
    return [x.mT.contiguous() if x.ndim == 3 else x for x in tensors]


@pytest.mark.parametrize("way", ["torch", "reference"])
def test_output_and_gradients_are_those_of_mamba_ssm(way):
    tensors = [x.requires_grad_() for x in theirs("in")]
    y = selective_scan(*tensors, scan=way)
    torch.testing.assert_close(y, torch.tensor(THEIRS["scan/y"]).mT, rtol=1e-4, atol=1e-5)
    w = torch.tensor(THEIRS["scan/w"]).mT
    for name, ours, their in zip(
        NAMES, torch.autograd.grad((w * y).sum(), tensors), theirs("grad"), strict=True
    ):
        torch.testing.assert_close(
            ours, their, rtol=1e-4, atol=1e-5 * float(their.abs().max()), msg=name
        )


@pytest.mark.parametrize(
    ("b", "length", "lane"),
    [(2, 37, None), (2, 37, 5), (1, 16, 16), (40, 9, None), (3, 1, None), (1, 300, 1)],
)
def test_lanes_give_what_token_by_token_gives(b, length, lane):
    tensors = inputs(b, length)
    for fast, slow in zip(
        outcome(tensors, scan="torch", lane=lane),
        outcome(tensors, scan="reference"),
        strict=True,
    ):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


def test_gradients_are_the_derivatives():
    tensors = inputs(2, 11, d=2, n=2)
    assert torch.autograd.gradcheck(
        lambda *x: selective_scan(*x, scan="torch", lane=3), tensors, atol=1e-6
    )


def test_strong_decay_and_long_sequences_stay_finite():
    u, dt, A, B, C, D = (x.detach() for x in inputs(1, 2000, dtype=torch.float32))
    tensors = [x.requires_grad_() for x in (u, dt * 100, A * 10, B, C, D)]
    fast = outcome(tensors, scan="torch")
    assert all(x.isfinite().all() for x in fast)
    torch.testing.assert_close(fast[0], outcome(tensors, scan="reference")[0])


def test_a_token_knows_only_those_before_it():
    u, *rest = inputs(1, 40)
    other = u.detach().clone()
    other[:, 25] += 1
    change = selective_scan(other, *rest) - selective_scan(u, *rest)
    assert not change[:, :25].any()
    assert change[:, 25:].abs().amax(-1).gt(0).all()


def test_half_precision_comes_back_as_it_came():
    tensors = [x.detach().bfloat16() for x in inputs(2, 30)]
    y = selective_scan(*tensors)
    exact = selective_scan(*(x.float() for x in tensors))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=1e-2, atol=1e-2)


def test_nothing_as_large_as_the_states_is_kept():
    u, dt, A, B, C, _ = inputs(1, 4096, d=8, n=16, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        selective_scan(u, dt, A, B, C, scan="torch")
    assert kept
    largest = max(x.numel() for x in kept)
    assert largest <= 4096 * 16  # an input; the states are 8 times that


def test_no_tokens_give_none():
    tensors = [x.detach()[:, :0] if x.ndim == 3 else x.detach() for x in inputs(2, 3)]
    for way in ("torch", "reference"):
        assert selective_scan(*tensors, scan=way).shape == (2, 0, 5)


def test_one_lane_a_sequence_where_there_are_many():
    assert lane_length(112, 112) == 112
    assert lane_length(1, 12544) == 196
    assert lane_length(1, 64) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_shape_is_named(name):
    tensors = dict(zip(NAMES, inputs(2, 7), strict=True))
    tensors[name] = tensors[name][..., :1]
    with pytest.raises(InputError, match="has shape"):
        selective_scan(**tensors)


def test_the_way_is_told_and_cuda_is_refused_where_it_cannot_run():
    assert chosen("cpu") == chosen("cpu", "torch") == "torch"
    with pytest.raises(InputError, match=r"cannot run: the tensors are on cpu.*scan='auto'"):
        selective_scan(*inputs(1, 4), scan="cuda")
    with pytest.raises(InputError, match="no scan 'fast'"):
        chosen("cpu", "fast")


def test_the_kernel_is_taken_where_it_is_there(monkeypatch):
    monkeypatch.setattr(scans, "_kernel", lambda: None)
    assert chosen("cuda") == "torch"
    with pytest.raises(InputError, match="mamba_ssm"):
        chosen("cuda", "cuda")
    monkeypatch.setattr(scans, "_kernel", lambda: _stand_in)
    assert chosen("cuda") == chosen("cuda", "cuda") == "cuda"
    assert chosen("cuda", dtype=torch.float64) == "torch"


def test_the_kernel_is_handed_what_it_wants(monkeypatch):
    monkeypatch.setattr(scans, "_kernel", lambda: _stand_in)
    monkeypatch.setattr(scans, "chosen", lambda *_: "cuda")
    tensors = inputs(2, 9)
    torch.testing.assert_close(
        selective_scan(*tensors, scan="cuda"),
        scans._by_token(*tensors[:5]) + tensors[5] * tensors[0],
    )


def _stand_in(u, delta, A, B, C, D=None):
    """Stand for mamba_ssm's kernel: tokens last, contiguous."""
    assert all(x.is_contiguous() for x in (u, delta, A, B, C))
    y = scans._by_token(*(x.mT for x in (u, delta)), A, *(x.mT for x in (B, C)))
    return (y + D * u.mT).mT


@pytest.mark.skipif(
    not torch.cuda.is_available() or scans._kernel() is None, reason="needs a GPU and mamba_ssm"
)
def test_the_kernel_gives_what_lanes_give():
    tensors = [x.detach().cuda().requires_grad_() for x in inputs(2, 300, dtype=torch.float32)]
    for fast, slow in zip(
        outcome(tensors, scan="cuda"), outcome(tensors, scan="torch"), strict=True
    ):
        torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-3)
