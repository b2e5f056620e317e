"""Posterior sampling: the sampler against posteriors that are known, and every map in its place."""

import json
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from phantom import AFFINES, RING_AFFINE, angle_deg, protocol, ring_axes, ring_scan
from tiny_codebook import (  # noqa: F401
    one_thread,
    shells,
    tiny_network,
    tiny_space,
    tiny_weights,
    tissue,
)
from typer.testing import CliRunner

import DMRIMicroLib as dm
from DMRIMicroLib.cli import app
from DMRIMicroLib.codebooks.network import GROUP, GROUPS, Prior
from DMRIMicroLib.codebooks.recalibrate import Said
from DMRIMicroLib.codebooks.slices import open_codebook
from DMRIMicroLib.codebooks.tokens import Tokens, state_noise, tokens, with_state
from DMRIMicroLib.errors import Cancelled, InputError
from DMRIMicroLib.physics.linalg import eigh3
from DMRIMicroLib.physics.tissue import signal
from DMRIMicroLib.prior.adaptation import LOOK
from DMRIMicroLib.prior.diffusion import LEVELS, levels, sample
from DMRIMicroLib.prior.estimate import MODEL, PRESETS, RESIDUAL, SHARE
from DMRIMicroLib.prior.fibres import FOR_ODF
from DMRIMicroLib.report import render
from DMRIMicroLib.report.words import sampling
from DMRIMicroLib.scan import Scan
from DMRIMicroLib.sigma import Noise

SPACE = tiny_space()
C = SPACE.channels
SPARSE, DENSE = shells(1000.0, count=3), shells(500.0, 1000.0, 2000.0, 3000.0)
FAST = {"preset": "fast", "device": "cpu"}


def slice_of(acq, size: int = 8, sd: float = 0.03, seed: int = 0, same: bool = False) -> Tokens:
    """A slice of random tissue, or of one voxel's signals everywhere; b0 has no noise."""
    n = size * size
    seen = signal(tissue(1 if same else n, seed), acq).float()
    noise = sd * torch.randn(seen.shape, generator=torch.Generator().manual_seed(seed + 1))
    seen = (seen + noise * torch.from_numpy(~acq.is_b0)).expand(n, -1)
    mask = torch.ones(size, size, dtype=torch.bool)
    return tokens(seen.T.reshape(-1, size, size), mask, acq, sd * mask, torch.eye(3), SPACE)


# levels and states


def test_noise_falls_from_the_first_level_to_the_last():
    for steps in (2, 3, 8, 40):
        found = levels(steps)
        assert len(found) == steps
        assert (found[0], found[-1]) == pytest.approx(LEVELS)
        assert all(a > b > 0 for a, b in pairwise(found))
    assert levels(1) == [LEVELS[0]]


def test_a_state_without_noise_decides_and_one_of_noise_alone_changes_nothing():
    seen = slice_of(SPARSE)
    state = torch.randn(C, 64, generator=torch.Generator().manual_seed(3))
    sure, vague = (with_state(seen, SPACE, state, level) for level in (1e-3, 1e4))
    torch.testing.assert_close(sure.start[:, seen.mask], state, atol=1e-2, rtol=0)
    assert float(sure.facts[:GROUPS].min()) > 0.99
    for name in Tokens._fields:
        torch.testing.assert_close(getattr(vague, name), getattr(seen, name), atol=1e-4, rtol=1e-4)


def test_the_joined_evidence_is_that_of_stacked_measurements():
    """Rows R of the scan's own evidence and rows I of the state, each row over its own noise."""
    seen = slice_of(DENSE, size=4)
    scale = torch.linspace(0.5, 2, 16)
    seen = Tokens(*(v.double() if v.is_floating_point() else v for v in seen))
    seen = seen._replace(noise=seen.noise * scale)
    state = torch.randn(C, 16, generator=torch.Generator().manual_seed(3)).double()
    joined, sd = with_state(seen, SPACE, state, 0.4), state_noise(seen, 0.4)
    rows = torch.linalg.cholesky(seen.matrix + 1e-9 * torch.eye(C)).mT
    told = torch.linalg.solve_triangular(rows.mT, seen.vector, upper=False)
    for k in range(16):
        over = torch.cat([torch.full((C,), seen.noise[k].item()), torch.full((C,), sd[k].item())])
        stacked = torch.cat([rows, torch.eye(C)]) / over[:, None]
        values = torch.cat([told[:, k], state[:, k]]) / over
        square = joined.noise[k].square()
        torch.testing.assert_close(
            joined.matrix / square, stacked.T @ stacked, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            joined.vector[:, k] / square, stacked.T @ values, rtol=1e-4, atol=1e-3
        )


