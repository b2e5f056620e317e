"""Signals of one q-space scheme from those of another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantom import directions, fibre_tensors, protocol, ring_scan, tensor_signal
from scipy.optimize import nnls
from tiny_codebook import one_thread, tiny_space  # noqa: F401

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.brain.directions import rotation
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.io import nifti
from DMRIMicroLib.physics.sh import sh_basis
from DMRIMicroLib.pretrain.dictionary import begin, frames, learn
from DMRIMicroLib.pretrain.qspace import Harmonics, Numbers, Propagator, Shore, numbers_of
from DMRIMicroLib.pretrain.sparse import sparse_code
from DMRIMicroLib.pretrain.target import Target, read_scheme

TIMES = {"delta": 15.0, "Delta": 40.0}
DENSE = replace(protocol({1000.0: 30, 2000.0: 30}, b0=2), **TIMES)
OTHER = protocol({1000.0: 12, 2000.0: 12}, b0=1, seed=7)


def axes(count: int) -> np.ndarray:
    return directions(count, seed=3)


def signals(acq: Acquisition, count: int = 12) -> torch.Tensor:
    """Signals of fibres in many directions, relative to b = 0."""
    mixed = fibre_tensors(axes(count), 1.4e-3, 0.5e-3)
    return torch.from_numpy(tensor_signal(acq, mixed, 1.0)).float()


def test_sparse_codes_minimise_their_cost():
    """At the minimum the slope is 0 where a code is positive, and not negative elsewhere."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 20, 8, generator=generator, dtype=torch.float64)
    y = torch.rand(3, 20, generator=generator, dtype=torch.float64)
    gram, vector = a.mT @ a, (a.mT @ y[:, :, None])[:, :, 0]
    cost = torch.linspace(0, 2, 8, dtype=torch.float64)
    x = sparse_code(gram, vector, cost, 3000)
    slope = (gram @ x[:, :, None])[:, :, 0] - vector + cost
    assert float(x.min()) >= 0
    assert float(slope.min()) > -1e-6
    assert float((slope * x).abs().max()) < 1e-6
    assert bool((x == 0).any())


def test_codes_that_cost_nothing_are_non_negative_least_squares():
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(2, 15, 6, generator=generator, dtype=torch.float64)
    y = torch.rand(2, 15, generator=generator, dtype=torch.float64)
    found = sparse_code(a.mT @ a, (a.mT @ y[:, :, None])[:, :, 0], torch.zeros(6).double(), 4000)
    wanted = np.stack([nnls(m.numpy(), v.numpy())[0] for m, v in zip(a, y, strict=True)])
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


WAYS = {
    "dictionary": (lambda: begin(62, 0.005), 0.03),
    "SH": (lambda: Harmonics(smooth=1e-4), 0.02),
    "SHORE": (Shore, 0.03),
    "MAP-MRI": (Propagator, 0.03),
    "signal space": (lambda: Numbers(tiny_space(), 0.005), 0.06),
}


@pytest.mark.parametrize("name", WAYS)
def test_signals_of_fibres_are_predicted_at_other_directions(name):
    make, tolerance = WAYS[name]
    way = make()
    assert way.name == name
    found, wanted = way.predict(signals(DENSE), DENSE, OTHER), signals(OTHER)
    assert found.shape == wanted.shape
    assert float((found - wanted).square().mean().sqrt()) < tolerance
    turned = wanted.roll(1, 0)  # of other fibres: the error would be large
    assert float((found - turned).square().mean().sqrt()) > 2 * tolerance


def test_a_dictionary_does_not_know_how_the_head_was_turned():
    turn = rotation(torch.Generator().manual_seed(3)).double().numpy()
    a, b = (replace(acq, bvecs=acq.bvecs @ turn.T) for acq in (DENSE, OTHER))
    noisy = (signals(DENSE) + 0.01 * torch.randn(12, len(DENSE))).clamp(min=0.01)
    way = begin(62, 0.01)
    one, other = way.predict(noisy, DENSE, OTHER), way.predict(noisy, a, b)
    torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def test_what_a_dictionary_predicts_can_be_a_signal():
    """Positive and falling with b, in pure noise, too."""
    noise = torch.rand(20, len(DENSE), generator=torch.Generator().manual_seed(0))
    g = np.tile(directions(10, seed=1), (4, 1))
    line = Acquisition(np.repeat([200.0, 1000.0, 2000.0, 3000.0], 10), g)
    found = begin(62, 0.1).predict(noise, DENSE, line).unflatten(1, (4, 10))
    assert float(found.min()) >= 0
    assert bool((found.diff(dim=1) <= 1e-6).all())


def test_frames_are_the_axes_of_the_tensor_and_turn_right():
    found = frames(signals(DENSE), DENSE)
    along = torch.from_numpy(axes(12)).float()
    assert float((found[:, 0] * along).sum(1).abs().min()) > 0.999
    torch.testing.assert_close(found @ found.mT, torch.eye(3).expand(12, 3, 3), atol=1e-4, rtol=0)
    assert bool((torch.linalg.det(found) > 0.99).all())
    nothing = torch.zeros(2, len(DENSE))
    torch.testing.assert_close(frames(nothing, DENSE), torch.eye(3).expand(2, 3, 3))
    few = protocol({1000.0: 5}, b0=1)
    with pytest.raises(InputError, match="directions"):
        frames(signals(few), few)


