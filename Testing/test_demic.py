"""The published codebook: its decay fit, its network, its normalisation."""

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit, nnls

from DMRIMicroLib.codebooks.abg import BETA, check_distinct, fit_abg, predict
from DMRIMicroLib.codebooks.demic import (
    WIDTHS,
    Demic,
    GatedAggregation,
    SliceScan,
    Stage,
    normalise,
)
from DMRIMicroLib.errors import InputError, NotIdentifiable

SMALL = (4, 8)
SHELLS = [
    torch.tensor(b, dtype=torch.float64) for b in ([0, 1, 2], [0, 0.7, 1.2, 2.8], [0, 0.5, 1, 2, 3])
]
"""b-values of spherical means [ms/um2]."""


def curves(b: torch.Tensor, n: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Random alpha, beta, gamma (3, n) and noisy means of them (m, n)."""
    g = torch.Generator().manual_seed(len(b))
    low, wide = torch.tensor([[0.2, 0.1, 0.05], [1.0, 2.5, 0.3]], dtype=torch.float64)[..., None]
    abg = low + wide * torch.rand(3, n, generator=g, dtype=torch.float64)
    spread = noise * torch.randn(len(b), n, generator=g, dtype=torch.float64)
    return abg, (predict(abg, b) + spread).clamp(min=0.02)


def left(means: torch.Tensor, b: torch.Tensor, abg: torch.Tensor) -> torch.Tensor:
    return (means - predict(abg, b)).square().sum(0)


def curve_fitted(means: np.ndarray, b: np.ndarray) -> float:
    """Least sum of squares that scipy's curve fit finds from several starts."""

    def decay(x, alpha, beta, gamma):
        return alpha * np.exp(-beta * x) + gamma

    bounds = ([0, *BETA[:1], 0], [np.inf, *BETA[1:], np.inf])
    sums = []
    for beta in (0.05, 0.5, 2.0, 6.0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, _ = curve_fit(
                decay, b, means, p0=[means[0], beta, 0.05], bounds=bounds, max_nfev=2000
            )
        sums.append(((decay(b, *found) - means) ** 2).sum())
    return min(sums)


@pytest.mark.parametrize("b", SHELLS, ids=len)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_decay_without_noise_comes_back(b, dtype):
    abg, means = curves(b, 500, 0.0)
    found, used = fit_abg(means.to(dtype), b)
    assert used.all()
    assert found.dtype == dtype
    tolerance = 1e-9 if dtype == torch.float64 else 5e-3
    torch.testing.assert_close(found.double(), abg, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("b", SHELLS, ids=len)
def test_it_leaves_no_more_than_scipys_curve_fit(b):
    _, means = curves(b, 40, 0.05)
    found, used = fit_abg(means, b)
    theirs = torch.tensor([curve_fitted(m, b.numpy()) for m in means.T.numpy()])
    assert used.all()
    assert (left(means, b, found) - theirs).max() < 2e-6


def test_alpha_and_gamma_are_the_non_negative_least_squares_of_their_beta():
    b = SHELLS[1]
    _, means = curves(b, 60, 0.2)
    found, _ = fit_abg(means, b)
    assert (found[0] == 0).any()  # both constraints bind somewhere
    assert (found[2] == 0).any()
    for k in range(means.shape[1]):
        basis = np.stack([np.exp(-found[1, k].item() * b.numpy()), np.ones(len(b))], 1)
        theirs, _ = nnls(basis, means[:, k].numpy())
        np.testing.assert_allclose(found[[0, 2], k].numpy(), theirs, atol=1e-9)


def test_the_beta_is_the_best_one():
    b = SHELLS[1]
    _, means = curves(b, 50, 0.1)
    found, _ = fit_abg(means, b)
    betas = torch.logspace(np.log10(BETA[0]), np.log10(BETA[1]), 4000, dtype=torch.float64)
    least = torch.full((50,), torch.inf, dtype=torch.float64)
    for beta in betas:
        basis = np.stack([np.exp(-beta.item() * b.numpy()), np.ones(len(b))], 1)
        sums = [nnls(basis, m)[1] ** 2 for m in means.T.numpy()]
        least = torch.minimum(least, torch.tensor(sums))
    assert (left(means, b, found) - least).max() < 2e-6


def test_the_unit_of_the_signal_changes_alpha_and_gamma_only():
    b = SHELLS[1]
    _, means = curves(b, 50, 0.05)
    one, _ = fit_abg(means, b)
    other, _ = fit_abg(800 * means, b)
    torch.testing.assert_close(other, one * torch.tensor([[800.0], [1], [800]]).double())


def test_dark_and_broken_voxels_are_left_out():
    b = SHELLS[0]
    means = torch.tensor([[1.0, 0.5, 0.2], [1.0, 0.5, 0.01], [1.0, torch.nan, 0.5]]).T
    abg, used = fit_abg(means, b)
    assert used.tolist() == [True, False, False]
    assert abg[:, 0].gt(0).any()
    assert not abg[:, 1:].any()


def test_two_shells_and_b0_are_met_exactly():
    b = SHELLS[0]
    means = torch.tensor([[1.0], [0.5], [0.3]], dtype=torch.float64)
    abg, _ = fit_abg(means, b)
    torch.testing.assert_close(predict(abg, b), means, rtol=0, atol=1e-9)


@pytest.mark.parametrize("b", [[0.0, 1.0], [0.0, 1.0, 1.05], [0.7, 2.0]])
def test_one_shell_cannot_tell_three_numbers(b):
    with pytest.raises(NotIdentifiable, match=r"three distinct b-values.*demic cannot be used"):
        fit_abg(torch.ones(len(b), 4), torch.tensor(b))


def test_three_shells_without_b0_will_do():
    check_distinct(torch.tensor([3.0, 0.7, 2.0]))


def test_the_published_network_has_its_5_2_million_parameters():
    with torch.device("meta"):
        published = Demic()
    assert WIDTHS == (32, 64, 128, 256)
    count = sum(p.numel() for p in published.parameters())
    assert count == by_hand(WIDTHS, 128, 24)
    assert round(count / 1e6, 1) == 5.2


def by_hand(widths: tuple[int, ...], kernels: int, metrics: int) -> int:
    """Parameters counted layer by layer from the published sizes."""

    def conv(into, out, size=1, groups=1):
        return into // groups * out * size**2 + out

    def mamba(c):
        d, rank, states = 2 * c, -(-c // 16), 16
        inside = 4 * d + d + d * (rank + 2 * states) + rank * d + d + d * states + d
        return c * 2 * d + inside + d * c

    def norm(c):
        return 2 * c

    total = conv(3, widths[0])
    for c in widths:
        total += conv(c, 2 * c) + 2 * conv(c, c, 3) + norm(c) + mamba(c)
    c = 2 * widths[-1]
    total += norm(c) + mamba(c) + 4 * conv(c, c) + c  # project, gate, mix, out, contrast
    total += conv(c, c, 5, c) + conv(3 * c // 8, 3 * c // 8, 5, 3 * c // 8)
    total += conv(c // 2, c // 2, 7, c // 2)
    return total + conv(c, kernels) + conv(kernels, metrics) + conv(kernels, 3)


def test_a_small_one_maps_slices_and_every_weight_takes_part():
    torch.manual_seed(0)
    net = Demic(metrics=5, widths=SMALL, kernels=6)
    out = net(torch.randn(2, 3, 9, 11))
    assert out.kernels.shape == (2, 6, 9, 11)
    assert out.metrics.shape == (2, 5, 9, 11)
    assert out.abg.shape == (2, 3, 9, 11)
    sum(x.square().sum() for x in out).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_metrics_and_decay_are_linear_in_the_kernels():
    torch.manual_seed(0)
    net = Demic(metrics=5, widths=SMALL, kernels=6)
    out = net(torch.randn(1, 3, 6, 6))
    pixel = out.kernels[0, :, 2, 3]
    for head, told in ((net.to_metrics, out.metrics), (net.to_abg, out.abg)):
        by_matrix = head.weight[:, :, 0, 0] @ pixel + head.bias
        torch.testing.assert_close(told[0, :, 2, 3], by_matrix)


def test_a_stage_adds_pixels_to_neighbourhood_and_slice():
    torch.manual_seed(0)
    stage, x = Stage(4), torch.randn(1, 4, 8, 8)
    y, pixel = stage(x), stage.pixel(x)
    torch.testing.assert_close(y[:, :4] - pixel[:, :4], stage.near(x))
    torch.testing.assert_close(y[:, 4:] - pixel[:, 4:], stage.far(x))
    assert (stage.near(x) >= 0).all()


def reach(block: torch.nn.Module, width: int, size: int = 33) -> torch.Tensor:
    """Pixels, as (row, column) from the middle one, that reach it."""
    x = torch.randn(1, width, size, size, requires_grad=True)
    middle = size // 2
    block(x)[0, :, middle, middle].sum().backward()
    return (x.grad[0].abs().sum(0) > 1e-3 * x.grad.abs().max()).nonzero() - middle


def test_the_scan_sees_what_lies_before_in_the_slice():
    torch.manual_seed(0)
    seen = reach(SliceScan(8), 8, 9)
    before = (seen[:, 0] < 0) | ((seen[:, 0] == 0) & (seen[:, 1] <= 0))
    assert before.all()
    assert seen[:, 0].min() < 0


def test_aggregation_sees_its_three_neighbourhoods():
    torch.manual_seed(0)
    block = GatedAggregation(16)
    assert [getattr(block, name).weight.shape[0] for name in ("small", "middle", "large")] == [
        16,
        6,  # 3 of 8 parts
        8,  # 4 of 8 parts
    ]
    near, middle, large = (
        reach(torch.nn.Sequential(part), width).abs().max()
        for part, width in ((block.small, 16), (block.middle, 6), (block.large, 8))
    )
    assert (near, middle, large) == (2, 4, 9)
    # 7x7 of dilation 3 after 5x5: 9 + 2 pixels
    assert reach(block, 16).abs().max() == 11


def test_normalised_maps_have_mean_zero_and_unit_spread_over_the_mask():
    g = torch.Generator().manual_seed(0)
    abg = 3 + 2 * torch.rand(3, 4, 5, 6, generator=g)
    mask = torch.rand(4, 5, 6, generator=g) > 0.4
    abg[2] = 0.7
    z = normalise(abg, mask)
    torch.testing.assert_close(z[:, mask].mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z[:2, mask].std(1, correction=0), torch.ones(2))
    assert not z[2].any()  # a constant map stays finite
    assert not z[:, ~mask].any()
    torch.testing.assert_close(normalise(100 * abg, mask), z, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="no voxel"):
        normalise(abg, torch.zeros_like(mask))


@pytest.mark.parametrize("widths", [(), (8, 12), (3, 6)])
def test_widths_that_cannot_be_are_refused(widths):
    with pytest.raises(InputError, match="double"):
        Demic(widths=widths)