def test_a_states_noise_is_the_level_in_the_median_voxel_and_follows_the_signals():
    seen = slice_of(SPARSE)._replace(noise=torch.tensor([0.01, 0.02, 0.03, 0.04, 0.4]))
    found = state_noise(seen, 0.3)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.2, 0.3, 0.4, 4.0]))


# the sampler, where the posterior is known


def knows(n: int, spread: float = 0.3, together: float = 0.3) -> SimpleNamespace:
    """A network that expects the same of every voxel, whatever it sees: then D is exact."""
    g = torch.Generator().manual_seed(11)
    mean = torch.randn(C, generator=g).expand(n, C)
    variance = (spread * (1 + torch.arange(GROUPS) / 4)).expand(n, GROUPS)
    factors = (together * torch.randn(C, 2, generator=g)).expand(n, C, 2)
    prior = Prior(mean, variance, factors, torch.zeros(n, 1))
    return SimpleNamespace(prior=lambda tokens: prior)


def draws(network, seen: Tokens, steps: int, seed: int = 0) -> torch.Tensor:
    def ask(state, level, step, work):
        return work(
            Said.of(network, with_state(seen, SPACE, state.T, level)), torch.arange(len(state))
        )

    g = torch.Generator().manual_seed(seed)
    first = Said.of(network, seen).draw(g)
    return sample(ask, first, state_noise(seen, 1.0), steps, g)


