"""From an anatomy to tissue states: deformation, values, fibres, infants."""

import hashlib
import math
from dataclasses import fields, replace

import brain_head
import pytest
import torch
from brain_head import PLAIN, RADII, STILL

from DMRIMicroLib.brain import tissues, values
from DMRIMicroLib.brain.anatomy import CLASSES
from DMRIMicroLib.brain.deform import (
    Deformation,
    DeformationConfig,
    Push,
    carry,
    draw_deformation,
)
from DMRIMicroLib.brain.fields import EXTENT, Field, Image, draw_field, grid_points
from DMRIMicroLib.brain.infant import head_size, maturity
from DMRIMicroLib.brain.phantom import SubjectConfig, draw_subject, render
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.physics.sh import sh_basis
from DMRIMicroLib.physics.tissue import TissueState
from DMRIMicroLib.physics.watson import watson_moments

HEAD = brain_head.head()
GRID = brain_head.affine(), (brain_head.SIDE,) * 3
MIDDLE = torch.tensor([10.0, -20, 5])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def rendered(config=PLAIN, seed=0, anatomy=HEAD, grid=GRID):
    return render(anatomy, draw_subject(rng(seed), config), *grid)


def pure(volume, name):
    """Voxels in which there is one class only."""
    return volume.tissue[CLASSES.index(name)] > 0.999


def spread_points(count=400, seed=3, reach=70.0):
    return (2 * torch.rand(count, 3, generator=rng(seed)) - 1) * reach


def digest(volume):
    told = hashlib.sha256()
    for f in fields(TissueState):
        told.update(getattr(volume.state, f.name).numpy().tobytes())
    for part in (volume.mask, volume.fill, volume.tissue, volume.lesion):
        told.update(part.contiguous().numpy().tobytes())
    return told.hexdigest()


# images and fields


def test_an_image_is_a_linear_function_between_its_voxels():
    affine = brain_head.affine()
    points = grid_points(affine, (6, 7, 8))
    slope = torch.tensor([0.3, -1.2, 0.7])
    image = Image((points @ slope).reshape(1, 6, 7, 8), affine)
    inside = points.min(0).values + torch.rand(50, 3, generator=rng()) * torch.tensor([25, 30, 35])
    assert torch.allclose(image(inside)[:, 0], inside @ slope, atol=1e-4)


def test_an_image_of_one_slice_can_be_looked_up_and_goes_on_beyond_its_border():
    image = Image(torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1), torch.eye(4))
    at = torch.tensor([[0.5, 0, 0], [0.5, 9, -9], [-4, 0, 0], [7, 0, 0]])
    assert image(at)[:, 0].tolist() == [2, 2, 1, 3]


def test_random_fields_have_unit_spread_and_no_mean():
    image = draw_field(rng(), 4, 16.0).dense()
    assert image.rows.std(0).sub(1).abs().max() < 0.1
    assert image.rows.mean(0).abs().max() < 0.1


def test_a_field_of_equal_coefficients_is_flat():
    field = Field(torch.full((1, 7, 7, 7), 2.5))
    assert torch.allclose(field.dense()(spread_points(reach=EXTENT / 2)), torch.tensor(2.5))


# deformation


def test_no_deformation_leaves_points_where_they_are():
    points = spread_points()
    source, jacobian = draw_deformation(rng(), STILL).on(MIDDLE)(points)
    assert torch.allclose(source, points, atol=1e-4)
    assert torch.allclose(jacobian, torch.eye(3).expand_as(jacobian), atol=1e-6)


def random_warp(seed=1, **changed):
    drawn = draw_deformation(rng(seed), DeformationConfig(**changed))
    return replace(drawn, push=Push(torch.tensor([20.0, 5, 0]), 20.0, 0.3)).on(MIDDLE)


def test_the_jacobian_is_that_of_the_map():
    warp, points, step = random_warp(), spread_points() + MIDDLE, 0.5
    columns = [
        (warp(points + step * e)[0] - warp(points - step * e)[0]) / (2 * step) for e in torch.eye(3)
    ]
    error = torch.stack(columns, -1) - warp(points)[1]
    assert error.abs().mean() < 0.015
    assert error.abs().max() < 0.12  # the field itself is interpolated linearly


@pytest.mark.parametrize("seed", range(4))
def test_heads_are_never_folded(seed):
    source, jacobian = random_warp(seed)(spread_points(4000, reach=110.0))
    assert torch.linalg.det(jacobian).min() > 0.1
    assert source.isfinite().all()


def test_a_velocity_that_folds_space_is_refused():
    torn = draw_deformation(rng(), DeformationConfig(amplitude=400.0, spacing=20.0))
    with pytest.raises(InputError, match="folds"):
        torn.on(MIDDLE)


