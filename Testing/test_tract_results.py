"""Files of streamlines, profiles, connectomes, planning, and their commands."""

import csv
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from bundles import GRIDS, ball, map_set, ring, straight, world_of
from nibabel.streamlines import ArraySequence
from phantom import OBLIQUE, protocol, ring_scan
from typer.testing import CliRunner

import DMRIMicroLib as dm
from DMRIMicroLib.cli import app
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.maps import Map
from DMRIMicroLib.metric import Metric
from DMRIMicroLib.tracts.connectome import connectome, read_names
from DMRIMicroLib.tracts.midline import find_midline
from DMRIMicroLib.tracts.planning import NOTICE, planning
from DMRIMicroLib.tracts.polydata import read_polydata, write_polydata
from DMRIMicroLib.tracts.profile import aligned, core_weight, profile, resampled
from DMRIMicroLib.tracts.regions import Region, dense
from DMRIMicroLib.tracts.risk import at_risk, distance_from
from DMRIMicroLib.tracts.tractogram import Tractogram

FORMATS = (".trx", ".trk", ".tck", ".vtk")


def some_lines(affine=OBLIQUE, count=7, seed=0):
    rng = np.random.default_rng(seed)
    middle = affine[:3, :3] @ [10, 10, 10] + affine[:3, 3]
    lines = [
        (middle + np.cumsum(rng.normal(0, 1, (n, 3)), 0)).astype(np.float32)
        for n in rng.integers(2, 30, count)
    ]
    return Tractogram(ArraySequence(lines), affine, (20, 21, 22), provenance={"why": "test"})


def with_values(lines):
    values = ArraySequence([line[:, :1] * 2 for line in lines])
    numbers = np.arange(len(lines), dtype=np.float32)[:, None]
    return replace(lines, per_point={"FA": values}, per_line={"sample": numbers})


def same(first, second, atol=1e-4):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def made_of(lines, affine=GRIDS["isotropic"], shape=(40, 40, 40)):
    return Tractogram(
        ArraySequence([np.asarray(line, np.float32) for line in lines]), affine, shape
    )


# files


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("ending", FORMATS)
def test_lines_come_back_where_they_were(ending, grid, tmp_path):
    lines = some_lines(GRIDS[grid])
    if ending != ".tck":
        lines = with_values(lines)
    back = Tractogram.load(lines.save(tmp_path / f"lines{ending}"))
    same(back, lines)
    np.testing.assert_allclose(back.affine, lines.affine, atol=1e-5)
    assert tuple(back.shape) == lines.shape
    assert back.provenance == {"why": "test"}
    assert [f.name for f in sorted(tmp_path.iterdir())] == ["lines.json", f"lines{ending}"]
    if ending != ".tck":
        same(back.per_point["FA"], lines.per_point["FA"])
    if ending in (".trx", ".trk"):
        np.testing.assert_array_equal(back.per_line["sample"], lines.per_line["sample"])
    (tmp_path / "lines.json").unlink()
    same(Tractogram.load(tmp_path / f"lines{ending}"), lines)


def test_other_programs_read_the_files(tmp_path):
    vtk = pytest.importorskip("vtk")
    from vtk.util.numpy_support import vtk_to_numpy

    lines = with_values(some_lines())
    for ending in FORMATS[1:3]:
        bare = replace(lines, per_point={})
        same(nib.streamlines.load(bare.save(tmp_path / f"a{ending}")).streamlines, lines)
    reader = vtk.vtkPolyDataReader()
    reader.SetFileName(str(lines.save(tmp_path / "a.vtk", overwrite=True)))
    reader.Update()
    data = reader.GetOutput()
    assert data.GetNumberOfLines() == len(lines)
    found = vtk_to_numpy(data.GetPoints().GetData())
    np.testing.assert_array_equal(found, np.concatenate(list(lines)))
    values = vtk_to_numpy(data.GetPointData().GetArray("FA"))
    np.testing.assert_array_equal(values, np.concatenate(list(lines.per_point["FA"]))[:, 0])
    cell = data.GetCell(3)
    points = [cell.GetPointId(k) for k in range(cell.GetNumberOfPoints())]
    np.testing.assert_array_equal(found[points], lines[3])


