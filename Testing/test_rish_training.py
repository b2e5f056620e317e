"""Training of methods on RISH features: stages, resuming, fine-tuning, cards; tiny networks."""

import json
from dataclasses import replace

import pytest
import torch
from rish_tiny import AUTOENCODER, DENOISER, DETAIL, blob, stirred
from typer.testing import CliRunner

pytest.importorskip("lightning_fabric")
pytest.importorskip("monai")

from DMRIMicroLib.errors import Cancelled, InputError
from DMRIMicroLib.rish.data import Pair, load_pair, save_pair
from DMRIMicroLib.rish.ldm import LatentDiffusion, Sampling
from DMRIMicroLib.rish.methods import KINDS, build, load_method
from DMRIMicroLib.rish.superres import SuperResolution
from DMRIMicroLib.rish.units import Setting, Units
from DMRIMicroLib.training import rish, rish_latent, rish_measure, rish_recipe
from DMRIMicroLib.training.recipe import ROOM
from DMRIMicroLib.training.rish_recipe import read_rish
from DMRIMicroLib.training.rish_run import Run
from DMRIMicroLib.training.rish_stream import Patches, pairs_of, stream_of, turned
from DMRIMicroLib.weights.store import LARGEST, read_card

EDGE, FINE = 8, 10
LAMBDA = torch.tensor([1.1, 1.3, 0.7])
"""What the pairs have to teach."""

