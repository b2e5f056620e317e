"""The baseline `demic`, trained and run as our codebook is, and the ablations of our own."""

from dataclasses import replace
from itertools import islice
from unittest.mock import patch

import numpy as np
import pytest
import torch
from phantom import protocol, ring_scan
from test_codebook_training import CUT, PLAIN, no_fits, tiny_pool
from tiny_codebook import TINY, one_thread, tiny_space  # noqa: F401

from DMRIMicroLib.brain.simulate import generator_for
from DMRIMicroLib.codebooks.abg import check_distinct, fit_abg
from DMRIMicroLib.codebooks.decay import decay_of
from DMRIMicroLib.codebooks.demic_maps import KIND, DemicSlices, demic
from DMRIMicroLib.codebooks.network import HEAD, Codebook, Shape
from DMRIMicroLib.codebooks.slices import open_codebook
from DMRIMicroLib.codebooks.standard import settle
from DMRIMicroLib.codebooks.tokens import tokens
from DMRIMicroLib.errors import Cancelled, InputError, NotIdentifiable
from DMRIMicroLib.training import head
from DMRIMicroLib.training.codebook import example_stream, prior_loss, scale_of
from DMRIMicroLib.training.demic import demic_loss, two_shells
from DMRIMicroLib.training.examples import ExampleConfig, _protocol, examples
from DMRIMicroLib.training.loop import Training, train
from DMRIMicroLib.training.mapped import find_space, map_slices
from DMRIMicroLib.training.pool import METRICS
from DMRIMicroLib.training.recipe import MAPPED, read_recipe, small, train_codebook
from DMRIMicroLib.training.start import FIRST, INPUTS, Given
from DMRIMicroLib.weights.store import LARGEST

SIZES = {"widths": (4, 8), "kernels": 12}
SHORT = {"steps": 3, "batch": 1, "warmup": 1, "save_every": 1}


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return sorted(tiny_pool(tmp_path_factory.mktemp("pool"), 3).glob("*.safetensors"))


@pytest.fixture(scope="module")
def space(slices):
    return find_space(slices)


@pytest.fixture(scope="module")
def files(slices, space, tmp_path_factory):
    return map_slices(slices, tmp_path_factory.mktemp("signals"), space)


@pytest.fixture(scope="module")
def weights(slices, tmp_path_factory):
    recipe = replace(read_recipe("cpu", "demic"), network=SIZES, training=SHORT, calibrate=1)
    folder = tmp_path_factory.mktemp("demic")
    card = train_codebook(recipe, slices, folder, workers=0)
    return card.with_suffix(".safetensors")


def tiny_recipe(**changes):
    """Return a training of three steps, head and all."""
    sizes = {k: list(v) if isinstance(v, tuple) else v for k, v in TINY.items()}
    short = {"training": SHORT, "settle": 1, "calibrate": 1, "head": (6, 2, 1)}
    return replace(read_recipe("cpu"), network=sizes, examples={"edge": 16}, **short, **changes)


def seen(shells: dict[float, int], size: int = 12):
    acq = protocol(shells)
    scan = ring_scan(acq, shape=(size, size, 1))
    signal = torch.from_numpy(np.moveaxis(scan.signal[:, :, 0], -1, 0).copy())
    mask = torch.ones(size, size, dtype=torch.bool)
    mask[0] = False
    sigma = torch.full(mask.shape, 1e-3 * float(signal.max()))
    return signal, mask, acq, tokens(signal, mask, acq, sigma, torch.eye(3), tiny_space())


def test_the_decay_is_that_of_the_spherical_means_in_one_unit():
    signal, mask, acq, told = seen({1000.0: 30, 2000.0: 30})
    groups = [acq.is_b0.nonzero()[0].tolist(), *(list(s.indices) for s in acq.shells)]
    means = torch.stack([signal[v].mean(0) for v in groups])[:, mask]
    expected, _ = fit_abg(means / means[0].median(), torch.tensor([0.0, 1.0, 2.0]))
    found, usable = decay_of(told)
    assert torch.equal(usable, mask)
    assert not found[:, ~mask].any()
    torch.testing.assert_close(found[:, mask], expected, rtol=0.1, atol=0.05)


def test_one_shell_is_refused_or_has_no_constant():
    *_, told = seen({1000.0: 12})
    with pytest.raises(NotIdentifiable):
        decay_of(told)
    abg, usable = decay_of(told, one_shell=True)
    assert not abg[2].any()
    curve = abg[0] * torch.exp(-abg[1])
    bright = told.voxel_facts[0].exp()
    torch.testing.assert_close(curve[usable], (told.mean[0] * bright)[usable])


def test_protocols_of_demic_have_two_shells_and_b0(files, space):
    config = two_shells(CUT)
    for example in islice(examples(files, space, 3, config), 12):
        acq = example.acquisition
        assert len(acq.shells) >= 2
        assert acq.is_b0.any()
        assert example.known.any()
        decay_of(example.tokens)