@pytest.mark.parametrize("version", [42, 51])
@pytest.mark.parametrize("binary", [True, False])
def test_lines_that_vtk_writes_are_read(binary, version, tmp_path):
    vtk = pytest.importorskip("vtk")
    lines = with_values(some_lines())
    reader = vtk.vtkPolyDataReader()
    reader.SetFileName(str(lines.save(tmp_path / "ours.vtk")))
    reader.Update()
    writer = vtk.vtkPolyDataWriter()
    writer.SetInputData(reader.GetOutput())
    writer.SetFileName(str(tmp_path / "theirs.vtk"))
    writer.SetFileVersion(version)
    writer.SetHeader("3D Slicer output. SPACE=LPS")
    (writer.SetFileTypeToBinary if binary else writer.SetFileTypeToASCII)()
    writer.Write()
    back = Tractogram.load(tmp_path / "theirs.vtk")
    same(back, [line * [-1, -1, 1] for line in lines], atol=1e-3)
    same(back.per_point["FA"], lines.per_point["FA"], atol=1e-3)


def test_slicer_reads_lines_where_they_are(tmp_path):
    from slicer_scene import boot
    from vtk.util.numpy_support import vtk_to_numpy

    slicer = boot().slicer
    lines = some_lines()
    storage, node = slicer.vtkMRMLModelStorageNode(), slicer.vtkMRMLModelNode()
    storage.SetFileName(str(lines.save(tmp_path / "a.vtk")))
    assert storage.ReadData(node)
    found = vtk_to_numpy(node.GetPolyData().GetPoints().GetData())
    np.testing.assert_allclose(found, np.concatenate(list(lines)), atol=1e-4)


@pytest.mark.parametrize("ending", FORMATS[1:])
def test_no_lines_are_a_result_too(ending, tmp_path):
    none = some_lines().only(np.zeros(7, bool))
    back = Tractogram.load(none.save(tmp_path / f"none{ending}"))
    assert len(back) == 0
    assert back.lengths.shape == (0,)


def test_a_file_is_never_half_written(tmp_path, monkeypatch):
    lines = some_lines()
    file = lines.save(tmp_path / "lines.trk")
    before = file.read_bytes()
    with pytest.raises(InputError, match="there already"):
        lines.save(file)

    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("DMRIMicroLib.tracts.storage.json.dumps", broken)
    with pytest.raises(InputError, match="No space"):
        lines.only([0]).save(file, overwrite=True)
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_format_cannot_hold_is_said(tmp_path, monkeypatch):
    lines = with_values(some_lines())
    with pytest.raises(InputError, match="no values along lines"):
        lines.save(tmp_path / "a.tck")
    with pytest.raises(InputError, match="hold no streamlines"):
        lines.save(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="too long a name"):
        replace(lines, per_point={"a" * 30: lines.per_point["FA"]}).save(tmp_path / "a.trk")
    with pytest.raises(InputError, match=r"no streamline, which \.trx"):
        lines.only([]).save(tmp_path / "a.trx")
    monkeypatch.setitem(__import__("sys").modules, "trx", None)
    with pytest.raises(InputError, match="pip install trx-python"):
        lines.save(tmp_path / "a.trx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", FORMATS)
def test_damaged_files_are_refused(ending, tmp_path):
    file = some_lines(count=40).save(tmp_path / f"a{ending}")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError):
        Tractogram.load(file)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError):
        Tractogram.load(file)
    with pytest.raises(InputError, match="no such file"):
        Tractogram.load(tmp_path / f"none{ending}")


def test_polydata_is_written_as_the_format_says(tmp_path):
    write_polydata(tmp_path / "a.vtk", [np.zeros((2, 3)), np.ones((3, 3))], {"v": np.arange(5)})
    raw = (tmp_path / "a.vtk").read_bytes()
    assert raw.startswith(b"# vtk DataFile Version 3.0\nDMRIMicro streamlines; SPACE=RAS\nBINARY\n")
    cells = raw[raw.index(b"LINES 2 7\n") + 10 :][:28]
    assert np.frombuffer(cells, ">i4").tolist() == [2, 0, 1, 3, 2, 3, 4]
    lines, values = read_polydata(tmp_path / "a.vtk")
    assert [len(line) for line in lines] == [2, 3]
    assert values["v"].tolist() == [0, 1, 2, 3, 4]


