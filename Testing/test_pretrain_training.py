"""Pretraining and fine-tuning, with networks that know nothing and scans of a thousand voxels."""

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
import torch
from bids_data import SHELLS, brain, describe, scan_of
from phantom import fibre_tensors, protocol, ring_axes, tensor_signal
from safetensors.torch import load_file
from test_cli_codebook import ran
from tiny_codebook import one_thread, tiny_network, tiny_space, tiny_weights  # noqa: F401

import DMRIMicroLib as dm
from DMRIMicroLib.cli_pretrain import learned
from DMRIMicroLib.codebooks.network import of_head
from DMRIMicroLib.codebooks.scale import Scale
from DMRIMicroLib.cohort.dataset import Dataset
from DMRIMicroLib.errors import Cancelled, InputError
from DMRIMicroLib.io import nifti
from DMRIMicroLib.io.gradients import ras_to_fsl
from DMRIMicroLib.models import MODELS
from DMRIMicroLib.pretrain import Settings, Target, finetune, learning, pretrain, slices
from DMRIMicroLib.pretrain.dictionary import begin
from DMRIMicroLib.pretrain.down import AVERAGED, has_floor
from DMRIMicroLib.pretrain.examples import draw_example, example_stream
from DMRIMicroLib.pretrain.given import given_maps
from DMRIMicroLib.pretrain.held_out import split
from DMRIMicroLib.pretrain.prepare import Plan, Prepared, prepare
from DMRIMicroLib.pretrain.presets import FINETUNING, PRETRAINING, settings_of
from DMRIMicroLib.pretrain.slices import Source
from DMRIMicroLib.scan import Scan
from DMRIMicroLib.sigma import Noise
from DMRIMicroLib.training.codebook import prior_loss
from DMRIMicroLib.training.examples import ExampleConfig
from DMRIMicroLib.training.mapped import load_mapped
from DMRIMicroLib.training.pool import METRICS
from DMRIMicroLib.weights.store import verify

LABELS = ("alice", "bob", "carol")
SHORT = protocol({1000.0: 6}, b0=1, seed=4)
CUT = ExampleConfig(edge=16, state=0.0)

QUICK = Settings(
    steps=4, batch=1, warmup=1, check=2, looked_at=1, settle=1, head=(0, 2, 1), calibrate=1, edge=16
)


def quick_fits(scan, device="cpu"):
    """Stand in for `slices.fitted`, whose fits take seconds; MD is not known."""
    values = np.linspace(0.1, 0.9, int(np.prod(scan.shape)), dtype=np.float32).reshape(scan.shape)
    return {name: values for name in METRICS if name != "MD"}


