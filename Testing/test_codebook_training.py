"""Pools of labelled slices, the examples made of them, and the training loop."""

import warnings
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from phantom import fibre_tensors, protocol, tensor_signal
from tiny_codebook import one_thread, tiny_network, tiny_space  # noqa: F401
from toy_anatomy import onion

from DMRIMicroLib.brain.anatomy import save
from DMRIMicroLib.brain.protocols import named
from DMRIMicroLib.brain.scanner import observe
from DMRIMicroLib.brain.simulate import generator_for
from DMRIMicroLib.codebooks.gaussian import FAR, surprise
from DMRIMicroLib.codebooks.network import GROUP, GROUPS, HEAD, Prediction
from DMRIMicroLib.codebooks.scale import Scale
from DMRIMicroLib.codebooks.tokens import tokens
from DMRIMicroLib.errors import Cancelled, InputError
from DMRIMicroLib.physics.sh import fit_matrix, sh_basis
from DMRIMicroLib.physics.tissue import signal
from DMRIMicroLib.signals.space import NODES, Space
from DMRIMicroLib.training import head, mapped, pool, relabel
from DMRIMicroLib.training.codebook import (
    NUMBERS_WEIGHT,
    example_stream,
    metric_loss,
    prior_loss,
    scale_of,
)
from DMRIMicroLib.training.examples import ExampleConfig, draw_example, examples
from DMRIMicroLib.training.examples import moved as move_tissue
from DMRIMicroLib.training.head import teach_head
from DMRIMicroLib.training.mapped import Mapped, coefficients, find_space, load_mapped, map_slices
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
from DMRIMicroLib.training.relabel import label_numbers
from DMRIMicroLib.training.slices import make_pool_side_by_side

SMALL = PoolConfig(fields=((0.064, 1.0),), lesion=0.0, infant=0.0, brain=500.0, finer=(1, 1, 1))
"""Slices with few and large voxels."""

CUT = ExampleConfig(edge=16)
PLAIN = replace(CUT, strange=0.0, state=0.0)
STRANGE = replace(CUT, strange=1.0, state=0.0)


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
def slices(tmp_path_factory):
    return sorted(tiny_pool(tmp_path_factory.mktemp("pool"), 3).glob("*.safetensors"))


@pytest.fixture(scope="module")
def space(slices):
    return find_space(slices)


@pytest.fixture(scope="module")
def files(slices, space, tmp_path_factory):
    return map_slices(slices, tmp_path_factory.mktemp("signals"), space)


def test_a_pool_is_a_function_of_seed_and_number(slices, tmp_path):
    for start in range(2):  # two processes that take turns
        tiny_pool(tmp_path, 3, start=start, step=2)
    again = sorted(tmp_path.glob("*.safetensors"))
    assert [f.name for f in again] == [f.name for f in slices]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(again, slices, strict=True))
    other = next(tiny_pool(tmp_path / "other", 1, seed=1).glob("*"))
    assert other.read_bytes() != slices[0].read_bytes()


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


def test_a_slice_comes_back_from_its_file(slices):
    item = load_slice(slices[0])
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
def test_directions_are_seen_in_the_frame_of_the_slice(plane, space):
    item = middle_slice(plane)
    thick = item.volume.affine[:3, 2]
    assert int(thick.abs().argmax()) == 2 - plane.index(1.0)
    acq, state = protocol({1000.0: 30, 2000.0: 30}), item.volume.state
    clean = item.volume.on_grid(signal(state, acq))[:, :, 0].permute(2, 0, 1)
    seen = tokens(clean, item.mask, acq, torch.full(item.mask.shape, 1e-3), item.frame, space)
    odf = item.volume.on_grid(state.odf)[:, :, 0][item.mask]
    # degree 2 along the slice's own axes: the signal is low where there are fibres
    true = odf[:, 1:6] @ sh_basis(item.frame, 2)[:, 1:].T
    told = -seen.start[3:8][:, item.mask].T @ sh_basis(torch.eye(3), 2)[:, 1:].T
    sharp = true.abs().amax(1) > 0.1
    assert int(sharp.sum()) > 20

    def agreement(turned):
        return float(
            torch.corrcoef(torch.stack([true[sharp].ravel(), turned[sharp].ravel()]))[0, 1]
        )

    assert agreement(told) > 0.95
    assert all(agreement(told.roll(k, 1)) < 0.5 for k in (1, 2))