# the result itself


def test_lines_can_be_picked_measured_and_counted():
    lines = with_values(
        made_of([[[0, 0, 0], [20, 0, 0]], [[0, 8, 0], [0, 8, 6]], [[0, 0, 0], [4, 0, 0]]])
    )
    np.testing.assert_allclose(lines.lengths, [20, 6, 4])
    assert isinstance(lines[1], np.ndarray)
    picked = lines[1:]
    assert isinstance(picked, Tractogram)
    assert picked.per_line["sample"][:, 0].tolist() == [1, 2]
    same(picked.per_point["FA"], [lines[1][:, :1] * 2, lines[2][:, :1] * 2])
    visits = lines.visits()
    assert visits.sum() == 11 + 4 + 3
    assert visits[:4, 0, 0].tolist() == [2, 2, 2, 1]
    assert visits[0, 4, :5].tolist() == [1, 1, 1, 1, 0]
    with pytest.raises(InputError, match="other numbers of points"):
        replace(lines, per_point={"FA": lines.per_point["FA"][1:]})


@pytest.mark.parametrize("grid", GRIDS)
def test_maps_are_interpolated_along_lines(grid):
    affine = GRIDS[grid]
    slope = world_of(affine, (20, 20, 20)) @ [0.3, -0.2, 0.5] + 4
    maps = map_set(
        affine,
        np.ones((20, 20, 20), bool),
        np.broadcast_to([1.0, 0, 0], (20, 20, 20, 3)),
        sd=0.25,
        X=slope,
    )
    lines = made_of(
        [
            affine[:3, :3] @ [8, 9, 10]
            + affine[:3, 3]
            + np.random.default_rng(0).normal(0, 4, (9, 3))
        ]
    )
    found = lines.along(maps, ["X"])
    np.testing.assert_allclose(
        found.per_point["X"][0][:, 0], lines[0].astype(float) @ [0.3, -0.2, 0.5] + 4, atol=1e-3
    )
    np.testing.assert_allclose(found.per_point["X_sd"][0], 0.25)
    assert "X_sd" not in lines.along(maps, ["X"], uncertainty=False).per_point
    with pytest.raises(InputError, match="no map 'Y'"):
        lines.along(maps, ["Y"])


def test_beside_the_mask_maps_do_not_fade():
    maps, *_ = straight(GRIDS["isotropic"])
    mask = np.zeros_like(maps.mask)
    mask[:10] = True
    data = np.where(mask, 0.8, 0).astype(np.float32)
    cut = replace(maps, mask=mask, maps={"FA": replace(maps["FA"], data=data)})
    lines = made_of([[[17.5, 8, 8], [18.9, 8, 8], [19.1, 8, 8]]])
    np.testing.assert_allclose(lines.along(cut, ["FA"]).per_point["FA"][0][:, 0], [0.8, 0.8, 0])


# profiles


def fan(count=40, seed=0):
    """Lines along y that are thrown around, half of them the other way."""
    rng = np.random.default_rng(seed)
    y = np.linspace(10, 70, 61)
    lines = []
    for k in range(count):
        x, z = rng.normal(0, 3, 2)
        line = np.stack([40 + x + 0 * y, y, 40 + z + 0 * y], -1)
        lines.append(line[:: -1 if k % 2 else 1])
    return made_of(lines)


def gradient_maps(sd=0.1):
    shape = (40, 40, 40)
    at = world_of(GRIDS["isotropic"], shape)
    axes = np.broadcast_to([0, 1.0, 0], (*shape, 3))
    x, y = at[..., 0], at[..., 1]
    return map_set(GRIDS["isotropic"], np.ones(shape, bool), axes, sd=sd, Y=y, X=x)


def test_a_profile_runs_from_one_end_to_the_other():
    found = profile(fan(), gradient_maps(), ["Y", "FA"], points=31)
    y = found["Y"]
    np.testing.assert_allclose(y.mean, np.linspace(10, 70, 31), atol=1e-3)
    np.testing.assert_allclose(y.distance, np.linspace(0, 60, 31), atol=1e-3)
    assert (y.sd < 1e-3).all()
    np.testing.assert_allclose(y.map_sd, 0.1, atol=1e-6)
    np.testing.assert_allclose(found["FA"].mean, 0.8, atol=1e-6)
    assert (y.lines == 40).all()


