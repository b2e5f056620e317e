"""What every model promises, whatever it models: a new model is tested by being registered."""

import dataclasses
from itertools import chain, product

import numpy as np
import pytest
import torch
from phantom import (
    RING_AFFINE,
    angle_deg,
    fibre_tensors,
    protocol,
    ring_axes,
    ring_scan,
    tensor_signal,
)

import DMRIMicroLib as dm
from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.fitting import run
from DMRIMicroLib.fitting.outcome import outcome
from DMRIMicroLib.metric import Flag
from DMRIMicroLib.models import METRICS, MODELS
from DMRIMicroLib.models.base import NonlinearModel, PowderModel
from DMRIMicroLib.scan import Scan

ELEMENTS = ("Dxx", "Dyy", "Dzz", "Dxy", "Dxz", "Dyz")
MATRIX = torch.tensor([[0, 3, 4], [3, 1, 5], [4, 5, 2]])
"""Where each element of a tensor's matrix stands among `ELEMENTS`."""

every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
nonlinear_models = pytest.mark.parametrize(
    "model",
    [m for m in MODELS.values() if isinstance(m, NonlinearModel)],
    ids=[name for name, m in MODELS.items() if isinstance(m, NonlinearModel)],
)


def rich(turn: np.ndarray | None = None) -> Acquisition:
    """Enough for every model: shells, directions, b, timing."""
    acq = protocol({700.0: 12, 1500.0: 20, 3000.0: 30})
    bvecs = acq.bvecs if turn is None else acq.bvecs @ turn.T
    return dataclasses.replace(acq, bvecs=bvecs, delta=15.0, Delta=32.0)


def known_to(model: NonlinearModel, acq: Acquisition) -> Acquisition:
    """Volumes that the model's signals are of."""
    return acq.powder() if isinstance(model, PowderModel) else acq