def standing(network, seen: Tokens, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the samples, in standard errors, and their variance over the posterior's: (c,)."""
    exact = Said.of(network, seen).posterior()
    apart = (draws(network, seen, steps) - exact.mean) / exact.variance.sqrt()
    return apart.mean(0) * math.sqrt(len(apart)), apart.square().mean(0)


@pytest.mark.parametrize("acq", [SPARSE, DENSE], ids=["sparse", "dense"])
def test_samples_have_the_mean_and_variance_of_a_posterior_that_is_known(acq):
    size = 24
    seen = slice_of(acq, size, same=True)
    seen = seen._replace(noise=seen.noise * torch.linspace(0.7, 1.5, size * size))
    shift, ratio = standing(knows(size * size), seen, steps=80)
    assert float(shift.abs().max()) < 4
    assert float(ratio.mean()) == pytest.approx(1, abs=0.04)
    # 576 draws: a variance is known to 6 %
    assert float((ratio - 1).abs().max()) < 0.25


def test_samples_vary_together_as_the_posterior_says():
    """Numbers that the prior ties to each other are so in the samples, too."""
    size = 24
    seen, network = slice_of(SPARSE, size, same=True), knows(size * size, 0.02, 0.5)
    prior = network.prior(seen)
    one = torch.diag(prior.variance[0, GROUP]) + prior.factors[0] @ prior.factors[0].T
    precision = torch.linalg.inv(one) + seen.matrix / seen.noise[0] ** 2
    found = torch.cov(draws(network, seen, 60).T)
    wanted = torch.linalg.inv(precision)
    assert float((found - wanted).norm() / wanted.norm()) < 0.2
    alone = torch.diag(wanted.diagonal())
    assert float((alone - wanted).norm() / wanted.norm()) > 0.5


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_few_steps_are_enough_where_the_posterior_is_gaussian(steps):
    size = 24
    seen, network = slice_of(SPARSE, size, same=True), knows(size * size, together=0.0)
    shift, ratio = standing(network, seen, steps)
    assert float(shift.abs().max()) < 4
    assert float(ratio.mean()) == pytest.approx(1, abs=0.06)


def test_few_steps_shift_no_sample_and_make_them_no_more_alike_than_known():
    """What numbers have in common, the step does not know of."""
    size = 24
    seen, network = slice_of(SPARSE, size, same=True), knows(size * size)
    for preset in PRESETS.values():
        shift, ratio = standing(network, seen, preset.steps)
        assert float(shift.abs().max()) < 4
        assert 0.8 < float(ratio.mean()) < 1.2


def test_a_sample_is_a_function_of_the_seed():
    seen, network = slice_of(SPARSE), knows(64)
    one, again, other = (draws(network, seen, 4, seed) for seed in (7, 7, 8))
    assert torch.equal(one, again)
    assert float((one - other).std()) > 0.1


def test_dense_data_leave_no_choice_to_a_sample():
    sparse, dense = (
        draws(knows(64), slice_of(acq, sd=sd, same=True), 12).std(0).mean()
        for acq, sd in ((SPARSE, 0.03), (DENSE, 0.005))
    )
    assert float(dense) < 0.5 * float(sparse)


# from a scan to maps


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def tissue_scan(acq, sd: float, shape=(6, 5, 2), affine=RING_AFFINE, seed: int = 0) -> Scan:
    """A scan of random tissue that the space knows, with its noise told."""
    n = math.prod(shape)
    clean = 1000 * signal(tissue(n, seed), acq).numpy().reshape(*shape, -1)
    g = np.random.default_rng(seed)
    noisy = np.hypot(
        clean + g.normal(0, 1000 * sd, clean.shape), g.normal(0, 1000 * sd, clean.shape)
    )
    mask = np.ones(shape, bool)
    return Scan(np.float32(noisy), affine, acq, mask, "t", measured_noise=Noise(1000 * sd, "given"))


@pytest.fixture(scope="module")
def plain(weights):
    """A scan with holes in its mask, and what is found in it."""
    scan = tissue_scan(protocol({1000.0: 8, 2000.0: 8}), 0.03, (6, 5, 4))
    mask = np.random.default_rng(0).random(scan.shape) < 0.8
    mask[:, :, 1] = False
    scan = scan.with_mask(mask)
    return scan, dm.pigment(scan, weights=weights, **FAST, adapt=LOOK)


def test_maps_hold_the_metrics_of_the_models_asked_for(plain):
    scan, found = plain
    names = ["FA", "MD", "AD", "RD", "MK", "AK", "RK", "NDI", "ODI", "FWF"]
    assert list(found.maps) == [*names, SHARE.name, RESIDUAL.name]
    for name in names:
        item = found[name]
        assert item.model == MODEL
        assert item.metric.low <= item.data[scan.mask].min()
        assert item.data[scan.mask].max() <= item.metric.high
        assert (item.uncertainty[scan.mask] > 0).all()
        assert np.isfinite(item.uncertainty).all()
        assert not item.data[~scan.mask].any()
        assert not item.uncertainty[~scan.mask].any()
    share = found["prior_share"].data[scan.mask]
    assert 0 < share.min() <= share.max() <= 1
    assert (found["pigment_residual"].data[scan.mask] > 0).all()
    flags = found.maps.flags[MODEL]
    assert np.array_equal(flags == 1, scan.mask)
    assert not flags[~scan.mask].any()
    assert np.array_equal(found.maps.mask, scan.mask)


def test_the_provenance_says_how_they_were_made(plain):
    scan, found = plain
    told = found.maps.provenance[MODEL]
    assert (told["samples"], told["steps"], told["seed"]) == (2, 4, 0)
    assert told["planes"] == 1
    assert told["adapted"]["steps"] == LOOK
    assert len(told["adapted"]["unlikeliness"]) == 2
    assert told["weights"]["name"] == "tiny-1.0.0"
    assert told["scan"]["fingerprint"] == scan.fingerprint
    assert told["prior_share"] == pytest.approx(
        found["prior_share"].data[scan.mask].mean(), abs=1e-3
    )
    assert set(told["prior_driven"]) <= set(found.maps)
    json.dumps(told, allow_nan=False)


def test_maps_come_back_from_their_folder(plain, tmp_path):
    _, found = plain
    found.save(tmp_path)
    back = dm.MapSet.load(tmp_path)
    assert set(back) == set(found.maps)
    for name, item in back.items():
        np.testing.assert_allclose(item.data, found[name].data, rtol=1e-6)
    np.testing.assert_allclose(back["NDI"].uncertainty, found["NDI"].uncertainty, rtol=1e-6)
    assert back.provenance == found.maps.provenance


def test_the_signal_is_that_of_the_space_in_its_voxel(plain):
    scan, found = plain
    acq = protocol({700.0: 3, 2500.0: 4}, b0=1)
    design, offset, _ = found.loaded.space.design(acq, found.frame)
    order = np.flatnonzero(scan.mask)
    for which in (0, 1, None):
        told = found.signal(acq, which)
        assert told.shape == (*scan.shape, 8)
        assert not told[~scan.mask].any()
        np.testing.assert_allclose(told[scan.mask][:, 0], 1, atol=1e-4)
        for k in (0, 17, 60):
            voxel = np.unravel_index(order[k], scan.shape)
            z = found.best.double() if which is None else found.numbers[which].double()
            wanted = (design @ z[k] + offset).clamp(0, 1)
            np.testing.assert_allclose(told[voxel], wanted, atol=1e-4)
    with pytest.raises(InputError, match=r"there is no sample 2\. Give 0 to 1"):
        found.signal(acq, 2)
    with pytest.raises(InputError, match="b = 5000"):
        found.signal(protocol({5000.0: 3}))
    assert len(found) == 2


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_dense_scans_are_told_as_they_are_whichever_way_the_head_lies(weights, affine):
    acq = shells(500.0, 1000.0, 2000.0, 3000.0)
    scan = tissue_scan(acq, 0.005, affine=affine)
    found = dm.pigment(scan, "dti", weights=weights, **FAST)
    clean = signal(tissue(60), acq).numpy().reshape(*scan.shape, -1)
    wrong = np.sqrt(np.square(found.signal(acq) - clean).mean())
    assert wrong < 0.25 * np.sqrt(np.square(clean - clean.mean((0, 1, 2))).mean())
    assert wrong < 0.03


def test_the_priors_share_and_the_residual_say_how_much_the_scan_tells(weights):
    dense = dm.pigment(tissue_scan(DENSE, 0.01), "dti", weights=weights, **FAST)
    blind = dm.pigment(
        tissue_scan(shells(300.0, count=1), 0.4), "dti", weights=weights, samples=1, **FAST
    )
    few = dm.pigment(tissue_scan(SPARSE, 0.03), "dti", weights=weights, samples=1, **FAST)
    shares = [float(f["prior_share"].data.mean()) for f in (dense, few, blind)]
    assert shares == sorted(shares)
    assert shares[0] < 0.15
    assert shares[2] > 0.95


def test_the_residual_is_1_for_noise_as_told(weights):
    scan = tissue_scan(DENSE, 0.02)
    told = dm.pigment(scan, "dti", weights=weights, **FAST)["pigment_residual"].data
    assert float(np.median(told)) == pytest.approx(1, abs=0.15)
    quiet = scan.with_measured_noise(Noise(5.0, "given"))  # four times less than there is
    told = dm.pigment(quiet, "dti", weights=weights, **FAST)["pigment_residual"].data
    assert float(np.median(told)) > 2.5


def test_the_same_seed_gives_the_same_maps_and_another_others(weights):
    scan = tissue_scan(SPARSE, 0.03)
    one, again, other = (
        dm.pigment(scan, "dti, noddi", weights=weights, seed=s, adapt=LOOK, **FAST)
        for s in (3, 3, 4)
    )
    assert {"FA", "NDI"} <= set(one.maps)
    for name, item in one.maps.items():
        assert np.array_equal(item.data, again[name].data), name
    assert torch.equal(one.numbers, again.numbers)
    assert not torch.allclose(one.numbers.float(), other.numbers.float(), atol=1e-2)


def test_the_weights_are_as_before_after_an_adaptation(weights):
    scan = tissue_scan(protocol({1000.0: 8}), 0.03)
    before = open_codebook(weights).network.state_dict()
    dm.pigment(scan, "dti", weights=weights, samples=1, adapt=LOOK, **FAST)
    after = open_codebook(weights).network.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


SCANS = {
    "one slice": {"shape": (6, 5, 1)},
    "one voxel": {"shape": (1, 1, 1)},
    "anisotropic": {"affine": np.diag([1.0, 1.0, 6.0, 1.0])},
    "submillimetre": {"affine": np.diag([0.4, 0.4, 0.4, 1.0])},
}


@pytest.mark.parametrize("words", SCANS.values(), ids=SCANS)
def test_any_grid_goes_through_with_one_sample(weights, words):
    scan = tissue_scan(SPARSE, 0.03, **words)
    found = dm.pigment(scan, ["dti", "noddi"], weights=weights, samples=1, adapt=LOOK, **FAST)
    assert len(found) == 1
    assert all(np.isfinite(item.data).all() for item in found.maps.values())
    assert (found["FA"].uncertainty > 0).all()
    json.dumps(found.maps.provenance, allow_nan=False)


def test_a_scan_of_one_shell_gives_metrics_that_lean_on_the_prior(weights):
    scan = tissue_scan(shells(1000.0, count=6), 0.03)
    found = dm.pigment(scan, "all", weights=weights, **FAST)
    told = found.maps.provenance[MODEL]
    assert {"MK", "NDI", "RTOP"} <= set(told["prior_driven"])
    assert "FA" not in told["prior_driven"]
    assert len(found.maps) == 24 + 2


def test_what_cannot_be_done_is_refused_before_the_work(weights):
    scan = tissue_scan(SPARSE, 0.03)
    with pytest.raises(InputError, match=r"no preset 'slow'\. Choose from: fast, standard, best"):
        dm.pigment(scan, preset="slow", weights=weights)
    with pytest.raises(InputError, match=r"no model 'magic'\. Choose from: dki, dti"):
        dm.pigment(scan, ["dti", "magic"], weights=weights)
    with pytest.raises(InputError, match="there is no model ''"):
        dm.pigment(scan, "", weights=weights)
    with pytest.raises(InputError, match="no model was asked for"):
        dm.pigment(scan, [], weights=weights)
    for words in ({"samples": 0}, {"adapt": -1}):
        with pytest.raises(InputError, match="Give 1 or more, and 0 or more"):
            dm.pigment(scan, weights=weights, **words)
    with pytest.raises(InputError, match="there are no weights 'magic'"):
        dm.pigment(scan, weights="magic")
    with pytest.raises(InputError, match="Give a scan with a b0 and a weighted"):
        dm.pigment(scan.select([0]), weights=weights)


@pytest.mark.parametrize("adapt", [0, 1000])
def test_it_can_be_stopped_at_any_stage_and_tells_how_far_it_is(weights, adapt):
    told, stop = [], 6
    with pytest.raises(Cancelled):
        dm.pigment(
            tissue_scan(protocol({1000.0: 8}), 0.03, (4, 4, 9)),
            weights=weights,
            adapt=adapt,
            progress=lambda share, text: told.append((share, text)),
            cancelled=lambda: len(told) >= stop,
            **FAST,
        )
    assert len(told) == stop
    assert told[-1][1].startswith("Adapting" if adapt else "Looking")


def test_progress_rises_to_the_end(weights):
    told = []
    dm.pigment(
        tissue_scan(protocol({1000.0: 8}), 0.03),
        weights=weights,
        adapt=LOOK,
        progress=lambda share, text: told.append(share),
        **FAST,
    )
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)