def test_the_head_moves_by_millimetres():
    config = DeformationConfig()
    away = [
        (draw_deformation(rng(s), config).on(MIDDLE)(spread_points())[0] - spread_points()).norm(
            dim=1
        )
        for s in range(6)
    ]
    assert 4 < torch.cat(away).mean() < 20


def test_the_exponential_is_undone_by_the_opposite_velocity():
    there = draw_deformation(rng(5), replace(STILL, amplitude=4.0, spacing=32.0))
    back = Deformation(there.linear, there.shift, Field(-there.velocity.values))
    points = spread_points()
    moved = there.on(MIDDLE)(points)[0]
    assert (moved - points).norm(dim=1).mean() > 2
    error = (back.on(MIDDLE)(moved)[0] - points).norm(dim=1)
    assert error.mean() < 0.15
    assert error.max() < 0.6


def test_fibres_turn_with_the_head_and_stay_as_parallel():
    angle = 0.6
    turn = torch.tensor(
        [
            [math.cos(angle), -math.sin(angle), 0],
            [math.sin(angle), math.cos(angle), 0],
            [0, 0, 1],
        ]
    )
    fibre = torch.nn.functional.normalize(torch.tensor([[[1.0, 2, 3]]]), dim=-1)
    moved, sharper = carry(fibre, turn[None])  # new to old, so fibres go by its inverse
    assert torch.allclose(moved[0, 0], turn.T @ fibre[0, 0], atol=1e-6)
    assert sharper.item() == pytest.approx(1, abs=1e-5)


def test_a_narrow_population_is_widened_as_each_of_its_fibres_is_carried():
    jacobian = torch.tensor([[1.2, 0.1, 0], [0.0, 0.8, 0.2], [0.1, 0, 1.0]])
    axis = torch.nn.functional.normalize(torch.tensor([1.0, -0.5, 0.3]), dim=0)
    fibres = torch.nn.functional.normalize(
        axis + 0.02 * torch.randn(200000, 3, generator=rng()), dim=1
    )
    moved, sharper = carry(axis[None, None], jacobian[None])
    cloud = torch.linalg.solve(jacobian, fibres.T).T
    cloud = torch.nn.functional.normalize(cloud, dim=1)

    def area(v, about):  # covariance of the two angles: its root determinant goes as 1 / kappa
        left = torch.linalg.svd(about[None]).Vh[1:]
        return torch.linalg.det(torch.cov((v @ left.T).T)).sqrt()

    assert cloud.mean(0) @ moved[0, 0] > 0.999
    ratio = area(fibres, axis) / area(cloud, moved[0, 0])
    assert sharper.item() == pytest.approx(ratio.item(), rel=0.02)


def test_what_is_no_fibre_is_carried_to_none():
    moved, sharper = carry(torch.zeros(1, 2, 3), torch.eye(3)[None])
    assert not moved.any()
    assert (sharper == 1).all()


# rendering


def test_states_are_physical_whoever_is_drawn():
    volume = rendered(SubjectConfig(lesion="tumour", age=3.0))
    s = volume.state
    shares = torch.stack([s.neurite, s.extra, s.soma, s.free, s.dot])
    assert shares.min() >= 0
    assert torch.allclose(shares.sum(0), torch.tensor(1.0), atol=1e-5)
    assert torch.allclose(s.odf[:, 0], torch.tensor(1 / math.sqrt(4 * math.pi)))
    assert (s.d_extra_perp <= s.d_extra_par + 1e-6).all()
    assert ((s.d_neurite > 0) & (s.d_neurite < 3) & (s.d_extra_par < 3)).all()
    assert ((s.radius > 2) & (s.radius < 16)).all()
    assert len(s.neurite) == volume.mask.sum() == len(volume.fill) == volume.tissue.shape[1]
    assert ((volume.fill > 0) & (volume.fill <= 1)).all()
    assert all(getattr(s, f.name).isfinite().all() for f in fields(s))


def test_a_head_without_randomness_has_the_middle_of_every_range():
    volume = rendered(replace(PLAIN))
    middle, _ = values.middle_and_half()
    for name in ("cortex", "deep"):
        own = pure(volume, name)
        for p in ("neurite", "soma", "free", "d_neurite", "d_extra_par", "radius"):
            expected = middle[CLASSES.index(name), values.PARAMETERS.index(p)]
            assert torch.allclose(getattr(volume.state, p)[own], expected, atol=1e-4), (name, p)


