"""MAP-MRI: against dipy, against closed forms and quadrature, and in awkward voxels."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from phantom import angle_deg, directions, fibre_tensors, protocol, tensor_signal
from scipy.special import eval_hermite, factorial

import DMRIMicroLib as dm
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.fitting.likelihood import Likelihood
from DMRIMicroLib.fitting.outcome import outcome
from DMRIMicroLib.fitting.regularised import RegularisedLeastSquares
from DMRIMicroLib.models import DTI
from DMRIMicroLib.models.framed import eigensystem
from DMRIMicroLib.models.mapmri import MAPMRI, diffusion_time
from DMRIMicroLib.physics.hermite import HermiteSum, hermite_basis, hermite_orders
from DMRIMicroLib.physics.noise import variance

CPU = torch.device("cpu")
RICIAN = Likelihood("rician")
SMALL_DELTA, BIG_DELTA = 16.2, 26.5  # ms, of the example scan


def timed(acq, **times):
    return dataclasses.replace(acq, **({"delta": SMALL_DELTA, "Delta": BIG_DELTA} | times))


def two_shells(n: int = 40):
    return timed(protocol({1000.0: n, 2500.0: n}, b0=5))


def fit(model, acq, signal, dtype=torch.float64, **options):
    """Solve, and derive the metrics."""
    of_solver = {k: options.pop(k) for k in ("weight", "likelihood") if k in options}
    solver = RegularisedLeastSquares(model, acq, device=CPU, dtype=dtype, **of_solver)
    fitted = solver.fit(torch.as_tensor(np.asarray(signal)).to(dtype), **options)
    return fitted, model.derive(fitted.parameters)


def example_signal(example, count: int):
    """Signals of some voxels of the real scan, with its timing: (count, m) float32."""
    image, mask = example
    scan = dm.load(image, mask=mask)
    voxels = scan.voxels(scan.mask)
    chosen = np.random.default_rng(0).choice(len(voxels), count, replace=False)
    return timed(scan.acquisition), voxels[chosen]


def mixture(acq, n: int = 60, seed: int = 0):
    """Signals of two crossing fibres and water in random shares: (n, m), S0 = 1000."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet([3, 2, 1], n).T * 1000
    axes = rng.normal(size=(2, n, 3))
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    fibres = [tensor_signal(acq, fibre_tensors(a), s) for a, s in zip(axes, share, strict=False)]
    return sum(fibres) + share[2][:, None] * np.exp(-acq.bvals * 3e-3)


def plain_basis(model, acq, frame):
    """Özarslan et al., eq. 4 and 23, written out for one voxel: (9,) frame -> (m, k)."""
    scales, first, second = np.split(np.asarray(frame), 3)
    axes = np.stack([first, second, np.cross(first, second)])
    q = np.sqrt(acq.bvals / 1e3 / diffusion_time(acq))[:, None] * acq.bvecs / (2 * np.pi)
    columns = []
    for orders in hermite_orders(model.radial_order):
        column = np.ones(len(acq), dtype=complex)
        for n, scale, axis in zip(orders, scales, axes, strict=True):
            s = 2 * np.pi * scale * (q @ axis)
            norm = 1j**-n / np.sqrt(2.0**n * factorial(n))
            column *= norm * np.exp(-s * s / 2) * eval_hermite(n, s)
        assert abs(column.imag).max() < 1e-12
        columns.append(column.real)
    return np.stack(columns, 1)


def grid(scales, count: int = 8):
    """Gauss-Hermite points over all q of products of two basis functions.

    Returns s (1, 3, count^3) and weights [um^-3] that take exp(-s^2) out of the integrand.
    """
    nodes, weights = np.polynomial.hermite.hermgauss(count)
    points = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij")).reshape(3, -1)
    volume = weights[:, None, None] * weights[:, None] * weights
    volume = volume.ravel() * np.exp((points**2).sum(0)) / np.prod(2 * np.pi * np.asarray(scales))
    return torch.tensor(points)[None], volume


# the basis and its penalty


