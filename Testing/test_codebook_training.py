"""Pools of labelled slices, the examples made of them, and the training loop."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from phantom import protocol
from tiny_codebook import one_thread  # noqa: F401
from toy_anatomy import onion

from DMRIMicroLib.brain.anatomy import save
from DMRIMicroLib.brain.simulate import generator_for
from DMRIMicroLib.codebooks.network import Prediction
from DMRIMicroLib.codebooks.scale import Scale
from DMRIMicroLib.codebooks.tokens import tokens
from DMRIMicroLib.errors import Cancelled, InputError
from DMRIMicroLib.physics.sh import sh_basis
from DMRIMicroLib.physics.tissue import signal
from DMRIMicroLib.training import pool
from DMRIMicroLib.training.codebook import example_stream, metric_loss, scale_of
from DMRIMicroLib.training.examples import ExampleConfig, draw_example, examples
from DMRIMicroLib.training.pool import (
    METRICS,
    STATE,
    PoolConfig,
    Slice,
    draw_slice,
    load_slice,
    make_pool,
)
from DMRIMicroLib.training.recipe import calibrate
from DMRIMicroLib.training.slices import make_pool_side_by_side

SMALL = PoolConfig(fields=((0.064, 1.0),), lesion=0.0, infant=0.0, brain=500.0, finer=(1, 1, 1))
"""Slices with few and large voxels."""

CUT = ExampleConfig(edge=16)


def quick_label(volume, scanner, TE):
    """Stand in for `pool.label`, whose fits take seconds: two labels tell a voxel's place."""
    mask = volume.mask[:, :, 0].clone()
    labels = torch.zeros(len(METRICS), *mask.shape)
    labels[0], labels[1] = torch.meshgrid(*map(torch.arange, mask.shape), indexing="ij")
    labels[2:] = volume.on_grid(volume.state.neurite)[:, :, 0]
    return mask, labels, mask.expand(len(METRICS), -1, -1).clone()


def tiny_pool(folder: Path, slices: int, seed: int = 0, **words) -> Path:
    """Make a pool of the onion's slices, with labels that are quick to make."""
    with patch.object(pool, "label", quick_label):
        make_pool(folder, [onion()], slices, seed, SMALL, **words)
    return folder


def middle_slice(plane: tuple[float, float, float]) -> Slice:
    """Draw a slice near the middle of the onion, of one plane."""

    def place(number: int) -> float:
        u = torch.rand(12, generator=generator_for(1, str(number)), dtype=torch.float64)
        return float(u[7])

    number = next(k for k in range(1000) if abs(place(k) - 0.5) < 0.02)
    with patch.object(pool, "label", quick_label):
        return draw_slice([onion()], generator_for(1, str(number)), replace(SMALL, planes=plane))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return sorted(tiny_pool(tmp_path_factory.mktemp("pool"), 3).glob("*.safetensors"))


def test_a_pool_is_a_function_of_seed_and_number(files, tmp_path):
    for start in range(2):  # two processes that take turns
        tiny_pool(tmp_path, 3, start=start, step=2)
    again = sorted(tmp_path.glob("*.safetensors"))
    assert [f.name for f in again] == [f.name for f in files]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(again, files, strict=True))
    other = next(tiny_pool(tmp_path / "other", 1, seed=1).glob("*"))
    assert other.read_bytes() != files[0].read_bytes()


def test_a_pool_that_was_stopped_gets_what_is_missing_only(tmp_path):
    tiny_pool(tmp_path, 2)
    first, second = sorted(tmp_path.glob("*.safetensors"))
    kept, lost = first.read_bytes(), second.read_bytes()
    second.unlink()
    made = []
    with patch.object(pool, "draw_slice", lambda *a: made.append(1) or draw_slice(*a)):
        tiny_pool(tmp_path, 2)
    assert len(made) == 1
    assert second.read_bytes() == lost
    assert first.read_bytes() == kept