def test_fluid_is_free_water_without_a_direction():
    volume = rendered(SubjectConfig())
    fluid = volume.tissue[3] == 1
    assert fluid.sum() > 20
    assert volume.state.free[fluid].min() > 0.95
    assert volume.state.odf[fluid, 1:].abs().max() < 1e-4


def test_fibres_run_as_in_the_anatomy_and_radially_in_the_cortex():
    volume = rendered()
    points = grid_points(*GRID)[volume.mask.flatten()]
    axes = torch.cat([torch.eye(3), torch.nn.functional.normalize(points - MIDDLE, dim=1)])
    odf = volume.state.odf
    along = odf @ sh_basis(axes[:3], 6).T
    white, cortex = pure(volume, "white"), pure(volume, "cortex")
    assert (along[white, 0] > along[white, 1]).all()
    assert (along[white, 1] > along[white, 2]).all()  # the smaller of two crossing populations
    outward = (odf * sh_basis(axes[3:], 6)).sum(1)
    sideways = torch.linalg.cross(axes[3:], torch.tensor([0.3, 0.5, 0.8]).expand(len(points), 3))
    beside = (odf * sh_basis(torch.nn.functional.normalize(sideways, dim=1), 6)).sum(1)
    assert (outward > beside)[cortex].float().mean() > 0.99


def test_neither_signs_nor_order_of_fibres_matter():
    peaks = HEAD.peaks.clone()
    flip = torch.rand(peaks.shape[2:], generator=rng(1)) < 0.5
    peaks[0][:, flip] *= -1
    swap = torch.rand(peaks.shape[2:], generator=rng(2)) < 0.5
    peaks[:, :, swap] = peaks[:, :, swap].flip(0)
    finer = torch.diag(torch.tensor([0.6, 0.6, 0.6, 1], dtype=torch.float64))
    grid = GRID[0] @ finer, (50, 50, 50)
    plain = rendered(grid=grid)
    mixed = rendered(grid=grid, anatomy=replace(HEAD, peaks=peaks))
    inner = pure(plain, "white")
    assert torch.allclose(plain.state.odf[inner], mixed.state.odf[inner], atol=1e-4)


def test_neurites_along_the_surface_make_a_ring():
    kappa, share = torch.tensor([8.0]), 1.0
    v = {
        p: torch.full((1, 4), x)
        for p, x in (("odi", 2 / math.pi * math.atan(1 / 8.0)), ("isotropic", 0.0))
    }
    v["tangential"] = torch.full((1, 4), share)
    water, normal = torch.tensor([[0.0, 1, 0, 0]]), torch.tensor([[[0.0, 0, 1]]])
    one = torch.ones(1, 1)
    odf = tissues._odf(water, v, normal, one, one)
    # reference: Watson densities about every axis of the ring, averaged
    phi = torch.linspace(0, math.pi, 181)[:-1]
    ring = torch.stack([phi.cos(), phi.sin(), torch.zeros_like(phi)], 1)
    degree = torch.tensor([0] + [1] * 5 + [2] * 9 + [3] * 13)
    reference = (watson_moments(kappa, 6)[:, degree] * sh_basis(ring, 6)).mean(0)
    assert torch.allclose(odf[0], reference, atol=1e-5)


def test_a_turned_head_has_turned_fibres():
    turn = torch.linalg.matrix_exp(
        torch.tensor([[0, -0.5, 0], [0.5, 0, 0], [0, 0, 0]], dtype=torch.float64)
    )
    subject = draw_subject(rng(), PLAIN)
    turned = replace(subject, deformation=replace(subject.deformation, linear=turn))
    volume = render(HEAD, turned, *GRID)
    white = pure(volume, "white")
    axis = turn.T.float() @ torch.tensor([1.0, 0, 0])
    other = torch.tensor([axis[1], axis[0], 0])
    amplitude = volume.state.odf[white] @ sh_basis(torch.stack([axis, other]), 6).T
    assert (amplitude[:, 0] > 2 * amplitude[:, 1]).float().mean() > 0.95


def test_a_patch_is_a_part_of_the_whole():
    subject = draw_subject(rng(4), SubjectConfig(lesion="demyelination"))
    whole = render(HEAD, subject, *GRID)
    moved = GRID[0].clone()
    moved[:3, 3] = GRID[0][:3, 3] + GRID[0][:3, :3] @ torch.tensor([9.0, 8, 7]).double()
    patch = render(HEAD, subject, moved, (10, 12, 11))
    part = (slice(9, 19), slice(8, 20), slice(7, 18))
    assert torch.equal(patch.mask, whole.mask[part])
    for f in fields(TissueState):
        cut = whole.on_grid(getattr(whole.state, f.name))[part][patch.mask]
        assert torch.allclose(cut, getattr(patch.state, f.name), atol=1e-4), f.name