@pytest.mark.parametrize("order", [0, 2, 4, 6, 8])
def test_there_are_as_many_functions_as_the_paper_says(order):
    half = order // 2
    count = (half + 1) * (half + 2) * (4 * half + 3) // 6  # Özarslan et al., below eq. 23
    orders = hermite_orders(order)
    assert len(orders) == len({tuple(o) for o in orders}) == count
    assert (orders.sum(1) % 2 == 0).all()
    assert orders.sum(1).max() == order
    assert hermite_basis(torch.zeros(2, 3, 5), order).shape == (2, count, 5)


@pytest.mark.parametrize("order", [0, 4, 6])
def test_basis_equals_the_formula_written_out(order):
    model, acq = MAPMRI(radial_order=order), two_shells(12)
    tensor = torch.tensor([[1.6, 0.9, 0.3, 0.2, -0.1, 0.15], [0.8, 0.8, 0.8, 0, 0, 0]]).double().T
    frame = model.frame(acq, *eigensystem(tensor))
    basis = model.basis(acq, frame)
    for k in range(2):
        np.testing.assert_allclose(basis[k], plain_basis(model, acq, frame[:, k]), atol=1e-13)


def test_penalty_equals_the_integral_of_the_squared_laplacian():
    model = MAPMRI(radial_order=4)
    scales = [9.0, 6.0, 4.0]  # um
    frame = torch.tensor([*scales, 1, 0, 0, 0, 1, 0], dtype=torch.float64)[:, None]
    s, volume = grid(scales)

    def functions(point):
        return hermite_basis(point[None, :, None], 4)[0, :, 0]

    second = torch.func.vmap(torch.func.hessian(functions))(s[0].T)  # (points, k, 3, 3)
    steps = (2 * np.pi * frame[:3, 0]) ** 2
    laplacian = (second.diagonal(dim1=-2, dim2=-1) * steps).sum(-1).numpy()
    expected = np.einsum("pi,pj,p->ij", laplacian, laplacian, volume)  # um
    np.testing.assert_allclose(model.penalty(frame)[0], expected * 1e-3, rtol=1e-9, atol=1e-12)


def test_probabilities_are_the_integrals_of_the_signal():
    model = MAPMRI(radial_order=6)
    rng = np.random.default_rng(1)
    k, scales = model.coefficients, np.array([9.0, 6.0, 4.0])
    coefficients = np.r_[1, rng.normal(0, 0.1, k - 1)]
    parameters = torch.tensor(np.r_[coefficients, scales, 1, 0, 0, 0, 1, 0])[:, None]
    origin = coefficients @ hermite_basis(torch.zeros(1, 3, 1).double(), 6)[0, :, 0].numpy()
    nodes, weights = np.polynomial.hermite.hermgauss(20)
    nodes, weights = nodes * 2**0.5, weights * np.exp(nodes**2) * 2**0.5  # for exp(-s^2 / 2)

    def integral(axes):
        """Over q along some axes [1/um each], at 0 on the others."""
        mesh = np.meshgrid(*[nodes if a in axes else [0.0] for a in range(3)], indexing="ij")
        volume = np.meshgrid(*[weights if a in axes else [1.0] for a in range(3)], indexing="ij")
        points = torch.tensor(np.stack(mesh).reshape(1, 3, -1))
        signal = coefficients @ hermite_basis(points, 6)[0].numpy() / origin
        step = np.prod([2 * np.pi * scales[a] for a in axes])
        return (signal * np.prod(volume, axis=0).ravel()).sum() / step

    got = model.derive(parameters)
    for name, axes in (("RTOP", (0, 1, 2)), ("RTAP", (1, 2)), ("RTPP", (0,))):
        expected = integral(axes) * 1e3 ** len(axes)  # 1/um to 1/mm
        np.testing.assert_allclose(got[name], expected, rtol=1e-10)


