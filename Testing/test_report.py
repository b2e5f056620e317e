"""The report is whole, safe to open anywhere, and shows left where it says left."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.maps import Flag, Map, MapSet, Metric
from DMRIMicroLib.report import figures, flags, html, pictures, sections, words, write_report
from DMRIMicroLib.report.quality import assess
from DMRIMicroLib.report.slices import axial_tiles, choose_slices, mosaic
from DMRIMicroLib.scan import Scan

SHAPE = (12, 10, 8)
RAS = np.diag([2.0, 2.0, 2.0, 1.0])
LAS = np.diag([-2.0, 2.0, 2.0, 1.0])  # negative determinant: what dcm2niix writes
SAGITTAL = np.array([[0, 0, 3.0, 0], [-2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])  # P S R
LIP = np.diag([-2.0, 2.0, -3.0, 1.0])
AFFINES = {"RAS": RAS, "LAS": LAS, "sagittal": SAGITTAL, "LAI": LIP}


def world(affine: np.ndarray) -> np.ndarray:
    """(x, y, z, 3) RAS position of every voxel from the centre of the grid."""
    index = np.moveaxis(np.indices(SHAPE), 0, -1)
    position = index @ affine[:3, :3].T
    return position - position.reshape(-1, 3).mean(0)


def made(name: str = "subject", affine: np.ndarray = LAS) -> tuple[Scan, MapSet]:
    r = np.random.default_rng(0)
    g = r.normal(size=(8, 3))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    b = np.array([0, 0, 1000, 1000, 1000, 1000, 2000, 2000.0])
    signal = 500 * np.exp(-b * 0.8e-3) + r.normal(scale=5, size=(*SHAPE, 8))
    mask = np.zeros(SHAPE, dtype=bool)
    mask[1:-1, 1:-1, 1:-1] = True
    v = np.broadcast_to(np.float32([1, 0, 0]), (*SHAPE, 3)) * mask[..., None]
    tensor = np.tile(np.float32([1e-3, 5e-4, 5e-4, 0, 0, 0]), (*SHAPE, 1))
    metrics = {
        "FA": (Metric("FA", "Fractional anisotropy"), 0.4 * mask),
        "MD": (Metric("MD", "Mean diffusivity", "mm2/s", 0, 5e-3, (0, 2e-3)), 7e-4 * mask),
        "V1": (Metric("V1", "Principal direction", kind="vector"), v),
        "tensor": (Metric("tensor", "Diffusion tensor", "mm2/s", kind="tensor"), tensor),
    }
    maps = {k: Map(m, "dti", np.asarray(a, dtype=np.float32)) for k, (m, a) in metrics.items()}
    scan = Scan(
        signal.astype(np.float32), affine, Acquisition(b, g), mask, name, notes=("one <b>note</b>",)
    )
    return scan, MapSet(maps, affine, mask, {"dti": {"method": "wls", "scan": {"name": name}}})


class Links(HTMLParser):
    """Collect what a browser would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [v for k, v in attrs if k in ("src", "href", "data", "srcset", "action")]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    file = write_report(*made(), tmp_path_factory.mktemp("report"))
    assert file.name == "report.html"
    return file.read_text(encoding="utf-8")


def test_it_loads_nothing_from_elsewhere(page):
    links = Links(page)
    assert links.targets
    assert all(t.startswith(("data:image/png;base64,", "#")) for t in links.targets)
    assert not {"script", "link", "iframe", "object"} & set(links.tags)
    assert "url(" not in page
    assert "@import" not in page


def test_every_map_and_section_is_there(page):
    for alt in ("FA", "MD", "Colour-coded FA", "Histograms of dti", "Mean signal of every"):
        assert re.search(rf'<img alt="{alt}[^"]*" src="data:image/png;base64,iVBOR', page)
    assert "Principal direction" in page
    assert "tensor (Diffusion tensor)" in page
    assert "MD [10⁻³ mm²/s]: Mean diffusivity" in page
    assert "Research use only. Not a medical device." in page
    assert "2.00 x 2.00 x 2.00 mm" in page
    assert "<td>1000</td><td>4</td><td>4</td>" in page
    assert re.search(r"<summary>Diffusion tensor \(dti\)</summary><pre>.*wls", page, re.DOTALL)
    assert "Median 0.7, middle half 0.7 to 0.7." in page


def test_text_of_the_user_is_escaped(tmp_path):
    name = "<script>alert(1)</script>"
    page = write_report(*made(name), tmp_path).read_text(encoding="utf-8")
    assert name not in page
    assert "<b>note</b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "script" not in Links(page).tags


