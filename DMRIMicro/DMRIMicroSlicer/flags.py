"""Flags of a fit as a label map: it shows over the maps where not to trust them."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util

FLAGS_OF = "DMRIMicro.flags_of"
"""Node attribute: the model that the flags are about."""

TABLE = "DMRIMicro flags"
"""Name of the colour node, one a scene."""


def worth_a_node(flags) -> bool:
    """Say whether some voxel is flagged as anything but empty or good."""
    from DMRIMicroLib.maps import Flag

    return bool((flags > Flag.GOOD).any())


def fill(node, model: str, flags, affine) -> None:
    """Make a label map node hold (x, y, z) flags of `model`, and say what the numbers mean."""
    from DMRIMicroLib.report.flags import MEANING

    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(flags.transpose(2, 1, 0)))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    node.SetAttribute(FLAGS_OF, model)
    node.SetDescription("; ".join(f"{int(flag)}: {words}" for flag, words in MEANING.items()))


def known_colours():
    """Return the colour node of the flags that the scene has, or None."""
    named = slicer.util.getNodesByClass("vtkMRMLColorTableNode")
    return next((node for node in named if node.GetName() == TABLE), None)


def new_colours():
    """Add the colour node of the flags; empty and good are clear, so that the maps show."""
    from DMRIMicroLib.maps import Flag
    from DMRIMicroLib.report.flags import COLOURS

    node = slicer.vtkMRMLColorTableNode()
    node.SetName(TABLE)
    node.SetTypeToUser()
    node.SetNumberOfColors(len(Flag))
    for flag in Flag:
        rgb = [int(COLOURS[flag][k : k + 2], 16) / 255 for k in (1, 3, 5)]
        name = flag.name.lower().replace("_", " ")
        node.SetColor(int(flag), name, *rgb, float(flag > Flag.GOOD))
    return slicer.mrmlScene.AddNode(node)