def test_axes_are_those_of_the_tensor():
    rng = np.random.default_rng(3)
    factors = rng.normal(size=(200, 3, 3))
    tensors = factors @ factors.swapaxes(1, 2)
    tensors[0], tensors[1] = np.eye(3), np.diag([1.5, 0.4, 0.4])
    model, acq = MAPMRI(), two_shells()
    packed = torch.tensor(tensors[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]].T)
    scales, first, second = np.split(model.frame(acq, *eigensystem(packed)).numpy(), 3)
    values, vectors = np.linalg.eigh(tensors)
    held = np.clip(values[:, ::-1], 0.1, 10).T
    np.testing.assert_allclose(scales, np.sqrt(2 * held * diffusion_time(acq)), rtol=1e-9)
    np.testing.assert_allclose((first * second).sum(0), 0, atol=1e-12)
    np.testing.assert_allclose([(v * v).sum(0) for v in (first, second)], 1, rtol=1e-12)
    assert angle_deg(first.T[2:], vectors[2:, :, 2]).max() < 1e-3
    assert angle_deg(second.T[2:], vectors[2:, :, 1]).max() < 1e-3


# closed forms


@pytest.mark.parametrize(("weight", "limit"), [(0.0, 1e-9), (1e-4, 1e-3)])
def test_gaussian_diffusion_gives_the_closed_forms(weight, limit):
    acq = two_shells()
    along, across = np.array([1.7, 1.2, 0.8, 2.9]) * 1e-3, np.array([0.3, 0.5, 0.8, 2.7]) * 1e-3
    tensors = np.stack(list(map(fibre_tensors, directions(4, seed=5), along, across)))
    model = MAPMRI(radial_order=4)  # as much as two shells determine without a penalty
    fitted, got = fit(model, acq, tensor_signal(acq, tensors), weight=weight)
    width = 4 * np.pi * diffusion_time(acq) * 1e-3  # s: of exp(-r2 / (4 D tau))
    assert fitted.good.all()
    np.testing.assert_allclose(got["RTOP"], (width**3 * along * across**2) ** -0.5, rtol=limit)
    np.testing.assert_allclose(got["RTAP"], (width * across) ** -1, rtol=2 * limit)
    np.testing.assert_allclose(got["RTPP"], (width * along) ** -0.5, rtol=limit)


def test_more_weight_makes_a_smoother_signal_that_is_further_from_the_data():
    acq, model = two_shells(), MAPMRI()
    signal, k = mixture(acq), model.coefficients
    residuals, roughness = [], []
    for weight in (1e-4, 1e-2, 0.2, 2.0):
        parameters = fit(model, acq, signal, weight=weight)[0].parameters
        residuals.append(np.square(model.signal(acq, parameters).numpy().T - signal).sum(1))
        a = parameters[:k].T
        roughness.append(torch.einsum("ni,nij,nj->n", a, model.penalty(parameters[k:]), a).numpy())
    assert (np.diff(residuals, axis=0) > 0).all()
    assert (np.diff(roughness, axis=0) < 0).all()


def test_fitted_signal_is_near_that_of_crossing_fibres():
    acq = two_shells()
    signal = mixture(acq)
    model = MAPMRI()
    fitted, _ = fit(model, acq, signal, weight=1e-3)
    assert np.abs(model.signal(acq, fitted.parameters).numpy().T - signal).max() < 10  # S0 = 1000


def test_metrics_do_not_turn_with_the_head():
    acq = two_shells()
    signal = mixture(acq)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turned = dataclasses.replace(acq, bvecs=acq.bvecs @ turn.T)
    _, one = fit(MAPMRI(), acq, signal)
    _, other = fit(MAPMRI(), turned, signal)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6)


# dipy


