"""Noise, denoising and removal of ringing, against known truth and plain references."""

import tracemalloc
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from phantom import RING_AFFINE, protocol, ring_scan
from scipy.ndimage import gaussian_filter

import DMRIMicroLib as dm
from DMRIMicroLib.errors import Cancelled, InputError
from DMRIMicroLib.preprocess import degibbs, denoise, noise_by_pca, prepare, with_noise
from DMRIMicroLib.preprocess.local_pca import mppca_in_slabs
from DMRIMicroLib.preprocess.patch2self import ROWS, leave_one_out
from DMRIMicroLib.scan import Scan
from DMRIMicroLib.sigma import Noise

SIGMA = 20.0


def low_rank(shape=(20, 20, 6), directions=24, b0=4, rank=3, seed=0):
    """Noise-free signal (x, y, z, m) of smooth images times spectra, and its acquisition."""
    r = np.random.default_rng(seed)
    acq = protocol({1000.0: directions}, b0=b0)
    smooth = np.stack(
        [gaussian_filter(r.normal(size=shape), 3, mode="wrap") for _ in range(rank)], -1
    )
    smooth /= smooth.std(axis=(0, 1, 2))
    spectra = r.uniform(-1, 1, (rank, len(acq))) * np.where(acq.is_b0, 0, 1)
    spectra[0, acq.is_b0] = 1  # every b0 volume is the same image
    return (600 + 60 * smooth @ spectra).astype(np.float32), acq


def noisy_scan(shape=(20, 20, 6), directions=24, b0=4, mask=True, sigma=SIGMA):
    """Scan with Gaussian noise, and the truth."""
    truth, acq = low_rank(shape, directions, b0)
    noise = np.random.default_rng(1).normal(0, sigma, truth.shape)
    inside = np.zeros(shape, dtype=bool)
    inside[2:-1, 1:-2] = True
    signal = (truth + noise).astype(np.float32)
    return Scan(signal, RING_AFFINE, acq, inside if mask else None), truth


def rmse(signal, truth, where):
    return float(np.sqrt(np.mean((np.asarray(signal)[where] - truth[where]) ** 2)))


@pytest.fixture(scope="module")
def denoised():
    scan, truth = noisy_scan()
    kept = scan.signal.copy()
    return scan, denoise(scan), truth, kept


def test_mppca_lowers_the_error_and_finds_the_noise(denoised):
    scan, clean, truth, _ = denoised
    assert rmse(clean.signal, truth, scan.mask) < 0.5 * rmse(scan.signal, truth, scan.mask)
    assert clean.noise.sigma == pytest.approx(SIGMA, rel=0.1)
    assert np.percentile(clean.noise.map[scan.mask], [2, 98]) == pytest.approx(SIGMA, rel=0.2)
    assert clean.noise.map.dtype == np.float32
    assert (clean.noise.map > 0).all()


def test_denoising_keeps_all_but_the_signal_of_the_mask(denoised):
    scan, clean, _, kept = denoised
    assert clean.signal.dtype == np.float32
    np.testing.assert_array_equal(scan.signal, kept)
    assert not np.shares_memory(scan.signal, clean.signal)
    np.testing.assert_array_equal(clean.signal[~scan.mask], scan.signal[~scan.mask])
    np.testing.assert_array_equal(clean.mask, scan.mask)
    np.testing.assert_array_equal(clean.affine, scan.affine)
    assert clean.acquisition == scan.acquisition
    assert "MP-PCA (dipy" in clean.notes[-1]
    assert "patches of 5 x 5 x 5 voxels" in clean.notes[-1]
    assert "noise before: " in clean.notes[-1]