def test_learning_makes_atoms_of_what_there_is():
    """Tissue whose signal no atom of the start has: the prediction from few atoms gets better."""
    odd = fibre_tensors(axes(40), 0.8e-3, 0.65e-3)
    acq, asked = DENSE, OTHER
    y = torch.from_numpy(tensor_signal(acq, odd, 1.0)).float()
    wanted = torch.from_numpy(tensor_signal(asked, odd, 1.0)).float()
    taught = learn(y, acq, 0.02, count=14, steps=15)
    assert abs(float(taught.use.sum()) - 1) < 0.2

    def error(way) -> float:
        return float((way.predict(y, acq, asked) - wanted).square().mean().sqrt())

    before = replace(begin(14, 0.02), weight=taught.weight)
    assert error(taught) < 0.7 * error(before)
    again = learn(y, acq, 0.02, count=14, steps=15)
    assert torch.equal(again.factors, taught.factors)


def test_harmonics_are_exact_for_a_series_and_pass_between_shells():
    generator = torch.Generator().manual_seed(0)
    series = torch.cat([torch.full((4, 1), 2.0), 0.1 * torch.randn(4, 14, generator=generator)], 1)

    def seen(acq: Acquisition) -> torch.Tensor:
        return series @ sh_basis(torch.as_tensor(acq.bvecs.copy()), 4).float().T

    acq, asked = protocol({1000.0: 30}, b0=1), protocol({1000.0: 20}, b0=0, seed=5)
    y = seen(acq)
    y[:, acq.is_b0.copy()] = 1
    way = Harmonics(order=4, smooth=0.0)
    torch.testing.assert_close(way.predict(y, acq, asked), seen(asked), atol=1e-4, rtol=0)
    ball = torch.exp(-0.7 * torch.as_tensor(DENSE.bvals / 1e3)).float()[None]
    between = protocol({500.0: 6, 1500.0: 6}, b0=1)
    wanted = torch.exp(-0.7 * torch.as_tensor(between.bvals / 1e3)).float()[None]
    torch.testing.assert_close(way.predict(ball, DENSE, between), wanted, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="highest shell has 2000"):
        way.predict(ball, DENSE, protocol({3000.0: 6}))


def test_shore_is_that_of_dipy():
    from dipy.core.gradients import gradient_table
    from dipy.reconst.shore import shore_matrix

    table = gradient_table(DENSE.bvals, bvecs=DENSE.bvecs, b0_threshold=20)
    wanted = shore_matrix(6, 700, table, 1 / (4 * np.pi**2))
    # the two differ in the sign and order of m alone: the space that they span is the same
    ours = Shore().basis(DENSE)
    assert ours.shape == wanted.shape
    np.testing.assert_allclose(ours @ ours.T, wanted @ wanted.T, rtol=1e-6, atol=1e-12)


def test_numbers_are_those_of_the_noise_free_signal():
    space = tiny_space()
    z = 0.5 * torch.randn(30, space.channels, generator=torch.Generator().manual_seed(0))
    rows = [int(v) for v in (~DENSE.is_b0).nonzero()[0]]
    design, offset, _ = space.design(DENSE.subset(rows), torch.eye(3))
    y = torch.ones(30, len(DENSE))
    y[:, rows] = (z @ design.float().T + offset.float()).clamp(min=0.01)
    found = numbers_of(space, y, torch.full((30,), 1e-3), DENSE, torch.eye(3))
    assert found.shape == z.shape
    both = torch.stack([found[:, 3:8].flatten(), z[:, 3:8].flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.98


def test_a_scheme_is_read_in_fsls_convention(tmp_path):
    (tmp_path / "a.bval").write_text("0 1000 1000 1000\n")
    (tmp_path / "a.bvec").write_text("0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    acq = read_scheme(f"{tmp_path}/a.bval,{tmp_path}/a.bvec", TE=80.0)
    np.testing.assert_allclose(acq.bvecs[1:], np.diag([-1.0, 1, 1]))  # x of an image runs left
    assert acq.TE == 80
    with pytest.raises(InputError, match="no such file"):
        read_scheme(f"{tmp_path}/a.bval,{tmp_path}/b.bvec")
    with pytest.raises(InputError, match="Give two files"):
        read_scheme(f"{tmp_path}/a.bval")


def test_a_scheme_is_that_of_a_scan(tmp_path):
    scan = ring_scan(protocol({1000.0: 6}, b0=1), shape=(4, 4, 2))
    image = nifti.save(scan, tmp_path / "short.nii.gz")
    acq = read_scheme(str(image), TE=80.0)
    np.testing.assert_allclose(acq.bvecs, scan.acquisition.bvecs, atol=1e-6)
    assert acq.TE == 80


def test_a_target_must_be_of_use_to_the_network():
    high = protocol({1000.0: 6, 5000.0: 6}, b0=1)
    assert float(Target(high).acquisition.bvals.max()) < 3200
    with pytest.raises(InputError, match="the target's scheme has"):
        Target(protocol({5000.0: 6}, b0=1))
    with pytest.raises(InputError, match="the target's scheme has"):
        Target(protocol({1000.0: 6}, b0=0))
    with pytest.raises(InputError, match="SNR"):
        Target(high, snr=(0.0, 5.0))