def draw(model: NonlinearModel, n: int = 40, seed: int = 0, margin: float = 0.02) -> torch.Tensor:
    """Parameters inside the bounds: (p, n) float64; directions of unit length, tensors positive."""
    rng = np.random.default_rng(seed)
    rows = []
    for parameter in model.parameters:
        if parameter.size == 3:
            v = rng.normal(size=(3, n))
            rows.append(v / np.linalg.norm(v, axis=0))
        else:
            share = rng.uniform(margin, 1 - margin, (1, n))
            rows.append(parameter.low + share * (parameter.high - parameter.low))
    x = np.concatenate(rows)
    if has_tensor(model):
        axes = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
        tensor = np.einsum("nik,nk,njk->ijn", axes, rng.uniform(0.1, 2.2, (n, 3)), axes)
        x[:6] = tensor[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    return torch.tensor(x)


def has_tensor(model: NonlinearModel) -> bool:
    return tuple(p.name for p in model.parameters[:6]) == ELEMENTS


def turned(model: NonlinearModel, x: torch.Tensor, turn: np.ndarray) -> torch.Tensor:
    """Turn what has an orientation."""
    out, matrix = x.clone(), torch.tensor(turn)
    for parameter in model.parameters:
        if parameter.size == 3:
            out[model.rows[parameter.name]] = matrix @ x[model.rows[parameter.name]]
    if has_tensor(model):
        tensor = torch.einsum("ai,ijn,bj->abn", matrix, x[:6][MATRIX], matrix)
        out[:6] = tensor[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    return out


def corners(model: NonlinearModel) -> torch.Tensor:
    """Every combination of bounds: (p, 2^q) float64; a direction stays where it is."""
    choices = [[[0.6, 0.0, 0.8]] if p.size == 3 else [[p.low], [p.high]] for p in model.parameters]
    return torch.tensor([list(chain(*c)) for c in product(*choices)], dtype=torch.float64).T


def along_the_sphere(model: NonlinearModel, x: torch.Tensor, jacobian: torch.Tensor):
    """Take from a Jacobian what would change the length of a direction: it has no meaning."""
    out = jacobian.clone()
    for parameter in model.parameters:
        if parameter.size == 3:
            rows = model.rows[parameter.name]
            v = x[rows][:, None]
            out[rows] -= v * (v * out[rows]).sum(0)
    return out


def tissue_scan(sigma: float = 10.0) -> Scan:
    """Neurites, what is around them, and some water: hardly a metric lies at its limit."""
    acq, shape = rich(), (6, 7, 2)
    axis = ring_axes(RING_AFFINE, shape)
    parts = [(0.5, 1.9e-3, 0.1e-3), (0.4, 1.4e-3, 0.6e-3), (0.1, 3e-3, 3e-3)]
    signal = sum(w * tensor_signal(acq, fibre_tensors(axis, *d)) for w, *d in parts)
    noise = np.random.default_rng(0).normal(0, sigma, (2, *signal.shape))
    return Scan(np.hypot(signal + noise[0], noise[1]), RING_AFFINE, acq, np.ones(shape))


def random_turn(seed: int = 3) -> np.ndarray:
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return turn


@nonlinear_models
def test_the_table_of_parameters_is_complete(model):
    names = [p.name for p in model.parameters]
    assert len(set(names)) == len(names)
    assert names[-1] == "S0"
    for p in model.parameters:
        assert p.low < p.high
        assert p.size in (1, 3)
        assert p.meaning
        if p.prior:
            assert p.low <= p.prior[0] <= p.high
            assert p.prior[1] > 0
    rows = [row for s in model.rows.values() for row in range(s.start, s.stop)]
    assert rows == list(range(len(draw(model, 1))))


@every_model
def test_the_model_says_what_it_is(model):
    assert model.name == model.name.lower()
    assert model.title
    assert model.metrics
    assert all(METRICS[m.name] is m for m in model.metrics)
    assert dataclasses.is_dataclass(model)
    assert model.__dataclass_params__.frozen
    assert type(model).__doc__


@every_model
def test_what_an_acquisition_lacks_is_said(model):
    acq = rich()
    assert model.missing(acq) == ()
    assert all(isinstance(text, str) for text in model.cautions(acq))
    weighted = acq.subset(np.flatnonzero(~acq.is_b0))
    assert any("b0" in lack for lack in model.missing(weighted))
    assert model.missing(acq.subset([0, 5]))
    if any(m.needs.timing for m in model.metrics):
        untimed = dataclasses.replace(acq, delta=None)
        assert any("delta" in lack for lack in model.missing(untimed))
    if any(m.needs.shells > 1 for m in model.metrics):
        one_shell = acq.subset([*np.flatnonzero(acq.is_b0), *acq.shells[-1].indices])
        assert any("shells" in lack for lack in model.missing(one_shell))


@every_model
def test_coplanar_directions_are_refused(model):
    acq = rich()
    flat = np.where(acq.is_b0[:, None], 0, acq.bvecs * [1, 1, 0])
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    lacks = model.missing(dataclasses.replace(acq, bvecs=flat @ random_turn().T))
    assert any("degenerate" in lack for lack in lacks)


@nonlinear_models
def test_without_diffusion_weighting_the_signal_is_s0(model):
    acq, x = known_to(model, rich()), draw(model)
    signal = model.signal(acq, x)
    assert signal.shape == (len(acq), x.shape[1])
    np.testing.assert_allclose(signal[acq.is_b0], x[-1:].expand(int(acq.is_b0.sum()), -1))


@nonlinear_models
def test_signals_lie_between_0_and_s0(model):
    acq = known_to(model, rich())
    for x in (draw(model, 200), draw(model, 200, seed=1, margin=0)):
        signal = model.signal(acq, x)
        assert (signal > 0).all()
        assert (signal <= x[-1] * (1 + 1e-9)).all()


@nonlinear_models
def test_the_signal_turns_with_the_tissue(model):
    x, turn = draw(model), random_turn()
    before = model.signal(known_to(model, rich()), x)
    after = model.signal(known_to(model, rich(turn)), turned(model, x, turn))
    np.testing.assert_allclose(after, before, rtol=1e-9)


@nonlinear_models
def test_the_jacobian_is_that_of_the_signal(model):
    acq, x = known_to(model, rich()), draw(model)
    signal, jacobian = model.linearise(acq, x)
    expected, slow = NonlinearModel.linearise(model, acq, x)
    np.testing.assert_allclose(signal, model.signal(acq, x), rtol=1e-8)
    np.testing.assert_allclose(expected, model.signal(acq, x), rtol=1e-12)
    jacobian, slow = (along_the_sphere(model, x, j) for j in (jacobian, slow))
    for parameter in model.parameters:
        rows = model.rows[parameter.name]
        scale = float(slow[rows].abs().max())
        np.testing.assert_allclose(jacobian[rows], slow[rows], rtol=1e-8, atol=1e-8 * scale)


@nonlinear_models
def test_the_signal_can_be_differentiated_backwards(model):
    acq = known_to(model, rich())
    acq = acq if isinstance(model, PowderModel) else acq.subset([0, 4, 20, 50])
    x = draw(model, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model.signal(acq, x), x, atol=1e-6, rtol=1e-5)


@nonlinear_models
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_becomes_infinite_at_the_bounds(model, dtype):
    acq, x = known_to(model, rich()), corners(model).to(dtype)
    signal, jacobian = model.linearise(acq, x)
    assert torch.isfinite(signal).all()
    assert torch.isfinite(jacobian).all()
    for value in model.derive(x).values():
        assert torch.isfinite(value).all()


@nonlinear_models
def test_every_metric_is_derived_and_in_range(model):
    for x in (draw(model), draw(model, margin=0, seed=1)):
        derived = model.derive(x)
        assert list(derived) == [m.name for m in model.metrics]
        for metric in model.metrics:
            value = derived[metric.name]
            channels = () if metric.kind == "scalar" else (metric.channels,)
            assert value.shape == (*channels, x.shape[1])
            assert torch.isfinite(value).all()
            assert value.min() >= metric.low - 1e-9
            assert value.max() <= metric.high + 1e-9
        unclear = model.undetermined(derived)
        assert unclear is None or (unclear.shape == x[0].shape and unclear.dtype == torch.bool)


@nonlinear_models
def test_metrics_can_be_differentiated(model):
    x = draw(model).requires_grad_()
    for metric in model.metrics:
        (slope,) = torch.autograd.grad(
            model.derive(x)[metric.name].sum(), x, materialize_grads=True
        )
        assert torch.isfinite(slope).all()


@nonlinear_models
def test_single_precision_is_near_double(model):
    acq, x = known_to(model, rich()), draw(model)
    signal, jacobian = model.linearise(acq, x)
    single, slope = model.linearise(acq, x.float())
    assert single.dtype == slope.dtype == torch.float32
    np.testing.assert_allclose(single, signal, atol=1e-5)
    for wide, narrow in zip(jacobian, slope, strict=True):
        np.testing.assert_allclose(narrow, wide, atol=1e-4 * float(wide.abs().max()) + 1e-12)
    derived = model.derive(x)
    for name, value in model.derive(x.float()).items():
        assert value.dtype == torch.float32
        span = METRICS[name].high - METRICS[name].low
        np.testing.assert_allclose(value, derived[name], atol=1e-4 * span)


@nonlinear_models
def test_a_start_is_near_the_signal_and_leaves_it_alone(model):
    acq, x = known_to(model, rich()), draw(model, 60, margin=0.1)
    x[-1] = 1
    signal = model.signal(acq, x).float()
    kept = signal.clone()
    starts = model.start(acq, signal)
    assert starts.shape[1:] == (len(x), 60)
    assert starts.dtype == torch.float32
    assert torch.isfinite(starts).all()
    assert torch.equal(signal, kept)
    misfit = torch.stack([(model.signal(acq, s) - signal).square().mean(0).sqrt() for s in starts])
    assert misfit.amin(0).median() < 0.1
    for parameter in model.parameters:
        if parameter.size == 3:
            norm = starts[:, model.rows[parameter.name]].norm(dim=1)
            np.testing.assert_allclose(norm, 1, atol=1e-5)


@nonlinear_models
def test_a_start_survives_noise_below_zero(model):
    """Signals that are 0 or negative carry nothing, and must not spoil the start either."""
    acq = known_to(model, rich())
    signal = torch.zeros(len(acq), 3)
    signal[:, 1] = -0.1
    signal[:2, 2] = 1
    assert torch.isfinite(model.start(acq, signal)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@nonlinear_models
def test_a_gpu_computes_the_same(model):
    acq, x = known_to(model, rich()), draw(model)
    signal, jacobian = model.linearise(acq, x)
    there, slope = model.linearise(acq, x.cuda())
    np.testing.assert_allclose(there.cpu(), signal, rtol=1e-9)
    np.testing.assert_allclose(slope.cpu(), jacobian, rtol=1e-8, atol=1e-9)
    assert model.start(acq, there).is_cuda
    for name, value in model.derive(x.cuda()).items():
        np.testing.assert_allclose(value.cpu(), model.derive(x)[name], rtol=1e-8, atol=1e-9)


@every_model
def test_what_a_fit_finds_is_in_range_before_it_is_held_there(model, monkeypatch):
    """The limits of a metric are those of its values: holding them there must be rare."""
    seen = []

    def spy(model, found):
        made = outcome(model, found)
        seen.append((model.derive(found.parameters), made.flags))
        return made

    monkeypatch.setattr(run, "outcome", spy)
    dm.fit(tissue_scan(), model)
    flags = torch.cat([flags for _, flags in seen])
    assert (flags == Flag.GOOD).float().mean() > 0.9
    for metric in model.metrics:
        value = torch.cat([derived[metric.name] for derived, _ in seen], dim=-1)
        slack = 1e-3 * (metric.high - metric.low)
        inside = (value >= metric.low - slack) & (value <= metric.high + slack)
        assert inside.float().mean() > 0.9, metric.name


@every_model
def test_maps_are_in_range_and_turn_with_the_scan(model):
    acq = rich()
    scan = ring_scan(acq, shape=(6, 7, 2), sigma=20).with_mask(np.ones((6, 7, 2)))
    turn = random_turn()
    maps = dm.fit(scan, model)
    again = dm.fit(Scan(scan.signal, scan.affine, rich(turn), scan.mask), model)
    for metric in model.metrics:
        data, other = np.asarray(maps[metric.name]), np.asarray(again[metric.name])
        assert data.shape == (*scan.shape, *((metric.channels,) if metric.channels > 1 else ()))
        assert np.isfinite(data).all()
        if metric.kind == "scalar":
            assert data.min() >= metric.low
            assert data.max() <= metric.high
            # an iterative fit may end elsewhere in a flat valley, in some voxels
            near = np.abs(data - other) < 2e-3 * (metric.high - metric.low)
            assert near.mean() > 0.95
        elif metric.kind == "vector":
            assert np.median(angle_deg(other @ turn, data)) < 0.05
