"""Pairs of features: simulated ones, by number and by processes; those of one's own scans."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from phantom import protocol, ring_scan
from toy_anatomy import onion
from typer.testing import CliRunner

from DMRIMicroLib.brain.anatomy import save as save_anatomy
from DMRIMicroLib.cli import app
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.io import nifti
from DMRIMicroLib.rish.data import ORIGIN, load_pair, pairs_in, save_pair, shells_in, split
from DMRIMicroLib.rish.features import harmonics
from DMRIMicroLib.rish.own import cubic, from_bids, look_at
from DMRIMicroLib.rish.units import Setting, Units
from DMRIMicroLib.training.pairs import PairConfig, machine
from DMRIMicroLib.training.rish_pairs import FeatureConfig, by_look, draw_features, make_pairs
from DMRIMicroLib.training.rish_stream import LOUDEST, Spots

SHELL = 20
AFFINE = np.diag([1.25, 1.25, 1.25, 1.0])


def quiet(name):
    scanner, acq = machine(name, "clinical30")
    return scanner.perfect(), acq


SMALL = FeatureConfig(
    patch=8,
    ill=0.0,
    pairs=PairConfig(margin=0, brain=0.9, first=quiet("hcp3t"), second=quiet("hcp7t")),
)


@pytest.fixture(scope="module")
def looks():
    return draw_features([onion()], 0, 0, SMALL)


@pytest.fixture(scope="module")
def pair(looks):
    return looks["whole"]


def test_a_pair_lies_on_both_grids(pair):
    assert pair.low.shape == pair.high.shape == (3, 8, 8, 8)
    assert pair.fine.shape == (3, 10, 10, 10)
    assert pair.edges == pytest.approx((1.25, 1.05))
    assert pair.mask.float().mean() > 0.4
    for features, mask in ((pair.low, pair.mask), (pair.fine, pair.fine_mask)):
        assert not features[:, ~mask].any()
        assert (features[0, mask] > 0).all()
    both = torch.stack([pair.low[0, pair.mask], pair.high[0, pair.mask]]).sqrt()
    assert torch.corrcoef(both)[0, 1] > 0.8  # the same tissue, seen by two scanners
    assert 0.8 < both[1].mean() / both[0].mean() < 1.25


def test_looks_are_of_one_head_and_of_one_truth(looks, pair):
    few = looks["few"]
    torch.testing.assert_close(few.high, pair.high, rtol=0, atol=0)
    assert torch.equal(few.mask, pair.mask)
    assert not torch.equal(few.low, pair.low)
    assert "other" not in looks  # the protocol has one shell
    several = tuple(machine(name, name) for name in ("hcp3t", "hcp7t"))
    config = replace(
        SMALL, patch=6, pairs=replace(SMALL.pairs, first=several[0], second=several[1])
    )
    other = draw_features([onion()], 0, 1, config)["other"]
    assert 700 <= other.b <= 3000
    again = replace(config, shells=(other.b, other.b))
    assert draw_features([onion()], 0, 1, again)["other"].b == pytest.approx(other.b)


def test_fewer_volumes_are_noisier_and_the_truth_has_no_noise():
    noisy = replace(SMALL.pairs, first=machine("hcp3t", "clinical30"))
    noisy = replace(noisy, second=machine("hcp7t", "clinical30"))
    config = replace(SMALL, pairs=noisy)

    def energy(config, look, part):
        """Root of the fourth order in the fluid and cortex of the onion, mostly noise."""
        drawn = (draw_features([onion()], 0, k, config)[look] for k in range(3))
        return sum(float(getattr(p, part)[2][p.mask].mean()) for p in drawn)

    whole = energy(config, "whole", "low")
    assert energy(config, "whole", "high") < 0.5 * whole
    assert energy(replace(config, clean=False), "whole", "high") > 1.5 * energy(
        config, "whole", "high"
    )


def test_pairs_of_ill_heads_lie_about_the_lesion(monkeypatch):
    from DMRIMicroLib.training import pairs as drawing

    seen = []
    monkeypatch.setattr(
        drawing, "ill_place", lambda anatomy, subject, generator: seen.append(subject.lesion)
    )
    for k in range(4):
        draw_features([onion()], 0, k, replace(SMALL, patch=4, ill=1.0))
    assert len(seen) == 4
    assert all(lesion is not None for lesion in seen)
    draw_features([onion()], 0, 0, replace(SMALL, patch=4, ill=0.0))
    assert len(seen) == 4


def test_tissue_is_of_order_1_in_network_units(pair):
    for values in pair.to_network(Units())[:2]:
        assert values[:, pair.mask].abs().max() < 8
        assert values[:, pair.mask].mean(1).abs().max() < 4


def test_a_pair_is_a_function_of_its_number(pair, tmp_path):
    again = draw_features([onion()], 0, 0, SMALL)["whole"]
    torch.testing.assert_close(again.fine, pair.fine, rtol=0, atol=0)
    file = tmp_path / "pair-0-00000-whole.safetensors"
    save_pair(replace(pair, b=1200.0), file)
    assert shells_in([file]) == (1200.0, 1200.0)
    read = load_pair(file)
    torch.testing.assert_close(read.high, pair.high, rtol=3e-3, atol=1e-6)
    assert torch.equal(read.fine_mask, pair.fine_mask)
    assert (read.edges, read.b, read.quiet) == (pair.edges, 1200.0, True)
    file.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="no pair"):
        load_pair(file)


def test_processes_make_the_pairs_that_one_makes_and_only_what_is_missing(tmp_path):
    head = str(tmp_path / "onion.safetensors")
    save_anatomy(onion(), head)
    tiny = replace(SMALL, patch=4)
    alone = make_pairs(tmp_path / "a", [head], 3, 5, 1, tiny)
    looks = by_look(alone)
    assert [len(files) for files in looks.values()] == [3, 3]
    assert set(looks) == {"few", "whole"}  # the protocol has one shell
    before = load_pair(alone[2])
    for file in (*alone[2:4], tmp_path / "a" / "sub-5-00001.json"):
        file.unlink()
    kept = alone[0].stat().st_mtime_ns
    shares = []
    again = make_pairs(
        tmp_path / "a", [head], 3, 5, 2, tiny, lambda done, text: shares.append(done)
    )
    assert shares == [pytest.approx(2 / 3), 1.0]
    assert alone[0].stat().st_mtime_ns == kept
    assert again == alone
    assert torch.equal(load_pair(again[2]).low, before.low)
    assert not torch.equal(load_pair(again[4]).low, before.low)
    assert len(split(again)[1]) == 2  # both pairs of a head
    assert pairs_in(tmp_path / "a") == again
    told = json.loads((tmp_path / "a" / ORIGIN).read_text())
    assert (told["source"], told["of"], told["patch"]) == ("simulated", ["onion"], 4)
    with pytest.raises(InputError, match=r"patch is 4, not 8.*another folder"):
        make_pairs(tmp_path / "a", [head], 3, 5, 1, SMALL)
    with pytest.raises(InputError, match="of is onion, not other"):
        make_pairs(tmp_path / "a", ["other"], 3, 5, 1, tiny)
    (tmp_path / "a" / ORIGIN).unlink()  # as pairs were made before folders told of it
    with pytest.raises(InputError, match="patch is 4, not 8"):
        make_pairs(tmp_path / "a", [head], 3, 5, 1, SMALL)
    assert make_pairs(tmp_path / "a", [head], 3, 5, 1, tiny) == again
    assert json.loads((tmp_path / "a" / ORIGIN).read_text()) == told


def test_the_last_tenth_is_held_out(tmp_path):
    files = [tmp_path / f"{k}" for k in range(25)]
    known, out = split(files)
    assert (len(known), out) == (22, files[22:])
    with pytest.raises(InputError, match="1 pairs"):
        split(files[:1])
    with pytest.raises(InputError, match="no pairs"):
        pairs_in(tmp_path)


def test_whole_subjects_are_held_out(tmp_path):
    files = [tmp_path / f"pair-{s}-0000{k}.safetensors" for s in ("1", "10", "2") for k in range(3)]
    assert [len(part) for part in split(files)] == [8, 1]  # simulated: each is a subject
    for subject in ("1", "10", "2"):
        (tmp_path / f"sub-{subject}.json").write_text("{}")
    assert split(files) == (files[:6], files[6:])
    with pytest.raises(InputError, match="all pairs are of one subject"):
        split(files[:3])


# one's own scans


def own(folder, subject, session, edge, shape, seed=0, shells=None):
    """Write a scan about the world's origin, and its mask."""
    affine = np.diag([edge, edge, edge, 1.0])
    affine[:3, 3] = -edge * (np.array(shape) - 1) / 2
    scan = ring_scan(protocol(shells or {1000.0: SHELL}, b0=2), affine, shape, 10.0, seed)
    x = affine[0, 0] * np.arange(shape[0]) + affine[0, 3]
    scan.signal[..., 2:] *= (0.7 + 0.3 * np.sin(x / 3))[:, None, None, None]
    mask = np.zeros(shape, np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    home = folder / f"sub-{subject}" / f"ses-{session}" / "dwi"
    stem = f"sub-{subject}_ses-{session}"
    nifti.save(scan, home / f"{stem}_dwi.nii.gz")
    nib.save(nib.Nifti1Image(mask, affine), home / f"{stem}_desc-brain_mask.nii.gz")
    return scan


def regular(shape, edge, coarse):
    """Return what the signal of `own` was multiplied by, on the fine grid of its first patch."""
    middle = coarse * (1 + 3.5 - 8.5)  # the patch begins at voxel 1 of 18 and has 8
    x = middle + edge * (torch.arange(shape[0]) - (shape[0] - 1) / 2)
    return (0.7 + 0.3 * torch.sin(x / 3))[:, None, None].expand(*shape)


def test_own_scans_give_pairs_that_show_the_same_places(tmp_path):
    for subject in ("1", "2"):
        scan = own(tmp_path / "in", subject, "3T", 1.5, (18, 18, 10))
        own(tmp_path / "in", subject, "7T", 1.2, (22, 22, 12), seed=1)
    own(tmp_path / "in", "3", "3T", 1.5, (18, 18, 10))  # without its other session
    files = from_bids(tmp_path / "in", tmp_path / "pairs", patch=8)
    assert [f.name for f in files] == [
        f"pair-{s}-0000{k}.safetensors" for s in "12" for k in range(4)
    ]
    pair = load_pair(files[0])
    assert pair.low.shape == (3, 8, 8, 8)
    assert pair.fine.shape == (3, 10, 10, 10)
    assert pair.edges == pytest.approx((1.5, 1.2), rel=1e-5)
    signal = torch.from_numpy(np.moveaxis(scan.signal, -1, 0).copy())
    truth = harmonics(signal, scan.acquisition).rish()[:, 1:9, 1:9, 1:9]
    assert pair.quiet
    torch.testing.assert_close(pair.low[0], truth[0], rtol=0.01, atol=1e-3)
    torch.testing.assert_close(pair.low[1], truth[1], rtol=0.06, atol=1e-3)
    assert pair.low[2].mean() < 0.95 * truth[2].mean()  # without the energy of noise
    for order in (0, 1):
        both = torch.stack([pair.low[order, pair.mask], pair.high[order, pair.mask]]).sqrt()
        assert torch.corrcoef(both)[0, 1] > (0.99, 0.9)[order]
    truth = regular(pair.fine.shape[1:], 1.2, 1.5)
    shown = pair.fine[0][pair.fine_mask].sqrt()
    assert torch.corrcoef(torch.stack([shown, truth[pair.fine_mask]]))[0, 1] > 0.98
    before = files[0].stat().st_mtime_ns
    assert from_bids(tmp_path / "in", tmp_path / "pairs", patch=8) == files
    assert files[0].stat().st_mtime_ns == before


def test_a_sample_that_is_no_number_does_not_spread():
    scan = ring_scan(protocol({1000.0: SHELL}, b0=2), AFFINE, (10, 10, 8), 20.0)
    scan = scan.with_mask(np.ones(scan.shape, bool))
    made = look_at(scan, Setting(quiet=True)).harmonics.rish()
    for value in (np.inf, np.nan):
        signal = scan.signal.copy()
        signal[5, 5, 4, 7] = value
        # windows of windows: four voxels
        found = look_at(replace(scan, signal=signal), Setting(quiet=True)).harmonics.rish()
        assert found.isfinite().all()
        torch.testing.assert_close(found[:, :1], made[:, :1], rtol=1e-3, atol=1e-6)


def test_own_scans_must_be_registered_and_named(tmp_path):
    own(tmp_path, "1", "3T", 1.5, (18, 18, 10))
    with pytest.raises(InputError, match="no subject has the sessions ses-3T and ses-7T"):
        from_bids(tmp_path, tmp_path / "pairs")
    own(tmp_path, "1", "7T", 1.2, (10, 10, 6))
    with pytest.raises(InputError, match="Register"):
        from_bids(tmp_path, tmp_path / "pairs")


def test_a_folder_of_pairs_is_of_one_data_set_and_one_kind_of_voxels(tmp_path):
    own(tmp_path / "in", "1", "3T", 1.5, (18, 18, 10))
    own(tmp_path / "in", "1", "7T", 1.2, (22, 22, 12), seed=1)
    files = from_bids(tmp_path / "in", tmp_path / "pairs", patch=8)
    with pytest.raises(InputError, match=r"patch is 8, not 16.*--pairs"):
        from_bids(tmp_path / "in", tmp_path / "pairs", patch=16)
    (tmp_path / "in").rename(tmp_path / "other")
    with pytest.raises(InputError, match="of is in, not other"):
        from_bids(tmp_path / "other", tmp_path / "pairs", patch=8)
    (tmp_path / "other").rename(tmp_path / "in")
    own(tmp_path / "in", "2", "3T", 1.6, (18, 18, 10))
    own(tmp_path / "in", "2", "7T", 1.2, (22, 22, 12), seed=1)
    with pytest.raises(InputError, match=r"voxels of sub-2 differ.*1\.5 mm at 3 T"):
        from_bids(tmp_path / "in", tmp_path / "pairs", patch=8)
    assert pairs_in(tmp_path / "pairs") == files


def test_all_shells_that_both_scans_have_give_pairs_and_the_hcp_has_its_layout(tmp_path):
    low = {1000.0: SHELL, 2000.0: SHELL, 3000.0: SHELL}
    for session, edge, shape, shells in (
        ("3T", 1.5, (18, 18, 10), low),
        ("7T", 1.2, (22, 22, 12), {1000.0: SHELL, 2000.0: SHELL, 3000.0: 8}),
    ):
        own(tmp_path / "in", "1", session, edge, shape, shells=shells)
        home = tmp_path / "in" / "sub-1" / f"ses-{session}" / "dwi"
        there = (
            tmp_path / "hcp" / "100307" / "T1w" / {"3T": "Diffusion", "7T": "Diffusion_7T"}[session]
        )
        there.parent.mkdir(parents=True, exist_ok=True)
        home.rename(there)
        names = ("data.nii.gz", "bvals", "bvecs", "nodif_brain_mask.nii.gz")
        for end, name in zip(("dwi.nii.gz", ".bval", ".bvec", "mask.nii.gz"), names, strict=True):
            next(there.glob(f"*{end}")).rename(there / name)
    files = from_bids(tmp_path / "hcp", tmp_path / "pairs", patch=8)
    assert sorted({load_pair(f).b for f in files}) == [1000.0, 2000.0]  # 8 directions are too few
    assert shells_in(files) == (1000.0, 2000.0)
    energies = [float(load_pair(f).low[0].mean()) for f in (files[0], files[-1])]
    assert energies[1] < 0.8 * energies[0]  # less signal is left at b = 2000
    assert (tmp_path / "pairs" / "sub-100307.json").exists()
    (tmp_path / "hcp" / "100307" / "T1w" / "Diffusion_7T").rename(tmp_path / "gone")
    with pytest.raises(InputError, match=r"no subject has the sessions.*Diffusion_7T"):
        from_bids(tmp_path / "hcp", tmp_path / "other", patch=8)


def test_own_scans_have_cubes_for_voxels():
    with pytest.raises(InputError, match=r"no cubes: 1 x 1 x 3 mm.*Resample"):
        cubic(ring_scan(protocol({1000.0: SHELL}, b0=2), np.diag([1.0, 1, 3, 1]), (4, 4, 4)))


def test_the_numbers_of_linear_harmonisation_are_learned_by_a_command(tmp_path):
    for subject in ("1", "2"):
        own(tmp_path / "in", subject, "3T", 1.5, (18, 18, 10))
        own(tmp_path / "in", subject, "7T", 1.2, (22, 22, 12), seed=1)
    words = ["train", "rish-linear", "--bids", tmp_path / "in", "--out", tmp_path, "--patch", "8"]
    run = CliRunner().invoke(app, [str(w) for w in words])
    assert run.exit_code == 0, run.output
    assert "lambda of orders 0, 2, 4" in run.output
    assert (tmp_path / "rish-linear-1.0.0.safetensors").exists()
    card = json.loads((tmp_path / "rish-linear-1.0.0.json").read_text())
    assert "Learned from the paired scans of in" in card["about"]
    assert "after a local PCA" in card["about"]
    assert card["data"]["quiet"]


def test_spots_are_the_same_in_both_scans_and_of_order_0_alone():
    generator, zero = torch.Generator().manual_seed(0), Units().zero[0]
    given, wanted = torch.randn(2, 3, 24, 24, 24, generator=generator)
    mask = torch.ones(24, 24, 24, dtype=torch.bool)
    changed, largest = 0, 0.0
    for _ in range(20):
        one, other, same = Spots(0.5, zero)([given, wanted, mask], generator)
        assert torch.equal(same, mask)
        assert torch.equal(one[1:], given[1:])
        assert torch.equal(other[1:], wanted[1:])
        by = (one[0] - zero) / (given[0] - zero)
        torch.testing.assert_close(by, (other[0] - zero) / (wanted[0] - zero), rtol=1e-2, atol=1e-2)
        changed += not torch.equal(one, given)
        largest = max(largest, float(by.log().abs().max()))
    assert 4 < changed < 16
    assert 0.2 < largest < LOUDEST + 0.01
    images = torch.randn(9, 24, 24, 24, generator=generator)  # as what latent diffusion has seen
    many = Spots(1.0, zero)([images, wanted, mask], generator)[0]
    assert [torch.equal(a, b) for a, b in zip(many, images, strict=True)] == [False, True, True] * 3