def test_a_slice_comes_back_from_its_file(files):
    item = load_slice(files[0])
    assert item.mask.shape == item.labels.shape[1:] == item.known.shape[1:]
    assert item.volume.mask.shape == (*item.mask.shape, 1)
    with patch.object(pool, "label", quick_label):
        made = draw_slice([onion()], generator_for(0, "slice 0"), SMALL)
    assert torch.equal(made.mask, item.mask)
    assert torch.equal(made.labels[:2], item.labels[:2])
    torch.testing.assert_close(made.volume.affine, item.volume.affine, rtol=0, atol=0)
    for name in STATE:
        torch.testing.assert_close(
            getattr(made.volume.state, name), getattr(item.volume.state, name), rtol=1e-3, atol=1e-3
        )


def test_labels_are_what_the_models_say_without_noise():
    item = middle_slice((1.0, 0.0, 0.0))
    mask, labels, known = pool.label(item.volume, item.scanner, item.TE)
    assert not known[:, ~mask].any()
    assert known[METRICS.index("FA")][mask].all()
    assert torch.isfinite(labels[known]).all()
    neurite = item.volume.on_grid(item.volume.state.neurite)[:, :, 0]
    ndi = labels[METRICS.index("NDI")]
    at = known[METRICS.index("NDI")]
    assert torch.corrcoef(torch.stack([ndi[at], neurite[at]]))[0, 1] > 0.7


@pytest.mark.parametrize("plane", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_directions_are_seen_in_the_frame_of_the_slice(plane):
    item = middle_slice(plane)
    thick = item.volume.affine[:3, 2]
    assert int(thick.abs().argmax()) == 2 - plane.index(1.0)
    acq, state = protocol({1000.0: 30, 2000.0: 30}), item.volume.state
    clean = item.volume.on_grid(signal(state, acq))[:, :, 0].permute(2, 0, 1)
    seen = tokens(clean, item.mask, acq, torch.full(item.mask.shape, 1e-3), item.frame)
    odf = item.volume.on_grid(state.odf)[:, :, 0][item.mask]
    # degree 2 along the slice's own axes, of the true distribution and of the tokens
    true = odf[:, 1:6] @ sh_basis(item.frame, 2)[:, 1:].T
    told = seen.joint[:5][:, item.mask].T @ sh_basis(torch.eye(3), 2)[:, 1:].T
    sharp = true.abs().amax(1) > 0.1
    assert int(sharp.sum()) > 20

    def agreement(turned):
        return float(
            torch.corrcoef(torch.stack([true[sharp].ravel(), turned[sharp].ravel()]))[0, 1]
        )

    assert agreement(told) > 0.95
    assert all(agreement(told.roll(k, 1)) < 0.5 for k in (1, 2))


def test_examples_are_functions_of_seed_and_number(files):
    a, b, c = (list(islice(examples(files, 7, CUT), n)) for n in (2, 2, 1))
    for one, other in zip(a, b, strict=True):
        for x, y in zip(one.tokens, other.tokens, strict=True):
            assert torch.equal(x, y)
        assert torch.equal(one.signal, other.signal)
    assert a[0].acquisition == c[0].acquisition
    assert a[0].acquisition != a[1].acquisition
    later = next(examples(files, 7, CUT, start=1))
    assert torch.equal(later.tokens.mean, a[1].tokens.mean)
    other = next(examples(files, 8, CUT))
    assert other.acquisition != a[0].acquisition


def test_workers_change_nothing(files):
    expected = list(islice(examples(files, 7, CUT, start=1), 3))
    found = list(islice(example_stream(files, 7, CUT, workers=2)(1), 3))
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.tokens.mean, other.tokens.mean)
        assert torch.equal(one.labels, other.labels)


def test_labels_and_signals_belong_to_the_voxels_of_the_tokens(files):
    for number, example in enumerate(islice(examples(files, 1, CUT), 4)):
        place = example.tokens.mask.nonzero().float()
        corner = example.labels[:, :2] - place
        assert torch.equal(corner, corner[:1].expand_as(corner)), number
        assert example.labels.shape == example.known.shape == (len(place), 24)
        assert example.signal.shape == (len(place), len(example.asked))
        assert float(example.signal.min()) > 0
        assert float(example.signal.max()) <= 1.05  # ringing
        assert all(torch.isfinite(v.float()).all() for v in example.tokens)


