r"""Selective scan: a linear recurrence whose decay and input change from token to token.

A. Gu, T. Dao, Mamba: Linear-time sequence modeling with selective state spaces,
arXiv:2312.00752 (2023), equation 2a with the discretisation that its public code uses (exact for
the decay, Euler for the input):

.. math::

    h_t = \exp(\Delta_t A) \odot h_{t-1} + \Delta_t u_t B_t, \qquad y_t = C_t \cdot h_t + D u_t

with :math:`h_0 = 0` before the first token. The states would be n times as large as the input; all
three ways of computing y do without keeping them.

The way for any device, "torch", cuts the sequence into k lanes of q tokens which advance side by
side: from zero states to the lanes' ends, from lane to lane, and again from the right starts. The
backward pass does the same with the adjoint and computes the states again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ..errors import InputError

SCANS = ("auto", "torch", "reference", "cuda")
"""What `selective_scan` can be asked for."""

ROWS = 64
"""Lanes, those of all sequences together, that advance side by side on a CPU: enough to hide the
cost of calling an operation, few enough for the states to stay near the processor. On one thread,
for l = 256 to 12544, d = 64 and 256, n = 8 and 16, 64 was within a quarter of the best number; 8
took up to three times as long, and 256 up to three times where lanes became single tokens."""

LEAST_LANE = 4
"""Tokens of a lane at least: with one, both passes took two to five times as long."""

CALLS = 9
"""Operations a token in `_LaneScan.forward`, against one a lane: on a GPU calls decide. Counted,
not measured."""


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    scan: str = "auto",
    lane: int | None = None,
) -> Tensor:
    """Run the recurrence over l tokens of d channels with n states each.

    Parameters
    ----------
    u : (b, l, d) tensor
        Input.
    dt : (b, l, d) tensor
        Step, > 0.
    A : (d, n) tensor
        Decay rates, < 0.
    B, C : (b, l, n) tensors
        What goes into the states, and what of them comes out.
    D : (d,) tensor, optional
        What of the input comes out as it is.
    scan : {"auto", "torch", "reference", "cuda"}
        Which way (see `chosen`).
    lane : int, optional
        Tokens of a lane of the way "torch"; None takes a measured rule.

    Returns
    -------
    (b, l, d) tensor
        y, of the type of `u`; inside it is single precision at least.

    Raises
    ------
    InputError
        If shapes disagree, or the way is unknown or cannot be had.
    """
    _check(u, dt, A, B, C, D)
    way = chosen(u.device, scan, u.dtype)
    dtype = torch.promote_types(u.dtype, torch.float32)
    parts = [None if x is None else x.to(dtype) for x in (u, dt, A, B, C, D)]
    if way == "cuda":
        y = _with_kernel(*parts)
    else:
        u32, dt, A, B, C, D = parts
        y = _by_token(u32, dt, A, B, C) if way == "reference" else _by_lane(u32, dt, A, B, C, lane)
        y = y if D is None else torch.addcmul(y, D, u32)
    return y.to(u.dtype)


def chosen(
    device: torch.device | str, scan: str = "auto", dtype: torch.dtype = torch.float32
) -> str:
    """Tell which way runs for tensors on a device: "torch", "reference" or "cuda".

    "auto" means "cuda" (the kernel of the package mamba_ssm) where that can be imported, the
    tensors are on a GPU and not in double precision; else "torch".
    """
    if scan not in SCANS:
        raise InputError(f"there is no scan {scan!r}", f"Choose one of {', '.join(SCANS)}.")
    if scan in ("torch", "reference"):
        return scan
    lacks = []
    if torch.device(device).type != "cuda":
        lacks.append(f"the tensors are on {torch.device(device)}")
    elif dtype == torch.float64:
        lacks.append("the kernel knows no double precision")
    elif _kernel() is None:
        lacks.append("the package mamba_ssm or its compiled part cannot be imported")
    if lacks and scan == "cuda":
        raise InputError(
            f"the scan 'cuda' cannot run: {lacks[0]}",
            "Take scan='auto' or 'torch', or install mamba-ssm on a Linux machine with a GPU.",
        )
    return "torch" if lacks else "cuda"


@cache
def _kernel() -> Callable[..., Tensor] | None:
    """Return mamba_ssm's scan, None where it is not installed or was built without CUDA."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except (ImportError, OSError):  # OSError: a library that it was linked to is missing
        return None
    return selective_scan_fn