@pytest.mark.parametrize(
    ("order", "tensor", "threshold"),
    [(6, DTI(), 1501), (4, DTI(b_high=math.inf), math.inf)],
    ids=["order 6, tensor of low b", "order 4, tensor of all volumes"],
)
def test_equals_dipy_on_the_real_scan(example, order, tensor, threshold):
    from dipy.core.gradients import gradient_table
    from dipy.reconst.mapmri import MapmriModel

    acq, signal = example_signal(example, 200)
    clean = (signal > 0).all(1)  # dipy takes samples of 0 for 1e-4, we leave them out
    table = gradient_table(
        acq.bvals,
        bvecs=acq.bvecs,
        b0_threshold=50,
        big_delta=acq.Delta / 1e3,
        small_delta=acq.delta / 1e3,
    )
    theirs = MapmriModel(
        table,
        radial_order=order,
        laplacian_regularization=True,
        laplacian_weighting=0.2,
        bval_threshold=threshold,
    ).fit(signal[clean].astype(np.float64))
    for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 3e-4)):
        fitted, ours = fit(MAPMRI(radial_order=order, tensor=tensor), acq, signal[clean], dtype)
        assert fitted.good.all()
        for name in ours:
            expected = np.array(getattr(theirs, name.lower())(), dtype=np.float64)
            error = np.abs(ours[name].numpy() / expected - 1)
            assert np.median(error) < limit / 10, (name, dtype)
            assert np.percentile(error, 98) < limit, (name, dtype)  # RTOP is near 0 in a few


# the solver


def test_solver_equals_a_plain_loop_over_voxels():
    """The slow readable reference of the batched solver, unusable samples included."""
    acq, model = two_shells(), MAPMRI()
    rng = np.random.default_rng(0)
    signal = mixture(acq) + rng.normal(0, 20, (60, len(acq)))
    signal[::5, 7] = 0
    signal[::7, 30] = np.nan
    signal[::9, 50:60] = -3
    sigma = rng.uniform(10, 30, 60)
    fitted, _ = fit(model, acq, signal, deviations=True, sigma=torch.tensor(sigma))
    estimated, _ = fit(model, acq, signal, deviations=True)
    k = model.coefficients
    for v, samples in enumerate(signal):
        ok = np.isfinite(samples) & (samples > 0)
        frame = fitted.parameters[k:, v]
        m, y = plain_basis(model, acq, frame)[ok], samples[ok]
        inverse = np.linalg.inv(m.T @ m + 0.2 * model.penalty(frame[:, None])[0].numpy())
        a = inverse @ m.T @ y
        np.testing.assert_allclose(fitted.parameters[:k, v], a, rtol=1e-7, atol=1e-7)
        assert fitted.usable[v] == ok.sum()
        rest = np.eye(len(y)) - m @ inverse @ m.T
        noise = np.sqrt((rest @ y) @ (rest @ y) / np.trace(rest @ rest))  # of the residuals
        ratio = estimated.deviations["RTOP"][v] / fitted.deviations["RTOP"][v]
        np.testing.assert_allclose(ratio, noise / sigma[v], rtol=1e-3)
    assert fitted.good.all()


def test_blocks_do_not_change_the_answer(monkeypatch):
    acq = two_shells()
    signal = mixture(acq)
    options = {"deviations": True, "sigma": 20.0, "likelihood": RICIAN}
    whole, _ = fit(MAPMRI(), acq, signal, **options)
    monkeypatch.setitem(RegularisedLeastSquares.__init__.__globals__["BLOCK_BYTES"], "cpu", 2**19)
    parts, _ = fit(MAPMRI(), acq, signal, **options)
    torch.testing.assert_close(whole.parameters, parts.parameters)
    torch.testing.assert_close(whole.deviations, parts.deviations)


def test_cross_validation_chooses_what_a_plain_search_chooses():
    acq, model = two_shells(), MAPMRI(radial_order=4)
    signal = np.abs(mixture(acq, n=6) + np.random.default_rng(4).normal(0, 40, (6, len(acq))))
    chosen, _ = fit(model, acq, signal, weight="gcv")
    k = model.coefficients
    for v, y in enumerate(signal):
        frame = chosen.parameters[k:, v : v + 1]
        m, penalty = plain_basis(model, acq, frame[:, 0]), model.penalty(frame)[0].numpy()

        def cost(weight, m=m, y=y, penalty=penalty):
            smooth = m @ np.linalg.inv(m.T @ m + weight * penalty) @ m.T
            return ((y - smooth @ y) ** 2).sum() / (len(y) - np.trace(smooth)) ** 2

        weights = np.logspace(-5, 1, 49)
        best = weights[np.argmin([cost(w) for w in weights])]
        a = np.linalg.solve(m.T @ m + best * penalty, m.T @ y)
        np.testing.assert_allclose(chosen.parameters[:k, v], a, rtol=1e-6, atol=1e-6)