@pytest.mark.parametrize("radius", [(1, 1, 1), (2, 2, 0)])
def test_slabs_give_what_one_call_of_dipy_gives(radius):
    from dipy.denoise.localpca import mppca

    scan, _ = noisy_scan(shape=(45, 7, 4), directions=8, b0=1, mask=False)
    inside = np.zeros(scan.shape, dtype=bool)
    inside[4:, 2:4, 1:3] = True
    done = []
    clean, sigma = mppca_in_slabs(scan.signal, inside, radius, done.append)
    assert len(done) > 3  # several slabs
    whole = mppca(scan.signal, patch_radius=radius, return_sigma=True, suppress_warning=True)
    np.testing.assert_array_equal(clean[inside], whole[0][inside])
    np.testing.assert_array_equal(sigma[inside], whole[1][inside])


def test_two_slices_get_flat_patches():
    scan, truth = noisy_scan(shape=(20, 20, 2))
    clean = denoise(scan)
    assert "9 x 9 x 1 voxels, flat as there are too few slices" in clean.notes[-1]
    assert rmse(clean.signal, truth, scan.mask) < 0.7 * SIGMA


def test_voxels_at_the_edge_of_the_image_are_denoised_too():
    scan, truth = noisy_scan(shape=(12, 12, 5), mask=False)
    clean = denoise(scan)
    assert "in every voxel" in clean.notes[-1]
    corners = np.zeros(scan.shape, dtype=bool)
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    assert rmse(clean.signal, truth, corners) < 0.8 * SIGMA


def test_files_are_denoised_as_arrays_are(tmp_path):
    scan, _ = noisy_scan(shape=(14, 14, 5), directions=8, b0=1, mask=False)
    nib.save(nib.Nifti1Image(scan.signal, scan.affine), tmp_path / "dwi.nii.gz")
    lazy = replace(scan, signal=nib.load(tmp_path / "dwi.nii.gz").dataobj)
    np.testing.assert_array_equal(denoise(lazy).signal, denoise(scan).signal)


def test_broken_samples_stay_broken_and_alone():
    scan, truth = noisy_scan(shape=(14, 14, 5), directions=8, b0=1, mask=False)
    scan.signal[5, 5, 2, 3], scan.signal[6, 5, 2, 4] = np.nan, np.inf
    clean = denoise(scan)
    broken = ~np.isfinite(clean.signal)
    np.testing.assert_array_equal(broken, ~np.isfinite(scan.signal))
    assert rmse(clean.signal, truth, ~broken) < SIGMA


def test_the_noise_of_before_stays():
    scan, _ = noisy_scan(directions=30)
    own = scan.noise
    assert own.method == "4 b0 repeats"
    for_others = denoise(scan, "patch2self")
    assert for_others.noise == own
    np.testing.assert_array_less(for_others.with_measured_noise(None).noise.sigma, 0.8 * own.sigma)
    given = denoise(with_noise(scan, 33.0), "patch2self")
    assert given.noise.sigma == 33.0
    assert given.with_mask(scan.mask).noise.sigma == 33.0


def test_patch2self_equals_plain_regression():
    scan, _ = noisy_scan(directions=30)
    clean = denoise(scan, "patch2self")
    for v in (1, 7, 33):
        kind = np.flatnonzero(scan.acquisition.is_b0 == scan.acquisition.is_b0[v])
        rows = scan.signal[scan.mask].astype(np.float64)
        others = np.column_stack([rows[:, kind[kind != v]], np.ones(len(rows))])
        weights = np.linalg.lstsq(others, rows[:, v], rcond=None)[0]
        np.testing.assert_allclose(clean.signal[scan.mask][:, v], others @ weights, rtol=1e-4)
    assert "each volume from the 29 other weighted ones, b0 volumes too" in clean.notes[-1]


def test_patch2self_lowers_the_error():
    scan, truth = noisy_scan(directions=30, b0=2)
    clean = denoise(scan, "patch2self")
    weighted = ~scan.acquisition.is_b0
    assert rmse(clean.signal[..., weighted], truth[..., weighted], scan.mask) < 0.7 * SIGMA
    np.testing.assert_array_equal(clean.signal[..., :2], scan.signal[..., :2])
    assert "b0 volumes left as they were" in clean.notes[-1]


