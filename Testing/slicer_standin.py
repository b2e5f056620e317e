"""A stand-in for the Slicer desktop: just enough Qt for our widget, and the real MRML scene.

It is not the desktop: types and object lifetime of PythonQt, views, layouts, the module factory and
dialogs are not reproduced. Pictures made with it must not be shown as pictures of Slicer.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import sys
import types
from functools import cache

import pytest
import slicer_scene as ss

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


@cache
def start() -> types.SimpleNamespace:
    """Make `qt`, `slicer.app` and the missing modules of the slicer package; once per process."""
    pytest.importorskip(
        "PySide6.QtWidgets", reason="PySide6 is not installed", exc_type=ImportError
    )
    pytest.importorskip(
        "PySide6.QtUiTools", reason="PySide6 has no QtUiTools", exc_type=ImportError
    )
    keep_none_alive()
    booted = ss.boot()
    qt = make_qt()
    application = qt.QApplication.instance() or qt.QApplication(["stand-in"])
    application.setStyle("Fusion")
    booted.slicer.app = types.SimpleNamespace(
        testingEnabled=lambda: False,
        applicationName="stand-in",
        slicerHome="",
        topLevelWidgets=application.topLevelWidgets,
    )
    add_modules(booted.slicer, qt)
    return types.SimpleNamespace(**(vars(booted) | {"qt": qt, "application": application}))


def keep_none_alive() -> None:
    """Give None more references than PySide6 6.12 can drop.

    At each call without a result it gives back one that it never took. From Python 3.12 None is not
    counted; before, the process is aborted when the count reaches 0, at any time after the widget's
    tests.
    """
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


def load_widget():
    """Import the module file as Slicer does and build its widget in a qMRMLWidget."""
    desktop = start()
    file = ss.ROOT / "DMRIMicro" / "DMRIMicro.py"
    spec = importlib.util.spec_from_file_location("DMRIMicro", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["DMRIMicro"] = module
    spec.loader.exec_module(module)
    info = types.SimpleNamespace(path=str(file))
    module.DMRIMicro(info)
    parent = desktop.qt.WIDGETS["qMRMLWidget"]()
    parent.setLayout(desktop.qt.QVBoxLayout())
    parent.setMRMLScene(desktop.scene)
    widget = module.DMRIMicroWidget(parent)
    widget.setup()
    widget.info = info
    return widget


def make_qt() -> types.ModuleType:
    """Build the `qt` module: PySide6 with PythonQt's string connections and `name` property."""
    from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

    qt = types.ModuleType("qt")
    for part in (QtCore, QtGui, QtWidgets):
        qt.__dict__.update(
            {name: getattr(part, name) for name in dir(part) if not name.startswith("_")}
        )
    patch_connect(QtCore.QObject)
    QtCore.QObject.name = property(lambda self: self.objectName())
    QtCore.QObject.className = lambda self: self.metaObject().className()
    qt.WIDGETS = make_widgets(QtCore, QtWidgets)

    class Loader(QtUiTools.QUiLoader):
        def createWidget(self, cls, parent=None, name=""):
            if cls not in qt.WIDGETS:
                return super().createWidget(cls, parent, name)
            widget = qt.WIDGETS[cls](parent)
            widget.setObjectName(name)
            return widget

        def load(self, file, parent=None):
            # connections name signals that only Slicer has; qMRMLWidget does their work
            unknown = rb"<connections>.*</connections>|<property name=.filters.>.*?</property>"
            whole = bytes(file.readAll())
            told = tuple(n.decode() for n in re.findall(rb"<receiver>(\w+)</receiver>", whole))
            text = re.sub(unknown, b"", whole, flags=re.S)
            buffer = QtCore.QBuffer()
            buffer.setData(text)
            buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
            panel = super().load(buffer, parent)
            panel.receivers = told
            return panel

    qt.QUiLoader = Loader
    qt.QFile.ReadOnly = QtCore.QIODevice.OpenModeFlag.ReadOnly
    sys.modules["qt"] = qt
    return qt


def patch_connect(cls) -> None:
    """Let ``object.connect("signal(type)", function)`` work as in PythonQt."""
    plain = cls.__getattribute__

    def connect(self, signal: str, function) -> None:
        name, arguments = re.fullmatch(r"(\w+)\((.*)\)", signal).groups()
        slot = function if arguments else (lambda *_: function())
        bound = plain(self, name)
        if arguments == "int":
            bound = bound[int]
        bound.connect(slot)

    def attribute(self, name: str):
        # PySide6 finds `connect` in C, before any attribute of the class
        if name == "connect":
            return lambda *a: (
                connect(self, *a)
                if len(a) == 2 and isinstance(a[0], str)
                else plain(self, name)(*a)
            )
        return plain(self, name)

    cls.__getattribute__ = attribute