@pytest.fixture(autouse=True)
def no_fits():
    with patch("DMRIMicroLib.pretrain.prepare.fitted", quick_fits):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Write a data set of three people whose names must not get about."""
    folder = tmp_path_factory.mktemp("data")
    describe(folder)
    told = json.loads((folder / "dataset_description.json").read_text())
    told |= {"Name": "Brains of Alice and others", "DatasetDOI": "doi:10.1"}
    (folder / "dataset_description.json").write_text(json.dumps(told))
    for number, label in enumerate(LABELS):
        home = folder / f"sub-{label}" / "dwi"
        scan = scan_of(number)
        nifti.save(scan, home / f"sub-{label}_dwi.nii.gz")
        mask = nib.Nifti1Image(brain(), scan.affine)
        nib.save(mask, home / f"sub-{label}_desc-brain_mask.nii.gz")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def presets(monkeypatch, settings: Settings) -> None:
    """Let every preset be these settings."""
    for table in (PRETRAINING, FINETUNING):
        for name in table:
            monkeypatch.setitem(table, name, settings)


def scans(folder: Path, *labels: str):
    return list(Dataset.open(folder, labels).scans())


def plan(**changes) -> Plan:
    usual = {"target": Target(SHORT, snr=(20.0, 20.0)), "space": tiny_space(), "way": "sh"}
    return Plan(**usual | changes)


@pytest.fixture(scope="module")
def made(data, tmp_path_factory) -> Prepared:
    with patch("DMRIMicroLib.pretrain.prepare.fitted", quick_fits):
        return prepare(scans(data), plan(), tmp_path_factory.mktemp("run"))


def test_slices_hold_what_the_scan_says(made, data):
    assert made.subjects == LABELS
    assert [len(files) for files in made.files] == [6, 6, 6]
    scan = scans(data, "bob")[0].load()
    item = load_mapped(made.files[1][2])
    where = brain()[:, :, 2] > 0
    assert np.array_equal(item.mask.numpy(), where)
    b0 = scan.volumes(np.flatnonzero(scan.acquisition.is_b0)).mean(3)[:, :, 2][where]
    middle = np.sort(b0)[(len(b0) - 1) // 2]
    np.testing.assert_allclose(item.b0[item.mask], b0 / middle, rtol=1e-5)
    fits = quick_fits(scan)["FA"][:, :, 2][where]
    np.testing.assert_allclose(item.labels[METRICS.index("FA")], fits)
    assert not item.known[METRICS.index("MD")].any()
    assert item.known[METRICS.index("FA")].all()
    # signals at the target's directions: those of the fibres, with the noise averaged
    clean = scan_of(1, sigma=0.0)
    told = slices.load_signals(made.files[1][2])
    wanted = tensor_signal(SHORT, fibre_tensors(ring_axes(clean.affine, clean.shape)), 1.0)
    wrong = told.numpy() - wanted[:, :, 2][where]
    assert told.shape == (int(where.sum()), len(SHORT))
    assert np.sqrt((wrong**2).mean()) < 0.05
    assert np.sqrt((wrong**2).mean()) < 0.3 * wanted[..., 1:].std()


def test_numbers_predict_the_scan(made, data):
    scan, item = scans(data, "alice")[0].load(), load_mapped(made.files[0][1])
    rows = [int(v) for v in (~scan.acquisition.is_b0).nonzero()[0]]
    design, offset, _ = tiny_space().design(scan.acquisition.subset(rows), item.frame)
    told = (design.float() @ item.numbers + offset.float()[:, None]).T
    seen = scan.volumes(rows)[:, :, 1][item.mask.numpy()] / (1000 * item.b0[item.mask][:, None])
    both = torch.stack([told.flatten(), torch.as_tensor(np.asarray(seen)).flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.9


def test_slices_that_are_there_are_not_made_again(data, tmp_path):
    first = prepare(scans(data, "alice"), plan(), tmp_path)
    before = first.files[0][0].stat().st_mtime_ns
    with patch("DMRIMicroLib.pretrain.prepare.fitted", lambda *a: pytest.fail("made again")):
        again = prepare(scans(data, "alice"), plan(), tmp_path)
    assert again == first
    assert first.files[0][0].stat().st_mtime_ns == before
    first.files[0][3].unlink()
    prepare(scans(data, "alice"), plan(), tmp_path)
    assert first.files[0][3].exists()


def test_own_fits_are_the_labels_where_they_went_well(data):
    scan = scans(data, "alice")[0].load()
    with patch.object(slices, "MODELS", {"dti": MODELS["dti"]}):
        found = slices.fitted(scan)
    assert set(found) == {"FA", "MD", "AD", "RD"}
    wanted = dm.fit(scan, "dti")
    np.testing.assert_array_equal(found["FA"][scan.mask], wanted["FA"].data[scan.mask])
    assert np.isnan(found["FA"][~scan.mask]).all()


def test_examples_are_scanned_as_the_target_would(made):
    target = Target(SHORT, snr=(20.0, 20.0))
    file = made.files[0][0]

    def drawn(seed: int):
        generator = torch.Generator().manual_seed(seed)
        return draw_example(file, tiny_space(), target, generator, replace(CUT, doubt=0.0))

    one, same, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(one.tokens.vector, same.tokens.vector)
    assert not torch.equal(one.tokens.vector, other.tokens.vector)
    assert one.acquisition == SHORT
    assert float(one.tokens.noise.median()) == pytest.approx(1 / 20, rel=0.1)
    item, count = load_mapped(file), one.numbers.shape[0]
    assert count <= item.numbers.shape[1]
    assert one.labels.shape == (count, len(METRICS))
    # where the square is the whole slice, the numbers are its own
    whole = next(iter(example_stream([file], tiny_space(), target, 0, CUT)(0)))
    assert torch.equal(whole.numbers, item.numbers.T)


def test_subsets_have_a_b0_and_differ(made):
    dense = protocol(SHELLS, b0=5)
    target = Target(dense, snr=(20.0, 20.0), subsets=True)
    file = made.files[0][0]
    signal = torch.full((load_mapped(file).numbers.shape[1], len(dense)), 0.5)
    with patch("DMRIMicroLib.pretrain.examples.load_signals", lambda f: signal):
        stream = example_stream([file], tiny_space(), target, 0, CUT)(0)
        sizes = [one.acquisition for one in islice(stream, 8)]
    assert all(acq.is_b0.any() and acq.shells for acq in sizes)
    assert len({len(acq) for acq in sizes}) > 2


def test_a_stream_goes_on_where_it_was(made):
    target = Target(SHORT)
    stream = example_stream(made.files[0], tiny_space(), target, 3, CUT)
    a, b = list(islice(stream(0), 3)), next(iter(stream(2)))
    assert torch.equal(a[2].tokens.vector, b.tokens.vector)


def test_subjects_are_held_out_or_slices_if_there_are_few():
    def of(*sizes: int) -> Prepared:
        files = tuple(tuple(Path(f"{k}-{n}") for n in range(size)) for k, size in enumerate(sizes))
        return Prepared(files, tuple(LABELS[: len(sizes)]), {})

    known, out, told = split(of(4, 4, 4))
    assert {f.name[0] for f in known} == {"0", "1"}
    assert {f.name[0] for f in out} == {"2"}
    assert told["held out"] == {"subjects": 1}
    known, out, _ = split(of(4, 4, 4), ["sub-alice"])
    assert {f.name[0] for f in out} == {"0"}
    known, out, told = split(of(10))
    assert [f.name for f in out] == ["0-8", "0-9"]
    assert known[-1].name == "0-6"  # the neighbour of what is held out is not learned from
    assert told["held out"] == {"slices of the same scans": 2}
    assert len(split(of(2))[0]) == 1
    with pytest.raises(InputError, match="0 slices would be learned from"):
        split(of(1))
    with pytest.raises(InputError, match="are not among"):
        split(of(4, 4, 4), ["dave"])


def judged(losses, tmp_path, settings=QUICK, **options):
    """Train on nothing, with a judge who says what is given; return history and weights."""
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    said = iter(losses)

    def loss(net, example, step):
        return -net.weight.sum(), {}  # the weight rises with every step

    seen = []

    def look(net, examples, loss):
        seen.append(float(net.weight))
        return next(said)

    with patch.object(learning, "look", look):
        history = learning.learn(
            network, lambda first: iter(range(first, 999)), [], loss, settings, tmp_path, **options
        )
    return history, float(network.weight), seen


def test_training_stops_when_held_out_scans_gain_no_more(tmp_path):
    settings = replace(QUICK, steps=100, patience=2)
    history, weight, seen = judged([3.0, 1.0, 2.0, 2.0, 0.0], tmp_path, settings)
    assert [step for step, _ in history.losses] == [0, 2, 4, 6]
    assert history.told()["steps"] == 2
    assert seen[0] == 0
    assert weight == seen[1] < seen[2] < seen[3]


def test_training_that_only_harms_leaves_what_there_was(tmp_path):
    history, weight, _ = judged([1.0, 2.0, 3.0], tmp_path)
    assert weight == 0
    assert history.told()["steps"] == 0


def test_training_goes_on_where_it_was_stopped(tmp_path):
    asked = iter([False, False, False, True])
    with pytest.raises(Cancelled):
        judged([3.0, 2.0, 1.0], tmp_path / "a", cancelled=lambda: next(asked))
    history, weight, _ = judged([1.0], tmp_path / "a")
    assert [step for step, _ in history.losses] == [0, 2, 4]
    whole, straight, _ = judged([3.0, 2.0, 1.0], tmp_path / "b")
    assert history.losses == whole.losses
    assert weight == pytest.approx(straight)


def test_a_training_that_died_before_it_looked_looks_at_the_same_steps(tmp_path):
    """Its checkpoint is one look ahead of what is written down."""
    with pytest.raises(StopIteration):
        judged([3.0], tmp_path / "a")  # killed at the first look after step 2
    assert learning.steps_done(tmp_path / "a") == 2
    history, weight, seen = judged([2.0, 1.0], tmp_path / "a")
    whole, straight, once = judged([3.0, 2.0, 1.0], tmp_path / "b")
    assert history.losses == whole.losses == [(0, 3.0), (2, 2.0), (4, 1.0)]
    assert seen == pytest.approx(once[1:])
    assert weight == pytest.approx(straight)


def test_the_judge_is_the_mean_loss(made):
    stream = example_stream(made.files[0], tiny_space(), Target(SHORT), 0, CUT)
    network, few = tiny_network(), list(islice(stream(0), 2))
    loss = prior_loss(Scale(METRICS, (0.0,) * 24, (1.0,) * 24))
    with torch.no_grad():
        each = [float(loss(network, one, 0)[0]) for one in few]
    assert learning.look(network, few, loss) == pytest.approx(sum(each) / 2, rel=1e-5)


def anonymous(text: str) -> bool:
    return not any(label in text.lower() for label in (*LABELS, "sub-", "/"))


def test_pretrain_makes_weights_that_codebook_takes(data, weights, tmp_path, monkeypatch):
    presets(monkeypatch, QUICK)
    np.savetxt(tmp_path / "s.bval", SHORT.bvals[None])
    np.savetxt(tmp_path / "s.bvec", ras_to_fsl(SHORT.bvecs, np.eye(4)).T)
    words = ["pretrain", weights, "--auxiliary", data, "--out", tmp_path / "run", "--snr", "15,30"]
    words += ["--target-scheme", f"{tmp_path}/s.bval,{tmp_path}/s.bvec", "--target-voxel", "3"]
    words += ["--interpolation", "sh", "--progress", "none"]
    said = ran(*words).output
    file = tmp_path / "run" / "codebook-pretrained-1.0.0.safetensors"
    assert str(file) in said.replace("\n", "")
    assert "held-out scans" in said
    verify(file, "codebook")
    text = file.with_suffix(".json").read_text()
    card = json.loads(text)
    told = card["training"]
    assert anonymous(text.replace("mm2/s", ""))
    assert told["data"]["subjects"] == 3
    assert told["data"]["acquisitions"] == {"5 b0, 15 x b1000, 15 x b2000": 3}
    assert told["data"]["voxels [mm]"] == [[3.0, 3.0, 3.0]]
    assert told["data"]["data sets"] == [{"License": "CC0", "DatasetDOI": "doi:10.1"}]  # no name
    assert told["target"]["acquisition"] == "1 b0, 6 x b1000"
    assert told["target"]["snr"] == [15, 30]
    assert told["learned"]["held out"] == {"subjects": 1}
    md = card["data"]["metrics"].index("MD")
    assert card["data"]["calibration"][md] == 1  # no label told it: as it was
    assert "MD" not in card["metrics"]["correlation on what was held out"]
    names = [f.name for f in (tmp_path / "run").rglob("*")]
    assert anonymous(" ".join(names))
    assert anonymous((tmp_path / "run" / "run.json").read_text())
    took = json.loads((tmp_path / "run" / "run.json").read_text())["took"]
    assert took["training"]["examples"] == QUICK.steps * QUICK.batch
    assert took["training"]["examples per second"] > 0
    assert set(took) >= {"slices", "training", "calibration", "device", "threads"}
    assert card["training"]["learned"]["head"] == "kept"
    began, now = load_file(weights), load_file(file)
    assert all(torch.equal(began[k], now[k]) for k in began if of_head(k))
    assert any(not torch.equal(began[k], now[k]) for k in began if not of_head(k))
    before = file.read_bytes()
    ran(*words)  # nothing is left to do
    assert file.read_bytes() == before
    with pytest.raises(InputError, match="begun with other"):
        ran(*words, "--seed", 5)
    scan = scans(data, "alice")[0].load()
    maps = dm.codebook(scan, weights=file)
    assert np.isfinite(maps["FA"].data).all()


def test_the_command_says_whether_held_out_scans_gained():
    losses = {"0": 1.06, "20": 0.9, "40": 0.95}
    told = {"steps": 20, "loss of held-out scans by step": losses}
    assert learned(told).startswith("loss of held-out scans: 1.060 before, 0.900 after 20 steps")
    assert "gained nothing in 40 steps" in learned(told | {"steps": 0})
    assert "what is expected of tissue stays" in learned({"prior": "kept"})


def test_fresh_weights_owe_nothing_to_the_start_but_shape_and_space(data, weights, tmp_path):
    card = pretrain(
        weights, scans(data), Target(SHORT), tmp_path, settings=QUICK, fresh=True, way="sh"
    )
    told = json.loads(card.read_text())
    assert told["training"]["begun with"]["only its shape"] is True
    assert told["data"]["space"] == tiny_space().told()


def test_fine_tuning_on_one_scan_learns_parts_of_it(data, weights, tmp_path):
    card = finetune(weights, scans(data, "bob"), tmp_path, settings=QUICK, way="sh")
    told = json.loads(card.read_text())["training"]
    assert told["target"]["subsets"] is True
    assert told["target"]["acquisition"] == "5 b0, 15 x b1000, 15 x b2000"
    assert told["kind"] == "fine-tuning"
    assert told["learned"]["held out"] == {"slices of the same scans": 1}
    with pytest.raises(InputError, match="there are no scans"):
        finetune(weights, [], tmp_path)


def truth(data: Path, folder: Path, name: str = "NDI", value: float = 0.4) -> None:
    scan = scan_of(0)
    for label in LABELS:
        home = folder / f"sub-{label}" / "dwi"
        home.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(np.full(scan.shape, value, np.float32) * brain(), scan.affine)
        nib.save(image, home / f"sub-{label}_model-noddi_param-{name}_dwimap.nii.gz")


def test_given_maps_teach_the_head_and_leave_the_prior(data, weights, tmp_path, monkeypatch):
    truth(data, tmp_path / "maps")
    only_head = replace(QUICK, head=(0, 60, 0))
    presets(monkeypatch, only_head)
    monkeypatch.setattr("DMRIMicroLib.training.head.BATCH", 128)
    words = [
        "finetune",
        weights,
        "--data",
        data,
        "--reference",
        "maps",
        "--maps",
        tmp_path / "maps",
    ]
    words += ["--subjects", "alice,sub-carol", "--out", tmp_path / "run", "--interpolation", "sh"]
    ran(*words)
    file = tmp_path / "run" / "codebook-finetuned-1.0.0.safetensors"
    before, after = load_file(weights), load_file(file)
    assert all(torch.equal(before[k], after[k]) for k in before if not of_head(k))
    assert any(not torch.equal(before[k], after[k]) for k in before if of_head(k))
    card = json.loads(file.with_suffix(".json").read_text())
    assert card["training"]["reference"] == "maps"
    assert card["training"]["data"]["subjects"] == 2
    scan = scans(data, "bob")[0].load()
    old, new = (dm.codebook(scan, weights=w)["NDI"].data[scan.mask] for w in (weights, file))
    assert np.abs(new - 0.4).mean() < np.abs(old - 0.4).mean()


def test_given_maps_must_be_there_once_and_on_the_grid(data, tmp_path):
    one = scans(data, "alice")[0]
    scan = one.load()
    with pytest.raises(InputError, match="there is no map of"):
        given_maps(one, scan, tmp_path)
    truth(data, tmp_path)
    truth(data, tmp_path, "FAt", 0.2)
    found = given_maps(one, scan, tmp_path)
    assert set(found) == {"NDI", "FA_t"}
    assert np.isnan(found["NDI"][brain() == 0]).all()
    np.testing.assert_allclose(found["FA_t"][brain() > 0], 0.2)
    home = tmp_path / "sub-alice" / "dwi"
    again = home / "sub-alice_model-mine_param-ndi_dwimap.nii.gz"
    nib.save(nib.Nifti1Image(np.ones(scan.shape, np.float32), scan.affine), again)
    with pytest.raises(InputError, match="2 maps of NDI"):
        given_maps(one, scan, tmp_path)
    again.unlink()
    odd = home / "sub-alice_model-mine_param-FA_dwimap.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.float32), scan.affine), odd)
    with pytest.raises(InputError, match="another grid"):
        given_maps(one, scan, tmp_path)


def test_what_cannot_be_learned_from_is_named(data, weights, tmp_path):
    with pytest.raises(InputError, match="no participant dave"):
        ran("finetune", weights, "--data", data, "--subjects", "dave", "--out", tmp_path)
    with pytest.raises(InputError, match="too little to learn from"):
        with patch("DMRIMicroLib.pretrain.prepare.DENSE", 99):
            prepare(scans(data, "bob"), plan(), tmp_path)
    with pytest.raises(InputError, match="there is no way"):
        plan(way="magic")
    for words, said in ((["--snr", "9"], "without a scheme"), (["--maps", data], "not the truth")):
        with pytest.raises(InputError, match=said):
            ran("finetune", weights, "--data", data, "--out", tmp_path, *words)


def test_what_is_wrong_is_found_before_anything_is_begun(data, weights, tmp_path):
    """Else the mended command would be refused as another training."""
    maps, run = tmp_path / "maps", tmp_path / "run"
    truth(data, maps)
    shutil.rmtree(maps / "sub-carol")  # the last scan: hours would be lost
    words = {"settings": QUICK, "way": "sh"}
    with pytest.raises(InputError, match="sub-carol/dwi: there is no map of"):
        finetune(weights, scans(data), run, maps=maps, **words)
    with pytest.raises(InputError, match="are not among"):
        finetune(weights, scans(data), run, held_out=["dave"], **words)
    high = Target(protocol({1000.0: 6, 3000.0: 6}, b0=1))
    with pytest.raises(InputError, match="b up to 3000"):
        finetune(weights, scans(data), run, target=high, **words)
    assert not run.exists()


def test_the_noise_floor_is_taken_out_before_other_volumes_are_predicted():
    """Of a scan in its own voxels; larger voxels have lost it already."""
    acq = protocol({1000.0: 12, 2000.0: 12}, b0=4)
    clean, sigma = 120.0, 100.0
    g = np.random.default_rng(0)
    signal = np.where(acq.is_b0, 1000.0, clean) * np.ones((10, 10, 1, 1))
    noisy = np.hypot(signal + g.normal(0, sigma, signal.shape), g.normal(0, sigma, signal.shape))
    mask = np.ones(signal.shape[:3], bool)
    scan = Scan(np.float32(noisy), np.eye(4), acq, mask, measured_noise=Noise(sigma, "given"))
    same = SimpleNamespace(predict=lambda ratio, own, target: ratio)

    def told(scan: Scan) -> float:
        source = Source.of(scan, tiny_space())
        weighted = torch.as_tensor(~acq.is_b0)
        return float(slices._slice(source, 0, {}, acq, same)[1][:, weighted].mean())

    assert has_floor(scan)
    averaged = replace(scan, notes=(f"{AVERAGED} 2 x 2 x 2 mm",))
    assert not has_floor(averaged)
    assert told(averaged) > 1.3 * clean / 1000
    assert told(scan) == pytest.approx(clean / 1000, rel=0.15)


def test_a_dictionary_learns_nothing_from_what_is_held_out(data, tmp_path):
    seen = []

    def sample(source, count, generator, levels):
        seen.append((source.scan.name, list(levels)))
        return torch.ones(4, len(source.stack.acquisition))

    def run(*labels: str, **options) -> tuple[str, list[int]]:
        with (
            patch.object(Source, "sample", sample),
            patch("DMRIMicroLib.pretrain.prepare.learn", lambda *a, **k: begin(20, 0.1)),
        ):
            folder = tmp_path / str(len(seen))
            prepare(scans(data, *labels), plan(way="dictionary"), folder, **options)
        return seen[-1]

    assert run() == ("sub-alice", [0, 1, 2, 3, 4, 5])  # carol is held out
    assert run(held_out=["alice"])[0] == "sub-bob"
    assert run("bob") == ("sub-bob", [0, 1, 2, 3])  # of one subject slices are
    with pytest.raises(InputError, match="every subject is held out"):
        run("alice", "bob", held_out=["alice", "bob"])


def test_what_the_scans_do_not_reach_is_not_made_up(data, tmp_path):
    high = protocol({1000.0: 6, 3000.0: 6}, b0=1)
    for way in ("dictionary", "shore", "sh"):
        with pytest.raises(InputError, match="b up to 3000 s/mm2, the scan up to 2000"):
            prepare(scans(data, "bob"), plan(target=Target(high), way=way), tmp_path)


def test_maps_in_another_unit_are_refused(data, tmp_path):
    one = scans(data, "alice")[0]
    scan = one.load()
    truth(data, tmp_path, "MD", 0.8e-3)
    assert set(given_maps(one, scan, tmp_path)) == {"MD"}
    for wrong in (0.8, 0.8e-9):  # um2/ms, m2/s
        truth(data, tmp_path, "MD", wrong)
        with pytest.raises(InputError, match="the median of MD"):
            given_maps(one, scan, tmp_path)
    truth(data, tmp_path, "MD", np.nan)
    with pytest.raises(InputError, match="no value of MD in the brain"):
        given_maps(one, scan, tmp_path)


def test_a_name_that_tells_a_subject_is_refused(data, weights, tmp_path):
    for name in ("codebook-Alice", "codebook-sub-1"):
        with pytest.raises(InputError, match="label of a subject"):
            finetune(weights, scans(data), tmp_path, settings=QUICK, name=name)
    assert not (tmp_path / "run.json").exists()


def test_another_mask_is_another_training(data, weights, tmp_path):
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    words = {"settings": replace(QUICK, head=(0, 1, 1)), "way": "sh"}
    finetune(weights, scans(copied, "bob"), tmp_path / "run", **words)
    mask = brain()
    mask[1] = 0
    file = copied / "sub-bob" / "dwi" / "sub-bob_desc-brain_mask.nii.gz"
    nib.save(nib.Nifti1Image(mask, scan_of(1).affine), file)
    with pytest.raises(InputError, match="begun with other scans"):
        finetune(weights, scans(copied, "bob"), tmp_path / "run", **words)


def test_derivatives_with_sessions_are_read_and_held_out_by_subject(tmp_path):
    folder, seen = tmp_path / "qsiprep", []
    describe(folder, "derivative")
    for number, label in enumerate(LABELS):
        for session in ("pre", "post"):
            home = folder / f"sub-{label}" / f"ses-{session}" / "dwi"
            stem = f"sub-{label}_ses-{session}_space-ACPC"
            scan = scan_of(number)
            nifti.save(scan, home / f"{stem}_desc-preproc_dwi.nii.gz")
            nib.save(nib.Nifti1Image(brain(), scan.affine), home / f"{stem}_desc-brain_mask.nii.gz")
            place = tmp_path / "maps" / f"sub-{label}" / f"ses-{session}" / "dwi"
            place.mkdir(parents=True)
            value = np.full(scan.shape, 0.2 if session == "pre" else 0.6, np.float32) * brain()
            image = nib.Nifti1Image(value, scan.affine)
            nib.save(image, place / f"{stem}_model-noddi_param-NDI_dwimap.nii.gz")
    found = scans(folder)
    made = prepare(found, plan(maps=tmp_path / "maps"), tmp_path / "run")
    assert [len(files) for files in made.files] == [6] * 6
    assert made.described["subjects"] == 3
    assert made.described["scans"] == 6
    for one, files in zip(found, made.files, strict=True):
        labels = load_mapped(files[0]).labels[METRICS.index("NDI")]
        seen.append(round(float(labels.median()), 3))
        assert one.session is not None
        assert seen[-1] == (0.2 if one.session == "pre" else 0.6)
    assert set(seen) == {0.2, 0.6}
    known, apart, told = split(made)
    assert told["held out"] == {"subjects": 1}
    assert set(apart) == {*made.files[4], *made.files[5]}  # both of carol's
    assert not set(apart) & set(known)
    assert anonymous(json.dumps(made.described).replace("mm2/s", "").replace("s/mm2", ""))


def test_presets_are_those_of_train():
    from DMRIMicroLib.cli_pretrain import Preset

    assert {p.value for p in Preset} == set(PRETRAINING) == set(FINETUNING)
    assert FINETUNING["cpu"].rate < PRETRAINING["cpu"].rate
    own = settings_of("cpu-short", gentle=True, steps=7, seed=3)
    assert (own.steps, own.check, own.seed) == (7, 7, 3)
    with pytest.raises(InputError, match="no preset 'fast'"):
        settings_of("fast", gentle=False)
