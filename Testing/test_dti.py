"""The tensor fit: against dipy, against the truth, and in awkward voxels."""

import numpy as np
import pytest
import torch
from phantom import (
    OBLIQUE,
    RING_AFFINE,
    angle_deg,
    fibre_tensors,
    protocol,
    ring_axes,
    ring_scan,
    tensor_signal,
)

import DMRIMicroLib as dm
from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.errors import Cancelled, InputError, NotIdentifiable
from DMRIMicroLib.fitting.linear import WeightedLeastSquares
from DMRIMicroLib.models import DTI
from DMRIMicroLib.scan import Scan

FLIPPED = RING_AFFINE @ np.diag([-1, 1, 1, 1])


@pytest.mark.parametrize(
    "affine", [RING_AFFINE, FLIPPED, OBLIQUE], ids=["negative", "positive", "oblique"]
)
def test_recovers_the_truth_without_noise(affine):
    scan = ring_scan(affine=affine)
    maps = dm.fit(scan.with_mask(np.ones(scan.shape)), "dti")
    np.testing.assert_allclose(maps["AD"], 1.7e-3, rtol=2e-5)
    np.testing.assert_allclose(maps["RD"], 0.3e-3, rtol=1e-4)
    np.testing.assert_allclose(maps["MD"], (1.7e-3 + 0.6e-3) / 3, rtol=2e-5)
    l1, l2 = 1.7, 0.3
    fa = np.sqrt((l1 - l2) ** 2 / (l1**2 + 2 * l2**2))
    np.testing.assert_allclose(maps["FA"], fa, atol=1e-5)
    assert angle_deg(np.asarray(maps["V1"]), ring_axes(affine, scan.shape)).max() < 0.05
    xx, yy, zz, xy, xz, yz = np.moveaxis(np.asarray(maps["tensor"]), -1, 0)
    truth = fibre_tensors(ring_axes(affine, scan.shape))
    np.testing.assert_allclose(
        np.stack([xx, yy, zz], -1), np.diagonal(truth, axis1=-2, axis2=-1), atol=1e-7
    )
    np.testing.assert_allclose(
        np.stack([xy, xz, yz], -1), truth[..., [0, 0, 1], [1, 2, 2]], atol=1e-7
    )


@pytest.mark.parametrize("b_max", [1000, 5000])
def test_equals_dipy_on_the_real_scan(example, b_max):
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    image, mask = example
    scan = dm.load(image, mask=mask)
    keep = scan.acquisition.bvals <= b_max
    signal = scan.volumes(np.flatnonzero(keep))
    table = gradient_table(
        scan.acquisition.bvals[keep], bvecs=scan.acquisition.bvecs[keep], b0_threshold=50
    )
    theirs = TensorModel(table, fit_method="WLS").fit(signal, mask=scan.mask)
    ours = dm.fit(scan, "dti", b_max=b_max)
    inside = ours.mask & scan.mask
    assert inside.sum() > 0.99 * scan.mask.sum()
    for name, limit in (("FA", 1e-5), ("MD", 1e-9), ("AD", 1e-9), ("RD", 1e-9)):
        value = getattr(theirs, name.lower())
        assert np.median(np.abs(value - np.asarray(ours[name]))[inside]) < limit, name
    # voxels with zero samples are another matter: dipy replaces zeros by the smallest signal
    clean = inside & (signal > 0).all(-1)
    assert np.percentile(np.abs(theirs.fa - np.asarray(ours["FA"]))[clean], 99.9) < 1e-5
    fibre = clean & (theirs.fa > 0.2)
    assert angle_deg(theirs.evecs[..., 0], np.asarray(ours["V1"]))[fibre].max() < 0.1


def test_ordinary_least_squares_equals_numpy():
    scan = ring_scan(sigma=30)
    acq = scan.acquisition
    maps = dm.fit(scan.with_mask(np.ones(scan.shape)), "dti", method="ols")
    x = np.linalg.lstsq(
        DTI().design(acq).numpy(), np.log(scan.signal.reshape(-1, len(acq))).T, rcond=None
    )[0]
    np.testing.assert_allclose(np.asarray(maps["tensor"]).reshape(-1, 6).T, x[:6] * 1e-3, atol=2e-8)


def test_weighted_passes_equal_a_plain_loop_over_voxels():
    """The slow readable reference of the batched solver, unusable samples included."""
    scan = ring_scan(sigma=60)
    signal = scan.signal.reshape(-1, len(scan.acquisition))[:200].astype(np.float64)
    signal[::7, 5] = 0
    signal[::11, 3] = np.nan
    signal[::13, 8] = -4
    design = DTI().design(scan.acquisition).numpy()
    fit = WeightedLeastSquares(
        torch.tensor(design), 3, device=torch.device("cpu"), dtype=torch.float64
    ).fit(torch.tensor(signal))
    for k, s in enumerate(signal):
        ok = np.isfinite(s) & (s > 0)
        a, y = design[ok], np.log(s[ok])
        x = np.linalg.lstsq(a, y, rcond=None)[0]
        for _ in range(3):
            w = np.exp(a @ x)
            x = np.linalg.lstsq(a * w[:, None], y * w, rcond=None)[0]
        np.testing.assert_allclose(fit.parameters[:, k], x, rtol=1e-6, atol=1e-8)
        assert fit.usable[k] == ok.sum()
    assert fit.good.all()