def test_examples_are_functions_of_seed_and_number(files, space):
    a, b, c = (list(islice(examples(files, space, 7, CUT), n)) for n in (2, 2, 1))
    for one, other in zip(a, b, strict=True):
        for x, y in zip(one.tokens, other.tokens, strict=True):
            assert torch.equal(x, y)
        assert torch.equal(one.signal, other.signal)
    assert a[0].acquisition == c[0].acquisition
    assert a[0].acquisition != a[1].acquisition
    later = next(examples(files, space, 7, CUT, start=1))
    assert torch.equal(later.tokens.mean, a[1].tokens.mean)
    other = next(examples(files, space, 8, CUT))
    assert other.acquisition != a[0].acquisition


def test_workers_change_nothing(files, space):
    expected = list(islice(examples(files, space, 7, CUT, start=1), 3))
    found = list(islice(example_stream(files, space, 7, CUT, workers=2)(1), 3))
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.tokens.vector, other.tokens.vector)
        assert torch.equal(one.labels, other.labels)
        assert one.acquisition == other.acquisition


def test_labels_and_signals_belong_to_the_voxels_of_the_tokens(files, space):
    for number, example in enumerate(islice(examples(files, space, 1, CUT), 4)):
        place = example.tokens.mask.nonzero().float()
        corner = example.labels[:, :2] - place
        assert torch.equal(corner, corner[:1].expand_as(corner)), number
        assert example.labels.shape == example.known.shape == (len(place), 24)
        assert example.numbers.shape == (len(place), space.channels)
        assert example.signal.shape == (len(place), len(example.asked))
        assert float(example.signal.min()) > -0.1
        assert float(example.signal.max()) <= 1.2  # strange tissue, ringing
        assert all(torch.isfinite(v.float()).all() for v in example.tokens)


def test_the_clean_signal_is_that_of_the_tissue_as_its_scanner_shows_it(slices, files, space):
    item, back = load_slice(slices[0]), load_mapped(files[0])
    example = draw_example(back, space, generator_for(4, "a"), replace(PLAIN, edge=200))
    assert example.tokens.mask.shape == item.mask.shape
    asked = replace(example.asked, TE=item.TE)
    shown = observe(item.volume, asked, item.scanner, torch.Generator()).signal[..., 0]
    told = (shown[:, item.mask] / back.b0[item.mask]).T
    bright = back.b0[item.mask] > 0.3 * back.b0[item.mask].median()
    assert int(bright.sum()) > 100
    assert float((example.signal - told)[bright].abs().quantile(0.9)) < 0.02
    assert float(told[bright].std()) > 0.1


def test_a_mapped_slice_comes_back_from_its_file(slices, files, space):
    for source, file in zip(slices, files, strict=True):
        item, back = load_slice(source), load_mapped(file)
        numbers, b0 = coefficients(item)
        assert torch.equal(back.numbers, space.encode(numbers).T)
        assert torch.equal(back.b0, b0)
        assert torch.equal(back.mask, item.mask)
        assert torch.equal(back.frame, item.frame)
        for name in ("labels", "known"):
            assert torch.equal(getattr(back, name), getattr(item, name)[:, item.mask])
        assert back.TE == item.TE
        assert replace(back.scanner, sensitivity=item.scanner.sensitivity) == item.scanner


def test_what_is_mapped_already_is_not_mapped_again(slices, space, tmp_path):
    first = map_slices(slices, tmp_path, space)
    kept = [f.read_bytes() for f in first]
    first[1].unlink()
    made, shares = [], []
    with patch.object(mapped, "_save", lambda *a: made.append(a[2]) or save_mapped(*a)):
        again = map_slices(slices, tmp_path, space, lambda share, text: shares.append(share))
    assert made == [first[1]]
    assert [f.read_bytes() for f in again] == kept
    assert shares == [1 / 3, 2 / 3, 1]


