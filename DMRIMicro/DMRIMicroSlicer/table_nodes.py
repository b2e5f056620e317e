"""Tables and plots of what was measured along and between bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk

from .nodes import unique_name
from .results import remove

Column = Sequence[str] | NDArray

MEAN_COLOUR, SPREAD_COLOUR, MAP_COLOUR = (0.03, 0.32, 0.61), (0.45, 0.65, 0.85), (0.78, 0.16, 0.16)
"""Of a profile: the mean, the spread of the lines, the map's own uncertainty."""


def show_table(name: str, columns: Mapping[str, Column], description: str = ""):
    """Add a table node; text columns are sequences of str."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", unique_name(name))
    try:
        for title, values in columns.items():
            node.AddColumn(_column(title, values))
        node.SetUseColumnTitleAsColumnHeader(True)
        node.SetDescription(description)
    except BaseException:
        slicer.mrmlScene.RemoveNode(node)
        raise
    return node


def show_connectome(found, name: str):
    """Add the matrix of a connectome: a row for each region, its name first."""
    titles = _apart(found.names, found.labels)
    columns: dict[str, Column] = {"region": titles}
    columns |= dict(zip(titles, found.matrix.T, strict=True))
    what = {"count": "number of lines", "length": "mean length of the lines [mm]"}
    told = what.get(found.weight, f"mean of {found.weight} along the lines [{found.unit or '1'}]")
    return show_table(
        name, columns, f"Connectome: {told}; {found.unassigned} lines have an end near no region"
    )


def show_profiles(found, name: str) -> list:
    """Add profiles of a bundle: a table, and a chart with its series for every map."""
    first = next(iter(found.values()))
    columns: dict[str, Column] = {"distance": first.distance}
    columns |= dict(zip("xyz", first.core.T, strict=True))
    series: dict[str, dict[str, tuple]] = {}
    for metric, one in found.items():
        lines = {
            f"{metric}": (one.mean, MEAN_COLOUR, False),
            f"{metric} - lines' SD": (one.mean - one.sd, SPREAD_COLOUR, False),
            f"{metric} + lines' SD": (one.mean + one.sd, SPREAD_COLOUR, False),
        }
        if np.isfinite(one.map_sd).any():
            lines[f"{metric} - map's SD"] = (one.mean - one.map_sd, MAP_COLOUR, True)
            lines[f"{metric} + map's SD"] = (one.mean + one.map_sd, MAP_COLOUR, True)
        series[metric] = lines
        columns |= {title: values for title, (values, *_) in lines.items()}
        columns |= {f"{metric} SD": one.sd, f"{metric} map SD": one.map_sd}
        columns[f"{metric} lines"] = one.lines.astype(float)
    table = show_table(
        name,
        columns,
        "Along the bundle [mm]: weighted mean over the lines, their standard deviation, and the "
        "mean of the map's own",
    )
    nodes = [table]
    try:
        for metric, one in found.items():
            nodes += _chart(f"{name} {metric}", table, metric, one.unit, series[metric])
    except BaseException:
        for node in nodes:
            remove(node)
        raise
    return nodes


def show_plan(plan, notice: str) -> list:
    """Add the two tables of a plan: bundles near a lesion, and how its tissue is."""
    lesion = plan.facts["lesion"]
    told = "; ".join([notice, _asked(plan.facts), *plan.notes])
    bundles, tissue = plan.bundles, plan.tissue
    near = (
        f"{lesion} structures at risk",
        {
            "bundle": [b.name for b in bundles],
            "at risk": ["yes" if b.near else "no" for b in bundles],
            "distance [mm]": np.array([b.distance_mm for b in bundles]),
            "lines within": np.array([b.lines_within for b in bundles]),
            "lines through": np.array([b.lines_through for b in bundles]),
            "lines": np.array([b.lines for b in bundles]),
            **{
                f"nearest {axis} [mm]": np.array([b.nearest[k] for b in bundles])
                for k, axis in enumerate("RAS")
            },
        },
    )
    own = [np.nan if t.map_sd is None else t.map_sd for t in tissue]
    around = (
        f"{lesion} tissue",
        {
            "map": [t.metric for t in tissue],
            "unit": [t.unit for t in tissue],
            "region": [t.region for t in tissue],
            "mean": np.array([t.mean for t in tissue]),
            "SD": np.array([t.sd for t in tissue]),
            "map SD": np.array(own, dtype=float),
            "voxels": np.array([t.voxels for t in tissue]),
        },
    )
    tables: list = []
    try:
        for name, columns in (near, around):
            tables.append(show_table(name, columns, told))
    except BaseException:
        for node in tables:
            remove(node)
        raise
    return tables


def _asked(facts: Mapping) -> str:
    """Say where the lesion is, and how near is near: a table outlives the panel's choices."""
    side = ""
    if "side" in facts:
        side = f", {facts['from_midline_mm']:g} mm {facts['side']} of the midline"
    return (
        f"{facts['lesion']}: {facts['lesion_ml']:g} ml{side}; "
        f"at risk within {facts['distance_mm']:g} mm; rim of {facts['rim_mm']:g} mm"
    )


def _chart(name: str, table, metric: str, unit: str, lines: Mapping[str, tuple]) -> list:
    """Add a chart of columns over the distance, and its series; the chart first."""
    scene = slicer.mrmlScene
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", unique_name(name))
    chart.SetTitle(name)
    chart.SetXAxisTitle("along the bundle [mm]")
    chart.SetYAxisTitle(f"{metric} [{unit}]" if unit else metric)
    nodes = [chart]
    for title, (_, rgb, dashed) in lines.items():
        node = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", unique_name(title))
        node.SetAndObserveTableNodeID(table.GetID())
        node.SetXColumnName("distance")
        node.SetYColumnName(title)
        node.SetPlotType(node.PlotTypeScatter)
        node.SetMarkerStyle(node.MarkerStyleNone)
        node.SetLineStyle(node.LineStyleDash if dashed else node.LineStyleSolid)
        node.SetColor(*rgb)
        chart.AddAndObservePlotSeriesNodeID(node.GetID())
        nodes.append(node)
    return nodes


def _column(title: str, values: Column):
    if isinstance(values, np.ndarray):
        array = numpy_to_vtk(np.ascontiguousarray(values), deep=1)
    else:
        array = vtk.vtkStringArray()
        for value in values:
            array.InsertNextValue(str(value))
    array.SetName(title)
    return array


def _apart(names: Sequence[str], labels: Sequence[int]) -> list[str]:
    """Tell regions of one name apart by their numbers: columns are known by title."""
    return [
        name if list(names).count(name) == 1 and name != "region" else f"{name} ({label})"
        for name, label in zip(names, labels, strict=True)
    ]