def test_profiles_weigh_lines_by_their_distance_from_the_core():
    lines = fan(400)
    found = profile(lines, gradient_maps(), ["X"], points=5)["X"]
    x = np.array([line[0, 0] for line in lines])
    # a normal distribution times exp(-d^2 / 2): half the variance
    assert found.sd[2] == pytest.approx(x.std() / np.sqrt(2), rel=0.12)
    assert found.mean[2] == pytest.approx(x.mean(), abs=0.3)
    weight = core_weight(aligned(resampled(lines, 5)))
    assert weight.max() <= 1
    far = np.abs(x - x.mean()) > 2.5 * x.std()
    assert weight[far].max() < 0.1


def test_a_profile_can_begin_where_it_is_told_to():
    lines, maps = fan(), gradient_maps()
    far = ball([40, 70, 40], 6, GRIDS["isotropic"], (40, 40, 40))
    assert profile(lines, maps, ["Y"], start=far)["Y"].mean[0] == pytest.approx(70, abs=0.1)
    turned = made_of([line[::-1] for line in lines])
    np.testing.assert_allclose(
        profile(turned, maps, ["Y"])["Y"].mean, profile(lines, maps, ["Y"])["Y"].mean, atol=1e-6
    )


def test_curved_lines_are_aligned():
    turn = np.linspace(0, np.pi, 50)
    lines = []
    for k in range(20):
        line = np.stack([(20 + k / 10) * np.cos(turn), (20 + k / 10) * np.sin(turn), 0 * turn], -1)
        lines.append((line + np.array([40, 10, 40]))[:: -1 if k % 3 else 1])
    way = aligned(resampled(made_of(lines), 20))
    assert np.ptp(way[:, 0], axis=0).max() < 2.1
    assert (way[:, 0, 0] < way[:, -1, 0]).all()  # from left to right
    np.testing.assert_allclose(np.linalg.norm(np.diff(way, axis=1), axis=2).std(1), 0, atol=0.02)


def test_profiles_leave_a_table_and_a_figure(tmp_path):
    found = profile(fan(), gradient_maps(), ["Y", "X"], points=7)
    found.save(tmp_path / "p.csv", figure=tmp_path / "p.png")
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert len(rows) == 14
    assert float(rows[6]["mean"]) == pytest.approx(70, abs=1e-3)
    assert float(rows[6]["distance_mm"]) == pytest.approx(60, abs=1e-3)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="there already"):
        found.save(tmp_path / "p.csv")
    with pytest.raises(InputError, match="1 lines"):
        profile(fan(1), gradient_maps(), ["Y"])
    with pytest.raises(InputError, match="no map 'Z'"):
        profile(fan(), gradient_maps(), ["Z"])
    with pytest.raises(InputError, match="no map is named"):
        profile(fan(), gradient_maps(), [])


# connectomes


def boxes(affine=GRIDS["isotropic"], shape=(40, 40, 40)):
    labels = np.zeros(shape, np.int16)
    at = world_of(GRIDS["isotropic"], shape)
    labels[at[..., 0] < 10] = 3
    labels[at[..., 0] > 60] = 8
    labels[(at[..., 1] > 60) & (labels == 0)] = 12
    return labels, affine


def edges():
    return made_of(
        [
            [[4, 20, 20], [70, 20, 20]],
            [[66, 30, 20], [2, 30, 20]],
            [[4, 20, 20], [30, 70, 20]],
            [[4, 20, 20], [4, 50, 20]],
            [[12, 20, 20], [58, 20, 20]],  # 4 mm from either
            [[20, 20, 20], [70, 20, 20]],  # an end nowhere
        ]
    )


