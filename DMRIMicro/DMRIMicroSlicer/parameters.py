"""The module's choices, kept in the scene so that they are saved and restored with it."""

from __future__ import annotations

import slicer

MODULE = "DMRIMicro"


def parameters():
    """Return the module's parameters of the current scene: attributes `dwi`, `mask`, `model`.

    Slicer's parameterNodeWrapper in the desktop; without its Qt parts, the same three by hand.
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
        "dwi": slicer.vtkMRMLDiffusionWeightedVolumeNode,
        "mask": slicer.vtkMRMLNode,
        "model": str,
    }
    return parameterNodeWrapper(type("Parameters", (), {"__annotations__": fields, "model": "dti"}))


class _ByHand:
    def __init__(self, node) -> None:
        object.__setattr__(self, "_node", node)

    def __getattr__(self, name: str):
        if name == "model":
            return self._node.GetParameter("model") or "dti"
        if name in ("dwi", "mask"):
            return self._node.GetNodeReference(name)
        raise AttributeError(name)

    def __setattr__(self, name: str, value) -> None:
        if name == "model":
            self._node.SetParameter("model", value)
        else:
            self._node.SetNodeReferenceID(name, value.GetID() if value is not None else None)