def test_patch2self_in_parts_equals_the_whole(monkeypatch):
    rows = np.random.default_rng(0).normal(100, 10, (500, 8))
    whole = leave_one_out(rows, lambda share: None)
    assert len(rows) < ROWS
    monkeypatch.setattr("DMRIMicroLib.preprocess.patch2self.ROWS", 64)
    np.testing.assert_allclose(leave_one_out(rows, lambda share: None), whole, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "method", "told"),
    [
        ({}, "magic", "denoising method is 'magic'"),
        ({"directions": 12}, "patch2self", "needs 20 diffusion-weighted volumes, the scan has 12"),
        ({"directions": 6, "b0": 0}, "mppca", "needs 7 volumes, the scan has 6"),
        ({"shape": (6, 5, 2)}, "mppca", "6 x 5 x 2 voxels is too small for local PCA of 28"),
    ],
)
def test_what_cannot_work_is_said(change, method, told):
    scan, _ = noisy_scan(**change)
    with pytest.raises(InputError, match=told):
        denoise(scan, method)


def test_patch2self_refuses_copies():
    scan, _ = noisy_scan()
    scan.signal[..., 9] = scan.signal[..., 10]
    with pytest.raises(InputError, match="mixture of others"):
        denoise(scan, "patch2self")


@pytest.mark.parametrize(
    "step",
    [denoise, lambda s, **k: denoise(s, "patch2self", **k), degibbs, noise_by_pca],
    ids=["mppca", "patch2self", "degibbs", "noise"],
)
def test_steps_tell_how_far_they_are_and_can_be_stopped(step):
    scan, _ = noisy_scan(shape=(80, 16, 1), b0=1, directions=20)
    told = []
    step(scan, progress=lambda share, text: told.append(share))
    assert told == sorted(told)
    assert told[0] < 0.1
    assert told[-1] == 1
    assert len(told) > 2
    with pytest.raises(Cancelled, match="nothing was written"):
        step(scan, cancelled=lambda: True)


def ringing_scan(cut=24, fine=192):
    """Discs seen through a cut k-space, and through voxels that average instead."""
    acq = protocol({1000.0: 1}, b0=1)
    grid = np.hypot(*(np.indices((fine, fine)) - fine / 2 + 0.5)) / fine
    image = np.where(grid < 0.3, 1000.0, 50.0) - 400 * (grid < 0.12)
    middle = slice(fine // 2 - cut, fine // 2 + cut)
    spectrum = np.fft.fftshift(np.fft.fft2(image))[middle, middle]
    seen = np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum))) * (2 * cut / fine) ** 2
    part = fine // (2 * cut)
    truth = image.reshape(2 * cut, part, 2 * cut, part).mean(axis=(1, 3))
    factor = np.exp(-acq.bvals * 0.7e-3)
    signal = seen[:, :, None, None] * np.ones((1, 1, 2, 1)) * factor
    return Scan(signal.astype(np.float32), RING_AFFINE, acq), truth


def test_ringing_is_lowered():
    scan, truth = ringing_scan()
    kept = scan.signal.copy()
    clean = degibbs(scan)
    radius = np.hypot(*(np.indices(truth.shape) - truth.shape[0] / 2 + 0.5)) / truth.shape[0]
    flat = (radius > 0.16) & (radius < 0.26)  # away from both edges the truth is constant
    before, after = (s.signal[:, :, 0, 0][flat].std() for s in (scan, clean))
    assert before > 20
    assert after < 0.5 * before
    np.testing.assert_array_equal(scan.signal, kept)
    assert clean.signal.dtype == np.float32
    assert "Gibbs ringing removed in the slices across image axis z" in clean.notes[-1]


