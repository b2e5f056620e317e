"""Lesions: what they do to tissue, where they lie, how a tumour grows."""

from dataclasses import fields, replace

import brain_head
import nibabel as nib
import numpy as np
import pytest
import torch
from brain_head import PLAIN

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.brain import growth, lesions
from DMRIMicroLib.brain.anatomy import CLASSES
from DMRIMicroLib.brain.deform import Push, make_room
from DMRIMicroLib.brain.fields import grid_points
from DMRIMicroLib.brain.head import Head
from DMRIMicroLib.brain.lesions import EFFECTS, FRACTIONS, KINDS, LESIONS, apply, draw_lesion
from DMRIMicroLib.brain.phantom import draw_subject, render
from DMRIMicroLib.brain.placing import choose, place
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.physics.tissue import TissueState, signal

ANATOMY = brain_head.head()
HEAD = Head(ANATOMY)
GRID = brain_head.affine(), (brain_head.SIDE,) * 3
B = 1000.0


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


HEALTHY = render(ANATOMY, draw_subject(rng(), PLAIN), *GRID)


def diffusivities(state):
    """Apparent diffusivity along x, y and z: (n, 3) [um2/ms]."""
    acq = Acquisition(np.full(3, B), np.eye(3))
    return -1000 / B * torch.log(signal(state, acq))


def ill(kind, seed=0, share=1.0):
    """The plain head, all of one kind of lesion; and what the lesion is."""
    weight = torch.zeros(len(HEALTHY.fill), len(KINDS))
    weight[:, KINDS.index(kind)] = share
    return apply(HEALTHY, weight, draw_lesion(rng(seed), "tumour"))


def change(kind, tissue="white"):
    """Median ratio of mean diffusivity to that before, over draws."""
    own = HEALTHY.tissue[CLASSES.index(tissue)] > 0.999
    before = diffusivities(HEALTHY.state)[own].mean(1)
    after = [diffusivities(ill(kind, s).state)[own].mean(1) for s in range(8)]
    return torch.stack([a / before for a in after]).median().item()


def test_every_kind_has_an_effect_that_is_a_mixture_with_a_source():
    assert set(EFFECTS) == set(KINDS[1:])
    for kind, effect in EFFECTS.items():
        assert sum(effect.instead.values()) == pytest.approx(1), kind
        assert set(effect.instead) <= set(FRACTIONS), kind
        assert set(effect.factors) <= {*lesions.DIFFUSIVITIES, lesions.ORDER}, kind
        assert all(low <= high for low, high in (effect.keep, *effect.factors.values())), kind
        assert effect.source, kind


def test_no_lesion_changes_nothing():
    same = ill("oedema", share=0.0)
    for f in fields(TissueState):
        assert torch.equal(getattr(same.state, f.name), getattr(HEALTHY.state, f.name)), f.name
    assert not same.lesion.any()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_ill_tissue_is_physical_and_labelled(kind):
    for seed in range(3):
        volume = ill(kind, seed)
        s = volume.state
        shares = torch.stack([getattr(s, f) for f in FRACTIONS])
        assert shares.min() >= 0
        assert torch.allclose(shares.sum(0), torch.tensor(1.0), atol=1e-5)
        assert (s.d_extra_perp <= s.d_extra_par).all()
        assert s.d_extra_par.max() < 3
        solid = volume.tissue[3] == 0
        assert (volume.lesion[solid] == KINDS.index(kind)).all()


@pytest.mark.parametrize("tissue", ["white", "cortex"])
def test_water_slows_down_by_forty_to_fifty_percent_in_an_acute_stroke_and_recovers(tissue):
    acute, subacute, chronic = (
        change(f"stroke_{s}", tissue) for s in ("acute", "subacute", "chronic")
    )
    assert 0.45 < acute < 0.65
    assert 0.8 < subacute < 1.2
    assert chronic > 1.5


def test_water_is_the_faster_the_more_of_the_tissue_is_gone():
    order = ("tumour_infiltration", "oedema", "tumour_core", "tumour_necrosis")
    infiltration, oedema, core, necrosis = (change(kind) for kind in order)
    assert 1 < infiltration < min(oedema, core)
    assert 1.3 < oedema < necrosis
    assert 1.3 < core < necrosis


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("oedema", 1.2, 1.6), ("tumour_core", 1.0, 1.4), ("tumour_necrosis", 1.8, 2.5)],
)
def test_water_is_as_fast_as_the_effect_says(kind, low, high):
    assert f"ADC {low} to {high} um2/ms" in EFFECTS[kind].source
    own = HEALTHY.tissue[0] > 0.999
    found = [diffusivities(ill(kind, s).state)[own].mean().item() for s in range(8)]
    assert low < np.median(found) < high
    assert min(found) > low - 0.1
    assert max(found) < high + 0.1