# fibres


@pytest.fixture(scope="module", params=["negative", "oblique"])
def ring(request, weights):
    affine = AFFINES[request.param]
    scan = ring_scan(shells(700.0, 1000.0, 2000.0, 3000.0), affine, shape=(9, 8, 2))
    scan = scan.with_mask(np.ones(scan.shape, bool)).with_measured_noise(Noise(5.0, "given"))
    return scan, dm.pigment(scan, "dti", weights=weights, **FAST)


def test_tensors_of_samples_lie_along_the_fibres(ring):
    scan, found = ring
    for which in (0, 1, None):
        tensor = found.tensors(which)
        assert tensor.shape == (*scan.shape, 6)
        values, first = eigh3(torch.tensor(tensor[scan.mask].T, dtype=torch.float64))
        wrong = angle_deg(first.T.numpy(), ring_axes(scan.affine, scan.shape)[scan.mask])
        assert np.median(wrong) < 8
        assert 0.3e-3 < float(values.mean()) < 1.5e-3  # mm2/s
    assert not np.array_equal(found.tensors(0), found.tensors(1))


def test_streamlines_run_through_samples(ring):
    scan, found = ring
    centre = (scan.affine @ [4, 3, 0.5, 1])[:3]
    seeds = centre + np.random.default_rng(0).normal(0, 4, (40, 3))
    words = {"inside": "FA >= 0", "min_length": 4, "threads": 1}
    stack = [found.tensors(k) for k in range(len(found))]
    lines = dm.tracts(found.maps, seeds, samples=stack, **words)
    assert "2 samples of tensors" in lines.provenance["followed"]
    assert len(lines) > 5
    stack = [found.odf(k) for k in range(len(found))]
    assert stack[0].shape == (*scan.shape, 15)
    lines = dm.tracts(found.maps, seeds, samples=stack, odf="csd", **words)
    assert "2 samples of harmonics" in lines.provenance["followed"]
    assert len(lines) > 5