def test_ringing_is_removed_across_the_axis_asked_for():
    scan, _ = ringing_scan()
    turned = Scan(np.moveaxis(scan.signal, 2, 0), RING_AFFINE, scan.acquisition)
    clean = degibbs(turned, slice_axis=0)
    np.testing.assert_allclose(np.moveaxis(clean.signal, 0, 2), degibbs(scan).signal, rtol=1e-4)
    with pytest.raises(InputError, match="slice_axis is 3"):
        degibbs(scan, slice_axis=3)
    with pytest.raises(InputError, match="slices of 2 x 48 voxels"):
        degibbs(turned)


def test_removal_of_ringing_keeps_broken_samples_and_noise():
    scan, _ = noisy_scan(shape=(18, 18, 2), directions=6, b0=2)
    scan.signal[4, 4, 1, 5] = np.nan
    clean = degibbs(scan)
    np.testing.assert_array_equal(np.isnan(clean.signal), np.isnan(scan.signal))
    assert clean.noise == scan.noise


@pytest.mark.parametrize("shape", [(24, 24, 6), (25, 23, 2), (8, 8, 2)])
def test_noise_by_pca_finds_the_noise(shape):
    scan, _ = noisy_scan(shape=shape, directions=12, b0=1)
    noise = noise_by_pca(scan)
    assert noise.sigma == pytest.approx(SIGMA, rel=0.1)
    assert noise.map.shape == shape
    assert (noise.map > 0).all()
    assert ("every second voxel" in noise.method) == (shape[0] > 20)


def test_noise_that_varies_is_mapped():
    scan, truth = noisy_scan(shape=(32, 16, 6), mask=False)
    ramp = np.linspace(10, 40, 32)[:, None, None]
    draw = np.random.default_rng(2).normal(size=truth.shape)
    scan = replace(scan, signal=(truth + ramp[..., None] * draw).astype(np.float32))
    found = noise_by_pca(scan).map.mean(axis=(1, 2))
    np.testing.assert_allclose(found[6:-6], ramp[6:-6, 0, 0], rtol=0.15)


@pytest.mark.parametrize("choice", [12.5, "12.5"])
def test_noise_can_be_given(choice):
    scan = with_noise(noisy_scan()[0], choice)
    assert scan.noise == Noise(12.5, "given by the user")
    assert scan.notes[-1] == "noise: 12.5, given by the user"


def test_noise_can_be_chosen():
    scan, _ = noisy_scan()
    assert with_noise(with_noise(scan, 99), "b0").noise == scan.noise
    assert "local PCA" in with_noise(scan, "pca").notes[-1]


@pytest.mark.parametrize("choice", ["", "b1", -3, 0.0, float("nan"), None])
def test_noise_that_is_none_is_refused(choice):
    with pytest.raises(InputError, match="Give b0, pca, or its standard deviation"):
        with_noise(noisy_scan()[0], choice)


def test_a_scan_without_noise_is_told():
    scan = ring_scan()
    for choice in ("b0", "pca"):
        flat = replace(scan, signal=np.full_like(scan.signal, 100.0))
        with pytest.raises(InputError, match="no noise"):
            with_noise(flat, choice)


def test_a_noise_map_must_fit_the_scan():
    scan, _ = noisy_scan()
    with pytest.raises(InputError, match="noise map has shape"):
        scan.with_measured_noise(Noise(1.0, "", np.ones((2, 2, 2), np.float32)))


def test_prepare_measures_then_denoises_then_removes_ringing():
    scan, _ = noisy_scan(shape=(16, 16, 3), directions=6, b0=1)
    told = []
    done = prepare(
        scan, degibbs=True, denoise="mppca", noise="25", progress=lambda *a: told.append(a)
    )
    assert [note.split()[0] for note in done.notes] == ["noise:", "denoised", "Gibbs"]
    assert done.noise.sigma == 25
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert prepare(scan) is scan
    assert "MP-PCA" in prepare(scan, denoise="mppca").noise.method


class Counted:
    """A lazily read array that counts how often each volume is read."""

    def __init__(self, data):
        self.data, self.shape, self.read = data, data.shape, []

    def __getitem__(self, key):
        self.read += np.atleast_1d(np.arange(self.shape[3])[key[-1]]).tolist()
        return self.data[key]