def test_a_connectome_counts_and_averages():
    found = connectome(edges(), boxes())
    assert found.labels == (3, 8, 12)
    np.testing.assert_array_equal(found.matrix, [[1, 3, 1], [3, 0, 0], [1, 0, 0]])
    assert found.unassigned == 1
    assert connectome(edges(), boxes(), reach=1.5).matrix[0, 1] == 2
    length = connectome(edges(), boxes(), weight="length")
    assert length.matrix[0, 1] == pytest.approx((66 + 64 + 46) / 3)
    assert length.matrix[1, 0] == length.matrix[0, 1]
    assert length.matrix[0, 0] == pytest.approx(30)
    assert np.isnan(length.matrix[1, 2])
    fa = connectome(edges(), boxes(), weight="X", maps=gradient_maps())
    assert fa.matrix[0, 1] == pytest.approx((37 + 34 + 35) / 3, abs=0.1)
    with pytest.raises(InputError, match="there are no maps"):
        connectome(edges(), boxes(), weight="FA")
    with pytest.raises(InputError, match="no map 'Q'"):
        connectome(edges(), boxes(), weight="Q", maps=gradient_maps())


def test_a_connectome_has_names_and_files(tmp_path):
    (tmp_path / "names.txt").write_text("# a table\n3 Left-A 1 2 3 0\n8\tRight-A\n99 Not-There\n")
    names = read_names(tmp_path / "names.txt")
    found = connectome(edges(), boxes(), names=names)
    assert found.names == ("Left-A", "Right-A", "12")
    found.save(tmp_path / "m.csv", figure=tmp_path / "m.png")
    rows = list(csv.reader((tmp_path / "m.csv").open()))
    assert rows[0] == ["count", "Left-A", "Right-A", "12"]
    assert rows[1] == ["Left-A", "1", "3", "1"]
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "bad.txt").write_text("nothing\n")
    with pytest.raises(InputError, match="no line of a number"):
        read_names(tmp_path / "bad.txt")


def test_odd_parcellations_are_refused():
    labels, affine = boxes()
    with pytest.raises(InputError, match="no region"):
        connectome(edges(), (0 * labels, affine))
    with pytest.raises(InputError, match="whole labels"):
        connectome(edges(), (labels + 0.5, affine))
    assert connectome(edges()[:0], (labels, affine)).matrix.sum() == 0


# planning


def head(tilt=0.0, affine=GRIDS["isotropic"]):
    """Maps of a head that is symmetric about a plane, and its plane."""
    shape = (48, 44, 30)
    rng = np.random.default_rng(0)
    normal = np.array([np.cos(tilt), np.sin(tilt), 0])
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3] + [2.0, 0, 0]
    offset = world_of(affine, shape) - middle
    side = offset @ normal
    along = np.stack([np.abs(side), offset[..., 1] - side * normal[1], offset[..., 2]], -1)
    mask = np.linalg.norm(along / [36, 40, 26], axis=-1) < 1
    bumps = rng.uniform([0, -35, -20], [35, 35, 20], (25, 3))
    fa = sum(np.exp(-((along - b) ** 2).sum(-1) / 60) for b in bumps)
    fa = np.where(mask, 0.2 + 0.5 * fa, 0)
    maps = map_set(affine, mask, np.broadcast_to([1.0, 0, 0], (*shape, 3)), sd=0.03, FA=fa)
    return replace(maps, mask=mask), middle, normal


@pytest.mark.parametrize("tilt", [-6.0, 0.0, 9.0])
def test_the_midline_of_a_tilted_head_is_found(tilt):
    maps, middle, normal = head(np.deg2rad(tilt))
    lesion = np.zeros_like(maps.mask)
    lesion[30:36, 20:28, 12:18] = True
    found = find_midline(np.where(lesion, 0, maps["FA"].data), maps.mask, maps.affine, lesion)
    assert np.rad2deg(np.arccos(found.normal @ normal)) < 0.5
    assert abs((found.point - middle) @ normal) < 0.3
    assert found.likeness > 0.97
    np.testing.assert_allclose(found.mirrored(found.mirrored(middle + 9)), middle + 9, atol=1e-9)


def lesion_and_plan(**options):
    maps, middle, normal = head(np.deg2rad(5))
    centre = middle + 18 * normal
    lesion = ball(centre, 6.0, maps.affine, maps.mask.shape, "tumour")
    fa = np.where(lesion.inside, 0.1, maps["FA"].data).astype(np.float32)
    maps = replace(maps, maps=maps.maps | {"FA": replace(maps["FA"], data=fa)})
    y = np.linspace(-25, 25, 51)
    tracts = {
        name: made_of(
            [
                np.stack([centre[0] + x + 0 * y, centre[1] + y, centre[2] + z + 0 * y], -1)
                for z in (0, 1)
            ]
        )
        for name, x in (("far", -30), ("near", -11), ("through", 1.0))
    }
    return maps, lesion, tracts, planning(maps, lesion, tracts, **options), centre, middle, normal