def test_distributions_of_samples_peak_along_the_fibres(ring):
    from DMRIMicroLib.tracts.field import odf_field

    scan, found = ring
    field = odf_field(found.odf(0), scan.mask, scan.affine)
    wrong = angle_deg(field.axes[..., 0, :], ring_axes(scan.affine, scan.shape))
    assert np.median(wrong) < 8
    assert len(FOR_ODF) == 28


# report


def test_the_report_says_what_the_maps_lean_on(plain):
    scan, found = plain
    told = found.maps.provenance[MODEL]
    page = render(scan, found.maps).split('id="provenance"')[0]
    assert ">PIGMENT-style fit (samples under a learned prior)</h3>" in page
    assert "Means over 2 samples of what the tissue may be." in page
    assert f"mean over voxels: {100 * told['prior_share']:.0f} %" in page
    for text in (SHARE.title, RESIDUAL.title, "Standard deviation of NDI"):
        assert text in page
    leaning = page.count('class="mark">prior-driven')
    assert leaning == len(told["prior_driven"])


def test_the_report_says_whether_the_prior_was_adapted_and_what_that_gave():
    def said(samples: int = 4, steps: int = 60, course: tuple = (3.0, 1.5, 2.0)) -> str:
        adapted = {"steps": steps, "unlikeliness": list(course)}
        return " ".join(sampling({"samples": samples, "adapted": adapted, "prior_share": 0.431}))

    assert "left out rose by 1.5 a voxel" in said()
    assert "stayed as it was" in said(course=(1.0, 2.0, 3.0))
    assert "too few volumes" in said(course=())
    assert "not adapted" in said(steps=0, course=())
    assert "One sample" in said(samples=1)
    assert "mean over voxels: 43 %" in said()
    assert sampling({"method": "wls"}) == []