def test_no_protocol_of_demic_loses_its_second_shell():
    """What is drawn above the signal space is left out, so nothing may be drawn there."""
    config = two_shells(ExampleConfig())
    for number in range(400):
        acq = _protocol(generator_for(0, str(number)), config)
        check_distinct(torch.tensor([0.0, *(shell.b / 1e3 for shell in acq.shells)]))


def test_the_loss_falls_when_demic_learns_one_slice(files, space, tmp_path):
    scale = scale_of(files)
    loss, example = demic_loss(scale), next(examples(files, space, 3, two_shells(CUT)))
    torch.manual_seed(0)
    network = DemicSlices(METRICS, **SIZES)
    before, told = loss(network, example, 0)
    assert set(METRICS) < set(told)
    training = Training(steps=25, batch=1, rate=1e-2, warmup=1, average=0.5)
    network = train(network, lambda first: iter([example] * 25), loss, training, tmp_path)
    after, _ = loss(network, example, 0)
    assert after.item() < 0.8 * before.item()


def test_labels_that_are_not_known_teach_demic_nothing(files, space):
    scale = scale_of(files)
    loss, example = demic_loss(scale), next(examples(files, space, 3, two_shells(CUT)))
    network = DemicSlices(METRICS, **SIZES)
    wrong = torch.where(example.known, example.labels, torch.nan)
    wrong[:, 0], known = torch.nan, example.known.clone()
    known[:, 0] = False
    value, told = loss(network, replace(example, labels=wrong, known=known), 0)
    assert torch.isfinite(value)
    assert told["FA"] == 0


def test_maps_of_demic_lie_where_they_should_and_one_shell_is_refused(weights):
    scan = ring_scan(protocol({1000.0: 12, 2000.0: 12}), shape=(9, 8, 3), sigma=20.0)
    mask = np.random.default_rng(0).random(scan.shape) < 0.7
    maps = demic(scan.with_mask(mask), weights=weights, device="cpu")
    assert {item.model for item in maps.values()} == {KIND}
    assert tuple(maps) == METRICS
    fa = np.asarray(maps["FA"].data)
    assert not fa[~mask].any()
    turned = demic(scan.with_mask(mask), weights=weights, device="cpu")
    np.testing.assert_array_equal(fa, turned["FA"].data)
    one = ring_scan(protocol({1000.0: 12}), shape=(9, 8, 3)).with_mask(mask)
    with pytest.raises(NotIdentifiable):
        demic(one, weights=weights, device="cpu")
    with pytest.raises(InputError, match="is a demic"):
        open_codebook(weights)


def test_the_published_widths_fit_into_a_file_in_half_precision():
    network = DemicSlices(METRICS)
    kept = small(network.state_dict())
    assert sum(v.numel() * v.element_size() for v in kept.values()) < LARGEST
    assert {v.dtype for v in kept.values()} == {torch.float16}
    network.load_state_dict(kept)
    assert next(network.parameters()).dtype == torch.float32


@pytest.mark.parametrize("part", ["mamba", "cnn", "kernels", "abg"])
def test_ablations_lack_one_part_and_learn(files, space, part):
    preset = "cpu-abg" if part == "abg" else f"cpu-no-{part}"
    recipe = read_recipe(preset)
    whole = read_recipe("cpu-short")
    assert (recipe.training, recipe.head) == (whole.training, whole.head)
    assert whole.training["batch"] == read_recipe("cpu").training["batch"]
    off = {"mamba": "mamba", "cnn": "cnn", "kernels": "physical", "abg": "decay"}[part]
    assert recipe.network[off] is (part == "abg")
    network = Codebook(Shape(METRICS, **TINY, **{off: recipe.network[off]}))
    few = list(islice(examples(files, space, 3, PLAIN), 3))
    settle(network, [e.tokens for e in few])
    scale = scale_of(files)
    value, _ = prior_loss(scale)(network, few[0], 0)
    value.backward()
    trained = [n for n, v in network.named_parameters() if v.grad is not None and v.grad.any()]
    assert any(n.startswith("gates.") for n in trained)
    assert any(".far." in n for n in trained) == (part != "mamba")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with patch.object(head, "strange_labels", no_fits):
        head.teach_head(network, files, space, scale, iter(few), (0, 1, 2))
    taught = [k for k, v in network.state_dict().items() if not torch.equal(v, before[k])]
    assert any(n.startswith("mean.") for n in taught)
    assert any(n.startswith("kernels.") for n in taught) == (part != "kernels")


