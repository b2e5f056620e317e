"""Directions of harmonics with less noise: local PCA, what it keeps, what it leaves alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantom import protocol, ring_scan

import DMRIMicroLib as dm
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.physics.sh import rish
from DMRIMicroLib.rish import directions, table
from DMRIMicroLib.rish.data import Look
from DMRIMicroLib.rish.directions import LeftOver, boxes, calmed, quiet, spiked, turned
from DMRIMicroLib.rish.features import harmonics
from DMRIMicroLib.rish.units import Setting, Units

EDGES = np.diag([1.25, 1.25, 1.25, 1.0])
SHELLS = {1000.0: 45, 2000.0: 45}
SIGMA = 40.0


def scan_of(sigma=SIGMA, shells=None, shape=(16, 18, 12), b0=6):
    scan = ring_scan(protocol(shells or SHELLS, b0=b0), EDGES, shape, sigma)
    mask = np.zeros(shape, bool)
    mask[1:-1, 2:-1, 1:-2] = True
    return scan.with_mask(mask)


def read(scan):
    """Return signal, shells, harmonics, what tells noise, its variance, and the mask."""
    signal = torch.from_numpy(np.moveaxis(np.asarray(scan.signal), -1, 0).copy())
    acq = scan.acquisition
    own = [harmonics(signal, acq, shell.b) for shell in acq.shells]
    noise = LeftOver(acq, acq.shells, 4)
    for first in range(0, len(acq), 8):
        part = slice(first, min(first + 8, len(acq)))
        noise.add(signal[part], part)
    return own, noise, noise.variance(own), torch.from_numpy(scan.mask)


def way_of(coefficients):
    """Direction of order 2 as a unit vector of coefficients: (5, n)."""
    return torch.nn.functional.normalize(coefficients[1:6], dim=0)


def test_what_harmonics_leave_is_the_noise():
    _, noise, variance, mask = read(scan_of())
    assert noise.spare == pytest.approx(5 + 2 * (45 - 15), abs=1)
    found = float(variance[mask].mean().sqrt())
    assert found == pytest.approx(SIGMA, rel=0.1)
    _, _, silent, _ = read(scan_of(sigma=0.0))
    assert float(silent[mask].mean().sqrt()) < 0.3 * SIGMA  # of orders beyond the fourth


def test_directions_come_nearer_to_those_without_noise():
    true, _, _, mask = read(scan_of(sigma=0.0))
    own, noise, variance, _ = read(scan_of())
    made = quiet(own, noise, variance, mask)
    for was, now, wanted in zip(own, made, true, strict=True):
        ways = [way_of(v[:, mask]) for v in (was.weighted, now, wanted.weighted)]
        before, after = (
            torch.rad2deg(torch.acos((w * ways[2]).sum(0).clamp(-1, 1))).median() for w in ways[:2]
        )
        assert after < 0.6 * before
        torch.testing.assert_close(now[:, ~mask], was.weighted[:, ~mask], rtol=1e-3, atol=1e-2)


def test_a_scan_without_noise_stays():
    own, noise, variance, mask = read(scan_of(sigma=0.0))
    made = quiet(own, noise, torch.zeros_like(variance), mask)
    for was, now in zip(own, made, strict=True):
        error = (now - was.weighted)[:, mask].square().mean().sqrt()
        assert error < 1e-3 * was.weighted[:, mask].square().mean().sqrt()


def test_what_networks_look_at_has_less_noise_but_order_0_as_it_is():
    true, _, _, mask = read(scan_of(sigma=0.0))
    own, noise, _, _ = read(scan_of())
    for was, now, wanted in zip(own, calmed(own, noise, mask), true, strict=True):
        assert torch.equal(now.weighted[0], was.weighted[0])
        before, after = ((v.rish() - wanted.rish())[1:, mask].square().mean(1) for v in (was, now))
        # noise of the b0 mean stays: it is the same in all orders
        assert (after < torch.tensor([0.9, 0.5]) * before).all()


def test_networks_learn_from_the_features_that_they_are_shown(monkeypatch):
    """Of a scan of one shell; several are calmed together, pairs have one each."""
    shown, scan = [], scan_of(shells={1000.0: 45})
    signal = torch.from_numpy(np.moveaxis(np.asarray(scan.signal), -1, 0).copy())
    mask, acq = torch.from_numpy(scan.mask), scan.acquisition

    def say(low, noise):
        shown.append(Units().from_network(low))
        return low

    for asked in (False, True):
        method = table.Method("say", say, setting=Setting(quiet=asked, patch=32))
        monkeypatch.setitem(table.METHODS, "say", lambda w, d, method=method: method)
        dm.enhance(scan, "say", "keep")
        look = Look.of(signal, acq, mask, scan.affine, 1000.0, asked)
        assert look.quiet == asked
        wanted = look.harmonics.rish() * mask
        size = [slice(0, n) for n in wanted.shape[1:]]
        torch.testing.assert_close(shown[-1][:, *size], wanted, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(*shown, rtol=0.1, atol=0)


def test_looks_that_tell_no_noise_stay():
    scan = scan_of(shells={1000.0: 45})
    signal = torch.from_numpy(np.moveaxis(np.asarray(scan.signal), -1, 0).copy())
    mask, acq = torch.from_numpy(scan.mask), scan.acquisition
    b0, rest = np.flatnonzero(acq.is_b0), np.flatnonzero(~acq.is_b0)
    few = np.r_[b0[:1], rest[::3]]  # one b0 and 15 directions
    made = [Look.of(signal[few], acq.subset(few), mask, scan.affine, 1e3, v) for v in (True, False)]
    assert torch.equal(*(look.harmonics.weighted for look in made))


def test_thin_masks_and_windows_that_hardly_differ_have_an_answer():
    own, noise, variance, mask = read(scan_of())
    generator = torch.Generator().manual_seed(0)
    for share in (0.01, 0.05):
        few = mask & (torch.rand(mask.shape, generator=generator) < share)
        assert all(v.isfinite().all() for v in quiet(own, noise, variance, few))
    even = scan_of(sigma=0.0)
    signal = np.broadcast_to(even.signal[4, 4, 4], even.signal.shape).copy()
    own, noise, variance, mask = read(replace(even, signal=signal))
    for was, now in zip(own, quiet(own, noise, variance, mask), strict=True):
        torch.testing.assert_close(now, was.weighted, rtol=1e-3, atol=0.1)


def test_what_lies_outside_the_mask_has_no_say():
    own, noise, variance, mask = read(scan_of())
    wanted = quiet(own, noise, variance, mask)
    variance[0, 0, 0] = float("inf")
    for h in own:
        h.weighted[:, 0, 0, 0] = float("nan")
    for one, other in zip(wanted, quiet(own, noise, variance, mask), strict=True):
        assert torch.equal(one[:, mask], other[:, mask])


def test_slabs_and_chunks_do_not_show(monkeypatch):
    own, noise, variance, mask = read(scan_of())
    whole = quiet(own, noise, variance, mask)
    monkeypatch.setattr(directions, "SLAB", 3 * 16 * 18)
    monkeypatch.setattr(directions, "VOXELS", 100)
    monkeypatch.setattr(directions, "ROWS", 7)
    for one, other in zip(whole, quiet(own, noise, variance, mask), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=0.05)


def test_windows_add_up_their_voxels():
    image = torch.rand(2, 7, 5, 6)
    found = boxes(image, 2)
    assert found[1, 3, 2, 3] == pytest.approx(float(image[1, 1:6, 0:5, 1:6].sum()), rel=1e-6)
    assert found[0, 0, 4, 5] == pytest.approx(float(image[0, :3, 2:, 3:].sum()), rel=1e-6)


def test_patterns_of_noise_alone_go_and_strong_ones_stay():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(400, 125, 31, generator=generator)
    variances = torch.linalg.eigvalsh(samples.mT @ samples / 125)
    gamma = torch.full((400, 1), 31 / 125)
    assert spiked(variances, gamma)[:, :-1].max() == 0  # the largest one may pass by chance
    assert (spiked(variances, gamma) > 0).float().mean() < 0.02
    strong = spiked(torch.tensor([[0.5, 2.0, 5.0, 1e6]]), gamma[:1])[0]
    assert strong[:2].tolist() == [0.0, 0.0]
    assert 0.5 < strong[2] < 0.9
    assert strong[3] == pytest.approx(1, abs=1e-4)


def test_turned_harmonics_keep_their_energies():
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 15, 50, generator=generator)
    other[6:, :10] = 0  # nothing of order 4 there
    made = turned(one, 3 * other, 4)
    torch.testing.assert_close(rish(made.T, 4), rish(one.T, 4), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made[:1], one[:1])
    torch.testing.assert_close(made[6:, :10], one[6:, :10])
    ways = [torch.nn.functional.normalize(v[1:6], dim=0) for v in (made, other)]
    torch.testing.assert_close(*ways)


# as `enhance` uses them


def same(monkeypatch, **more):
    setting = Setting(shells=(700.0, 2200.0), **more)
    monkeypatch.setitem(
        table.METHODS, "same", lambda w, d: table.Method("same", lambda v, n: v, setting=setting)
    )


def angles(scan, truth):
    """Median angle of principal directions within the mask [degrees]."""
    few = np.flatnonzero(truth.acquisition.bvals < 1200)
    ways = [np.asarray(dm.fit(s.select(few), "dti")["V1"].data)[truth.mask] for s in (scan, truth)]
    return np.degrees(np.median(np.arccos(np.abs((ways[0] * ways[1]).sum(-1)).clip(max=1))))


def test_fibres_point_nearer_to_where_they_point_without_noise(monkeypatch):
    same(monkeypatch)
    truth, scan = scan_of(sigma=0.0), scan_of()
    kept, made = (dm.enhance(scan, "same", "keep", directions=d) for d in ("keep", "quiet"))
    assert (kept.provenance["directions"], made.provenance["directions"]) == ("keep", "quiet")
    assert angles(kept.scan, scan) < 0.1
    assert angles(made.scan, truth) < 0.7 * angles(scan, truth)
    with pytest.raises(InputError, match="directions are 'other'"):
        dm.enhance(scan, "same", directions="other")


@pytest.mark.parametrize("way", ["keep", "quiet"])
def test_networks_of_pairs_with_less_noise_see_less_and_others_all(monkeypatch, way):
    seen, truth, scan = {}, scan_of(sigma=0.0), scan_of()

    def asked(scan, quiet):
        def say(low, noise):
            seen[scan.name, quiet] = low
            return low

        setting = Setting(shells=(700.0, 1200.0), quiet=quiet)
        method = table.Method("asked", say, setting=setting)
        monkeypatch.setitem(table.METHODS, "asked", lambda w, d: method)
        return dm.enhance(scan, "asked", "keep", directions=way)

    asked(replace(truth, name="truth"), False)
    for quiet_pairs in (False, True):
        asked(replace(scan, name="scan"), quiet_pairs)
    own, less = ((seen["scan", v] - seen["truth", False]).square().mean((1, 2, 3)) for v in (0, 1))
    assert less[0] == own[0]
    assert (less[1:] < torch.tensor([0.9, 0.5]) * own[1:]).all()


@pytest.mark.parametrize("resolution", ["keep", 0.9])
def test_energies_without_noise_come_to_any_grid(monkeypatch, resolution):
    truth, scan = scan_of(sigma=0.0), scan_of()

    def order_4(name, scan, **more):
        same(monkeypatch, **more)
        made = dm.enhance(scan, name, resolution).scan
        signal = torch.from_numpy(np.moveaxis(np.asarray(made.signal), -1, 0).copy())
        return harmonics(signal, made.acquisition).rish()[2, torch.from_numpy(made.mask)]

    wanted = order_4("interpolate", truth)
    noisy, less = (order_4("same", scan, quiet=v) for v in (False, True))
    errors = [float((v - wanted).square().mean()) for v in (noisy, less)]
    assert errors[1] < 0.3 * errors[0]


def test_a_network_that_changes_nothing_takes_noise_out_of_energies_too(monkeypatch):
    """With `--directions keep`: what it saw had less noise, so what it says has."""
    truth, scan = scan_of(sigma=0.0), scan_of()

    def energies(scan):
        signal = torch.from_numpy(np.moveaxis(np.asarray(scan.signal), -1, 0).copy())
        return harmonics(signal, scan.acquisition).rish()[2, torch.from_numpy(truth.mask)]

    same(monkeypatch)
    before = energies(dm.enhance(scan, "same", "keep", directions="keep").scan)
    same(monkeypatch, quiet=True)
    after = energies(dm.enhance(scan, "same", "keep", directions="keep").scan)
    wanted = energies(truth)
    assert (after - wanted).square().mean() < 0.5 * (before - wanted).square().mean()


def test_interpolation_turns_nothing():
    scan = scan_of()
    made = dm.enhance(scan, "interpolate", "keep")
    assert made.provenance["directions"] == "keep"
    np.testing.assert_allclose(made.scan.signal[scan.mask], scan.signal[scan.mask], rtol=1e-5)


def test_directions_stay_where_too_few_volumes_tell_noise(monkeypatch):
    same(monkeypatch)
    scan = scan_of(shells={1000.0: 15}, b0=1)
    made = dm.enhance(scan, "same", "keep")
    assert made.provenance["directions"] == "keep"
    assert "too few or too alike to tell noise" in " ".join(made.provenance["notes"])


def test_all_shells_have_one_lambda_of_order_0_and_keep_their_floor(monkeypatch):
    units, seen = Units(), []

    def features(low, noise):
        seen.append(1)
        by = torch.tensor([1.1 if len(seen) == 1 else 0.7, 1, 1])[:, None, None, None] ** 2
        return units.to_network(by * units.from_network(low))

    setting = Setting(shells=(700.0, 2200.0))
    monkeypatch.setitem(
        table.METHODS, "two", lambda w, d: table.Method("two", features, setting=setting)
    )
    scan = scan_of(sigma=5.0)
    made = dm.enhance(scan, "two", "keep", tile=24)
    assert len(seen) == 2
    for b in SHELLS:
        first, second = (
            harmonics(
                torch.from_numpy(np.moveaxis(np.asarray(s.signal), -1, 0).copy()), s.acquisition, b
            ).rish()[0, torch.from_numpy(scan.mask)]
            for s in (scan, made.scan)
        )
        assert float((second / first).sqrt().median()) == pytest.approx(1.1, rel=0.01)
    assert made.scan.lifted
    assert made.provenance["noise_floor"] == "that of the scan"


@pytest.mark.parametrize(("clean", "level"), [(True, 1.0), (False, 0.9)])
def test_what_a_scan_shows_of_order_0_over_some_voxels_stays(monkeypatch, clean, level):
    shape = (24, 26, 20)
    scan = scan_of(sigma=0.0, shells={1000.0: 30}, shape=shape)
    at = np.indices(shape)
    far = torch.from_numpy(((at - 11) ** 2).sum(0))
    checks, inside = torch.from_numpy(at.sum(0) % 2), torch.from_numpy(scan.mask)
    units = Units()

    def features(low, noise):
        by = torch.ones(3, *low.shape[1:])
        part = by[0][tuple(slice(0, n) for n in shape)]
        part[:] = 0.92
        part[far < 49] = 0.75  # a network that does not believe in lesions
        part += 0.05 * (2 * checks - 1)  # and knows what differs from voxel to voxel
        return units.to_network(by.square() * units.from_network(low))

    method = table.Method("sure", features, setting=Setting(clean=clean))
    monkeypatch.setitem(table.METHODS, "sure", lambda w, d: method)
    monkeypatch.setattr("DMRIMicroLib.rish.enhance._box", lambda mask: (slice(None),) * 3)
    scale = dm.enhance(scan, "sure", "keep", tile=32, overlap=0).scale[0]
    deep, outer = scale[(far < 4) & inside].mean(), scale[(far > 100) & inside].mean()
    assert deep == pytest.approx(level, abs=0.04)
    assert deep / outer == pytest.approx(1, abs=0.05)  # 0.82 if the network had its way
    odd, even = (scale[(far > 100) & inside & (checks == k)].mean() for k in (1, 0))
    assert odd - even == pytest.approx(0.1, abs=0.02)