def test_the_clean_signal_is_that_of_the_tissue(files):
    item = load_slice(files[1])
    example = draw_example(item, generator_for(4, "a"), replace(CUT, edge=200))
    assert example.tokens.mask.shape == item.mask.shape
    told = item.volume.on_grid(signal(item.volume.state, example.asked))[:, :, 0][item.mask]
    whole = item.volume.on_grid(item.volume.fill)[:, :, 0][item.mask] > 0.99
    error = (example.signal - told)[whole].abs()
    assert float(error.quantile(0.9)) < 0.02


def test_the_scale_is_that_of_the_known_labels(files):
    scale = scale_of(files)
    assert scale.metrics == METRICS
    neurite = torch.cat([load_slice(f).labels[5][load_slice(f).mask] for f in files])
    assert scale.centre[5] == pytest.approx(float(neurite.median()), rel=1e-5)


def test_unknown_labels_cost_nothing_and_make_no_nan():
    mean = torch.zeros(3, 2, requires_grad=True)
    log_sd = torch.zeros(3, 2, requires_grad=True)
    labels = torch.tensor([[1.0, torch.nan], [1.0, torch.inf], [1.0, 2.0]])
    known = torch.tensor([[True, False], [True, False], [True, True]])
    found = Prediction(mean, log_sd, mean, mean, mean)
    cost, squared = metric_loss(found, labels, known)
    cost.backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.equal(mean.grad != 0, known)
    torch.testing.assert_close(squared, torch.tensor([1.0, 4.0]))
    nothing, _ = metric_loss(found, labels, torch.zeros_like(known))
    assert nothing.item() == 0


def test_far_outliers_cost_linearly():
    labels, known = torch.tensor([[4.0], [5.0], [6.0]]), torch.ones(3, 1, dtype=torch.bool)
    cost = []
    for k in range(3):
        zero = torch.zeros(1, 1)
        found = Prediction(zero, zero, zero, zero, zero)
        cost.append(float(metric_loss(found, labels[k : k + 1], known[:1])[0]))
    assert cost[2] - cost[1] == pytest.approx(cost[1] - cost[0])
    assert cost[0] == pytest.approx(8)


def test_processes_make_the_slices_that_one_would(tmp_path):
    head = save(onion(16, 5.0), tmp_path / "onion.safetensors")
    said = []
    for workers in (2, 1):
        made = make_pool_side_by_side(
            tmp_path / str(workers),
            [str(head)],
            2,
            3,
            workers,
            lambda share, text: said.append(share),
            config=SMALL,
        )
        assert [f.name for f in made] == ["slice-3-00000.safetensors", "slice-3-00001.safetensors"]
    for file in made:
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()
    assert max(said) == 1


def test_making_slices_can_be_stopped_and_a_failed_process_is_told(tmp_path):
    with pytest.raises(Cancelled):
        make_pool_side_by_side(tmp_path, ["small"], 4, 0, 2, cancelled=lambda: True)
    with pytest.raises(InputError, match="a process that makes slices ended with code 1"):
        make_pool_side_by_side(tmp_path, ["no such head"], 4, 0, 2)
    assert not list(tmp_path.glob("*.safetensors"))


def test_calibration_covers_what_it_should():
    """Predictions whose deviations are half as large as they should be, for a scale of 1."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn(4000, 2, generator=generator)
    mean = labels + 0.6 * torch.randn(4000, 2, generator=generator)

    class Fixed(torch.nn.Module):
        def forward(self, tokens):
            log_sd = torch.full_like(mean, 0.3).log()
            return Prediction(mean, log_sd, mean, mean, mean)

    known = torch.ones(4000, 2, dtype=torch.bool)
    known[:, 1] = False
    example = SimpleNamespace(tokens=None, labels=labels + 5, known=known)
    scale = Scale(("FA", "MD"), (5.0, 5.0), (1.0, 1.0))
    factors, correlations = calibrate(Fixed(), scale, iter([example]))
    assert factors[0] == pytest.approx(2, rel=0.05)
    assert factors[1] == 1  # no label, nothing to say
    assert correlations["FA"] == pytest.approx(1 / (1 + 0.36) ** 0.5, abs=0.02)