@pytest.mark.parametrize("decay", [True, False])
def test_with_abg_the_trunk_sees_nothing_else_of_a_voxel(files, space, decay):
    torch.manual_seed(0)
    network = Codebook(Shape(METRICS, **TINY, decay=decay)).eval()
    example = next(examples(files, space, 3, CUT))
    blind = example.tokens._replace(start=torch.zeros_like(example.tokens.start))
    with torch.no_grad():
        same = torch.equal(network.prior(example.tokens).features, network.prior(blind).features)
    assert same is decay


def test_metrics_can_be_left_out_of_a_training(slices, tmp_path):
    left_out = ("MK", "f_soma", "RTOP")
    recipe = tiny_recipe(without=left_out)
    card = train_codebook(recipe, slices, tmp_path, workers=0)
    loaded = open_codebook(card.with_suffix(".safetensors"))
    assert len(loaded.scale.metrics) == 21
    assert not set(left_out) & set(loaded.scale.metrics)
    assert loaded.network.shape.metrics == loaded.scale.metrics
    whole = scale_of(sorted((tmp_path / MAPPED).glob("*"))[:-1])
    at = whole.metrics.index("NDI")
    assert loaded.scale.centre[loaded.scale.metrics.index("NDI")] == whole.centre[at]
    with pytest.raises(InputError, match="there is no metric soul"):
        replace(recipe, without=("soul",)).metrics()


def test_a_training_that_is_stopped_while_the_head_is_taught_ends_in_the_same_weights(
    slices, tmp_path
):
    recipe = tiny_recipe()
    whole = train_codebook(recipe, slices, tmp_path / "whole", workers=0)
    said = []

    def reading() -> bool:
        return bool(said) and "metrics" in said[-1]

    words = (recipe, slices, tmp_path / "stopped")
    told = {"workers": 0, "progress": lambda share, text: said.append(text)}
    with pytest.raises(Cancelled, match="goes on from the last checkpoint"):
        train_codebook(*words, **told, cancelled=reading)
    assert not list(words[2].glob("*.safetensors"))
    card = train_codebook(*words, workers=0)
    one, other = (c.with_suffix(".safetensors").read_bytes() for c in (whole, card))
    assert one == other


def test_a_prior_that_is_there_is_kept_and_only_the_head_is_taught(slices, tmp_path):
    recipe = tiny_recipe()
    first = train_codebook(recipe, slices, tmp_path / "first", workers=0)
    file = str(first.with_suffix(".safetensors"))
    second = replace(recipe, prior=file, without=("MK",), seed=1)
    card = train_codebook(second, slices, tmp_path / "second", workers=0)
    assert str(tmp_path) not in card.read_text()
    one, other = (open_codebook(c.with_suffix(".safetensors")) for c in (first, card))
    assert one.space.told() == other.space.told()
    assert "MK" not in other.scale.metrics
    before, after = (v.network.state_dict() for v in (one, other))
    kept = [k for k in before if k.split(".")[0] not in HEAD]
    assert kept
    assert all(torch.equal(before[k], after[k]) for k in kept)
    assert not torch.equal(before["head.0.weight"], after["head.0.weight"])
    larger = replace(second, network={**second.network, "width": 2 * second.network["width"]})
    with pytest.raises(InputError, match="another size"):
        train_codebook(larger, slices, tmp_path / "third", workers=0)


def test_a_training_begins_where_weights_are_and_hears_new_facts_later(slices, tmp_path):
    recipe = tiny_recipe()
    first = train_codebook(recipe, slices, tmp_path / "first", workers=0)
    file = str(first.with_suffix(".safetensors"))
    card = train_codebook(replace(recipe, start=file), slices, tmp_path / "more", workers=0)
    assert '"start": "codebook-1.0.0"' in card.read_text()
    loaded = open_codebook(file)
    space = loaded.space
    mapped = sorted((tmp_path / "first" / MAPPED).glob("*"))
    seen = next(example_stream(mapped, space, 0, None, 0)(0)).tokens

    given = Given.of(file)
    again = Codebook(loaded.network.shape)
    given.begin(again, [seen])
    before = loaded.network.prior(seen)
    for one, other in zip(before, again.prior(seen), strict=True):
        torch.testing.assert_close(one, other)

    # weights of a network that was told two facts less
    told = dict(given.prior)
    for name in INPUTS:
        told[name] = told[name][:-2]
    columns = len(given.prior[INPUTS[0]])
    told[FIRST] = torch.cat([told[FIRST][:, : columns - 2], told[FIRST][:, columns:]], 1)
    replace(given, prior=told).begin(again, [seen])
    deaf = dict(given.prior) | {FIRST: given.prior[FIRST].clone()}
    deaf[FIRST][:, columns - 2 : columns] = 0
    loaded.network.load_state_dict({**loaded.network.state_dict(), **deaf})
    for one, other in zip(loaded.network.prior(seen), again.prior(seen), strict=True):
        torch.testing.assert_close(one, other)
