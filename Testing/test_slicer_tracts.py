"""Tractography in the Slicer module, on a straight bundle whose place is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer_scene as ss
from test_slicer_logic import Heard, temporary, wait  # noqa: F401

SHAPE = (24, 8, 8)
RADIUS = 4.1


@pytest.fixture
def logic():
    with ss.clean_scene():
        from DMRIMicroSlicer.logic import DMRIMicroLogic

        yield DMRIMicroLogic()


def bundle(sign: int = 1, oblique: bool = True, sd: float | None = None):
    """Add maps of a straight bundle; return their nodes, a point on its axis, its direction."""
    from bundles import straight
    from DMRIMicroSlicer.results import show_maps

    maps, middle, axis = straight(ss.affine(sign, oblique), SHAPE, RADIUS)
    if sd is not None:
        from dataclasses import replace

        fa = replace(maps["FA"], uncertainty=np.full(SHAPE, sd, np.float32))
        maps = replace(maps, maps={**maps.maps, "FA": fa})
    return show_maps(maps, "head"), middle, axis


def box(centre, axis, size=(4.0, 30.0, 30.0), name="box"):
    """Add a box with its first side along `axis`."""
    slicer = ss.boot().slicer
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    node.SetSize(*size)
    turn, _ = np.linalg.qr(np.c_[axis, [0, 1, 0.1], [0, 0.1, 1]])
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = turn, centre
    place[:3, 0] = axis
    node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(place))
    return node


def lines_of(node):
    from DMRIMicroSlicer.tract_nodes import lines_from_node

    return lines_from_node(node)


def away(points, middle, axis) -> np.ndarray:
    """Distance of points from the bundle's axis, and their place along it [mm]."""
    offset = points - middle
    along = offset @ axis
    return np.linalg.norm(offset - along[:, None] * axis, axis=1), along


def array(node, name: str) -> np.ndarray:
    from vtk.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(node.GetPolyData().GetPointData().GetArray(name))


def words(table, name: str) -> list[str]:
    rows = range(table.GetNumberOfRows())
    return [table.GetTable().GetValueByName(k, name).ToString() for k in rows]


def numbers(table, name: str) -> np.ndarray:
    rows = range(table.GetNumberOfRows())
    return np.array([table.GetTable().GetValueByName(k, name).ToDouble() for k in rows])


def test_lines_run_along_the_bundle_in_the_world(logic):
    for sign, oblique in ss.SIGNS:
        nodes, middle, axis = bundle(sign, oblique)
        node = logic.tracts(nodes, "FA > 0.3", seed=1)
        assert node.GetClassName() == "vtkMRMLModelNode"
        lines = lines_of(node)
        assert len(lines) > 50
        distance, _ = away(lines.points, middle, axis)
        assert distance.max() < RADIUS + 2.5  # a voxel
        steps = np.concatenate([np.diff(line, axis=0) for line in lines]).astype(float)
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)
        assert np.abs(steps @ axis).min() > 0.999
        assert lines.lengths.max() > 0.9 * SHAPE[0] * 2.0
        np.testing.assert_array_equal(lines.affine, ss.affine(sign, oblique))
        assert lines.shape == SHAPE


def test_lines_are_those_of_the_library(logic):
    from bundles import straight

    import DMRIMicroLib as dm

    nodes, *_ = bundle()
    maps, *_ = straight(ss.affine(), SHAPE, RADIUS)
    seeds = dm.seeds(maps, "FA > 0.3", count=20, seed=4)
    wanted = dm.tracts(maps, seeds, seed=4)
    node = logic.tracts(nodes[0], "FA > 0.3", count=20, seed=4)
    found = lines_of(node)
    assert [len(line) for line in found] == [len(line) for line in wanted]
    np.testing.assert_allclose(found.points, wanted.points, atol=1e-4)
    made = json.loads(node.GetAttribute("DMRIMicro.provenance"))["tracts"]
    assert (made["seeds"]["rule"], made["seeds"]["count"]) == ("FA > 0.3", 20)
    assert node.GetName() == "head tracts"