save_mapped = mapped._save


def test_the_space_of_a_pool_holds_what_its_scanners_see(slices, files, space):
    """Signals of a protocol of other b-values, from the numbers of a file and from the tissue."""
    item, back = load_slice(slices[0]), load_mapped(files[0])
    acq = replace(named("noddi"), TE=item.TE)
    seen = observe(item.volume, acq, item.scanner, torch.Generator()).signal[..., 0]
    bright = back.b0[item.mask] > 0.3 * back.b0[item.mask].median()
    wanted = (seen[:, item.mask] / back.b0[item.mask])[:, bright]
    design, offset, rest = space.design(acq, item.frame)
    told = design.float() @ back.numbers[:, bright] + offset.float()[:, None]
    wrong = (told - wanted).square().mean().sqrt()  # degrees above 4 are left out
    assert float(wrong) < 0.02
    assert float(wrong) < 0.1 * float(wanted[~acq.is_b0].std())
    assert float(rest.max()) < 0.03
    assert len(NODES) == len(space.mean)


def test_a_space_is_that_of_its_slices(slices, space):
    again = find_space(slices)
    assert again.told() == space.told()
    assert Space.read(space.told()).told() == space.told()
    assert find_space(slices[:1]).told() != space.told()


def test_strange_tissue_has_no_labels_and_other_signals(files, space):
    item = three_classes(files[0])
    plain, strange = (
        draw_example(item, space, generator_for(2, "s"), replace(config, edge=200))
        for config in (PLAIN, STRANGE)
    )
    assert plain.acquisition == strange.acquisition
    assert torch.equal(plain.tokens.mask, strange.tokens.mask)
    assert not strange.known.any()
    assert plain.known.any()
    assert torch.equal(plain.labels, strange.labels)
    moved = (strange.numbers - plain.numbers).abs()
    fluid = plain.labels[:, METRICS.index("FWF")] == 1
    assert float(moved[fluid, :3].max()) < 1e-6  # water is water
    assert float(moved[~fluid, :3].mean()) > 0.1
    assert float(moved[:, 3:].mean()) > 0.01
    assert not torch.allclose(plain.tokens.start, strange.tokens.start, atol=0.05)
    design, offset, _ = space.design(strange.asked, strange.frame)
    told = strange.numbers.double() @ design.T + offset
    torch.testing.assert_close(strange.signal, told.float(), atol=1e-5, rtol=0)


def test_strange_slices_have_another_contrast_at_b0(files, space):
    item = three_classes(files[0])
    moved = move_tissue(item, space, generator_for(2, "s"), STRANGE)
    ratio = (moved.b0 / item.b0)[item.mask]
    classes = torch.arange(len(ratio)) % 3
    factors = [float(ratio[classes == k].median()) for k in range(3)]
    wanted = torch.tensor(factors)[classes]
    torch.testing.assert_close(ratio, wanted, atol=1e-4, rtol=1e-3)
    assert min(abs(a - b) for a, b in zip(factors, factors[1:] + factors[:1], strict=True)) > 0.02
    assert torch.equal(moved.b0[~item.mask], item.b0[~item.mask])
    for name in ("mask", "labels", "known", "frame"):
        assert torch.equal(getattr(moved, name), getattr(item, name))
    same = move_tissue(item, space, generator_for(2, "s"), replace(STRANGE, contrast=0.0))
    assert torch.equal(same.b0, item.b0)
    assert torch.equal(same.numbers, moved.numbers)
    again = load_mapped(files[0])
    assert torch.equal(item.b0, again.b0)  # nothing is changed in place
    assert torch.equal(item.numbers, again.numbers)


def three_classes(file: Path) -> Mapped:
    """A slice with fibres whose voxels are called white, grey and fluid in turn."""
    item = load_mapped(file)
    labels, which = item.labels.clone(), torch.arange(item.labels.shape[1]) % 3
    labels[METRICS.index("FA")] = (which == 0).float()
    labels[METRICS.index("FWF")] = (which == 2).float()
    return replace(item, labels=labels)