def test_float32_is_as_good_as_float64():
    signal = torch.tensor(ring_scan(sigma=40).signal.reshape(-1, 14))
    design = DTI().design(protocol())
    fits = [
        WeightedLeastSquares(design, 1, device=torch.device("cpu"), dtype=t)
        .fit(signal.to(t))
        .parameters[:6]
        for t in (torch.float32, torch.float64)
    ]
    assert (fits[0] - fits[1]).abs().max() < 2e-6  # um2/ms


def test_any_scale_of_the_signal_gives_the_same_maps():
    scan = ring_scan(sigma=40)
    mask = np.ones(scan.shape)
    reference = dm.fit(scan.with_mask(mask), "dti")
    for scale in (1e-6, 1e6):
        maps = dm.fit(
            Scan(scan.signal * np.float32(scale), scan.affine, scan.acquisition, mask), "dti"
        )
        np.testing.assert_allclose(maps["FA"], reference["FA"], atol=2e-5)


def test_unusable_voxels_are_left_out_and_counted():
    scan = ring_scan()
    signal = scan.signal.copy()
    signal[0, 0, 0] = 0
    signal[1, 0, 0] = np.nan
    signal[2, 0, 0, :9] = -1  # five samples are left for seven unknowns
    signal[3, 0, 0, 4] = 0  # thirteen are plenty
    maps = dm.fit(Scan(signal, scan.affine, scan.acquisition, np.ones(scan.shape)), "dti")
    assert not maps.mask[:3, 0, 0].any()
    assert maps.mask.sum() == np.prod(scan.shape) - 3
    assert maps["FA"].data[maps.mask].min() > 0.7
    assert (np.asarray(maps["MD"])[~maps.mask] == 0).all()
    counts = maps.provenance["dti"]["voxels"]
    assert counts["left_out"] == 3
    assert counts["with_unusable_samples"] == 4
    assert counts["unusable_samples"] == 14 + 14 + 9 + 1


def test_negative_eigenvalues_never_give_impossible_maps():
    acq = protocol()
    tensors = np.array(
        [np.diag([1e-3, 1e-3, -0.5e-3]), np.diag([-1e-3, -1e-3, -1e-3]), np.zeros((3, 3))]
    )
    signal = tensor_signal(acq, tensors)[:, None, None].astype(np.float32)
    maps = dm.fit(Scan(signal, np.eye(4), acq, np.ones((3, 1, 1))), "dti")
    fa, rd = np.asarray(maps["FA"]), np.asarray(maps["RD"])
    assert np.isfinite(fa).all()
    assert (fa >= 0).all()
    assert (fa <= 1).all()
    assert (rd >= 0).all()


def test_default_leaves_high_b_out_where_it_can_and_says_so():
    both = protocol({1000.0: 12, 3000.0: 20})
    maps = dm.fit(ring_scan(both).with_mask(np.ones((12, 14, 6))), "dti")
    assert maps.provenance["dti"]["acquisition"]["volumes"] == list(range(14))
    assert any("14 of 34 volumes" in note for note in maps.provenance["dti"]["notes"])
    high = protocol({3000.0: 20})
    maps = dm.fit(ring_scan(high).with_mask(np.ones((12, 14, 6))), "dti")
    assert len(maps.provenance["dti"]["acquisition"]["volumes"]) == 22


@pytest.mark.parametrize("first", [0, 5, 12])
def test_a_single_b0_anywhere_works(first):
    acq = protocol(b0=1)
    order = np.insert(np.arange(1, 13), first, 0)
    maps = dm.fit(ring_scan(acq.subset(order)).with_mask(np.ones((12, 14, 6))), "dti")
    np.testing.assert_allclose(maps["AD"], 1.7e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("acq", "words"),
    [
        (protocol({1000.0: 5}), "6 distinct directions .there are 5."),
        (protocol({1000.0: 6}, b0=0), "7 volumes .there are 6."),
        (
            Acquisition(
                [0, *[1000.0] * 8],
                [[0, 0, 0], *[[np.cos(t), np.sin(t), 0] for t in np.arange(8) / 3]],
            ),
            "degenerate",
        ),
    ],
)
def test_an_insufficient_acquisition_is_refused_by_name(acq, words):
    scan = Scan(np.ones((3, 3, 3, len(acq)), np.float32), np.eye(4), acq, np.ones((3, 3, 3)))
    with pytest.raises(NotIdentifiable, match=f"dti.*{words}"):
        dm.fit(scan, "dti")


def test_bad_options_are_refused():
    scan = ring_scan().with_mask(np.ones((12, 14, 6)))
    with pytest.raises(InputError, match=r"no model 'dtii'.*dti"):
        dm.fit(scan, "dtii")
    with pytest.raises(InputError, match="device 'cuda:9'"):
        dm.fit(scan, "dti", device="cuda:9")
    with pytest.raises(InputError, match="no volume has b <= -1"):
        dm.fit(scan, "dti", b_max=-1)
    with pytest.raises(InputError, match="iterations is 0"):
        dm.fit(scan, "dti", iterations=0)


def test_progress_rises_to_one_and_cancel_stops():
    scan = ring_scan().with_mask(np.ones((12, 14, 6)))
    seen = []
    dm.fit(scan, "dti", progress=lambda share, text: seen.append(share))
    assert seen == sorted(seen)
    assert seen[-1] == 1
    with pytest.raises(Cancelled):
        dm.fit(scan, "dti", cancelled=lambda: True)