def test_planning_tells_what_runs_near_a_lesion():
    _, lesion, _, plan, centre, *_ = lesion_and_plan(distance=8.0)
    assert [b.name for b in plan.bundles] == ["through", "near", "far"]
    through, near, far = plan.bundles
    assert (through.distance_mm, through.lines_through, through.near) == (0, 2, True)
    # 11 mm from the centre of a ball of 6 mm, whose border is as rough as its voxels
    assert near.distance_mm == pytest.approx(5, abs=1)
    assert (near.lines_within, near.lines_through, near.near) == (2, 0, True)
    assert far.distance_mm == pytest.approx(24, abs=1)
    assert (far.lines_within, far.near) == (0, False)
    assert abs(near.nearest[0] - (centre[0] - 11)) < 0.1
    assert plan.facts["side"] == "right"
    assert plan.facts["from_midline_mm"] == pytest.approx(18, abs=0.5)
    assert plan.facts["lesion_ml"] == pytest.approx(lesion.inside.sum() * 8 / 1000, abs=1e-3)


def test_planning_compares_lesion_rim_and_the_other_side():
    maps, lesion, _, plan, centre, _, normal = lesion_and_plan(rim=4.0)
    found = {t.region: t for t in plan.tissue if t.metric == "FA"}
    assert found["lesion"].mean == pytest.approx(0.1)
    assert found["lesion"].sd == pytest.approx(0, abs=1e-6)
    assert found["lesion"].map_sd == pytest.approx(0.03)
    at = world_of(maps.affine, maps.mask.shape)
    mirror = np.linalg.norm(at - (centre - 36 * normal), axis=-1) < 6
    overlap = 2 * (plan.regions["contralateral"] & mirror).sum()
    assert overlap / (plan.regions["contralateral"].sum() + mirror.sum()) > 0.8
    truth = maps["FA"].data[mirror]
    assert found["contralateral"].mean == pytest.approx(truth.mean(), abs=0.02)
    away = distance_from(lesion, at.reshape(-1, 3)).reshape(maps.mask.shape)
    rim = plan.regions["rim"]
    assert not (rim & lesion.inside).any()
    assert away[rim].max() <= 4
    assert (away[~rim & maps.mask & ~lesion.inside] > 1.5).all()


def test_distances_are_from_the_faces_of_voxels():
    inside = np.zeros((9, 9, 9), bool)
    inside[4, 4, 4] = True
    region = Region(inside, OBLIQUE)
    centre = OBLIQUE[:3, :3] @ [4, 4, 4] + OBLIQUE[:3, 3]
    unit = OBLIQUE[:3, :3] / np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    half = np.linalg.norm(OBLIQUE[:3, :3], axis=0) / 2
    for axis in range(3):
        points = centre + np.array([0, half[axis] * 0.99, half[axis] + 3])[:, None] * unit[:, axis]
        np.testing.assert_allclose(distance_from(region, points), [0, 0, 3], atol=1e-6)


def test_only_points_that_matter_are_measured_closely():
    """`at_risk` against the distance of every point, for a lesion of coarse, odd voxels."""
    rng = np.random.default_rng(3)
    affine = OBLIQUE @ np.diag([2.5, 1, 1.7, 1])
    inside = np.zeros((14, 14, 14), bool)
    inside[4:9, 5:8, 3:9] = rng.random((5, 3, 6)) < 0.7
    lesion = Region(inside, affine)
    middle = affine[:3, :3] @ [6, 6, 6] + affine[:3, 3]
    lines = made_of(
        [middle + rng.normal(0, 12, 3) + np.cumsum(rng.normal(0, 1, (40, 3)), 0) for _ in range(60)]
    )
    least = [distance_from(lesion, dense([line], 0.5)[0]).min() for line in lines]
    found = at_risk("x", lines, lesion, 6.0)
    assert found.distance_mm == pytest.approx(min(least), abs=0.01)
    assert found.lines_within == sum(d <= 6 for d in least)
    assert 0 < found.lines_within < 60
    assert found.lines_through == sum(d == 0 for d in least) > 0