def test_float32_is_as_good_as_float64(example):
    acq, signal = example_signal(example, 500)
    options = {"deviations": True, "sigma": 14.0, "likelihood": RICIAN}
    rough, single = fit(MAPMRI(), acq, signal, torch.float32, **options)
    fine, double = fit(MAPMRI(), acq, signal, torch.float64, **options)
    for name in single:
        error = (rough.deviations[name] / fine.deviations[name] - 1).abs()
        assert error.quantile(0.99) < 5e-4, name
        error = (single[name] / double[name] - 1).abs()
        assert error.median() < 2e-5, name
        assert error.quantile(0.99) < 5e-4, name


# noise


def test_slopes_of_sums_are_those_of_the_basis():
    rng = torch.Generator().manual_seed(0)
    for order in (0, 2, 6):
        k = len(hermite_orders(order))
        s = torch.randn(3, 3, 5, generator=rng, dtype=torch.float64, requires_grad=True)
        coefficients = torch.randn(3, 2, k, generator=rng, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(3, 2, 5, generator=rng, dtype=torch.float64)
        got = HermiteSum.apply(s, coefficients, order)
        plain = coefficients @ hermite_basis(s, order)
        torch.testing.assert_close(got, plain)
        ours, theirs = (
            torch.autograd.grad((f * weight).sum(), (s, coefficients)) for f in (got, plain)
        )
        torch.testing.assert_close(ours, theirs)


def brute_deviations(model, acq, signal, noise, **options):
    """Standard deviations of one voxel's metrics, by changing one sample after the other."""
    step = 0.01 * np.eye(len(acq))  # S0 = 1000
    above, below = (fit(model, acq, signal + s, **options)[1] for s in (step, -step))
    return {k: np.sqrt((((above[k] - below[k]) / 0.02) ** 2 * noise).sum()) for k in above}


def kinked(acq, n: int):
    """Signals of tensors up to b = 1000, of something else beyond: (n, m), S0 = 1000.

    The weights of the tensor fit then do not change with the samples to first order.
    """
    frames = np.linalg.qr(np.random.default_rng(1).normal(size=(n, 3, 3)))[0]
    tensors = frames * np.array([1.7e-3, 0.8e-3, 0.3e-3]) @ frames.swapaxes(1, 2)
    signal = tensor_signal(acq, tensors)
    high = acq.bvals > 1500
    signal[:, high] = 80 + 0.8 * signal[:, high] * (1 + 0.1 * acq.bvecs[high, 0] ** 2)
    return signal


def test_standard_deviations_are_those_of_the_derivatives_of_the_whole_estimator():
    acq, model, sigma = two_shells(30), MAPMRI(), 0.1
    for signal in kinked(acq, 3):
        expected = brute_deviations(model, acq, signal, sigma**2)
        fitted, _ = fit(model, acq, signal[None], deviations=True, sigma=sigma)
        for name, value in fitted.deviations.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4)


def test_taking_out_the_noise_floor_is_part_of_the_standard_deviations():
    acq, model, sigma = two_shells(30), MAPMRI(), 50.0
    options = {"sigma": sigma, "likelihood": RICIAN}
    for signal in kinked(acq, 3):
        fitted, _ = fit(model, acq, signal[None], deviations=True, **options)
        noise = variance(model.signal(acq, fitted.parameters).clamp(min=0), sigma)[:, 0].numpy()
        expected = brute_deviations(model, acq, signal, noise, **options)
        for name, value in fitted.deviations.items():
            np.testing.assert_allclose(value, expected[name], rtol=0.03)