def test_half_of_the_examples_are_strange_and_protocols_stay_within_the_space(files, space):
    sizes, known = [], []
    for example in islice(examples(files, space, 6, CUT), 24):
        acq = example.acquisition
        assert acq.bvals.max() <= 3200
        assert acq.shells
        assert acq.is_b0.any()
        sizes.append(len(acq))
        known.append(bool(example.known.any()))
    assert 6 <= sum(known) <= 18
    assert sum(n <= CUT.few for n in sizes) >= 12
    assert max(sizes) > CUT.few


def test_the_scale_is_that_of_the_known_labels(slices, files):
    scale = scale_of(files)
    assert scale.metrics == METRICS
    neurite = torch.cat([load_slice(f).labels[5][load_slice(f).mask] for f in slices])
    assert scale.centre[5] == pytest.approx(float(neurite.median()), rel=1e-5)


def test_the_prior_learns_tissue_and_metrics_have_no_say(files, space):
    loss = prior_loss(scale_of(files))
    for config in (PLAIN, STRANGE):
        network, example = tiny_network(), next(examples(files, space, 3, config))
        value, told = loss(network, example, 0)
        value.backward()
        odd = replace(example, labels=torch.full_like(example.labels, torch.nan))
        assert torch.equal(loss(network, odd, 0)[0], value)
        for name, parameter in network.named_parameters():
            if name.split(".")[0] in HEAD:
                assert parameter.grad is None, name
            else:
                assert parameter.grad.any(), name
                assert torch.isfinite(parameter.grad).all(), name
        assert set(told) == {"expected", "numbers", "apart"}


def test_the_loss_is_the_likelihood_of_the_truth(files, space):
    """Under the prior, and number by number under the posterior."""
    network, example = tiny_network(), next(examples(files, space, 3, PLAIN))
    value, told = prior_loss(scale_of(files))(network, example, 0)
    seen, truth = example.tokens, example.numbers
    with torch.no_grad():
        prior = network.prior(seen)
        best = prior.posterior(seen.matrix, seen.vector.T, seen.noise)
    own = prior.mean, prior.variance[:, GROUP], prior.factors
    covariance = torch.diag_embed(own[1]) + prior.factors @ prior.factors.mT
    apart = truth - prior.mean
    near = (apart * torch.linalg.solve(covariance, apart)).sum(1) < space.channels * FAR**2
    wanted = torch.distributions.MultivariateNormal(prior.mean, covariance).log_prob(truth)
    found = surprise(truth, *own)
    torch.testing.assert_close(found[near], -wanted[near] / space.channels, atol=1e-3, rtol=1e-3)
    assert int(near.sum()) > 10
    assert told["expected"] == pytest.approx(float(found.mean()), rel=1e-5)
    every = torch.ones_like(truth, dtype=torch.bool)
    numbers, _ = metric_loss(best.mean, best.variance.log() / 2, truth, every)
    assert told["numbers"] == pytest.approx(float(numbers), rel=1e-4)
    rms = (truth - best.mean).square().mean().sqrt()
    assert told["apart"] == pytest.approx(float(rms), rel=1e-4)
    whole = told["expected"] + NUMBERS_WEIGHT * told["numbers"]
    assert float(value.detach()) == pytest.approx(whole, rel=1e-5)


def no_fits(files, space, count, generator):
    """Stand in for `relabel.strange_labels`, whose fits take seconds."""
    item = load_mapped(files[0])
    numbers = item.numbers.T + 0.1 * torch.randn(item.numbers.T.shape, generator=generator)
    return numbers, item.labels.T.float(), item.known.T


@pytest.fixture
def quick_head():
    with patch.object(head, "strange_labels", no_fits), patch.object(head, "BATCH", 128):
        yield