TINY = {
    "rish-residual": {"method": {"widths": [4, 8], "blocks": 1}},
    "rish-cnn": {"method": {"width": 4, "layers": 3}},
    "rish-gan": {"method": {"width": 4, "judge": 4}},
    "rish-ldm": {"autoencoder": AUTOENCODER, "denoiser": DENOISER, "detail": DETAIL},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def few_ways(monkeypatch):
    """Try few ways of sampling, and short ones."""
    monkeypatch.setattr(rish_measure, "GUIDANCES", (0.0, 2.0))
    monkeypatch.setattr(rish_measure, "DEPTHS", (0.02, 0.04))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Six pairs: 7 T features are those of 3 T times LAMBDA squared."""
    folder, units = tmp_path_factory.mktemp("pairs"), Units()
    made = []
    for k in range(6):
        fine = units.from_network(blob(1, (FINE,) * 3, k)[0])
        low = units.from_network(blob(1, (EDGE,) * 3, k)[0])
        scale = LAMBDA.square()[:, None, None, None]
        masks = [torch.ones((n,) * 3, dtype=torch.bool) for n in (EDGE, FINE)]
        masks[0][0] = False
        file = folder / f"pair-0-{k:05d}-whole.safetensors"
        (folder / f"sub-0-{k:05d}.json").write_text("{}")  # all pairs of this head are there
        features = low, low * scale, fine * scale
        save_pair(Pair(*features, *masks, edges=(1.25, 1.05), quiet=True), file)
        made.append(file)
    return made


def tiny(kind, steps=2, **changes):
    recipe = read_rish(kind, "cpu").given(None, steps, 0)
    every = recipe.every | {"save_every": 2, "warmup": 1}
    return replace(recipe, every=every, finer={"width": 4, "blocks": 1}, **TINY[kind], **changes)


def test_the_recipes_can_be_read():
    for kind in KINDS.values():
        for preset in ("cpu", "gpu"):
            recipe = read_rish(kind, preset)
            assert list(recipe.stages)[-1] == "finer"
            assert recipe.training("finer")["accelerator"] == {"cpu": "cpu", "gpu": "cuda"}[preset]
            assert all(recipe.training(stage)["steps"] > 0 for stage in recipe.stages)
    stages = ["low", "high", "denoiser", "detail", "finer"]
    assert list(read_rish("rish-ldm", "cpu").stages) == stages
    for name in ("scratch", "plain"):
        ablation = read_rish("rish-ldm", f"cpu-{name}")
        assert getattr(ablation, name)
        changed = {"preset": "cpu", name: False}
        assert replace(ablation, **changed) == read_rish("rish-ldm", "cpu")
    both = read_rish("rish-ldm", "gpu-plain-scratch")
    assert both.plain
    assert both.scratch
    with pytest.raises(InputError, match="Choose from: cpu, gpu"):
        read_rish("rish-cnn", "cpu-scratch")


@pytest.mark.parametrize("kind", list(TINY))
def test_weights_of_every_preset_fit_into_a_file(kind):
    for preset in ("cpu", "gpu"):
        recipe = read_rish(kind, preset)
        given = {k: getattr(recipe, k) for k in ("autoencoder", "denoiser", "detail")}
        with torch.device("meta"):  # no memory, no random numbers
            network = build(kind.removeprefix("rish-"), recipe.method or given)
            finer = SuperResolution(**recipe.finer)
        numbers = sum(v.numel() for n in (network, finer) for v in n.state_dict().values())
        assert 2 * numbers < ROOM * LARGEST  # in half precision
        if preset == "cpu":
            assert numbers < 3_500_000


def test_an_example_is_a_function_of_its_number(files):
    read = pairs_of(Units())
    stream = stream_of(files, read, 3, 2)
    first = stream(0)
    rows = [next(first) for _ in range(4)]
    again = next(stream(3))
    assert again.number == rows[3].number == 3
    assert all(torch.equal(a, b) for a, b in zip(again[:3], rows[3][:3], strict=True))
    assert not torch.equal(rows[0].given, rows[1].given)
    other = stream(1, step=2)
    assert [next(other).number for _ in range(2)] == [1, 3]
    assert rows[0].given.shape == (2, 3, EDGE, EDGE, EDGE)


def test_both_scans_of_a_pair_are_turned_alike(files):
    example = next(stream_of(files, pairs_of(Units()), 0, 6)(0))
    units = Units()
    low, high = units.from_network(example.given), units.from_network(example.wanted)
    scale = LAMBDA.square()[:, None, None, None]
    assert torch.allclose(high, low * scale, rtol=0.05, atol=2e-3)  # kept in half precision
    assert len({tuple(row.flatten().tolist()) for row in example.mask}) > 1


def test_a_part_of_a_pair_is_the_same_part_of_both_scans(files):
    units = Units()
    examples = stream_of(files, pairs_of(units), 0, 6, crop=EDGE - 3)(0)
    example = next(examples)
    assert example.given.shape == (6, 3, EDGE - 3, EDGE - 3, EDGE - 3)
    assert example.mask.shape == (6, EDGE - 3, EDGE - 3, EDGE - 3)
    low, high = units.from_network(example.given), units.from_network(example.wanted)
    scale = LAMBDA.square()[:, None, None, None]
    assert torch.allclose(high, low * scale, rtol=0.05, atol=2e-3)
    assert not torch.equal(next(examples).given, example.given)
    whole = next(stream_of(files, pairs_of(units), 0, 1, crop=EDGE + 1)(0))
    assert whole.given.shape[-1] == EDGE  # no more than there is


def test_a_stage_can_see_less_of_a_pair(files, tmp_path):
    recipe = tiny("rish-ldm", crop=EDGE, crops={"detail": 4})
    run = Run(recipe, tmp_path, files[:4], files[4:], Setting(), lambda *told: None, lambda: False)
    edges = {stage: next(run.stream(stage)(0)).given.shape[-1] for stage in ("low", "detail")}
    assert edges == {"low": EDGE, "detail": 4}


def test_turning_is_a_permutation_of_axes():
    values = torch.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    made = turned(values, (-1, -3, -2), (True, False, False))
    assert made.shape == (2, 4, 2, 3)
    assert int(made[1, 0, 1, 2]) == int(values[1, 1, 2, 3])


@pytest.mark.parametrize("kind", list(TINY))
def test_a_method_is_trained_and_loaded(kind, files, tmp_path):
    told = []
    card_file = rish.train_rish(
        tiny(kind), files, tmp_path, version="1.2.0", progress=lambda s, text: told.append(s)
    )
    card = read_card(card_file)
    assert card_file.name == f"{kind}-1.2.0.json"
    assert card.kind == kind
    assert card.training["recipe"]["kind"] == kind
    assert Setting.read(card.data) == Setting(patch=EDGE, quiet=True)
    (measured,) = (every["whole"] for every in card.metrics.values())
    assert all(len(row) == 3 for row in measured.values())
    assert told[-1] == 1
    name = kind.removeprefix("rish-")
    method = load_method(name, card_file.with_suffix(".safetensors"))
    low = blob(1, (9, 6, 11))[0]
    made = method.features(low)
    assert made.shape == low.shape
    assert torch.equal(method.features(low), made)
    fine = method.finer(made, 1.25 / 1.05, (11, 7, 13))
    assert fine.shape == (3, 11, 7, 13)
    assert method.random == (kind == "rish-ldm")
    if not method.random:
        assert torch.equal(method.features(low, lambda shape: torch.ones(shape)), made)
    assert method.provenance["name"] == f"{kind}-1.2.0"


def test_a_residual_network_learns_what_pairs_teach(files, tmp_path):
    recipe = tiny("rish-residual", steps=40)
    recipe = replace(recipe, every=recipe.every | {"rate": 2e-2}, patches=4)
    card = read_card(rish.train_rish(recipe, files, tmp_path))
    (told,) = (every["whole"] for every in card.metrics.values())
    assert all(a < 0.2 * b for a, b in zip(told["7 T-like"], told["3 T scan"], strict=True))


@pytest.mark.parametrize("kind", ["rish-residual", "rish-ldm"])
def test_a_training_that_was_stopped_comes_to_the_same_weights(kind, files, tmp_path):
    recipe = tiny(kind, steps=3)
    whole = rish.train_rish(recipe, files, tmp_path / "whole").with_suffix(".safetensors")
    for most in (2, 5, 7):  # stopped in several stages
        asked = []

        def enough(asked=asked, most=most):
            asked.append(1)
            return len(asked) > most

        with pytest.raises(Cancelled):
            rish.train_rish(recipe, files, tmp_path / "parts", cancelled=enough)
    parts = rish.train_rish(recipe, files, tmp_path / "parts").with_suffix(".safetensors")
    assert parts.read_bytes() == whole.read_bytes()
    with pytest.raises(InputError, match="begun with other settings: seed"):
        rish.train_rish(replace(recipe, seed=1), files, tmp_path / "parts")


class Untaught(Run):
    """A training that leaves networks as they begin."""

    def learn(self, stage, network, stream, loss):
        return network


def test_the_7t_autoencoder_goes_on_from_that_of_3t(files, tmp_path):
    recipe = tiny("rish-ldm")
    run = Untaught(
        recipe, tmp_path, files[:4], files[4:], Setting(), lambda *told: None, lambda: False
    )
    low = rish_latent.train_autoencoder(run, "low", None)
    begun = rish_latent.train_autoencoder(run, "high", low.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(
        low.state_dict().values(), begun.state_dict().values(), strict=True
    ))  # fmt: skip
    scratch = rish_latent.train_autoencoder(run, "high", None)
    name = "network.encoder.blocks.0.conv.weight"
    assert not torch.equal(scratch.state_dict()[name], low.state_dict()[name])


def test_7t_scans_can_be_scarce(files):
    recipe = tiny("rish-ldm", scarce=0.5)
    assert recipe.seen(files[:4]) == files[:2]
    assert replace(recipe, scarce=0.01).seen(files) == files[:1]
    assert replace(recipe, scarce=1.0).seen(files) == list(files)


def test_the_way_of_sampling_is_chosen_on_pairs_held_out(files, tmp_path):
    recipe = tiny("rish-ldm", choosing=1)
    card = read_card(rish.train_rish(recipe, files, tmp_path))
    curve = card.data["curve"]
    count = len(rish_measure.GUIDANCES) * len(rish_measure.DEPTHS)
    assert len(curve) == count
    best = rish_measure.best_of(curve)
    assert card.data["sampling"]["guidance"] == list(best.guidance)
    assert card.data["sampling"]["depth"] == list(best.depth)
    written = json.loads((tmp_path / rish_latent.SAMPLING).read_text())
    assert written["curve"] == curve
    (told,) = card.metrics
    assert "on which guidance and noise level were chosen, too" in told  # one pair is held out
    about = "3 T scan, b = 1000 s/mm2, would be at 7 T, on voxels of 1.25 mm"
    assert about in card.about
    assert "gives back what its codes lose" in card.about


def test_pairs_that_tell_errors_are_not_those_that_guidance_was_chosen_on(files, tmp_path):
    def run(choosing, held_out):
        recipe = tiny("rish-ldm", choosing=choosing)
        quiet = lambda *told: None, lambda: False
        return Run(recipe, tmp_path, files[:1], files[-held_out:], Setting(), *quiet)

    assert (run(8, 1).choosing, run(8, 1).judging) == (files[-1:], files[-1:])
    assert (run(8, 4).choosing, run(8, 4).judging) == (files[-4:-2], files[-2:])
    assert (run(1, 4).choosing, run(1, 4).judging) == (files[-4:-3], files[-3:])
    assert "others than those" in rish._measured_on(run(8, 4))
    assert rish._measured_on(run(8, 1)).endswith("too good")


def test_a_card_tells_what_was_learned_from():
    about = rish.about(
        "cnn", Setting(shells=(700.0, 2000.0), edges=(1.5, 1.2)), "simulated from one, two"
    )
    assert "b = 700 to 2000 s/mm2" in about
    assert "voxels of 1.5 mm" in about
    assert "to 1.2 mm" in about
    assert "simulated pairs only, whose 7 T scans are free of noise (heads: one, two)" in about
    assert "the paired scans of my-study" in rish.about("cnn", Setting(), "my-study")


def untaught_ldm(seed=0):
    torch.manual_seed(seed)
    network = stirred(LatentDiffusion(AUTOENCODER, DENOISER)).eval()
    network.low.begin(blob(2, (8, 8, 8)), 0)
    network.high.load_state_dict(network.low.state_dict())
    return network


def test_a_search_that_was_stopped_goes_on_and_comes_to_the_same_curve(
    files, tmp_path, monkeypatch
):
    monkeypatch.setattr(rish_measure, "DEPTHS", (0.1, 0.25))
    monkeypatch.setattr(rish_measure, "GUIDANCES", (0.0, 50.0))
    network, units, asked = untaught_ldm(), Units(), []
    given, up = network.sampling, network.up
    monkeypatch.setattr(network, "up", lambda *a: asked.append(a[1]) or up(*a))

    def search(name, tell=lambda done, count: None, chosen=files[:3]):
        read = rish_measure.middles(pairs_of(units), 8)
        return rish_measure.choose(network, chosen, read, units, tmp_path / name, tell)

    sampling, whole = search("whole.json")
    assert asked == [0.1, 0.25]  # once for each noise level, of all pairs together
    assert len({tuple(row["nmse"]) for row in whole}) > 1
    assert (sampling.steps, network.sampling) == (given.steps, given)
    assert len(whole) == 4
    told = []

    def stop(done, count):
        told.append((done, count))
        if len(told) == 2:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        search("parts.json", stop)
    assert told == [(0, 4), (1, 4)]
    kept = json.loads((tmp_path / "parts.json").read_text())["rows"]
    assert kept == whole[:1]
    told.clear()
    assert search("parts.json", lambda *told_: told.append(told_)) == (sampling, whole)
    assert told[:2] == [(1, 4), (2, 4)]
    asked.clear()
    assert search("parts.json") == (sampling, whole)
    assert not asked  # nothing was left to do
    search("parts.json", chosen=files[3:])
    assert asked == [0.1, 0.25]  # rows of other pairs do not count


def test_the_rows_of_a_search_are_what_the_network_says(files, tmp_path, monkeypatch):
    monkeypatch.setattr(rish_measure, "DEPTHS", (0.1,))
    network, units, read = untaught_ldm(), Units(), pairs_of(Units())
    curve = rish_measure.choose(network, files[:3], read, units, tmp_path / "curve.json")[1]
    for row in curve:
        way = {name: (row[name],) * 3 for name in ("guidance", "depth")}
        network.sampling = Sampling(**way)
        said = rish_measure.nmse(lambda low: network(low[None])[0], files[:3], read, units)
        assert row["nmse"] == pytest.approx(said, rel=1e-3, abs=2e-5)


def test_the_middle_of_a_pair_is_shown(files):
    low, high, mask = rish_measure.middles(pairs_of(Units()), 4)(files[0])
    whole = pairs_of(Units())(files[0])
    assert (low.shape, mask.shape) == ((3, 4, 4, 4), (4, 4, 4))
    assert torch.equal(high, whole[1][:, 2:6, 2:6, 2:6])
    assert rish_measure.middles(pairs_of(Units()), 32)(files[0])[0].shape == (3, EDGE, EDGE, EDGE)


def test_the_best_way_is_that_of_each_order():
    def row(guidance, depth, *errors):
        return {"guidance": guidance, "depth": depth, "nmse": list(errors)}

    curve = [row(0, 0.1, 0.1, 0.5, 0.3), row(1, 0.1, 0.2, 0.4, 0.9), row(2, 0.5, 0.3, 0.3, 1)]
    best = rish_measure.best_of(curve)
    assert best.guidance == (0, 2, 0)
    assert best.depth == (0.1, 0.5, 0.1)


def test_a_deeper_way_that_is_hardly_better_is_not_taken():
    near = [{"guidance": 0, "depth": d, "nmse": [e] * 3} for d, e in ((0.1, 0.1008), (0.5, 0.1))]
    assert rish_measure.best_of(near).depth == (0.1,) * 3
    far = [{"guidance": 0, "depth": d, "nmse": [e] * 3} for d, e in ((0.1, 0.102), (0.5, 0.1))]
    assert rish_measure.best_of(far).depth == (0.5,) * 3


def test_what_the_paper_has_is_trained_without_detail(files, tmp_path):
    made = rish.train_rish(tiny("rish-ldm", plain=True), files, tmp_path)
    network = load_method("ldm", made.with_suffix(".safetensors")).network
    assert network.detail is None
    assert not (tmp_path / "detail").exists()
    low = blob(1, (EDGE,) * 3)
    assert torch.equal(network(low), network.seen(low)[:, -3:])
    assert "gives back" not in read_card(made).about


def test_errors_are_relative_to_the_features(files):
    read, units = pairs_of(Units()), Units()
    pair = load_pair(files[0])
    told = rish_measure.nmse(lambda low: low, files[:1], read, units)
    for k, scale in enumerate(LAMBDA.square().tolist()):
        assert told[k] == pytest.approx((1 - 1 / scale) ** 2, rel=0.05)
    assert rish_measure.nmse(lambda low: pair.to_network(units)[1], files[:1], read, units) == (
        pytest.approx([0, 0, 0], abs=1e-4)
    )


def test_the_command_trains_on_pairs_that_are_there(files, tmp_path, monkeypatch):
    from DMRIMicroLib import cli_train_rish
    from DMRIMicroLib.cli_train import train

    preset = replace(read_rish("rish-cnn", "cpu"), patch=EDGE)
    monkeypatch.setattr(cli_train_rish, "heads", lambda text: ["small"])
    monkeypatch.setattr(rish_recipe, "read_rish", lambda kind, name: preset)
    given = ["--pairs", str(files[0].parent), "--count", "6", "--steps", "1", "--progress", "none"]
    made = CliRunner().invoke(train, ["rish-cnn", "--out", str(tmp_path), *given])
    assert made.exit_code == 0, made.output
    card = read_card(tmp_path / "rish-cnn-1.0.0.json")
    assert card.training["recipe"]["data"] == "simulated from small"
    assert "simulated pairs only, whose 7 T scans are free of noise (heads: small)" in card.about
    assert card.training["recipe"]["stages"]["method"]["steps"] == 1


def test_pairs_of_several_sizes_are_refused(files, tmp_path):
    pair = load_pair(files[0])
    small = Pair(*(getattr(pair, k)[..., :4] for k in ("low", "high", "fine", "mask", "fine_mask")),
                 edges=pair.edges)  # fmt: skip
    save_pair(small, tmp_path / "pair-0-00000.safetensors")
    mixed = [files[0], tmp_path / "pair-0-00000.safetensors"]
    stream = stream_of(mixed, pairs_of(Units()), 0, 6)
    with pytest.raises(InputError, match="pairs differ in their number of voxels"):
        next(stream(0))


def test_examples_go_to_a_device_whole(files):
    example = next(stream_of(files, pairs_of(Units()), 0, 1)(0)).to(torch.device("cpu"))
    assert isinstance(example, Patches)
    assert example.number == 0
