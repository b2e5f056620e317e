"""The scanner: averages against brute force, artefacts one by one, brightness and noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from digital_ball import ball_of_tissue
from phantom import protocol

from DMRIMicroLib.brain import artefacts, unsteady
from DMRIMicroLib.brain.anatomy import CLASSES
from DMRIMicroLib.brain.grid import covering, overlap
from DMRIMicroLib.brain.kernels import soma_diffusivity, stick_kernel
from DMRIMicroLib.brain.machines import SCANNERS, draw_scanner
from DMRIMicroLib.brain.protocols import draw_protocol, named
from DMRIMicroLib.brain.relaxation import RELAXATION, brightness, unweighted, water_snr
from DMRIMicroLib.brain.sampling import sample
from DMRIMicroLib.brain.scanner import Scanner, observe, pair, scan
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.physics.compartments import axial_kernel, sphere_diffusivity
from DMRIMicroLib.physics.tissue import signal as tissue_signal

HCP = {"delta": 10.6, "Delta": 43.1, "TE": 80.0}
PERFECT = Scanner("perfect", sensitivity=math.inf)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def shells(**more):
    acq = replace(protocol({1000.0: 6, 3000.0: 8}), **HCP)
    return replace(acq, **more)


def brute_force(volume, acq, s0, factor):
    """Mean of the signals of all pieces in each voxel, `factor` pieces along each edge."""
    full = s0.new_zeros(*volume.mask.shape, len(acq))
    full[volume.mask] = tissue_signal(volume.state, acq) * (s0 * volume.fill)[:, None]
    n = volume.mask.shape[0] // factor
    return full.view(n, factor, n, factor, n, factor, -1).mean((1, 3, 5))


# averaging


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.float64, 1e-10)])
@pytest.mark.parametrize("timing", [True, False])
def test_averages_are_those_of_the_signals(dtype, error, timing):
    volume = ball_of_tissue(12, dtype=dtype)
    acq = shells() if timing else shells(delta=None, Delta=None)
    s0 = 0.5 + torch.rand(len(volume.fill), generator=seeded(), dtype=dtype)
    grid = covering(volume.affine, volume.mask.shape, (2.0, 2.0, 2.0))
    seen = sample(volume, s0, grid, acq)
    wanted = brute_force(volume, acq, s0, 2).flatten(0, 2)
    torch.testing.assert_close(seen.signal().T, wanted[seen.voxels], atol=error, rtol=0)
    empty = torch.ones(len(wanted), dtype=torch.bool)
    empty[seen.voxels] = False
    assert float(wanted[empty].abs().max()) == 0


def test_scattered_b_values_are_interpolated_well():
    volume = ball_of_tissue(12, dtype=torch.float64)
    acq = shells()
    rng = np.random.default_rng(0)
    acq = replace(acq, bvals=acq.bvals * (1 + 0.03 * rng.uniform(-1, 1, len(acq))))
    s0 = torch.ones_like(volume.fill)
    grid = covering(volume.affine, volume.mask.shape, (2.0, 2.0, 2.0))
    seen = sample(volume, s0, grid, acq)
    wanted = brute_force(volume, acq, s0, 2).flatten(0, 2)[seen.voxels]
    torch.testing.assert_close(seen.signal().T, wanted, atol=1e-5, rtol=0)


def test_a_voxel_that_cuts_pieces_gets_their_parts():
    """1 mm pieces in 1.5 mm voxels: the overlap of intervals, computed by fine subdivision."""
    volume = ball_of_tissue(12, dtype=torch.float64)
    grid = covering(volume.affine, volume.mask.shape, (1.5, 1.5, 1.5))
    values = torch.rand(len(volume.fill), generator=seeded(), dtype=torch.float64)
    seen = overlap(volume.mask, volume.affine, grid, torch.float64)
    dense = torch.zeros(volume.mask.shape, dtype=torch.float64)
    dense[volume.mask] = values
    halves = dense
    for axis in range(3):
        halves = halves.repeat_interleave(2, axis)  # half millimetres: both grids are whole
    wanted = halves.view(8, 3, 8, 3, 8, 3).mean((1, 3, 5)).flatten()
    torch.testing.assert_close(seen.mean(values), wanted[seen.voxels])


def test_nothing_is_lost_on_an_oblique_grid():
    volume = ball_of_tissue(16, dtype=torch.float64)
    turn = artefacts.small_rotation(torch.tensor([10.0, -20.0, 15.0]))
    affine = volume.affine.clone()
    affine[:3] = turn @ affine[:3]
    grid = covering(affine, (20, 20, 20), (2.0, 2.0, 2.0))
    seen = overlap(volume.mask, volume.affine, grid, torch.float64)
    mass = float(seen.mean(volume.fill).sum()) * 8.0
    assert mass == pytest.approx(float(volume.fill.sum()), rel=0.02)


def test_pieces_thicker_than_wide_may_turn_with_the_head():
    """Turned by 6 degrees, a piece of 1 x 1 x 3 mm is 1.05 mm wide: it may touch three voxels."""
    turn = artefacts.small_rotation(torch.tensor([0.0, 6.0, 0.0]))
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = turn @ torch.diag(torch.tensor([1.0, 1.0, 3.0], dtype=torch.float64))
    mask = torch.ones(12, 12, 4, dtype=torch.bool)
    centred = affine.clone()
    centred[:3, 3] = 20 - affine[:3, :3] @ torch.tensor([5.5, 5.5, 1.5], dtype=torch.float64)
    grid = covering(torch.eye(4), (40, 40, 40), (1.0, 1.0, 3.0))
    seen = overlap(mask, centred, grid, torch.float64)
    mass = 3 * float(seen.mean(torch.ones(mask.numel(), dtype=torch.float64)).sum())
    assert mass == pytest.approx(3 * mask.numel(), rel=1e-6)


def test_gaps_between_slices_are_not_measured():
    volume = ball_of_tissue(12, dtype=torch.float64)
    values = volume.mask.nonzero()[:, 2].double()  # the slice number of each piece
    grid = covering(volume.affine, volume.mask.shape, (1.0, 1.0, 1.0), gap=1.0)
    assert grid.shape == (12, 12, 6)
    seen = overlap(volume.mask, volume.affine, grid, torch.float64)
    means = torch.zeros(grid.shape, dtype=torch.float64).flatten()
    means[seen.voxels] = seen.mean(values)
    # a slice of 1 mm in the middle of 2 mm takes half of each of two pieces
    np.testing.assert_allclose(means.view(grid.shape)[6, 6, :5], np.arange(5) * 2 + 0.5)


def test_a_grid_finer_than_the_tissue_is_refused():
    volume = ball_of_tissue(12)
    with pytest.raises(InputError, match="Render"):
        scan(volume, shells(), replace(PERFECT, voxel=(0.5, 0.5, 0.5)), seeded())


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-11)])
def test_fast_kernels_equal_the_slow_ones(dtype, error):
    x = torch.linspace(0, 45, 500, dtype=dtype)
    wanted = axial_kernel(x.double(), 1.0, 0.0, 6) / (4 * math.pi)
    got = torch.stack(stick_kernel(x, 6), -1).double() / (4 * math.pi)
    assert float((got - wanted).abs().max()) < error
    radius = torch.linspace(0, 20, 300, dtype=dtype)
    slow = sphere_diffusivity(radius.double(), 3.0, 10.6, 43.1)
    fast = soma_diffusivity(radius, 10.6, 43.1).double()
    assert float((fast - slow).abs().max()) < 3 * error


# artefacts


def test_a_perfect_scanner_gives_the_signal():
    volume = ball_of_tissue(12)
    acq = shells()
    seen = observe(volume, acq, PERFECT, seeded())
    s0 = unweighted(volume, 3.0, 80.0, PERFECT.TR)
    wanted = brute_force(volume, acq, s0, 2).movedim(-1, 0)
    torch.testing.assert_close(seen.signal, wanted, atol=2e-6, rtol=0)


def test_k_space_keeps_what_it_holds():
    wave = torch.cos(2 * math.pi * 3 * (torch.arange(32).double() + 0.5) / 32)
    real, imaginary = artefacts.line_response(32, 32, 1.0, 1.0, wave)
    torch.testing.assert_close(real @ wave, wave)
    assert float((imaginary @ wave).abs().max()) < 1e-12
    low, _ = artefacts.line_response(32, 32, 0.1, 1.0, wave)
    assert float((low @ wave).abs().max()) < 1e-12
    torch.testing.assert_close(low @ torch.ones_like(wave), torch.ones_like(wave))


def test_k_space_by_matrices_is_that_of_the_fourier_transform():
    images = torch.rand(2, 16, 16, 3, generator=seeded(), dtype=torch.float64)
    got = artefacts.through_k_space(images, (16, 16), 0.8, 0.75, phase=1)
    spectrum = torch.fft.fft2(images, dim=(1, 2))
    frequency = torch.fft.fftfreq(16, 1 / 16).round()
    high = math.floor(0.8 * 15 / 2)
    spectrum = spectrum * (frequency.abs() <= high)[None, :, None, None]
    kept = (frequency <= high) & (frequency >= -math.floor(0.5 * high))
    wanted = torch.fft.ifft2(spectrum * kept[None, None, :, None], dim=(1, 2)).abs()
    torch.testing.assert_close(got, wanted)


def test_edges_ring():
    edge = (torch.arange(64) >= 29).double()[None, :, None, None].expand(1, 64, 64, 1)
    rung = artefacts.through_k_space(edge.contiguous(), (32, 32), 1.0, 1.0, phase=1)[0, :, 0, 0]
    assert 0.04 < float(rung.max()) - 1 < 0.2  # Gibbs: 9 % of the jump, sampled
    boxes = edge.view(1, 32, 2, 64, 1).mean(2)
    assert float(boxes.max()) == 1


def test_the_ghost_lies_half_the_field_of_view_away():
    images = torch.zeros(1, 8, 8, 2)
    images[0, 2, 1] = 1.0
    ghost = artefacts.Ghost(0.1, 1.0)
    seen = artefacts.add_ghost(images, ghost, phase=1)
    assert float(seen[0, 2, 5, 0]) == pytest.approx(0.1)
    assert float(seen[0, 2, 1, 0]) == pytest.approx(1.0)


def test_dropped_slices_are_of_weighted_volumes():
    volumes = torch.arange(2, 10)
    drawn = artefacts.draw_dropouts(seeded(), volumes, 0.5)
    assert 0 < len(drawn.volume) < 8
    images = torch.ones(10, 4, 4, 6)
    seen = artefacts.drop_slices(images, torch.arange(10), drawn)
    lost = (seen < 1).any(1).any(1).any(1).nonzero()[:, 0]
    assert lost.tolist() == drawn.volume.tolist()
    none = artefacts.draw_dropouts(seeded(), volumes, 0.0)
    torch.testing.assert_close(artefacts.drop_slices(images, torch.arange(10), none), images)


def test_a_turned_head_turns_the_fibres_under_the_gradients():
    """A quarter turn about z: the scan is the turned image, with the gradients turned back."""
    volume = ball_of_tissue(12, dtype=torch.float64)
    acq = shells()
    quarter = artefacts.small_rotation(torch.tensor([0.0, 0.0, 90.0]))
    motion = artefacts.Motion(
        torch.zeros(len(acq), dtype=torch.long), quarter[None], torch.zeros(1, 3).double()
    )
    affine = motion.moved(volume.affine, volume.mask.shape, 0)
    grid = covering(volume.affine, volume.mask.shape, (1.0, 1.0, 1.0))
    s0 = torch.ones_like(volume.fill)
    turned_back = replace(acq, bvecs=acq.bvecs @ quarter.numpy())  # R' g
    seen = sample(replace(volume, affine=affine), s0, grid, turned_back)
    got = torch.zeros(len(acq), math.prod(grid.shape), dtype=torch.float64)
    got[:, seen.voxels] = seen.signal()
    still = torch.zeros(*volume.mask.shape, len(acq), dtype=torch.float64)
    still[volume.mask] = tissue_signal(volume.state, turned_back)
    # x to y in RAS; the grid's first axis runs against x, so the quarter turn goes the other way
    wanted = torch.rot90(still, -1, (0, 1)).movedim(-1, 0)
    torch.testing.assert_close(got.view(wanted.shape), wanted, atol=1e-6, rtol=0)


def test_motion_changes_only_the_volumes_after_it():
    volume, acq = ball_of_tissue(12), shells()
    still = observe(volume, acq, PERFECT, seeded()).signal
    moved = observe(volume, acq, replace(PERFECT, moves=1, degrees=3.0, mm=1.0), seeded()).signal
    same = ((still - moved).abs().amax((1, 2, 3)) < 1e-6).tolist()
    assert same[0]
    assert not same[-1]
    assert same == sorted(same, reverse=True)


def test_told_and_played_gradients_differ():
    volume, acq = ball_of_tissue(12), shells()
    told = scan(volume, acq, replace(PERFECT, turned=3.0, scaled=0.05), seeded())
    plain = scan(volume, acq, PERFECT, seeded())
    assert told.acquisition == acq
    np.testing.assert_array_equal(told.b0, plain.b0)
    assert np.abs(told.signal - plain.signal).max() > 1e-4


def test_profiles_have_the_shape_they_claim():
    like = torch.zeros(1)
    transmit = artefacts.transmit_field(0.35, (17, 17, 9), like)
    assert float(transmit[8, 8, 4]) > float(transmit[0, 8, 4]) > float(transmit[0, 0, 0])
    noise = artefacts.noise_profile(0.5, (17, 17, 9), like)
    assert float(noise.mean()) == pytest.approx(1, rel=1e-5)
    assert float(noise[8, 8, 4]) > float(noise[0, 8, 4])
    bias = artefacts.bias_field(artefacts.draw_bias(seeded(), 0.2), (17, 17, 9), like)
    assert float(bias[8, 8, 4]) == pytest.approx(1)
    assert 0.05 < float(bias.log().std()) < 0.5
    coils = artefacts.draw_bias(seeded(), 0.0, receive=0.4)
    near = artefacts.bias_field(coils, (17, 17, 9), like)
    assert float(near[0, 8, 4]) == pytest.approx(math.exp(0.4))
    assert float(near[8, 8, 0]) == pytest.approx(1)


def test_a_window_calms_ringing():
    edge = torch.zeros(1, 64, 64, 1)
    edge[:, :, 20:44] = 1

    def overshoot(window):
        return float(artefacts.through_k_space(edge, (32, 32), 1.0, 1.0, 1, window).max()) - 1

    assert overshoot(0.0) > 2 * overshoot(0.5) > 0


def test_eddy_currents_move_weighted_volumes_along_the_phase_direction():
    acq = shells()
    eddy = unsteady.draw_eddy(seeded(), acq.bvals, acq.bvecs, 0.5)
    assert (eddy.terms[acq.bvals == 0] == 0).all()
    strongest = eddy.terms[torch.as_tensor(acq.bvals == acq.bvals.max())]
    assert 0.1 < float(strongest.std()) < 1.5
    opposite = unsteady.draw_eddy(seeded(), acq.bvals, -acq.bvecs, 0.5)
    torch.testing.assert_close(opposite.terms, -eddy.terms)


@pytest.mark.parametrize("phase", [0, 1])
def test_distortion_is_a_shift_with_shear_and_scale(phase):
    ramp = torch.arange(21.0).view(-1, *[1] * (2 - phase)).expand(21, 21, 3)[None]
    if phase == 1:
        ramp = torch.arange(21.0)[:, None].expand(21, 21, 3)[None]
    terms = torch.tensor([[0.5, 1.0, 0.0, 0.25]], dtype=torch.float64)
    got = unsteady.distort(ramp, unsteady.Eddy(terms), torch.tensor([0]), phase)
    at = [0, 10, 10, 2]
    at[1 + phase] = 8
    assert float(got[tuple(at)]) == pytest.approx(8 + 0.5 + 0.25)
    at[2 - phase] = 20
    assert float(got[tuple(at)]) == pytest.approx(8 + 0.5 + 1.0 + 0.25)
    blob = torch.zeros(1, 41, 41, 1)
    blob[:, 12:29, 12:29] = 1
    wide = unsteady.Eddy(torch.tensor([[0.0, 0.0, 1.5, 0.0]], dtype=torch.float64))
    drawn = unsteady.distort(blob, wide, torch.tensor([0]), phase)
    assert float(drawn.sum()) == pytest.approx(float(blob.sum()), rel=0.01)


def test_the_pulse_dims_the_middle_of_weighted_volumes():
    bvals = np.array([0.0, *[1000.0] * 400])
    pulse = unsteady.draw_pulsation(seeded(), bvals, 0.2)
    assert float(pulse.strength[0]) == 0
    assert float(pulse.strength[1:].mean()) == pytest.approx(0.2, rel=0.15)
    got = unsteady.pulsate(torch.ones(1, 17, 17, 5), pulse, torch.tensor([1]))[0]
    assert float(got[8, 8, 0]) < float(got[0, 8, 0]) <= 1
    assert float(got[8, 8, 0]) < float(got[8, 8, 4])


# brightness and noise


def test_relaxation_is_what_was_measured():
    white, grey, fluid = (RELAXATION[name] for name in ("white", "cortex", "csf"))
    assert white.t2(3.0) == pytest.approx(70, abs=8)
    assert grey.t2(3.0) == pytest.approx(85, abs=15)
    assert white.t2(7.0) == pytest.approx(46, abs=3)
    assert grey.t2(7.0) == pytest.approx(55, abs=3)
    assert white.t2(0.05) == pytest.approx(102, abs=6)
    assert white.t1_at(3.0) == pytest.approx(0.89, abs=0.05)
    assert grey.t1_at(3.0) == pytest.approx(1.3, abs=0.1)
    assert fluid.t1_at(0.3) == fluid.t1_at(7.0) == 2.5
    with pytest.raises(InputError, match="T"):
        brightness(11.7, 80.0, 7.0, torch.zeros(1))


@pytest.mark.parametrize(
    ("name", "protocol_name", "low", "high"),
    [
        ("clinical3t", "clinical30", 25, 40),
        ("hcp7t", "hcp7t", 15, 26),
        ("lowfield", "lowfield", 3, 12),
    ],
)
def test_white_matter_has_the_snr_of_such_scanners(name, protocol_name, low, high):
    scanner, acq = SCANNERS[name], named(protocol_name)
    bright = brightness(scanner.field, acq.TE, scanner.TR, torch.zeros(1).double())
    white = float(bright[CLASSES.index("white")])
    snr = white * water_snr(scanner.field, scanner.voxel, scanner.sensitivity)
    assert low < snr < high


def test_noise_is_as_strong_as_it_says():
    volume, acq = ball_of_tissue(24), named("clinical6")
    scanner = Scanner("noisy", noise_profile=0.5, level=1e6)
    noisy = observe(volume, acq, scanner, seeded())
    clean = observe(volume, acq, replace(scanner, sensitivity=math.inf), seeded())
    bright = noisy.mask & (clean.signal[0] > 20 * noisy.sigma)
    z = ((noisy.signal - clean.signal) / noisy.sigma)[0][bright]
    assert float(z.std()) == pytest.approx(1, abs=0.08)
    ends = [0, 1, 2, -3, -2, -1]
    corner = (noisy.signal / noisy.sigma)[:, ends][:, :, ends][..., ends]
    assert float(corner.mean()) == pytest.approx(math.sqrt(math.pi / 2), rel=0.05)  # Rayleigh


def test_free_water_shines_like_fluid():
    volume = ball_of_tissue(12, dtype=torch.float64)
    state = replace(volume.state, free=torch.ones_like(volume.state.free))
    s0 = unweighted(replace(volume, state=state), 3.0, 80.0, 7.0)
    fluid = brightness(3.0, 80.0, 7.0, s0)[CLASSES.index("csf")]
    torch.testing.assert_close(s0, fluid.expand_as(s0))


def test_values_are_integers_where_a_level_is_set():
    seen = scan(ball_of_tissue(12), shells(), Scanner("x", level=1000.0), seeded())
    np.testing.assert_array_equal(seen.signal, np.round(seen.signal))
    assert seen.signal.max() > 100


# whole scans


def test_the_number_of_threads_changes_no_bit():
    volume, before = ball_of_tissue(40), torch.get_num_threads()
    scanner = replace(SCANNERS["clinical3t"], voxel=(1.5, 1.5, 1.5), level=0.0)
    made = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append(observe(volume, shells(), scanner, seeded()).signal)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_the_same_seed_gives_the_same_bits():
    volume = ball_of_tissue(12)
    for seed in (1, 2, 3):
        acq = draw_protocol(seeded(seed))
        scanner = replace(draw_scanner(seeded(seed), acquisition=acq), voxel=(2.0, 2.0, 2.0))
        again = replace(draw_scanner(seeded(seed), acquisition=acq), voxel=(2.0, 2.0, 2.0))
        assert scanner == again
        first = scan(volume, acq, scanner, seeded(seed)).signal
        np.testing.assert_array_equal(first, scan(volume, acq, again, seeded(seed)).signal)
        assert not np.array_equal(first, scan(volume, acq, scanner, seeded(seed + 9)).signal)
        assert np.isfinite(first).all()


def test_one_brain_in_two_scanners():
    volume = ball_of_tissue(24)
    first = (replace(SCANNERS["hcp3t"], voxel=(2.0, 2.0, 2.0)), named("clinical12"))
    second = (replace(SCANNERS["hcp7t"], voxel=(1.5, 1.5, 1.5)), named("clinical6"))
    a, b = pair(volume, first, second, seeded())
    assert a.voxel_size == pytest.approx((2, 2, 2))
    assert b.voxel_size == pytest.approx((1.5, 1.5, 1.5))
    middle = [s.affine @ [*((np.array(s.shape) - 1) / 2), 1] for s in (a, b)]
    np.testing.assert_allclose(middle[0], middle[1], atol=1e-9)


def test_random_scanners_differ_and_can_be_scanned_with():
    drawn = [draw_scanner(seeded(s)) for s in range(60)]
    assert {d.field for d in drawn} == {0.064, 0.55, 1.5, 3.0, 7.0}
    assert len({d.voxel for d in drawn}) > 50
    assert any(d.gap for d in drawn)
    assert any(d.coils > 1 for d in drawn)