@pytest.mark.usefixtures("quick_head")
def test_the_head_learns_the_map_first(files, space):
    network, scale = tiny_network(), scale_of(files)
    before = {k: v.clone() for k, v in network.named_parameters()}
    shares = []
    first = teach_head(tiny_network(), files, space, scale, iter([]), (0, 10, 0))["map"]
    words = network, files, space, scale, iter([]), (0, 80, 0)
    told = teach_head(*words, progress=shares.append)
    assert told["map"] < 0.9 * first
    changed = {
        k.split(".")[0] for k, v in network.named_parameters() if not torch.equal(v, before[k])
    }
    assert changed == {"head", "mix", "mean"}
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.5)


def test_strange_voxels_are_labelled_by_fits_to_their_signal(files, space):
    """Of a known tensor: what the space holds of its signal is fitted as the tensor."""
    acq = protocol({1e3 * b: 30 for b in NODES}, b0=0)
    sizes = np.linspace(0.7, 1.2, 6)[:, None, None]
    tensors = sizes * fibre_tensors(np.array([[0.6, 0.0, 0.8]]), 0.9e-3, 0.5e-3)
    clean = torch.from_numpy(tensor_signal(acq, tensors, 1.0)).unflatten(1, (len(NODES), 30))
    g = torch.from_numpy(acq.bvecs.copy()).unflatten(0, (len(NODES), 30))
    shown = [clean[:, k] @ fit_matrix(own, 4, 0.0).T for k, own in enumerate(g)]
    numbers = torch.stack(shown, 1)
    whole = tiny_space()  # of tissue with fibres
    dark = torch.full((1, 22), -50.0)
    z = torch.cat([whole.encode(numbers).float(), dark])
    kept, labels, known = label_numbers(z, whole)
    assert torch.equal(kept, z[:6])  # no tissue is dark or brighter than at b = 0
    assert labels.shape == known.shape == (6, len(METRICS))
    md, fa = METRICS.index("MD"), METRICS.index("FA")
    assert known[:, [md, fa]].all()
    wanted = torch.tensor([float(np.trace(t)) / 3 for t in tensors])
    torch.testing.assert_close(labels[:, md], wanted, rtol=0.1, atol=0)
    assert float(labels[:, fa].std()) < 0.1
    lost = [name for k, name in enumerate(METRICS) if not known[:, k].any()]
    assert {"f_soma", "R_soma"} <= set(lost)  # two shells do not tell them


def test_strange_voxels_are_drawn_from_all_slices(files, space):
    with patch.object(relabel, "label_numbers", lambda numbers, space: numbers):
        drawn = [relabel.strange_labels(files, space, 30, generator_for(k, "x")) for k in (0, 0, 1)]
    assert drawn[0].shape == (30, space.channels)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.usefixtures("quick_head")
def test_the_head_learns_integrals_over_posteriors_then(files, space):
    """From one example again and again: labels of fits are not asked, the prior stays."""
    scale, example = scale_of(files), next(examples(files, space, 3, STRANGE))
    example = replace(example, labels=torch.full_like(example.labels, torch.nan))
    network, shares = tiny_network(), []
    with torch.no_grad():
        network.spread.bias.fill_(0.0)  # posteriors that are wide
        prior = network.prior(example.tokens)
        data = example.tokens.matrix, example.tokens.vector.T, example.tokens.noise
        generator = generator_for(0, "draws")
        draws = [network.read(prior.draw(*data, generator)).mean for _ in range(100)]
        before = {k: v.clone() for k, v in network.state_dict().items()}
    mean, log_sd = torch.stack(draws).mean(0), torch.stack(draws).std(0).log()

    def wrong() -> tuple[float, float]:
        with torch.no_grad():
            found = network(example.tokens)
        pairs = ((found.mean, mean), (found.log_sd, log_sd))
        return tuple(float((a - b).square().mean().sqrt()) for a, b in pairs)

    first = wrong()
    words = network, files, space, scale, repeat(example), (0, 0, 35)
    with patch.object(head, "LATER_RATE", 1e-2):
        told = teach_head(*words, progress=shares.append)
    last = wrong()
    assert last[0] < 0.7 * first[0]
    assert last[1] < 0.7 * first[1]
    assert set(told) == {"map", "metrics", "exact", "signal"}
    assert shares[-1] == 1
    for name, value in network.state_dict().items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, before[name]) == (name.split(".")[0] not in HEAD), name