def test_b0_volumes_are_read_once_for_signal_and_noise():
    scan, _ = noisy_scan()
    lazy = replace(scan, signal=Counted(scan.signal), mask=None)
    assert lazy.b0.shape == scan.shape
    masked = lazy.with_mask(scan.mask).with_notes("a")
    assert masked.noise.sigma == pytest.approx(scan.noise.sigma)
    assert masked.snr == pytest.approx(scan.snr)
    assert lazy.signal.read == [0, 1, 2, 3]


def test_noise_of_a_single_b0_does_not_count_anatomy():
    scan = ring_scan(protocol({1000.0: 16, 3000.0: 20}, b0=1), shape=(20, 20, 6), sigma=SIGMA)
    texture = np.random.default_rng(3).uniform(0.5, 1.5, (*scan.shape, 1)).astype(np.float32)
    quiet = replace(scan, mask=np.ones(scan.shape))
    clean = ring_scan(scan.acquisition, shape=(20, 20, 6)).signal
    rough = replace(quiet, signal=scan.signal - clean + clean * texture)
    for one in (quiet, rough):
        assert one.noise.sigma == pytest.approx(SIGMA, rel=0.2)
        assert one.noise.method == "tensor's residual at b = 1000, as there is a single b0"
    few = rough.select(np.arange(7))
    assert few.noise.sigma > 3 * SIGMA  # random texture is detail, too
    assert few.noise.method == "fine detail of the lowest shell, roughly"
    assert few.noise.rough
    assert not rough.noise.rough
    assert few.snr > 0
    assert with_noise(few, "b0").measured_noise.rough


def test_noise_of_a_single_b0_takes_little_memory():
    acq = protocol({1000.0: 30}, b0=1)
    rng = np.random.default_rng(0)
    signal = rng.normal(1000, SIGMA, (64, 64, 60, len(acq))).astype(np.float32)
    scan = Scan(signal, RING_AFFINE, acq, np.ones(signal.shape[:3]))
    lazy = replace(scan, signal=Counted(signal))
    assert scan.b0.shape == lazy.b0.shape
    tracemalloc.start()
    sigma = scan.noise.sigma
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * signal.nbytes
    assert sigma == pytest.approx(SIGMA, rel=0.01)
    assert lazy.noise.sigma == sigma
    assert lazy.signal.read == list(range(len(acq)))


def test_a_processed_scan_keeps_the_fingerprint_of_the_original():
    scan, _ = noisy_scan()
    clean = denoise(scan, "patch2self")
    assert clean.fingerprint == scan.fingerprint
    assert degibbs(clean).with_mask(scan.mask).fingerprint == scan.fingerprint
    assert scan.origin is None
    moved = replace(scan, affine=scan.affine + np.eye(4))
    assert degibbs(moved).fingerprint == moved.fingerprint != scan.fingerprint
    other = replace(scan, signal=clean.signal)
    assert other.fingerprint != scan.fingerprint


def test_real_scan_is_denoised_without_a_trace_of_anatomy(example):
    scan = dm.load(example[0], mask=example[1]).select(np.r_[0:2, 30:40])
    corner = np.zeros(scan.shape, dtype=bool)
    corner[30:60, 30:60] = dm.load(example[0], mask=example[1]).mask[30:60, 30:60]
    scan = scan.with_mask(corner)
    clean = denoise(scan)
    removed = (clean.signal - scan.signal)[corner]
    assert (removed[:, 2:].std(axis=0) > 0.3 * clean.noise.sigma).all()
    assert (np.abs(removed.mean(axis=0)) < 0.1 * clean.noise.sigma).all()
    weighted = scan.signal[..., 2:].mean(axis=3)
    edges = np.linalg.norm(np.gradient(weighted, axis=(0, 1)), axis=0)[corner]
    size = np.abs(removed[:, 2:]).mean(axis=1)
    assert abs(np.corrcoef(size, edges)[0, 1]) < 0.3