def _check(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> None:
    """Refuse shapes that do not belong together, which broadcasting might let pass."""
    if u.ndim != 3 or A.ndim != 2:
        raise InputError(
            f"u has shape {tuple(u.shape)} and A {tuple(A.shape)}", "Give (b, l, d) and (d, n)."
        )
    tokens, d, n = tuple(u.shape[:2]), u.shape[2], A.shape[1]
    wanted = {"dt": (dt, (*tokens, d)), "A": (A, (d, n))}
    wanted |= {"B": (B, (*tokens, n)), "C": (C, (*tokens, n))}
    if D is not None:
        wanted["D"] = (D, (d,))
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)} and not {shape}",
                f"Give what belongs to u of shape {tuple(u.shape)} and n = {n} states.",
            )


def _by_token(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """One token after the other: slow and readable, what the other ways are held to."""
    h = u.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * A)
        h = decay * h + (dt[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
        y.append((h * C[:, t, None, :]).sum(-1))
    return torch.stack(y, 1) if y else torch.zeros_like(u)


def _with_kernel(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None
) -> Tensor:
    """mamba_ssm's kernel, which wants tokens last."""
    u, dt, B, C = (x.transpose(1, 2).contiguous() for x in (u, dt, B, C))
    return _kernel()(u, dt, A.contiguous(), B, C, D).transpose(1, 2)


def lane_length(b: int, length: int, device: torch.device | str = "cpu") -> int:
    """Tokens of a lane for b sequences of `length` tokens.

    With many sequences there is one lane a sequence, which saves half of the forward pass.
    """
    if torch.device(device).type != "cpu":
        return max(1, math.isqrt(length // CALLS))  # least of CALLS q + length / q
    if b >= ROWS // 2:
        return length
    return max(LEAST_LANE, math.ceil(length * b / ROWS))


def _by_lane(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, lane: int | None = None
) -> Tensor:
    """Cut sequences into lanes of q tokens, scan, and put them together again."""
    b, length = u.shape[:2]
    if not u.numel():
        return u
    q = min(lane or lane_length(b, length, u.device), length)
    parts = [_lanes(x, q) for x in (u * dt, dt, B, C)]
    y = _LaneScan.apply(*parts, A.T, b)
    return (
        y.reshape(q, b, -1, u.shape[2]).permute(1, 2, 0, 3).reshape(b, -1, u.shape[2])[:, :length]
    )


def _lanes(x: Tensor, q: int) -> Tensor:
    """Cut sequences into k lanes: (b, l, f) -> (q, b k, f), with zeros after the last token."""
    b, length, f = x.shape
    x = F.pad(x, (0, 0, 0, -length % q)) if length % q else x
    return x.reshape(b, -1, q, f).permute(2, 0, 1, 3).reshape(q, -1, f).contiguous()


class _LaneScan(torch.autograd.Function):
    """Scan of lanes side by side; keeps the input and one state a lane.

    States are (b k, n, d): the many channels last make long vectors of every operation.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, v: Tensor, dt: Tensor, B: Tensor, C: Tensor, rate: Tensor, b: int
    ) -> Tensor:
        """Scan: v = dt u and dt (q, b k, d), B and C (q, b k, n), rate = A' (n, d) -> (q, b k, d).

        The lanes of each of the b sequences follow one another.
        """
        rate = rate.contiguous()
        start = _starts(v, dt, B, rate, b)
        h, decay, y = start.clone(), torch.empty_like(start), torch.empty_like(v)
        for i in range(len(v)):
            _decay(dt[i], rate, decay)
            h.mul_(decay).addcmul_(v[i].unsqueeze(1), B[i].unsqueeze(2))
            _weighted(C[i], h, y[i])
        ctx.save_for_backward(v, dt, B, C, rate, start)
        ctx.sequences = b
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gy: Tensor) -> tuple[Tensor | None, ...]:
        """Adjoint: g_t = C_t gy_t + exp(dt_{t+1} A) g_{t+1}, and what it says of the inputs."""
        v, dt, B, C, rate, start = ctx.saved_tensors
        gy, q = gy.contiguous(), len(v)
        stride = max(1, math.isqrt(q))
        marks, g = _marks_and_tails(v, dt, B, C, rate, start, gy, stride, ctx.sequences)
        grads = [torch.empty_like(x) for x in (v, dt, B, C)]
        total = torch.zeros_like(start)
        for m in range(len(marks) - 1, -1, -1):
            steps = range(m * stride, min(q, (m + 1) * stride))
            states, decays = _states_again(v, dt, B, rate, marks.pop(), steps)
            for i in reversed(steps):
                g.addcmul_(gy[i].unsqueeze(1), C[i].unsqueeze(2))
                _weighted(B[i], g, grads[0][i])
                _weighted(v[i], g.mT, grads[2][i])
                _weighted(gy[i], states.pop().mT, grads[3][i])
                g.mul_(decays.pop())
                slope = g * states[-1]  # of the loss by dt_i A
                total.addcmul_(slope, dt[i].unsqueeze(1))
                torch.sum(slope.mul_(rate), 1, out=grads[1][i])
        return *grads, total.sum(0), None


def _decay(dt: Tensor, rate: Tensor, out: Tensor) -> Tensor:
    """exp(dt A) of a token in every lane: (r, d), (n, d) -> (r, n, d)."""
    return torch.mul(dt.unsqueeze(1), rate, out=out).exp_()


def _weighted(weights: Tensor, rows: Tensor, out: Tensor) -> None:
    """Weighted sum of a matrix's rows: (r, p), (r, p, q) -> (r, q).

    As row by matrix, contiguous: torch works off other products of a batch one by one.
    """
    torch.bmm(weights.unsqueeze(1), rows, out=out.unsqueeze(1))


def _starts(v: Tensor, dt: Tensor, B: Tensor, rate: Tensor, b: int) -> Tensor:
    """States in which the lanes start: (b k, n, d)."""
    rows = v.shape[1]
    start = v.new_zeros(rows, *rate.shape)
    if rows == b:
        return start
    end, decay = torch.zeros_like(start), torch.empty_like(start)
    for i in range(len(v)):  # as if every lane started at zero
        _decay(dt[i], rate, decay)
        end.mul_(decay).addcmul_(v[i].unsqueeze(1), B[i].unsqueeze(2))
    _decay(dt.sum(0), rate, decay)
    start, end, decay = (x.view(b, -1, *rate.shape) for x in (start, end, decay))
    for j in range(1, start.shape[1]):
        torch.addcmul(end[:, j - 1], decay[:, j - 1], start[:, j - 1], out=start[:, j])
    return start.view(rows, *rate.shape)


def _marks_and_tails(
    v: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    rate: Tensor,
    start: Tensor,
    gy: Tensor,
    stride: int,
    b: int,
) -> tuple[list[Tensor], Tensor]:
    """Return the states before every `stride`-th token, and the adjoint behind every lane's end."""
    h, marks = start.clone(), []
    decay, reach, g = torch.empty_like(h), torch.ones_like(h), torch.zeros_like(h)
    chained = len(h) > b
    for i in range(len(v)):
        if i % stride == 0:
            marks.append(h.clone())
        if not chained and len(marks) * stride >= len(v):
            break
        _decay(dt[i], rate, decay)
        h.mul_(decay).addcmul_(v[i].unsqueeze(1), B[i].unsqueeze(2))
        if chained:  # g: what the lane's own tokens say of its start
            reach.mul_(decay)
            decay.copy_(reach).mul_(C[i].unsqueeze(2))
            g.addcmul_(decay, gy[i].unsqueeze(1))
    tail = torch.zeros_like(h)
    if chained:
        g, reach, tail = (x.view(b, -1, *rate.shape) for x in (g, reach, tail))
        for j in range(g.shape[1] - 1, 0, -1):
            torch.addcmul(g[:, j], reach[:, j], tail[:, j], out=tail[:, j - 1])
    return marks, tail.reshape(h.shape)


def _states_again(
    v: Tensor, dt: Tensor, B: Tensor, rate: Tensor, mark: Tensor, steps: range
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the states before and after the tokens of `steps`, and the tokens' decays."""
    states, decays = [mark], []
    for i in steps:
        decays.append(_decay(dt[i], rate, torch.empty_like(mark)))
        after = decays[-1] * states[-1]
        states.append(after.addcmul_(v[i].unsqueeze(1), B[i].unsqueeze(2)))
    return states, decays