@pytest.mark.usefixtures("quick_head")
def test_a_head_taught_twice_is_the_same(files, space):
    scale, made = scale_of(files), []
    for seed in (0, 0, 1):
        network = tiny_network()
        stream = examples(files, space, 3, CUT)
        teach_head(network, files, space, scale, stream, (0, 2, 2), seed)
        made.append(network.mean.weight.detach())
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_some_examples_come_with_a_guess_of_their_numbers(files, space):
    item = load_mapped(files[0])
    with_guess = replace(PLAIN, edge=200, state=1.0, level=(0.1, 0.1))
    one, other = (
        draw_example(item, space, generator_for(2, "s"), config)
        for config in (replace(PLAIN, edge=200), with_guess)
    )
    assert torch.equal(one.numbers, other.numbers)
    assert torch.equal(one.tokens.noise, other.tokens.noise)
    weight = float((one.tokens.noise.median() / 0.1) ** 2)
    more = other.tokens.matrix - one.tokens.matrix
    torch.testing.assert_close(more, weight * torch.eye(space.channels), atol=1e-4, rtol=1e-3)
    guess = (other.tokens.vector - one.tokens.vector) / weight
    level = 0.1 * one.tokens.noise / one.tokens.noise.median()
    relative = (guess - other.numbers.T) / level
    assert float(relative.std()) == pytest.approx(1, abs=0.1)


def test_unknown_labels_cost_nothing_and_make_no_nan():
    mean = torch.zeros(3, 2, requires_grad=True)
    log_sd = torch.zeros(3, 2, requires_grad=True)
    labels = torch.tensor([[1.0, torch.nan], [1.0, torch.inf], [1.0, 2.0]])
    known = torch.tensor([[True, False], [True, False], [True, True]])
    cost, squared = metric_loss(mean, log_sd, labels, known)
    cost.backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.equal(mean.grad != 0, known)
    torch.testing.assert_close(squared, torch.tensor([1.0, 4.0]))
    nothing, _ = metric_loss(mean, log_sd, labels, torch.zeros_like(known))
    assert nothing.item() == 0


def test_far_outliers_cost_linearly():
    labels, known = torch.tensor([[4.0], [5.0], [6.0]]), torch.ones(3, 1, dtype=torch.bool)
    cost = []
    for k in range(3):
        zero = torch.zeros(1, 1)
        cost.append(float(metric_loss(zero, zero, labels[k : k + 1], known[:1])[0]))
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


def test_calibration_covers_what_it_should_in_scans_of_few_volumes_and_of_many():
    """Deviations that are too small, more so where volumes are few, for a scale of 1."""
    generator, examples = torch.Generator().manual_seed(0), []
    known = torch.ones(4000, 2, dtype=torch.bool)
    known[:, 1] = False
    for volumes, sd in ((2.0, 0.6), (4.0, 0.3)):
        facts = torch.zeros(GROUPS + 1)
        facts[GROUPS] = volumes
        labels = torch.randn(4000, 2, generator=generator)
        mean = labels + sd * torch.randn(4000, 2, generator=generator)
        seen = SimpleNamespace(facts=facts, mean=mean)
        examples.append(SimpleNamespace(tokens=seen, labels=labels + 5, known=known))

    def predict(network, tokens) -> Prediction:
        return Prediction(tokens.mean, torch.full((4000, 2), 0.3).log(), *5 * [tokens.mean])

    scale = Scale(("FA", "MD"), (5.0, 5.0), (1.0, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        factors, correlations = calibrate(torch.nn.Identity(), scale, iter(examples), predict)
    assert correlations["MD"] == 0
    assert factors[0] == pytest.approx(2, rel=0.05)
    assert factors[1] == 1  # no label, nothing to say
    assert correlations["FA"] == pytest.approx(1 / (1 + 0.225) ** 0.5, abs=0.02)