def test_a_plan_is_written_and_can_be_printed(tmp_path):
    plan = lesion_and_plan()[3]
    page = plan.save(tmp_path / "plan").read_text()
    assert page.count(NOTICE) == 2
    assert "@media print" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.index(">through<") < page.index(">near<") < page.index(">far<")
    told = json.loads((tmp_path / "plan" / "planning.json").read_text())
    assert told["notice"] == NOTICE
    assert {t["region"] for t in told["tissue"]} == {"lesion", "rim", "contralateral"}
    with pytest.raises(InputError, match="there already"):
        plan.save(tmp_path / "plan")


def test_a_lesion_on_the_midline_has_no_other_side():
    maps, middle, _ = head()
    lesion = ball(middle, 6.0, maps.affine, maps.mask.shape)
    plan = planning(maps, lesion, {})
    assert not plan.regions["contralateral"].any()
    assert "mirrors into itself" in plan.notes[0]
    assert {t.region for t in plan.tissue} == {"lesion", "rim"}


def test_a_plan_says_which_maps_lean_on_usual_tissue():
    maps, lesion, tracts, plan, *_ = lesion_and_plan()
    assert plan.notes == []
    (model,) = maps.provenance
    made = maps.provenance[model] | {"prior_driven": {"FA": ["a shell"], "MK": ["two shells"]}}
    leaning = replace(maps, provenance={model: made})
    (note,) = planning(leaning, lesion, tracts).notes
    assert note.startswith(f"FA ({model}): this scan by itself does not determine")
    other = replace(leaning, maps=maps.maps | {"X": Map(Metric("X", "x"), model, maps["FA"].data)})
    assert planning(other, lesion, tracts, metrics=["X"]).notes == []


def test_a_plan_of_a_brain_of_unlike_halves_says_so(monkeypatch):
    maps, lesion, tracts, plan, *_ = lesion_and_plan()
    assert plan.notes == []
    monkeypatch.setattr("DMRIMicroLib.tracts.planning.LEAST_LIKENESS", 1.0)
    (note,) = planning(maps, lesion, tracts).notes
    assert f"alike by {plan.facts['midline']['likeness']:.2f} only" in note


def test_planning_without_a_bundle_or_a_map_says_so():
    maps, middle, normal = head()
    lesion = ball(middle + 18 * normal, 6.0, maps.affine, maps.mask.shape)
    empty = made_of([[[0, 0, 0], [1, 1, 1]]])[:0]
    plan = planning(maps, lesion, {"arcuate": empty})
    assert "arcuate: has no lines, nothing can be said of it" in plan.notes
    bare = replace(maps, maps={"X": Map(Metric("X", "x"), "dti", maps["FA"].data)})
    assert "no contralateral region" in planning(bare, lesion, {}).notes[0]
    with pytest.raises(InputError, match="no map 'NDI'"):
        planning(maps, lesion, {}, metrics=["NDI"])
    moved = lesion.affine.copy()
    moved[0, 3] += 999
    elsewhere = replace(lesion, affine=moved)
    with pytest.raises(InputError, match="does not overlap"):
        planning(maps, elsewhere, {})


# commands


