"""RISH features of a shell, their units, scale maps, and grids about one middle."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dipy.core.sphere import Sphere
from dipy.reconst.shm import sf_to_sh, sph_harm_ind_list
from phantom import OBLIQUE, directions, protocol, ring_scan
from scipy.ndimage import affine_transform, map_coordinates

from DMRIMicroLib.errors import InputError
from DMRIMicroLib.physics.sh import rish, sh_basis
from DMRIMicroLib.rish.features import SMOOTH, harmonics, order_of, shell_for, shells_for
from DMRIMicroLib.rish.grid import regridded, resampled, resized
from DMRIMicroLib.rish.scale import scale_maps, scaled_signal
from DMRIMicroLib.rish.units import Setting, Units


def volumes(scan):
    return torch.from_numpy(np.moveaxis(scan.signal, -1, 0)).double()


# features


@pytest.mark.parametrize(("order", "count"), [(4, 30), (4, 90), (8, 64)])
@pytest.mark.parametrize("smooth", [0.006, None])
def test_features_are_those_of_dipys_fit(order, count, smooth):
    acq = protocol({1000.0: count, 2500.0: 20}, b0=3)
    scan = ring_scan(acq, sigma=30.0)
    found = harmonics(volumes(scan), acq, 1000.0, order, smooth)
    shell = acq.shell(1000)
    ratio = scan.signal[..., list(shell.indices)] / scan.signal[..., :3].mean(-1, keepdims=True)
    weight = SMOOTH * count if smooth is None else smooth
    sphere = Sphere(xyz=acq.bvecs[list(shell.indices)])
    theirs = sf_to_sh(ratio, sphere, sh_order_max=order, smooth=weight, legacy=False)
    np.testing.assert_allclose(found.coefficients, np.moveaxis(theirs, -1, 0), atol=1e-5)
    degrees = sph_harm_ind_list(order)[1]
    energies = [(theirs[..., degrees == n] ** 2).sum(-1) for n in range(0, order + 1, 2)]
    np.testing.assert_allclose(found.rish(), energies, atol=1e-5)
    assert float(found.rish()[1].mean()) > 0.05


def test_features_do_not_depend_on_how_many_directions_there_are():
    def energies(count, smooth):
        acq = protocol({1000.0: count})
        return harmonics(volumes(ring_scan(acq)), acq, smooth=smooth).rish()[2].mean()

    assert energies(64, None) == pytest.approx(float(energies(90, None)), rel=0.03)
    assert energies(64, 0.006) < 0.87 * energies(90, 0.006)


def test_the_order_is_what_the_directions_can_tell():
    acq = protocol({500.0: 5, 1000.0: 14, 2000.0: 15, 3000.0: 45})
    assert [order_of(s, 8) for s in acq.shells] == [0, 2, 4, 8]
    assert order_of(acq.shells[3]) == 4
    assert shell_for(acq, 2100.0).b == 2000
    with pytest.raises(InputError, match="b = 1000 has 14 directions; order 4 has 15"):
        shell_for(acq, 1000.0)
    with pytest.raises(InputError, match="no b0"):
        shell_for(protocol({1000.0: 30}, b0=0), 1000.0)
    with pytest.raises(InputError, match="no shell at b = 7000"):
        shell_for(acq, 7000.0)


def test_shells_of_a_method_are_those_it_knows_with_directions_enough():
    acq = protocol({700.0: 30, 1000.0: 20, 1400.0: 8, 3000.0: 60})
    every = Setting(shells=(700.0, 3000.0))
    assert [round(s.b) for s in shells_for(acq, every)] == [1000, 700, 3000]
    assert [round(s.b) for s in shells_for(acq, Setting())] == [1000]
    with pytest.raises(InputError, match="no shell at b = 1000"):
        shells_for(protocol({3000.0: 60}), Setting())
    with pytest.raises(InputError, match="12 directions; order 4 has 15"):
        shells_for(protocol({1000.0: 12}), every)
    with pytest.raises(InputError, match="no b0"):
        shells_for(protocol({1000.0: 30}, b0=0), every)


def test_dark_voxels_have_no_features():
    acq = protocol({1000.0: 20})
    signal = volumes(ring_scan(acq))
    signal[:, 0] *= 1e-3
    signal[:, 1] = 0
    found = harmonics(signal, acq).rish()
    assert not found[:, :2].any()
    assert (found[:, 2:] > 0).all()


# units


def test_units_are_undone_and_monotone():
    units = Units()
    energies = torch.linspace(0, 12, 50)[:, None, None, None, None].expand(50, 3, 1, 2, 1)
    there = units.to_network(energies)
    assert (there.diff(dim=0) > 0).all()
    torch.testing.assert_close(units.from_network(there), energies, atol=1e-5, rtol=1e-5)
    zero = units.to_network(torch.zeros(3, 1, 1, 1)).flatten()
    torch.testing.assert_close(zero, torch.tensor(units.zero))
    below = torch.tensor(units.zero)[:, None, None, None] - 1
    assert not units.from_network(below).any()  # no root of an energy is negative


def test_a_setting_is_read_from_its_card():
    setting = Setting(Units((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), 2000.0, (900.0, 2000.0), (1.5, 0.9))
    for one in (setting, replace(setting, clean=True), replace(setting, quiet=True)):
        assert Setting.read(one.told()) == one
    before = {key: value for key, value in setting.told().items() if key not in ("clean", "quiet")}
    assert Setting.read(before) == setting
    with pytest.raises(InputError, match="edges"):
        Setting.read({"units": setting.told()["units"], "b": 1000})


# scale maps


def test_own_features_give_the_signal_back_and_what_order_4_does_not_tell_is_kept():
    acq = protocol({1000.0: 60})
    scan = ring_scan(acq, sigma=40.0)
    found = harmonics(volumes(scan), acq)
    rows = list(acq.shells[0].indices)
    ratio, g = volumes(scan)[rows] / found.b0, torch.from_numpy(acq.bvecs[rows])
    told = torch.tensordot(sh_basis(g, 4), found.coefficients, dims=1)
    assert (ratio - told).abs().max() > 0.05  # noise, which no harmonics represent
    scale = scale_maps(found.rish(), found.rish(), tau=0.0)
    again = scaled_signal(ratio, found.coefficients, scale, g, 4)
    torch.testing.assert_close(again, ratio, rtol=0, atol=1e-12)
    nearly = scale_maps(found.rish(), found.rish())
    again = scaled_signal(ratio, found.coefficients, nearly, g, 4)
    torch.testing.assert_close(again, ratio, rtol=0, atol=1e-3)


def test_scaling_gives_the_energies_that_were_wanted():
    acq = protocol({1000.0: 60})
    found = harmonics(volumes(ring_scan(acq)), acq, smooth=0)
    rows = list(acq.shells[0].indices)
    ratio, g = volumes(ring_scan(acq))[rows] / found.b0, torch.from_numpy(acq.bvecs[rows])
    factors = torch.tensor([1.1, 1.5, 0.6]).double()[:, None, None, None]
    scale = scale_maps(factors.square() * found.rish(), found.rish(), tau=0.0)
    torch.testing.assert_close(scale, factors.expand_as(scale))
    made = scaled_signal(ratio, found.coefficients, scale, g, 4)
    signal = torch.cat([found.b0.expand(2, *found.b0.shape), made * found.b0])
    again = harmonics(signal, acq, smooth=0).rish()
    torch.testing.assert_close(again, factors.square() * found.rish())


def test_scale_maps_have_limits_and_are_1_where_there_is_nothing():
    target = torch.tensor([4.0, 100.0, 0.0, 0.0])
    own = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert scale_maps(target, own, tau=0.0).tolist() == pytest.approx([2.0, 4.0, 0.05, 1.0])
    assert scale_maps(target, own, tau=3.0)[0] == 1.0  # eq. 2: sqrt(4 / (1 + 3))
    assert scale_maps(target, own, tau=3.0)[3] == 1.0


# grids


def world(affine, shape):
    index = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def smooth(at):
    """Return a function of the place [mm], as an image of it."""
    x, y, z = at
    return 5 + np.sin(x / 9) + 0.5 * np.cos(y / 8) + np.sin((z + x) / 10)


@pytest.mark.parametrize("edge", [1.05, 1.3, 1.9])
def test_a_finer_grid_shows_the_same_places(edge):
    shape = (19, 22, 17)
    affine, count, factors = regridded(OBLIQUE, shape, edge)
    grids = ((OBLIQUE, shape), (affine, count))
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), edge)
    middles = [a[:3, :3] @ ((np.array(n) - 1) / 2) + a[:3, 3] for a, n in grids]
    np.testing.assert_allclose(*middles)
    for axis in range(3):  # the same extent, to half a voxel at each end
        assert abs(count[axis] * edge - shape[axis] * np.linalg.norm(OBLIQUE[:3, axis])) <= edge / 2
    image = torch.from_numpy(smooth(world(OBLIQUE, shape)))
    found = resized(image[None], factors, count)[0].numpy()
    inner = tuple(slice(int(4 * f), -int(4 * f)) for f in factors)
    truth = smooth(world(affine, count))
    np.testing.assert_allclose(found[inner], truth[inner], atol=2e-3)


def test_resizing_is_scipys_spline_and_simpleitks_geometry():
    shape = (14, 16, 12)
    image = np.random.default_rng(0).normal(size=shape)
    affine, count, factors = regridded(OBLIQUE, shape, 1.3)
    ours = resized(torch.from_numpy(image)[None], factors, count)[0].numpy()
    back = np.linalg.inv(OBLIQUE) @ affine
    theirs = affine_transform(
        image, back[:3, :3], back[:3, 3], output_shape=count, order=3, mode="mirror"
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    general = resampled(torch.from_numpy(image)[None].float(), OBLIQUE, affine, count)[0]
    np.testing.assert_allclose(general, theirs, atol=1e-5)
    linear = resized(torch.from_numpy(image)[None], factors, count, degree=1)[0].numpy()
    images = itk_image(image, OBLIQUE), itk_image(np.zeros(count), affine)
    itk = sitk.GetArrayFromImage(sitk.Resample(*images, sitk.Transform(), sitk.sitkLinear))
    itk = itk.transpose(2, 1, 0)
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(linear[inner], itk[inner], atol=1e-6)


def itk_image(data, affine):
    flip = np.diag([-1.0, -1, 1])  # RAS to LPS
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(edges.tolist())
    image.SetOrigin((flip @ affine[:3, 3]).tolist())
    image.SetDirection((flip @ (affine[:3, :3] / edges)).ravel().tolist())
    return image


def test_coarser_voxels_are_means_and_the_same_grid_changes_nothing():
    image = torch.arange(8.0)[None, :, None, None].expand(1, 8, 2, 2)
    half = resized(image, (0.5, 1.0, 1.0), (4, 2, 2))
    torch.testing.assert_close(half[0, :, 0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    assert resized(image, (1.0, 1.0, 1.0), (8, 2, 2)) is image
    one = resized(image[:, :1], (2.0, 1.0, 1.0), (2, 2, 2))  # a single slice
    assert not one.any()


def test_a_patch_is_cut_from_an_image_before_it_is_interpolated():
    image = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 60, 50, 64))).float()
    target = OBLIQUE @ np.diag([0.8, 0.8, 0.8, 1])
    target[:3, 3] += OBLIQUE[:3, :3] @ np.array([25.3, 20.7, 30.1])
    shape = (5, 6, 4)
    found = resampled(image, OBLIQUE, target, shape)
    index = np.indices(shape).reshape(3, -1)
    to_own = np.linalg.inv(OBLIQUE) @ target
    at = to_own[:3, :3] @ index + to_own[:3, 3:]
    for row, one in zip(found, image, strict=True):
        whole = map_coordinates(one.double().numpy(), at, order=3, mode="mirror").reshape(shape)
        np.testing.assert_allclose(row.numpy(), whole, atol=1e-5)


def test_a_larger_voxel_of_another_grid_is_a_mean():
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 8, 6, 8))).float()
    target = OBLIQUE @ np.diag([2.0, 2, 2, 1])
    target[:3, 3] += OBLIQUE[:3, :3] @ np.full(3, 0.5)
    found = resampled(image, OBLIQUE, target, (4, 3, 4))[0]
    expected = image[0].reshape(4, 2, 3, 2, 4, 2).mean((1, 3, 5))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_no_place_beyond_an_image_is_made_up():
    image = torch.ones(1, 6, 6, 6)
    target = np.eye(4)
    target[:3, 3] = 3
    found = resampled(image, np.eye(4), target, (6, 6, 6))[0]
    torch.testing.assert_close(found[:3, :3, :3], torch.ones(3, 3, 3))
    assert not found[3:].any()


def test_harmonics_turn_with_nothing_but_the_head():
    acq = protocol({1000.0: 60})
    found = harmonics(volumes(ring_scan(acq)), acq, smooth=0)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    g = torch.from_numpy(directions(200) @ turn)
    told = torch.tensordot(sh_basis(g, 4), found.coefficients, dims=1)
    matrix = torch.linalg.pinv(sh_basis(torch.from_numpy(directions(200)), 4))
    turned = rish(torch.tensordot(matrix, told, dims=1).movedim(0, -1), 4).movedim(-1, 0)
    torch.testing.assert_close(turned, found.rish())