@pytest.mark.parametrize(
    ("error", "told"), [(OSError, InputError), (KeyboardInterrupt, KeyboardInterrupt)]
)
def test_an_interrupted_write_leaves_the_old_report(tmp_path, monkeypatch, error, told):
    (tmp_path / "report.html").write_text("old")

    def broken(self, text, **_):
        with self.open("w") as f:
            f.write(text[:100])
        raise error

    monkeypatch.setattr(html.Path, "write_text", broken)
    with pytest.raises(told):
        write_report(*made(), tmp_path)
    monkeypatch.undo()
    assert [f.name for f in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_the_signal_is_read_once_and_in_parts(monkeypatch):
    scan, maps = made()
    monkeypatch.setattr("DMRIMicroLib.report.quality.READ_BYTES", 4 * int(np.prod(SHAPE)) * 3)
    asked = []
    original = Scan.volumes
    monkeypatch.setattr(Scan, "volumes", lambda s, i: asked.append(list(i)) or original(s, i))
    html.render(scan, maps)
    assert max(map(len, asked)) <= 3
    rest = [v for part in asked for v in part if v > 1]  # the b0 are read for S0 and noise too
    assert sorted(rest) == list(range(2, 8))


def test_warnings_stand_on_the_page():
    scan, maps = made()
    six = maps["tensor"].data
    six[..., 2] = -1e-3
    assert 'class="warning" role="alert">100.0% of the tensors' in html.render(scan, maps)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_left_is_shown_on_the_right_and_front_on_top(affine):
    position = world(affine)
    mask = np.ones(SHAPE, dtype=bool)
    right, front, up = (axial_tiles(position[..., k], mask, affine)[0] for k in range(3))
    assert (np.diff(right, axis=2) < 0).all()  # column 0 is the patient's right
    assert (np.diff(front, axis=1) < 0).all()  # row 0 is anterior
    assert (np.diff(up, axis=0) > 0).all()  # the first tile is the lowest


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_what_lies_left_is_drawn_under_the_letter_l(affine):
    data = np.where(world(affine)[..., 0] < 0, 1.0, 0.0).astype(np.float32)
    mask = np.ones(SHAPE, dtype=bool)
    item = Map(Metric("side", "left half"), "test", data)
    figure = pictures.map_mosaic(item, MapSet({"side": item}, affine, mask, {}))
    axes = figure.axes[0]
    places = {t.get_text(): t.get_position()[0] for t in axes.texts}
    assert places["L"] > 0.9
    assert places["R"] < 0.1
    tile, _ = axial_tiles(data, mask, affine, most=1)
    width = tile.shape[2]
    shown = np.asarray(axes.images[0].get_array())[1 : 1 + tile.shape[1], 1 : 1 + width]
    assert np.nanmean(shown[:, width // 2 :]) > 0.9
    assert np.nanmean(shown[:, : width // 2]) < 0.1


def test_colour_fa_is_red_for_left_right():
    _, maps = made()
    shown = np.asarray(pictures.colour_fa(maps).axes[0].images[0].get_array())
    assert shown[..., 0].max() == pytest.approx(0.4, abs=0.01)
    assert shown[..., 1:].max() == 0


def two_models() -> tuple[Scan, MapSet]:
    """Return maps of a tensor and of a model with an uncertainty, 3 % of whose voxels are flagged.

    The flagged voxels hold values that no statistic may take up.
    """
    scan, maps = made()
    flag = maps.mask.astype(np.uint8)
    inside = np.argwhere(maps.mask)
    odd = tuple(inside[:: len(inside) // 15][:15].T)
    flag[odd] = Flag.UNDETERMINED
    ndi = np.where(maps.mask, 0.5, 0).astype(np.float32)
    ndi[odd] = 1.0
    sd = np.where(maps.mask, 0.04, 0).astype(np.float32)
    sd[odd] = 0.3
    item = Map(Metric("NDI", "Neurite density index"), "noddi", ndi, sd)
    notes = ["one <b>note</b>", "smt is left out: it needs 2 shells", "noddi: read it <i>so</i>"]
    made_how = {"notes": notes, "voxels": {"left_out": 2}}
    other = MapSet({"NDI": item}, maps.affine, maps.mask, {"noddi": made_how}, {"noddi": flag})
    return scan, maps.merged(other)


@pytest.fixture(scope="module")
def both() -> str:
    return html.render(*two_models())


def part(page: str, model: str) -> str:
    """Return the section of one model."""
    return re.search(rf'<section aria-labelledby="model-{model}">.*?</section>', page, re.S)[0]


def test_each_model_has_a_section_that_the_contents_point_to(both):
    assert '<a href="#model-noddi">NODDI</a>' in both
    assert '<a href="#map-noddi-NDI">NDI</a>' in both
    assert "<td>96.9 %</td>" in both  # 15 of 480 are flagged
    ids = re.findall(r'id="([^"]+)"', both)
    assert len(ids) == len(set(ids))
    assert {t[1:] for t in Links(both).targets if t.startswith("#")} <= set(ids)
    assert '<img alt="NDI"' in part(both, "noddi")
    assert '<img alt="FA"' in part(both, "dti")
    assert 'alt="FA"' not in part(both, "noddi")


def test_what_the_user_must_know_of_a_model_stands_in_its_section(both):
    assert "read it &lt;i&gt;so&lt;/i&gt;</p>" in part(both, "noddi")
    assert "read it" not in part(both, "dti")
    assert both.count("<li>smt is left out: it needs 2 shells</li>") == 1
    assert both.count("one &lt;b&gt;note&lt;/b&gt;</li>") == 1  # the scan's notes are told once


def test_flagged_voxels_are_counted_in_words(both):
    said = part(both, "noddi")
    assert "465 of 480 voxels (96.9 %) are good; 15 (3.1 %): the signal tells too little" in said
    assert "480 of 480 voxels (100.0 %) are good." in part(both, "dti")


def test_what_no_model_could_use_is_said_once_for_all():
    scan, maps = two_models()
    maps.provenance["dti"]["voxels"] = {"left_out": 2}
    page = html.render(scan, maps)
    said = "dti, noddi: 2 voxels of the mask have no usable signal and stay empty"
    assert page.count("have no usable signal") == page.count(f"<li>{said}</li>") == 1


def test_statistics_are_over_good_voxels_only():
    _, maps = two_models()
    (noddi,) = (s for s in sections.sections(maps) if s.name == "noddi")
    assert noddi.maps[0].caption == (
        "Median 0.5, middle half 0.5 to 0.5. Right: its standard deviation, median 0.04."
    )
    (panel, *_) = pictures.histograms([maps["NDI"]], maps).axes
    assert sum(bar.get_height() for bar in panel.patches) == 465
    assert pictures.sd_mosaic(maps["NDI"], maps).axes[0].images[0].get_clim() == (
        0,
        pytest.approx(0.04),
    )


def test_a_model_without_a_good_voxel_says_so():
    scan, maps = two_models()
    maps.flags["noddi"][maps.mask] = Flag.NOT_CONVERGED
    page = part(html.render(scan, maps), "noddi")
    assert "0 of 480 voxels (0.0 %) are good; 480 (100.0 %): the solver was still moving" in page
    assert "Median -, middle half - to -." in page


def test_the_standard_deviation_stands_beside_its_map(both):
    assert re.search(
        r'class="both">.*<div><img alt="NDI" [^>]*><img alt="Standard deviation of NDI"',
        part(both, "noddi"),
        re.S,
    )
    assert "Standard deviation" not in part(both, "dti")


def test_flags_are_drawn_where_more_than_one_in_a_hundred_is_flagged(both):
    assert '<img alt="Flags of noddi"' in both
    assert "Flags of dti" not in both
    scan, maps = two_models()
    flag = maps.flags["noddi"]
    flag[tuple(np.argwhere(flag == Flag.UNDETERMINED)[4:].T)] = Flag.GOOD
    assert "Flags of noddi" not in html.render(scan, maps)  # 4 of 480


def test_the_key_of_the_flags_names_those_that_occur():
    _, maps = two_models()
    figure = pictures.flag_mosaic("noddi", maps)
    named = [t.get_text().replace("-\n", "") for t in figure.legends[0].get_texts()]
    assert named == ["good", "undetermined"]
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    assert set(np.unique(drawn[np.isfinite(drawn)])) == {Flag.GOOD, Flag.UNDETERMINED}


def test_voxels_without_an_answer_of_their_model_stay_black():
    _, maps = two_models()
    maps.flags["noddi"][:6] = Flag.EMPTY
    drawn = np.asarray(pictures.map_mosaic(maps["NDI"], maps).axes[0].images[0].get_array())
    filled = np.asarray(pictures.map_mosaic(maps["FA"], maps).axes[0].images[0].get_array())
    assert 0 < np.isfinite(drawn).sum() < np.isfinite(filled).sum()
    assert drawn.shape == filled.shape  # the same slices, cut alike


def test_quality_is_judged_over_the_brain_whatever_the_flags():
    scan, maps = two_models()
    before = assess(scan, maps)
    maps.flags["noddi"][maps.mask] = Flag.OUT_OF_RANGE
    assert assess(scan, maps) == before


def test_every_flag_has_a_meaning_and_a_colour():
    assert set(flags.MEANING) == set(flags.COLOURS) == set(Flag)
    assert len(set(flags.COLOURS.values())) == len(Flag)
    assert set(pictures.FLAG_NAMES) == set(Flag) - {Flag.EMPTY}


def test_a_whole_brain_of_24_noisy_maps_with_deviations_stays_below_6_mb():
    shape = (96, 112, 60)
    noise = np.random.default_rng(0)
    away = (np.moveaxis(np.indices(shape), 0, -1) + 0.5) / shape - 0.5
    mask = np.linalg.norm(away, axis=-1) < 0.5
    data = noise.normal(0.5, 0.2, shape).astype(np.float32)
    item = Map(Metric("NDI", "x", colormap="viridis"), "noddi", data, 0.1 * data)
    maps = MapSet({"NDI": item}, LAS, mask, {"noddi": {}})
    drawn = (pictures.map_mosaic(item, maps), "viridis"), (pictures.sd_mosaic(item, maps), "magma")
    bytes_of = [len(figures.to_png(figure, colours)) for figure, colours in drawn]
    assert 24 * sum(bytes_of) < 6e6


@pytest.mark.parametrize("colours", ["gray", "magma", "viridis"])
def test_a_palette_of_256_colours_cannot_be_told_from_all_colours(colours):
    _, maps = two_models()
    ramp = np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    item = Map(Metric("NDI", "x", colormap=colours), "noddi", ramp)
    figure = pictures.map_mosaic(item, maps)
    few, every = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), dtype=float)
        for png in (figures.to_png(figure, colours), figures.to_png(figure))
    )
    off = np.abs(few - every).max(axis=-1)  # of 255
    assert np.mean(off > 8) < 0.01  # edges, where a colour runs into black or into letters
    assert off.mean() < 1


@pytest.mark.parametrize(
    ("unit", "written"),
    [
        ("mm2/s", "mm²/s"),
        ("um2/ms", "µm²/ms"),
        ("1/mm3", "1/mm³"),
        ("1/mm2", "1/mm²"),
        ("1/mm", "1/mm"),
        ("um", "µm"),
        ("", ""),
    ],
)
def test_units_have_proper_superscripts(unit, written):
    assert words.unit(unit) == written


@pytest.mark.parametrize(
    ("window", "label"),
    [
        ((0, 2e-3), "M [10⁻³ mm²/s]"),
        ((0, 3), "M [mm²/s]"),
        ((0, 3e4), "M [10³ mm²/s]"),
        ((0, 2e6), "M [10⁶ mm²/s]"),
    ],
)
def test_small_and_large_numbers_stand_with_their_power_in_the_label(window, label):
    metric = Metric("M", "title", "mm2/s", 0, 1e8, window)
    factor, said = words.scale(metric)
    assert said == label
    assert 1 <= window[1] / factor <= 1000


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (0, 9, "0.0 %"), (9, 9, "100.0 %"), (1, 9999, "< 0.1 %"), (9998, 9999, "> 99.9 %"),
        (1, 40, "2.5 %"), (0, 0, "-"),
    ],
)  # fmt: skip
def test_shares_do_not_round_to_none_or_all(part, whole, said):
    assert words.share(part, whole) == said


def test_pixels_keep_the_proportions_of_the_voxels():
    _, aspect = axial_tiles(np.zeros(SHAPE), np.ones(SHAPE, dtype=bool), SAGITTAL)
    assert aspect == pytest.approx(2 / 3)


def test_chosen_slices_span_the_mask():
    areas = np.r_[np.zeros(5), 1, np.full(30, 100), 2, 0]
    chosen = choose_slices(areas, 12)
    assert len(chosen) == 12
    assert chosen[0] == 6
    assert chosen[-1] == 35
    assert list(choose_slices(np.array([0, 3, 3]), 12)) == [1, 2]


def test_tiles_lie_in_reading_order():
    sheet = mosaic(np.arange(5.0)[:, None, None] * np.ones((5, 2, 3)), columns=3)
    assert sheet.shape == (4, 9)
    assert list(sheet[0, ::3]) == [0, 1, 2]
    assert list(sheet[2, :6:3]) == [3, 4]
    assert np.isnan(sheet[2:, 6:]).all()


def test_directions_stand_where_they_point():
    g = np.array([[0, 0, 0], [1, 0, 0], [0, 1.0, 0]])
    figure = figures.directions(Acquisition([0, 1000, 1000], g))
    feet = figure.axes[0].collections
    points = np.vstack([c.get_offsets() for c in feet])
    assert [-1, 0] in points.tolist()  # the patient's right is on the left
    names = {t.get_text(): t.get_position() for t in figure.axes[0].texts}
    assert names["R"][0] < 0 < names["L"][0]
    assert names["A"][1] > 0 > names["P"][1]


def test_figures_leave_pyplot_alone():
    scan, maps = made()
    html.render(scan, maps)
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []
    assert isinstance(pictures.colour_fa(maps), Figure)