def test_seeds_are_points_in_the_voxels_of_the_rule(logic):
    nodes, middle, axis = bundle(-1)
    node = logic.seeds(nodes, "FA > 0.3", box(middle, axis), density=2)
    from DMRIMicroSlicer.tract_nodes import points_from_node

    points = points_from_node(node)
    distance, along = away(points, middle, axis)
    assert distance.max() < RADIUS + 2.5
    assert np.abs(along).max() < 2 + 1.1  # half the box, half a voxel
    assert node.GetPolyData().GetNumberOfVerts() == len(points)
    assert len(lines_of(logic.tracts(nodes, node))) > 0.9 * len(points)  # some leave the grid
    slicer = ss.boot().slicer
    hand = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "by hand")
    hand.AddControlPoint(*middle)
    (line,) = lines_of(logic.tracts(nodes, hand))
    assert np.linalg.norm(line - middle, axis=1).min() < 1.1  # a step


def test_colours_tell_the_direction_or_a_map(logic):
    nodes, _, axis = bundle()
    node = logic.tracts(nodes, count=9)
    display = node.GetDisplayNode()
    assert display.GetActiveScalarName() == "direction"
    assert display.GetScalarRangeFlag() == display.UseDirectMapping
    assert np.abs(array(node, "direction") - 255 * np.abs(axis)).max() < 2
    nodes[0].GetDisplayNode().SetWindowLevelMinMax(0.1, 0.9)
    node = logic.tracts(nodes, count=9, colourBy="FA", exclude=None)
    display = node.GetDisplayNode()
    assert (display.GetActiveScalarName(), display.GetScalarVisibility()) == ("FA", 1)
    np.testing.assert_allclose(display.GetScalarRange(), (0.1, 0.9))
    assert display.GetColorNodeID() == nodes[0].GetDisplayNode().GetColorNodeID()
    values = array(node, "FA")
    assert 0.6 < np.median(values) < 0.81
    assert len(lines_of(node).per_point["FA"]) == len(lines_of(node))


def test_regions_choose_lines(logic):
    nodes, middle, axis = bundle()
    seed = middle + 3 * axis
    whole = logic.tracts(nodes, seed[None])
    assert len(lines_of(whole)) == 1
    ahead, behind = box(middle + 12 * axis, axis), box(middle - 12 * axis, axis)
    aside = box(middle + 40 * axis, axis, name="aside")

    def count(**regions) -> int:
        return len(lines_of(logic.tracts(nodes, seed[None], **regions)))

    assert count(include=[ahead, behind]) == 1
    assert count(include=[ahead, aside]) == 0
    assert count(exclude=behind) == 0
    assert count(exclude=aside) == 1
    ends = np.abs(away(lines_of(whole).points, middle, axis)[1]).max()
    far = [box(middle + s * ends * axis, axis, (8, 30, 30)) for s in (1, -1)]
    assert count(ends=far) == 1
    assert count(ends=[far[0], ahead]) == 0


def test_one_segment_of_a_segmentation_is_a_region(logic):
    slicer = ss.boot().slicer
    nodes, middle, _ = bundle(-1)
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:5], labels[18:20, 0, 0] = 1, 2
    labelmap = ss.volume_node(labels, ss.affine(-1), name="roi")
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "seg")
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labelmap, segmentation)
    first, second = (segmentation.GetSegmentation().GetNthSegmentID(k) for k in (0, 1))

    def count(region) -> int:
        return len(lines_of(logic.tracts(nodes, middle[None], include=region)))

    assert count((segmentation, first)) == 1
    assert count((segmentation, second)) == 0  # a corner, off the bundle
    assert count([(segmentation, first), (segmentation, second)]) == 0
    assert count(segmentation) == 1  # all segments together
    assert count(labelmap) == 1
    from DMRIMicroSlicer.region_nodes import labels_from

    found, affine, names = labels_from(segmentation)
    there = ss.value_by_position(found, affine)
    wanted = {k: v for k, v in ss.value_by_position(labels, ss.affine(-1)).items() if v[0]}
    assert {k: v for k, v in there.items() if v[0]} == wanted
    assert len(names) == 2