def ran(*words, code=0):
    run = CliRunner().invoke(app, [str(w) for w in words])
    if code:
        assert run.exit_code or run.exception
        return run
    if run.exception is not None and not isinstance(run.exception, SystemExit):
        raise run.exception
    assert run.exit_code == 0, run.output
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Maps of a scan of rings, a segmentation, and a file of seeds."""
    scan = ring_scan(protocol({1000.0: 12}), GRIDS["isotropic"], (30, 30, 7), sigma=5.0)
    maps = dm.fit(scan.with_mask(np.ones(scan.shape)), "dti", uncertainty=True, device="cpu")
    place = tmp_path_factory.mktemp("maps")
    maps.save(place)
    labels = np.zeros(scan.shape, np.int16)
    labels[20:, 15:], labels[20:, :15], labels[:10] = 1, 2, 3
    nib.save(nib.Nifti1Image(labels, scan.affine), place / "seg.nii.gz")
    return place


def test_from_maps_to_a_plan_on_the_command_line(folder, tmp_path):
    ran("seeds", folder, "FA > 0.5 and FA_sd < 0.1", "--count", 60, "--out", tmp_path / "s.csv")
    words = ["--inside", "FA > 0.5", "--min-length", 5, "--max-length", 60, "--threads", 1]
    said = ran(
        *("tracts", folder, "--seeds", tmp_path / "s.csv", "--out", tmp_path / "l.trk"),
        *(*words, "--exclude", f"{folder}/seg.nii.gz:3", "--along", "FA,MD"),
        *("--progress", "json"),
    ).output
    shares = [json.loads(line)["progress"] for line in said.splitlines() if line[0] == "{"]
    assert shares[-1] == 1
    lines = Tractogram.load(tmp_path / "l.trk")
    assert len(lines) > 3
    assert set(lines.per_point) == {"FA", "FA_sd", "MD", "MD_sd"}
    assert lines.provenance["exclude"] == ["seg:3"]
    assert lines.provenance["seeds"]["count"] == 60
    ran(
        *("profile", tmp_path / "l.trk", folder, "--metrics", "FA", "--out", tmp_path / "p.csv"),
        *("--figure", tmp_path / "p.png", "--points", 20),
    )
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 21
    ran(
        *("connectome", tmp_path / "l.trk", folder / "seg.nii.gz", "--out", tmp_path / "c.csv"),
        *("--weight", "FA", "--maps", folder, "--figure", tmp_path / "c.png"),
    )
    assert (tmp_path / "c.csv").read_text().startswith("FA,1,2,3")
    said = ran(
        *("planning", folder, f"{folder}/seg.nii.gz:1", "--out", tmp_path / "plan"),
        *("--tract", f"ring={tmp_path / 'l.trk'}", "--metrics", "FA,MD"),
    ).output
    assert "ring: 0.0 mm" in said
    assert NOTICE in said
    assert (tmp_path / "plan" / "planning.html").exists()


def test_rules_regions_and_draws_on_the_command_line(folder, tmp_path):
    said = ran(
        *("tracts", folder, "--seeds", "FA > 0.5", "--within", f"{folder}/seg.nii.gz:1,2"),
        *("--count", 50, "--out", tmp_path / "l.vtk", "--min-length", 5, "--max-length", 60),
        *("--method", "probabilistic", "--inside", "FA > 0.5 and X > 0", "--threads", 1),
        *("--file", f"X={folder}/seg.nii.gz", "--ends", f"{folder}/seg.nii.gz:1"),
    ).output
    assert "lines from 50 seeds" in said
    told = json.loads((tmp_path / "l.json").read_text())
    assert "24 draws" in told["provenance"]["followed"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tracts", "MAPS", "--out", "l.nii"], "hold no streamlines"),
        (["tracts", "MAPS", "--out", "l.trk", "--odf", "csd"], "needs the scan"),
        (["tracts", "MAPS", "--out", "l.trk", "--include", "none.nii.gz"], "no such file"),
        (["tracts", "MAPS", "--out", "l.trk", "--file", "a"], "NAME=image"),
        (["tracts", "MAPS", "--out", "l.trk", "--seeds", "s.csv", "--count", "3"], "from a file"),
        (["seeds", "MAPS", "FA >", "--out", "s.csv"], "cannot be read"),
        (["connectome", "none.trk", "seg.nii.gz", "--out", "c.csv"], "no such file"),
        (["planning", "nowhere", "seg.nii.gz", "--out", "p"], "no such file"),
    ],
)
def test_commands_say_what_is_wrong(words, says, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seg.nii.gz").write_bytes((folder / "seg.nii.gz").read_bytes())
    run = ran(*(folder if w == "MAPS" else w for w in words), code=2)
    assert says in str(run.exception)
    assert {f.name for f in tmp_path.iterdir()} <= {"seg.nii.gz", "p"}


def test_a_ring_keeps_its_length_in_a_file(tmp_path):
    maps, middle = ring()
    lines = dm.tracts(maps, middle[None] + [25.0, 0, 0], inside="FA > 0.5", threads=1)
    back = Tractogram.load(lines.save(tmp_path / "ring.trx"))
    np.testing.assert_allclose(back.lengths, lines.lengths, rtol=1e-5)