def test_axes_that_noise_turns_freely_have_finite_deviations():
    """Where eigenvalues are equal, a derivative is infinite; what noise does is not."""
    acq, model, sigma = two_shells(), MAPMRI(), 20.0
    clean = 1000 * (0.6 * np.exp(-acq.bvals * 0.8e-3) + 0.4 * np.exp(-acq.bvals * 2e-3))
    exact, _ = fit(model, acq, clean[None], deviations=True, sigma=sigma)
    noisy = rician(np.broadcast_to(clean, (300, len(acq))), sigma)
    fitted, got = fit(model, acq, noisy, deviations=True, sigma=sigma, likelihood=RICIAN)
    for name, value in fitted.deviations.items():
        spread = got[name].std()
        assert spread < value.square().mean().sqrt() < 2 * spread, name  # 5 as they stand
        assert 0.5 * spread < exact.deviations[name] < 2 * spread, name


def rician(signal, sigma, seed: int = 0):
    rng = np.random.default_rng(seed)
    return np.hypot(signal + rng.normal(0, sigma, signal.shape), rng.normal(0, sigma, signal.shape))


def test_standard_deviations_are_those_of_repeated_noise():
    acq, model, sigma = two_shells(), MAPMRI(), 1000 / 30
    for clean in mixture(acq, n=3):
        noisy = rician(np.broadcast_to(clean, (600, len(acq))), sigma)
        fitted, got = fit(model, acq, noisy, deviations=True, sigma=sigma, likelihood=RICIAN)
        for name, value in fitted.deviations.items():
            assert 0.9 < float(got[name].std() / value.median()) < 1.1, name


def test_intervals_hold_the_truth_as_often_as_they_say():
    acq, model = two_shells(), MAPMRI()
    clean = mixture(acq, n=500)
    _, truth = fit(model, acq, clean)
    for snr in (20, 50):
        sigma = 1000 / snr
        fitted, got = fit(
            model, acq, rician(clean, sigma), deviations=True, sigma=sigma, likelihood=RICIAN
        )
        for name, value in fitted.deviations.items():
            error = (got[name] - truth[name]).abs() / value
            assert 0.60 < (error < 1).double().mean() < 0.76, (name, snr)
            assert 0.90 < (error < 1.96).double().mean() < 0.98, (name, snr)


def test_noise_floor_is_taken_out_where_the_noise_is_known():
    acq, model, sigma = two_shells(), MAPMRI(), 50.0
    clean = mixture(acq, n=500)
    _, truth = fit(model, acq, clean)
    noisy = rician(clean, sigma)
    _, left = fit(model, acq, noisy, sigma=sigma)
    _, unknown = fit(model, acq, noisy, likelihood=RICIAN)
    _, taken = fit(model, acq, noisy, sigma=sigma, likelihood=RICIAN)
    for name in ("RTOP", "RTPP"):
        before, after = (float((r[name] / truth[name] - 1).median()) for r in (left, taken))
        assert abs(after) < 0.4 * before, name
        torch.testing.assert_close(unknown[name], left[name])


# awkward voxels and acquisitions


def test_nonsense_gives_finite_metrics_and_is_marked():
    acq, model = two_shells(), MAPMRI()
    m = len(acq)
    good = mixture(acq, n=1)[0]
    few, burst = np.full(m, np.nan), good.copy()
    few[:20] = good[:20]
    burst[3] = np.inf
    noise = np.random.default_rng(0).rayleigh(20, m)
    signal = [np.zeros(m), np.full(m, np.nan), np.full(m, -1.0), few, good, burst, np.ones(m)]
    handful = np.where(np.arange(m) % 17 == 3, good, np.nan)  # too few for a tensor
    signal = np.stack([*signal, noise, handful, good[::-1], good * 1e-8, good * 1e8])
    sigma = torch.full((len(signal),), 20.0)
    sigma[-2:] = torch.tensor([20e-8, 20e8])
    for dtype in (torch.float64, torch.float32):
        fitted, got = fit(
            model, acq, signal, dtype, deviations=True, sigma=sigma, likelihood=RICIAN
        )
        for deviation in outcome(model, fitted).deviations.values():
            assert torch.isfinite(deviation).all()
        assert fitted.good.tolist()[:6] == [False] * 4 + [True] * 2
        assert fitted.good[-2:].all()
        assert fitted.usable.tolist()[:6] == [0, 0, 0, 20, m, m - 1]
        assert torch.isfinite(fitted.parameters).all()
        for value in got.values():
            assert torch.isfinite(value).all()
    wild = torch.randn(model.size, 500, generator=torch.Generator().manual_seed(0)) * 100
    for parameters in (wild, torch.zeros(model.size, 3), -torch.ones(model.size, 3)):
        for value in model.derive(parameters).values():
            assert torch.isfinite(value).all()