def test_demyelination_frees_water_across_fibres_most():
    own = HEALTHY.tissue[0] > 0.999
    before = diffusivities(HEALTHY.state)[own].mean(0)
    after = diffusivities(ill("demyelination").state)[own].mean(0)
    ratio = after / before
    assert ratio[2] > 1.15  # across both fibre populations
    assert ratio[2] > ratio[0] + 0.05


def test_fluid_cannot_be_ill():
    fluid = HEALTHY.tissue[3] == 1
    stroke = ill("stroke_acute")
    assert fluid.any()
    assert torch.equal(stroke.state.free[fluid], HEALTHY.state.free[fluid])
    assert not stroke.lesion[fluid].any()


# where they lie


def weights(name, seed, **more):
    lesion = draw_lesion(rng(seed), name, **more)
    placed = place(lesion, HEAD)
    points = grid_points(*GRID)
    return placed, placed.weight(points), points


@pytest.mark.parametrize("name", LESIONS)
@pytest.mark.parametrize("seed", range(4))
def test_lesions_are_of_their_kinds_and_of_a_size(name, seed):
    _, weight, _ = weights(name, seed)
    assert weight.min() >= 0
    assert weight.sum(1).max() <= 1 + 1e-5
    kinds = {KINDS[i] for i in weight.sum(0).nonzero()[:, 0]}
    tumour = {"tumour_core", "tumour_necrosis", "tumour_infiltration", "oedema"}
    assert kinds == (tumour if name == "tumour" else {name})
    litres = weight.sum() * brain_head.STEP**3 / 1e6
    assert 2e-5 < litres < 0.4


def test_a_lesion_is_where_its_seed_puts_it():
    first, again, other = (weights("stroke_acute", s)[1] for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_plaques_lie_in_the_white_matter_mostly():
    tissue = HEAD.tissue(grid_points(*GRID))
    shares = [
        (w.sum(1) * tissue[:, 0]).sum() / w.sum()
        for w in (weights("demyelination", s)[1] for s in range(4))
    ]
    assert torch.stack(shares).mean() > 0.6


def test_points_are_chosen_as_often_as_their_score_says():
    points = torch.arange(12.0).reshape(4, 3)
    chosen = choose(torch.tensor([0.0, 1, 3, 0]), points, torch.rand(4000, generator=rng()))
    assert set(chosen[:, 0].tolist()) == {3.0, 6.0}
    assert (chosen[:, 0] == 6).float().mean().item() == pytest.approx(0.75, abs=0.03)


def mask_file(folder, at=(30.0, 0.0, 10.0)):
    """A mask of 20 mm about a point."""
    values = np.zeros((60, 60, 60), np.uint8)
    affine = np.diag([-2.0, 2, 2, 1])
    affine[:3, 3] = [70, -80, -50]
    i, j, k = np.rint((np.array(at) - affine[:3, 3]) / np.diag(affine)[:3]).astype(int)
    values[i - 5 : i + 5, j - 5 : j + 5, k - 5 : k + 5] = 1
    nib.save(nib.Nifti1Image(values, affine), folder / "one_lesion.nii.gz")


def test_strokes_come_from_masks_on_either_side(tmp_path):
    mask_file(tmp_path)
    sides = set()
    for seed in range(8):
        _, weight, points = weights("stroke_chronic", seed, masks=tmp_path)
        middle = (weight.sum(1, keepdim=True) * points).sum(0) / weight.sum()
        assert middle[1].abs() < 3
        assert (middle[2] - 10).abs() < 3
        sides.add(round(float(middle[0]) / 30))
        assert weight.sum() * brain_head.STEP**3 == pytest.approx(8000, rel=0.3)
    assert sides == {-1, 1}


def test_a_folder_without_masks_and_a_damaged_mask_are_told(tmp_path):
    with pytest.raises(InputError, match="no mask"):
        draw_lesion(rng(), "stroke", tmp_path)
    (tmp_path / "a.nii.gz").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"a\.nii\.gz") as told:
        place(draw_lesion(rng(), "stroke", tmp_path), HEAD)
    assert told.value.fix


