"""The module's choices, kept in the scene so that they are saved and restored with it."""

from __future__ import annotations

import slicer

MODULE = "DMRIMicro"

DEFAULTS = {
    "models": "dti",
    "uncertainty": False,
    "robust": False,
    "weights": "",
    "extra": "",
    "enhance_method": "auto",
    "enhance_resolution": "7T",
    "enhance_edge": 1.25,
    "enhance_samples": 1,
    "enhance_weights": "",
    "seeds": "FA > 0.3",
    "density": 1.0,
    "inside": "FA > 0.15",
    "followed": "tensor",
    "way": "deterministic",
    "least_length": 20.0,
    "colour_by": "direction",
    "lesion_segment": "",
    "risk_distance": 10.0,
    "rim": 5.0,
}
"""What the user chooses besides nodes: names of models with commas between them, switches, files of
the codebook's weights (empty: those that come with it) and of a metric of the user's own; of the
enhancement method, resolution, voxel edge [mm], draws and weights; of tracking the rules of seeds
and of where lines run, seeds a voxel, what is followed and how, the least length [mm], and what
gives the colours; of planning which segment the lesion is (empty: all), how near a bundle is at
risk, and the width of the rim [mm]."""

NODES = ("dwi", "mask", "tensor", "include", "exclude", "ends", "lesion", "bundle")
"""Nodes that the user chooses."""

ON = "true"
"""How a switch is written that is on."""


def parameters():
    """Return the module's parameters of the current scene: those of `NODES` and `DEFAULTS`.

    Slicer's parameterNodeWrapper in the desktop; without its Qt parts, the same by hand.
    """
    node = _node()
    wrapped = _wrapped_class()
    return _ByHand(node) if wrapped is None else wrapped(node)


def _node():
    node = slicer.mrmlScene.GetSingletonNode(MODULE, "vtkMRMLScriptedModuleNode")
    if node is None:
        node = slicer.vtkMRMLScriptedModuleNode()
        node.SetModuleName(MODULE)
        node.SetSingletonTag(MODULE)
        node.SetName(MODULE)
        node = slicer.mrmlScene.AddNode(node)
    return node


def _wrapped_class():
    try:
        from slicer.parameterNodeWrapper import parameterNodeWrapper
    except ImportError:
        return None

    # built by hand: the annotations of a class in this file would be strings, which it cannot read
    fields = {
        **dict.fromkeys(NODES, slicer.vtkMRMLNode),
        "dwi": slicer.vtkMRMLDiffusionWeightedVolumeNode,
        **{name: type(default) for name, default in DEFAULTS.items()},
    }
    return parameterNodeWrapper(type("Parameters", (), {"__annotations__": fields, **DEFAULTS}))


class _ByHand:
    def __init__(self, node) -> None:
        object.__setattr__(self, "_node", node)

    def __getattr__(self, name: str):
        if name in NODES:
            return self._node.GetNodeReference(name)
        if name not in DEFAULTS:
            raise AttributeError(name)
        default, kept = DEFAULTS[name], self._node.GetParameter(name)
        if isinstance(default, bool):
            return kept == ON if kept else default
        return type(default)(kept) if kept else default

    def __setattr__(self, name: str, value) -> None:
        if name in NODES:
            self._node.SetNodeReferenceID(name, value.GetID() if value is not None else None)
        elif isinstance(value, bool):
            self._node.SetParameter(name, ON if value else "false")
        else:
            self._node.SetParameter(name, str(value))