def make_widgets(core, widgets) -> dict:
    """Build the ctk and qMRML widgets that our panel uses."""

    class qMRMLWidget(widgets.QWidget):
        receivers: tuple[str, ...] = ()  # of its signal mrmlSceneChanged

        def setMRMLScene(self, scene) -> None:
            for child in self.findChildren(qMRMLNodeComboBox):
                if child.objectName() in self.receivers:
                    child.setMRMLScene(scene)

    class ctkCollapsibleButton(widgets.QGroupBox):
        text = core.Property(
            str, lambda self: self.title(), lambda self, value: self.setTitle(value)
        )
        collapsed = core.Property(bool, lambda self: False, lambda self, value: None)

    class ctkPathLineEdit(widgets.QLineEdit):
        currentPathChanged = core.Signal(str)
        currentPath = property(lambda self: self.text())
        setCurrentPath = widgets.QLineEdit.setText

        def __init__(self, parent=None) -> None:
            super().__init__(parent)
            self.textChanged.connect(self.currentPathChanged)

    class qMRMLNodeComboBox(widgets.QComboBox):
        currentNodeChanged = core.Signal(object)

        def __init__(self, parent=None) -> None:
            super().__init__(parent)
            self.scene, self.types, self.none, self.none_text, self.current = (
                None,
                [],
                False,
                "None",
                None,
            )
            self.activated.connect(lambda index: self._select(self.itemData(index)))

        def setMRMLScene(self, scene) -> None:
            if self.scene is None:
                self.scene = scene
                for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent):
                    scene.AddObserver(event, lambda *_: self.fill())
            self.fill()

        def fill(self) -> None:
            every = [self.scene.GetNthNode(i) for i in range(self.scene.GetNumberOfNodes())]
            fitting = [n for n in every if any(n.IsA(t) for t in self.types)]
            self.clear()
            if self.none:
                self.addItem(self.none_text, None)
            for node in fitting:
                self.addItem(node.GetName(), node.GetID())
            ids = [n.GetID() for n in fitting]
            first = None if self.none or not ids else ids[0]
            self._select(self.current if self.current in ids else first)

        def _select(self, node_id) -> None:
            changed, self.current = node_id != self.current, node_id
            self.setCurrentIndex(self.findData(node_id) if node_id else (0 if self.none else -1))
            if changed:
                self.currentNodeChanged.emit(self.currentNode())

        def currentNode(self):
            return self.scene.GetNodeByID(self.current) if self.current else None

        def setCurrentNode(self, node) -> None:
            self._select(node.GetID() if node is not None else None)

        nodeTypes = core.Property(
            "QStringList", lambda s: s.types, lambda s, v: setattr(s, "types", list(v))
        )
        noneEnabled = core.Property(bool, lambda s: s.none, lambda s, v: setattr(s, "none", v))
        noneDisplay = core.Property(
            str, lambda s: s.none_text, lambda s, v: setattr(s, "none_text", v)
        )
        addEnabled = core.Property(bool, lambda s: False, lambda s, v: None)
        removeEnabled = core.Property(bool, lambda s: False, lambda s, v: None)

    return {
        c.__name__: c
        for c in (qMRMLWidget, ctkCollapsibleButton, ctkPathLineEdit, qMRMLNodeComboBox)
    }


def add_modules(slicer, qt) -> None:
    """Add the pure-Python parts of the slicer package that the wheel leaves out."""

    class ScriptedLoadableModule:
        def __init__(self, parent) -> None:
            self.parent = parent

    class ScriptedLoadableModuleWidget:
        def __init__(self, parent=None) -> None:
            self.parent, self.layout = parent, parent.layout()

        def setup(self) -> None:
            pass

        def resourcePath(self, name: str) -> str:
            return str(ss.ROOT / "DMRIMicro" / "Resources" / name)

    scripted = types.ModuleType("slicer.ScriptedLoadableModule")
    scripted.ScriptedLoadableModule = ScriptedLoadableModule
    scripted.ScriptedLoadableModuleWidget = ScriptedLoadableModuleWidget
    scripted.ScriptedLoadableModuleTest = type("ScriptedLoadableModuleTest", (), {})
    words = types.ModuleType("slicer.i18n")
    words.tr = lambda text: text
    words.translate = lambda _context, text: text
    for name, module in (("ScriptedLoadableModule", scripted), ("i18n", words)):
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)