def test_maps_under_a_transform_are_tracked_in_the_world(logic):
    nodes, middle, axis = bundle()
    move = np.eye(4)
    move[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    move[:3, 3] = (10, 20, 30)
    ss.linear_transform(move, *nodes)
    moved, turned = move[:3, :3] @ middle + move[:3, 3], move[:3, :3] @ axis
    node = logic.tracts(nodes, moved[None])
    (line,) = lines_of(node)
    distance, along = away(line, moved, turned)
    assert distance.max() < 0.5
    assert np.ptp(along) > 40
    back = np.eye(4)
    back[:3, 3] = (1, 2, 3)
    ss.linear_transform(back, node)
    np.testing.assert_allclose(lines_of(node)[0], line + back[:3, 3], atol=1e-4)


def test_maps_of_two_fits_of_a_scan_are_not_mixed(logic):
    from DMRIMicroSlicer.map_nodes import maps_of
    from DMRIMicroSlicer.results import PROVENANCE

    first, second = bundle(sd=0.1)[0], bundle()[0]
    for node in second:  # fitted again, later and without uncertainty
        told = json.loads(node.GetAttribute(PROVENANCE))
        node.SetAttribute(PROVENANCE, json.dumps({"dti": {**told["dti"], "created": "later"}}))

    def tensor(nodes):
        return next(n for n in nodes if n.IsA("vtkMRMLDiffusionTensorVolumeNode"))

    assert any(n.GetAttribute("DMRIMicro.standard_deviation_of") for n in first)
    assert {n.GetID() for n in maps_of(tensor(first))} == {n.GetID() for n in first}
    assert {n.GetID() for n in maps_of(tensor(second))} == {n.GetID() for n in second}


def test_tensors_that_were_turned_for_good_are_refused(logic):
    from DMRIMicroLib import InputError

    nodes, middle, _ = bundle(-1)
    shift = np.eye(4)
    shift[:3, 3] = (10, 20, 30)
    ss.linear_transform(shift, *nodes)
    for node in nodes:
        node.HardenTransform()
    (line,) = lines_of(logic.tracts(nodes, (middle + shift[:3, 3])[None]))
    assert len(line) > 10
    turn = np.eye(4)
    turn[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    ss.linear_transform(turn, *nodes)
    for node in nodes:
        node.HardenTransform()
    with pytest.raises(InputError, match="transform that was hardened"):
        logic.tracts(nodes, middle[None])


def test_what_a_fit_has_added_can_be_tracked(logic):
    from DMRIMicroSlicer.nodes import node_from_scan

    import DMRIMicroLib as dm

    scan = ss.scan(shape=(12, 6, 6)).with_mask(np.ones((12, 6, 6), bool))
    mask = ss.volume_node(np.ones(scan.shape, np.uint8), scan.affine)
    dwi = node_from_scan(scan)
    nodes = logic.fit(dwi, "dti", mask, uncertainty=True, device="cpu")
    assert {"tensor", "V1"} <= {node.GetAttribute("DMRIMicro.metric") for node in nodes}
    assert logic.mapNames(nodes[0]) == ["FA", "MD", "AD", "RD"]
    words = {"count": 20, "seed": 3, "min_length": 5, "method": "probabilistic"}
    rule = "FA > 0.3 and FA_sd < 1"
    found = lines_of(logic.tracts(nodes, rule, **words))
    assert "draws from its standard deviation" in found.provenance["followed"]
    maps = dm.fit(scan, ["dti"], uncertainty=True, device="cpu")
    seeds = dm.seeds(maps, rule, count=20, seed=3)
    del words["count"]
    wanted = dm.tracts(maps, seeds, **words)
    np.testing.assert_allclose(found.points, wanted.points, atol=1e-3)
    flags = ss.volume_node(np.ones(scan.shape, np.uint8), scan.affine)
    flags.SetAttribute("DMRIMicro.flags_of", "dti")
    twice = logic.fit(dwi, "dti", mask, device="cpu")
    assert logic.tracts([*nodes, flags], rule, count=20, min_length=5).GetName() == "brain tracts_1"
    with pytest.raises(dm.InputError, match="there are two maps FA"):
        logic.tracts([*nodes, *twice])
    points = logic.seeds(twice[0], "FA > 0.3", count=5)  # one node stands for all of its scan
    assert points.GetName() == "brain seeds"


def test_a_diffusion_volume_is_fitted_first(logic):
    from DMRIMicroSlicer.nodes import node_from_scan

    scan = ss.scan(shape=(12, 6, 6)).with_mask(np.ones((12, 6, 6), bool))
    mask = ss.volume_node(np.ones(scan.shape, np.uint8), scan.affine)
    node = logic.tracts(node_from_scan(scan), count=30, maskNode=mask, min_length=5, device="cpu")
    assert node.GetName() == "brain tracts"
    main = np.linalg.eigh(ss.TENSOR)[1][:, -1]
    steps = np.concatenate([np.diff(line, axis=0) for line in lines_of(node)]).astype(float)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    assert np.abs(steps @ main).min() > 0.999


def test_the_worker_gives_the_same_lines(logic, temporary):  # noqa: F811
    nodes, middle, axis = bundle(-1)
    heard, notes = Heard(), []
    words = {"count": 25, "seed": 2, "colourBy": "FA", "include": box(middle, axis), "step": 0.8}
    job = logic.startTracts(
        nodes[0], **words, onProgress=lambda *told: heard.progress.append(told),
        onDone=heard.done.append, onError=heard.errors.append, onNote=notes.append,
    )  # fmt: skip
    assert wait(job, 300) == "done", heard.errors
    assert heard.progress[-1][0] == 1
    ((there,),) = heard.done
    here = logic.tracts(nodes[0], **words)
    np.testing.assert_allclose(lines_of(there).points, lines_of(here).points, atol=1e-3)
    np.testing.assert_allclose(array(there, "FA"), array(here, "FA"), atol=1e-5)
    assert there.GetDisplayNode().GetActiveScalarName() == "FA"
    made = json.loads(there.GetAttribute("DMRIMicro.provenance"))["tracts"]
    assert (made["include"], made["step_mm"]) == (["box"], 0.8)
    assert "lines; a bundle that was not found" in notes[0]
    assert list(temporary.iterdir()) == []


def test_the_worker_deconvolves_and_reads_images_of_the_users_own(logic, temporary):  # noqa: F811
    from DMRIMicroSlicer.nodes import node_from_scan

    scan = ss.scan(shape=(12, 6, 6), directions=20)
    mask = ss.volume_node(np.ones(scan.shape, np.uint8), scan.affine)
    dwi = node_from_scan(scan)
    nodes = logic.fit(dwi, "dti", mask, device="cpu")
    half = np.zeros(scan.shape, np.float32)
    half[:6] = 10
    image = ss.volume_node(half, scan.affine, "vtkMRMLScalarVolumeNode", "T1")
    words = {
        "seeds": "T1 > 5 and FA > 0.3", "within": mask, "density": 0.1, "images": {"T1": image},
        "odf": "csd", "dwiNode": dwi, "min_length": 4.5, "along": ["MD"], "device": "cpu",
    }  # fmt: skip
    heard = Heard()
    job = logic.startTracts(nodes, **words, onDone=heard.done.append, onError=heard.errors.append)
    assert wait(job, 500) == "done", heard.errors
    there, here = heard.done[0][0], logic.tracts(nodes, **words)
    assert lines_of(there).provenance["followed"] == "csd"
    assert len(lines_of(there)) == len(lines_of(here)) > 5
    np.testing.assert_allclose(lines_of(there).points, lines_of(here).points, atol=0.01)
    assert {"MD"} == set(lines_of(there).per_point)
    points = logic.seeds(nodes, "T1 > 5", images={"T1": image}, count=50)
    from DMRIMicroSlicer.tract_nodes import points_from_node

    index = (points_from_node(points) - scan.affine[:3, 3]) @ np.linalg.inv(scan.affine[:3, :3]).T
    assert index[:, 0].max() < 5.6
    assert list(temporary.iterdir()) == []


def test_the_worker_fits_a_diffusion_volume_first(logic, temporary):  # noqa: F811
    from DMRIMicroSlicer.nodes import node_from_scan

    scan = ss.scan(shape=(12, 6, 6))
    mask = ss.volume_node(np.ones(scan.shape, np.uint8), scan.affine)
    heard = Heard()
    job = logic.startTracts(
        node_from_scan(scan), maskNode=mask, count=20, min_length=5, device="cpu",
        onProgress=lambda *told: heard.progress.append(told),
        onDone=heard.done.append, onError=heard.errors.append,
    )  # fmt: skip
    assert wait(job, 500) == "done", heard.errors
    shares = [share for share, _ in heard.progress]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(lines_of(heard.done[0][0])) > 10
    assert list(temporary.iterdir()) == []


def test_cancel_and_wrong_words_leave_the_scene_as_it_was(logic, temporary):  # noqa: F811
    from DMRIMicroLib.errors import InputError

    nodes, middle, _ = bundle()
    scan = ss.volume_node(np.ones((3, 3, 3), np.float32), np.eye(4), "vtkMRMLScalarVolumeNode")
    before = ss.count_nodes()
    job = logic.startTracts(nodes)
    job.cancel()
    assert (job.poll(), ss.count_nodes()) == ("cancelled", before)
    for call in (logic.tracts, logic.startTracts):
        with pytest.raises(InputError, match="is no map of this module"):
            call([scan])
        with pytest.raises(InputError, match="there are no maps"):
            call(None)
        with pytest.raises(InputError, match="there is no map 'NDI'"):
            call(nodes, "NDI > 0.3")
        with pytest.raises(InputError, match="cannot be a region"):
            call(nodes, include=nodes[1])
        with pytest.raises(InputError, match="deconvolution needs the scan"):
            call(nodes, odf="csd")
        with pytest.raises(InputError, match="there is no tensor among these maps"):
            call(nodes[:1])
        with pytest.raises(TypeError, match="tracking has no option 'stpe'"):
            call(nodes, stpe=1)
        with pytest.raises(InputError, match="which within, density and count do not change"):
            call(nodes, middle[None], count=3)
    with pytest.raises(InputError, match="a model or fibre bundle with lines is expected"):
        logic.profile(nodes[0], nodes)
    assert ss.count_nodes() == before
    assert list(temporary.iterdir()) == []


def test_a_profile_becomes_a_table_and_a_chart(logic, tmp_path):
    nodes, middle, axis = bundle(sd=0.03)
    node = logic.tracts(nodes, count=40)
    table, *plots = logic.profile(node, nodes, "FA", points=20, csv=tmp_path / "fa.csv")
    assert (table.GetNumberOfRows(), table.GetName()) == (20, f"{node.GetName()} profile")
    mean, sd = numbers(table, "FA"), numbers(table, "FA SD")
    assert ((mean > 0.65) & (mean < 0.81))[1:-1].all()  # the grid ends there
    from DMRIMicroSlicer.map_nodes import maps_from_nodes

    import DMRIMicroLib as dm

    wanted = dm.profile(lines_of(node), maps_from_nodes(nodes), ["FA"], points=20)["FA"]
    np.testing.assert_allclose(mean, wanted.mean, atol=1e-6)
    np.testing.assert_allclose(sd, wanted.sd, atol=1e-6)
    np.testing.assert_allclose(numbers(table, "FA map SD")[1:-1], 0.03, atol=1e-4)
    np.testing.assert_allclose(numbers(table, "FA + lines' SD"), mean + sd)
    core = np.stack([numbers(table, name) for name in "xyz"], 1)
    assert away(core, middle, axis)[0].max() < 1.5
    chart, *series = plots
    assert chart.GetClassName() == "vtkMRMLPlotChartNode"
    assert chart.GetNumberOfPlotSeriesNodes() == len(series) == 5
    assert series[0].GetYColumnName() == "FA"
    assert series[0].GetTableNode() is table
    assert (tmp_path / "fa.csv").read_text().startswith("metric,unit,point")


def test_a_connectome_is_a_table_with_the_regions_names(logic, tmp_path):
    slicer = ss.boot().slicer
    nodes, _, _ = bundle(-1)
    labels = np.zeros(SHAPE, np.uint8)
    labels[:6], labels[-6:], labels[11:13, :1, :1] = 1, 2, 3
    parcels = ss.volume_node(labels, ss.affine(-1), name="parcels")
    colours = slicer.vtkMRMLColorTableNode()
    colours.SetTypeToUser()
    colours.SetNumberOfColors(4)
    for k, name in enumerate(("none", "front", "back", "aside")):
        colours.SetColor(k, name, 1, 1, 1, 1)
    slicer.mrmlScene.AddNode(colours)
    parcels.CreateDefaultDisplayNodes()
    parcels.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
    node = logic.tracts(nodes, count=40)
    table = logic.connectome(node, parcels, csv=tmp_path / "matrix.csv")
    assert words(table, "region") == ["front", "back", "aside"]
    matrix = np.stack([numbers(table, name) for name in ("front", "back", "aside")])
    np.testing.assert_array_equal(matrix, matrix.T)
    assert matrix[0, 1] > 0.8 * len(lines_of(node))
    assert matrix[0, 2] == matrix[1, 2] == 0
    weighted = logic.connectome(node, parcels, "FA", nodes)
    assert numbers(weighted, "back")[0] == pytest.approx(0.73, abs=0.08)
    assert np.isnan(numbers(weighted, "aside")[0])
    assert (tmp_path / "matrix.csv").read_text().splitlines()[0] == "count,front,back,aside"


def test_structures_at_risk_are_told_in_tables_and_on_a_page(logic, tmp_path):
    nodes, middle, axis = bundle()
    node = logic.tracts(nodes, count=40)
    node.SetName("bundle")
    across = np.linalg.svd(axis[None])[2][1]
    shape = (60, 60, 60)
    grid = np.diag([1.0, 1, 1, 1])
    grid[:3, 3] = middle - 29.5
    centre = middle + 9 * across
    inside = np.linalg.norm(ss.positions(grid, shape) - centre, axis=-1) < 3
    lesion = ss.volume_node(inside.astype(np.uint8), grid, name="lesion")
    (near, tissue), page = logic.structuresAtRisk(
        lesion, node, nodes, distance=8, folder=tmp_path / "plan"
    )
    assert near.GetName() == "lesion structures at risk"
    assert words(near, "bundle") == ["bundle"]
    assert words(near, "at risk") == ["yes"]
    distance = numbers(near, "distance [mm]")[0]
    assert 9 - 3 - RADIUS - 2.5 < distance < 9 - 3
    nearest = np.array([numbers(near, f"nearest {axis} [mm]")[0] for axis in "RAS"])
    assert np.linalg.norm(nearest - centre) == pytest.approx(distance + 3, abs=1.2)
    assert {"lesion", "rim"} <= set(words(tissue, "region"))
    assert "at risk within 8 mm; rim of 5 mm" in near.GetDescription()
    assert "at risk within 8 mm; rim of 5 mm" in tissue.GetDescription()
    for told in (near.GetDescription(), page.read_text(encoding="utf-8")):
        assert "Research use only. Not a medical device." in told
    with pytest.raises(TypeError, match="stpe"):
        logic.startStructuresAtRisk(lesion, node, nodes, stpe=1)
    far, _ = logic.structuresAtRisk(lesion, {"mine": node}, nodes, 0.5)[0]
    assert [words(far, name)[0] for name in ("bundle", "at risk")] == ["mine", "no"]


def test_a_lesion_of_several_segments_says_so():
    from DMRIMicroSlicer.region_nodes import region_from

    slicer = ss.boot().slicer
    with ss.clean_scene():
        for count, name in ((1, "seg"), (2, "seg (A + B)"), (4, "seg (4 segments)")):
            labels = np.zeros((8, 8, 8), np.uint8)
            labels[: 2 * count : 2] = np.arange(1, count + 1)[:, None, None]
            drawn = ss.volume_node(labels, ss.affine(), name="drawn")
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "seg")
            slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(drawn, node)
            for k in range(count):
                node.GetSegmentation().GetNthSegment(k).SetName("ABCD"[k])
            assert region_from(node).name == name


def test_lines_survive_slicers_own_file(logic, tmp_path):
    slicer = ss.boot().slicer
    nodes, _, _ = bundle()
    node = logic.tracts(nodes, count=9, colourBy="FA")
    storage = slicer.vtkMRMLModelStorageNode()
    slicer.mrmlScene.AddNode(storage)
    storage.SetFileName(str(tmp_path / "lines.vtk"))
    assert storage.WriteData(node)
    again = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "again")
    assert storage.ReadData(again)
    np.testing.assert_allclose(lines_of(again).points, lines_of(node).points, atol=1e-4)
    np.testing.assert_allclose(array(again, "FA"), array(node, "FA"))
    assert array(again, "direction").shape[1] == 3
    from DMRIMicroLib.tracts.storage import load

    ours = load(tmp_path / "lines.vtk")
    np.testing.assert_allclose(ours.points, lines_of(node).points, atol=1e-4)