def test_same_seed_same_bits():
    config = SubjectConfig(lesion="stroke")
    first, again = (digest(rendered(config, seed=7)) for _ in range(2))
    assert first == again
    assert digest(rendered(config, seed=8)) != first


def test_voxels_of_one_class_differ_within_its_ranges_and_smoothly():
    volume = rendered(SubjectConfig(deformation=STILL))
    own = pure(volume, "white")
    r = values.RANGES["white"]["neurite"]
    neurite = volume.state.neurite
    assert neurite[own].min() >= r.low
    assert neurite[own].max() <= r.high
    assert neurite[own].std() > 0.05 * (r.high - r.low)
    grid = volume.on_grid(neurite)
    inside = volume.on_grid(own.float()).bool()
    both = inside[1:] & inside[:-1]
    step = (grid[1:] - grid[:-1])[both].std()
    assert step < 1.2 * neurite[own].std()  # neighbours resemble each other (unrelated: 1.41)


def test_a_bundle_has_its_own_tissue():
    volume = rendered()
    own, x = pure(volume, "white"), grid_points(*GRID)[volume.mask.flatten()][:, 0]
    callosal, other = own & (x > MIDDLE[0] + 3), own & (x < MIDDLE[0] - 3)
    assert volume.state.neurite[callosal].mean() > volume.state.neurite[other].mean() + 0.02
    assert values.bundle_offsets(("nothing known",)).abs().max() == 0


def test_a_grid_beside_the_head_is_refused():
    away = GRID[0].clone()
    away[:3, 3] += 1000
    with pytest.raises(InputError, match="no brain"):
        rendered(grid=(away, (4, 4, 4)))


def test_every_range_is_ordered_and_has_a_source():
    for name in CLASSES:
        assert tuple(values.RANGES[name]) == values.PARAMETERS
        most = sum(values.RANGES[name][f].high for f in ("neurite", "soma", "free", "dot"))
        assert most <= 1, name
        for p, r in values.RANGES[name].items():
            assert r.low <= r.high, (name, p)
            assert r.source, (name, p)


# infants


def test_newborns_have_more_water_fewer_neurites_and_a_small_head():
    adult, newborn, toddler = (rendered(replace(PLAIN, age=a)) for a in (None, 0.0, 24.0))

    def white(volume, p):
        return getattr(volume.state, p)[pure(volume, "white")].mean().item()

    assert white(newborn, "neurite") < 0.65 * white(adult, "neurite")
    assert white(newborn, "free") > 2 * white(adult, "free")
    assert white(newborn, "d_extra_perp") > 1.3 * white(adult, "d_extra_perp")
    assert white(toddler, "neurite") == pytest.approx(white(adult, "neurite"), rel=0.08)
    assert newborn.fill.sum() / adult.fill.sum() < 1.1 * head_size(0) ** 3
    assert newborn.fill.sum() / adult.fill.sum() > 0.9 * head_size(0) ** 3


def test_heads_grow_and_the_middle_is_first():
    assert head_size(0) == pytest.approx(34.2 / 56)
    assert head_size(0) < head_size(4.5) < head_size(12) < head_size(24) < 1
    order = maturity(3.0, torch.tensor([0.0, 30, 75, 100]))
    assert order[0] > order[1] > order[2] == order[3]


@pytest.mark.parametrize("age", [-1.0, 25.0, math.nan])
def test_other_ages_are_refused(age):
    with pytest.raises(InputError, match="months"):
        draw_subject(rng(), SubjectConfig(age=age))


def test_the_head_of_the_tests_is_what_it_says():
    volume = rendered()
    ball = 4 / 3 * math.pi * RADII["outer"] ** 3 / brain_head.STEP**3
    assert volume.mask.sum().item() == pytest.approx(ball, rel=0.05)


def test_tissue_is_composed_on_the_device_that_its_maps_are_on():
    # tensors of the meta device have no values: any that was made on the CPU does not mix with them
    far = torch.device("meta")
    n, p = 5, len(values.PARAMETERS)
    directions, sharper = carry(torch.empty(n, 3, 3, device=far), torch.empty(n, 3, 3, device=far))
    for young in (None, torch.empty(n, device=far)):
        own = tissues.parameters(torch.empty(n, 4, p, device=far), young)
        size = torch.empty(n, 3, device=far)
        state = tissues.compose(torch.empty(n, 4, device=far), own, directions, size, sharper)
        assert all(getattr(state, f.name).device == far for f in fields(state))
    drawn = draw_field(rng(), 2, 64.0).dense(far)
    assert drawn(torch.empty(n, 3, device=far)).device == far