# command line


def ran(*words):
    run = CliRunner().invoke(app, [str(w) for w in words])
    if run.exception is not None and not isinstance(run.exception, SystemExit):
        raise run.exception
    return run


def test_the_command_writes_maps_and_report_once(scan_files, weights, tmp_path):
    out = tmp_path / "maps"
    words = ["pigment", scan_files, "--mask", scan_files.with_name("mask.nii.gz")]
    words += ["--weights", weights, "--out", out, "--preset", "fast", "--samples", 1]
    run = ran(*words, "--models", "dti, noddi", "--progress", "json", "--seed", 5)
    assert run.exit_code == 0, run.output
    shares = [json.loads(line)["progress"] for line in run.output.splitlines() if line[0] == "{"]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert "9 maps by posterior sampling" in run.output
    maps = dm.MapSet.load(out)
    assert list(maps) == ["FA", "MD", "AD", "RD", "NDI", "ODI", "FWF", SHARE.name, RESIDUAL.name]
    assert maps["NDI"].uncertainty is not None
    assert maps.provenance[MODEL]["seed"] == 5
    report = (out / "report.html").read_text()
    assert "by itself does not determine: NDI, ODI, FWF" in report
    before = (out / "maps.json").read_bytes()
    ran(*words, "--models", "dti", "--overwrite", "--no-report")
    assert (out / "maps.json").read_bytes() != before
    assert "NDI" not in dm.MapSet.load(out)
    assert not (out / "report.html").exists()


def test_the_command_refuses_what_it_cannot_do(scan_files, weights, tmp_path):
    out = tmp_path / "maps"
    words = ["pigment", scan_files, "--out", out, "--preset", "fast"]
    with pytest.raises(InputError, match="there is no model 'magic'"):
        ran(*words, "--weights", weights, "--models", "magic")
    with pytest.raises(InputError, match="there are no weights 'magic'"):
        ran(*words, "--weights", "magic")
    assert ran(*words, "--weights", weights, "--samples", 0).exit_code == 2
    assert ran(*words[:-1], "slow", "--weights", weights).exit_code == 2
    assert not out.exists()


def test_maps_of_another_scan_are_not_replaced_unasked(scan_files, weights, tmp_path):
    dm.fit(dm.load(scan_files), "dti").save(tmp_path)
    words = ["pigment", scan_files, "--out", tmp_path, "--preset", "fast", "--samples", 1]
    words += ["--weights", weights, "--models", "dti", "--no-report"]
    with pytest.raises(InputError, match="holds FA of dti already"):
        ran(*words)
    assert "tensor" in dm.MapSet.load(tmp_path)
    assert ran(*words, "--overwrite").exit_code == 0
    assert set(dm.MapSet.load(tmp_path).provenance) == {MODEL}


def test_help_names_the_presets():
    run = CliRunner().invoke(app, ["pigment", "--help"], env={"COLUMNS": "120"})
    assert run.exit_code == 0
    for word in ("fast", "standard", "best", "--samples", "--adapt", "--seed"):
        assert word in run.output


def test_the_readme_has_the_command():
    assert "dmrimicro pigment" in (ROOT / "README.md").read_text()