def test_unknown_lesions_are_refused_by_name():
    with pytest.raises(InputError, match="abscess"):
        draw_lesion(rng(), "abscess")


def test_any_stage_of_stroke_may_be_drawn():
    assert {draw_lesion(rng(s), "stroke").name for s in range(20)} == set(LESIONS[:3])


# tumours


def grown(seed=(40.0, -20, 5), size=0.6, anatomy=ANATOMY):
    """A tumour about a point, 30 mm from the middle of the white shell."""
    uniform = torch.tensor([size, 0.5, 1.0, 0.3, 0.6])
    return growth.grow(Head(anatomy), torch.tensor(seed), uniform)


def test_a_tumour_grows_to_its_size_and_stops():
    small, large = grown(size=0.1), grown(size=0.7)
    assert 7 < small.radius < 11
    assert 14 < large.radius < 20


def test_a_tumour_grows_along_fibres():
    # the white shell is thick there, and fibres run left to right, with no crossing ones here
    peaks = ANATOMY.peaks.clone()
    peaks[1] = 0
    solid = ANATOMY.tissue.clone()
    solid[:] = 0
    solid[0] = 1
    image = grown((10.0, -20, 5), anatomy=replace(ANATOMY, peaks=peaks, tissue=solid)).image
    at = torch.linspace(0, 40, 81)[:, None]
    middle = torch.tensor([10.0, -20, 5])
    extent = [
        (image(middle + at * axis)[:, :3].sum(1) > 0.5).sum().item() / 2 for axis in torch.eye(3)
    ]
    assert extent[0] > 1.15 * extent[1]
    assert extent[1] == pytest.approx(extent[2], abs=1.0)


def test_no_tumour_in_fluid_and_its_water_stays_in_the_white_matter():
    image = grown((30.0, -20, 5)).image
    points = grid_points(*GRID)
    tissue = HEAD.tissue(points)
    share = image(points)
    oedema_outside = (share[:, 3] * (tissue[:, 0] == 0)).sum() / share[:, 3].sum()
    assert oedema_outside < 0.1
    far_fluid = (tissue[:, 3] == 1) & ((points - torch.tensor([10.0, -20, 5])).norm(dim=1) < 6)
    assert share[far_fluid, :3].sum(1).max() < 0.5


def test_an_oedema_is_full_but_for_its_border_and_ends():
    amount = torch.linspace(0, 1.5, 61)
    share = growth._full(amount)
    assert share.diff().min() >= 0
    assert (share[amount <= 0.25] == 0).all()
    assert (share[amount >= 0.75] == 1).all()
    assert ((share > 0.5) == (amount > 0.5)).all()  # as large as before it was filled


def test_growth_keeps_density_between_nothing_and_full():
    points = grid_points(GRID[0], (growth.SIZE,) * 3)
    conductance = growth._conductance(HEAD, points, 1.0)
    density = torch.rand((growth.SIZE,) * 3, generator=rng())
    after = density + growth._spread(density, conductance)
    assert after.min() >= 0
    assert after.max() <= 1
    assert after.sum().item() == pytest.approx(density.sum().item(), rel=1e-5)  # nothing is lost


def test_a_mass_makes_room():
    push = Push(torch.tensor([5.0, 0, 0]), 15.0, 0.4)
    points = 40 * torch.randn(200, 3, generator=rng())
    source, jacobian = make_room(points, push)
    step = 0.05
    columns = [
        (make_room(points + step * e, push)[0] - make_room(points - step * e, push)[0]) / (2 * step)
        for e in torch.eye(3)
    ]
    assert torch.allclose(torch.stack(columns, -1), jacobian, atol=2e-3)
    centre = make_room(torch.tensor([[5.0, 0, 0]]), push)[1]
    assert torch.linalg.det(centre).item() == pytest.approx(0.6**3, rel=1e-4)
    assert ((source - push.centre).norm(dim=1) <= (points - push.centre).norm(dim=1)).all()


def test_a_tumour_is_seen_in_the_head_it_grew_in():
    volume = render(ANATOMY, draw_subject(rng(2), replace(PLAIN, lesion="tumour")), *GRID)
    core = volume.lesion == KINDS.index("tumour_core")
    assert core.sum() > 5
    white = (volume.tissue[0] > 0.9) & (volume.lesion == 0)
    anisotropy = volume.state.odf[:, 1:6].norm(dim=1)
    assert anisotropy[core].mean() < 0.6 * anisotropy[white].mean()
    assert volume.state.neurite[core].mean() < 0.5 * volume.state.neurite[white].mean()