def test_scale_of_the_signal_does_not_matter():
    acq = two_shells()
    signal = mixture(acq)
    _, one = fit(MAPMRI(), acq, signal, torch.float32)
    _, other = fit(MAPMRI(), acq, signal * 1e5, torch.float32)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=0)


def test_metrics_and_signal_are_differentiable():
    model, acq = MAPMRI(radial_order=4), two_shells(8)
    fitted, _ = fit(model, two_shells(), mixture(two_shells(), n=3))
    parameters = fitted.parameters.clone()
    parameters[: model.coefficients] /= 1000
    parameters.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: model.signal(acq, p), (parameters,))
    scale = {"RTOP": 1e6, "RTAP": 1e4, "RTPP": 1e2}
    assert torch.autograd.gradcheck(
        lambda p: tuple(v / scale[name] for name, v in model.derive(p).items()), (parameters,)
    )


def test_fewer_samples_than_coefficients_are_enough():
    acq = timed(protocol({1000.0: 20, 2500.0: 20}, b0=3))
    assert len(acq) < MAPMRI().coefficients
    assert not MAPMRI().missing(acq)
    signal = mixture(acq)
    fitted, few = fit(MAPMRI(), acq, signal)
    _, many = fit(MAPMRI(), two_shells(), mixture(two_shells()))
    assert fitted.good.all()
    assert (few["RTOP"] / many["RTOP"] - 1).abs().median() < 0.1


@pytest.mark.parametrize(
    ("acq", "word"),
    [
        (protocol({1000.0: 30, 2000.0: 30}), "timing"),
        (timed(protocol({1000.0: 60})), "2 non-zero shells"),
        (timed(protocol({1000.0: 8, 2000.0: 8})), "directions"),
        (timed(protocol({1000.0: 30, 2000.0: 30}, b0=0)), "b0"),
    ],
    ids=["timing", "shells", "directions", "b0"],
)
def test_says_what_an_acquisition_lacks(acq, word):
    assert word in "; ".join(MAPMRI().missing(acq))


def test_flat_directions_are_refused():
    angle = np.pi * np.arange(30) / 30
    flat = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    acq = protocol({1000.0: 30, 2000.0: 30})
    acq = dataclasses.replace(acq, bvecs=np.concatenate([acq.bvecs[:2], flat, flat]))
    assert "degenerate" in "; ".join(MAPMRI().missing(timed(acq)))


def test_what_the_data_leave_open_is_told():
    assert "extrapolated" in MAPMRI().cautions(two_shells())[0]
    assert "3 shells" in MAPMRI().cautions(two_shells())[1]
    assert len(MAPMRI(radial_order=4).cautions(two_shells())) == 1
    assert not MAPMRI().cautions(timed(protocol({1000.0: 30, 3000.0: 30, 6500.0: 30})))


@pytest.mark.parametrize(
    "wrong", [{"radial_order": 3}, {"radial_order": -2}, {"weight": -1.0}, {"weight": math.nan}]
)
def test_unusable_settings_are_refused(wrong):
    with pytest.raises(InputError):
        MAPMRI(**wrong)


def test_unusable_weight_of_the_solver_is_refused():
    for weight in ("auto", -0.1):
        with pytest.raises(InputError, match="weight"):
            RegularisedLeastSquares(
                MAPMRI(), two_shells(), weight=weight, device=CPU, dtype=torch.float32
            )
