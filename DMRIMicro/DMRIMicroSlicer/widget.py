"""The module's panel: it reads choices, starts the logic, shows progress. It computes nothing."""

from __future__ import annotations

import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from DMRIMicroLib.errors import DMRIMicroError

from . import dependencies, library
from .acquisition_fields import AcquisitionFields
from .enhance_section import EnhanceSection
from .import_button import ImportButton
from .logic import DMRIMicroLogic
from .messages import Messages
from .model_list import ModelList
from .network_fields import NetworkFields
from .parameters import parameters
from .plan_section import PlanSection
from .scan_choices import SELECTORS, ScanChoices
from .starts import starts
from .tract_section import TractSection
from .work import Work


class DMRIMicroWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Panel of the DMRIMicro module."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = DMRIMicroLogic()
        self.dependencies = dependencies
        self.models: dict = {}
        self.work: Work | None = None
        self._parameters = None

    @property
    def job(self):
        """What runs; None while nothing does."""
        return None if self.work is None else self.work.job

    def setup(self) -> None:
        """Build the panel; Slicer calls this once."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/DMRIMicro.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.list = ModelList(self.ui.modelsFrame, self._on_models)
        self.fields = AcquisitionFields(self.ui, self._on_field)
        self.network = NetworkFields(self.ui, self._on_path)
        self.messages = Messages(self.ui.logText)
        self.of_scan = ScanChoices(self.ui, self.messages)
        self.work = Work(self.ui, self.messages, self._show_running)
        self.importing = ImportButton(self.ui, self.logic, self.messages, self.work, self._ready)
        self.sections = [
            section(self.ui, self.logic, self._on_choice, self.onSection)
            for section in (EnhanceSection, TractSection, PlanSection)
        ]
        self._connect()
        self._fill_models()
        self._restore()
        self.work.show()

    def cleanup(self) -> None:
        """Stop the work and let go of the scene; Slicer calls this on exit and reload."""
        if self.work is not None:
            self.work.stop()
        self.removeObservers()

    def enter(self) -> None:
        """Look again at what is there: packages and nodes may have come meanwhile."""
        if not self.models:
            self._fill_models()
        self._offer_network()
        self._refresh()

    def _connect(self) -> None:
        ui = self.ui
        ui.dwiSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._on_dwi)
        ui.maskSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._on_mask)
        ui.allButton.connect("clicked()", self.onAll)
        ui.uncertaintyCheck.connect("toggled(bool)", self._on_switch)
        ui.robustCheck.connect("toggled(bool)", self._on_switch)
        ui.applyButton.connect("clicked()", self.onApply)
        ui.cancelButton.connect("clicked()", self.work.cancel)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._on_scene_closing)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self._on_scene_changed)

    # What the user does

    def onAll(self) -> None:
        """Choose every model that the scan allows."""
        self.list.check(self.list.possible())
        self._on_models()

    def onApply(self) -> None:
        """Start the fit in its own process, and the network when it has ended."""
        if self.job is not None:
            return
        try:
            if not self._ready():
                return
            self._refresh()
            if self._reasons():
                self.messages.fail("; ".join(self._reasons()))
                return
            self.messages.log(_("Preparing the scan ..."))
            for text in self.list.left_out():
                self.messages.log(_("Left out: {text}").format(text=text))
        except Exception as error:
            self.messages.error(error)
            return
        chosen = self.list.chosen()
        self.work.run(starts(self.logic, self.ui, chosen, self.network, self.work.heard()))

    def onSection(self, section) -> None:
        """Start the work of a section, enhancement say, in its own process."""
        if self.job is not None:
            return
        try:
            if not self._ready():
                return
        except Exception as error:
            self.messages.error(error)
            return
        self.work.run(section.starts(self._parameters, self.work.heard()))

    # What happens

    def _on_dwi(self, node) -> None:
        self.removeObservers(self._on_dwi_changed)
        if node is not None:  # others add nodes empty and fill them later
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._on_dwi_changed)
        if self._parameters is not None:
            self._parameters.dwi = node
            self.of_scan.change(node)
        self._refresh()

    def _on_dwi_changed(self, _caller=None, _event=None) -> None:
        self._refresh()

    def _on_mask(self, node) -> None:
        if self._parameters is not None:
            self._parameters.mask = node
            self.of_scan.choose("mask", node)

    def _on_models(self) -> None:
        if self._parameters is not None:
            self._parameters.models = ",".join(self.list.checked())
        self._refresh()

    def _on_switch(self, _on: bool) -> None:
        if self._parameters is not None:
            self._parameters.uncertainty = self.ui.uncertaintyCheck.isChecked()
            self._parameters.robust = self.ui.robustCheck.isChecked()
            self._refresh()  # not every model has a robust fit

    def _on_path(self, name: str, path: str) -> None:
        if self._parameters is not None:
            setattr(self._parameters, name, path)
            self._offer_network()
            self._refresh()

    def _on_choice(self, name: str, value) -> None:
        if self._parameters is not None:
            setattr(self._parameters, name, value)
            if name in SELECTORS:
                self.of_scan.choose(name, value)
            self._refresh_sections()

    def _on_field(self, name: str, value: float | None) -> None:
        node = self.ui.dwiSelector.currentNode()
        if node is not None:
            self.logic.setAcquisition(node, **{name: value})  # the node's change refreshes

    def _on_scene_closing(self, _caller=None, _event=None) -> None:
        self.work.stop()

    def _on_scene_changed(self, _caller=None, _event=None) -> None:
        self._restore()
        self.work.show()

    # What is shown

    def _fill_models(self) -> None:
        """List the registry; it cannot be read before its packages are installed."""
        try:
            self.models = self.logic.models()
        except ImportError as error:
            self.models = {}
            self.messages.log(
                _("Python packages are missing ({error}): press Install.").format(error=error)
            )
        else:
            library.import_ahead()
        self._offer_network()
        self.ui.allButton.setVisible(bool(self.models))
        self.ui.applyButton.setText(_("Apply") if self.models else _("Install Python packages"))

    def _offer_network(self) -> None:
        """List the models, and the network's methods with what is known of its weights now."""
        if self.models:
            self.models |= self.logic.offers(self.network.weights)
        self.list.fill(self.models)

    def _restore(self) -> None:
        """Show the choices that the scene keeps."""
        self._parameters = None  # selections that change below are not the user's
        kept = parameters()
        dwi, mask, models = kept.dwi, kept.mask, kept.models
        if dwi is not None:
            self.ui.dwiSelector.setCurrentNode(dwi)
        else:
            kept.dwi = self.ui.dwiSelector.currentNode()
        self.ui.maskSelector.setCurrentNode(mask)
        self.network.show(kept)
        for section in self.sections:
            section.show(kept)
        self.of_scan.begin(self.ui.dwiSelector.currentNode())
        self._offer_network()
        self.list.check(models.split(","))
        self.ui.uncertaintyCheck.setChecked(kept.uncertainty)
        self.ui.robustCheck.setChecked(kept.robust)
        self._parameters = kept
        self._refresh()

    def _refresh(self) -> None:
        """Say what was found, which models can be fitted, and whether Apply can be pressed."""
        node = self.ui.dwiSelector.currentNode()
        try:
            found = (
                self.logic.describe(node)
                if node is not None
                else _("Choose or import a diffusion scan.")
            )
        except DMRIMicroError as error:
            found = str(error)
        self.ui.foundLabel.setText(found)
        self.fields.show(node)
        robust = self.ui.robustCheck.isChecked()
        self.list.show(self.logic.suitability(node, list(self.models.values()), robust=robust))
        self.ui.cautionLabel.setText("\n\n".join(self.list.cautions()))
        self.ui.cautionLabel.setVisible(bool(self.list.cautions()))
        self._refresh_sections()
        reasons = self._reasons()
        self.ui.applyButton.setEnabled(self.job is None and not reasons)
        self.ui.applyButton.setToolTip(
            "; ".join(reasons)
            or _("Fit and add the maps to the scene: {models}.").format(
                models=", ".join(self.list.titles())
            )
        )

    def _refresh_sections(self) -> None:
        for section in self.sections:
            section.refresh(self._parameters or parameters(), self.job is not None)

    def _reasons(self) -> list[str]:
        """Why Apply cannot work now."""
        if not self.models:
            return []  # Apply installs then
        if self.ui.dwiSelector.currentNode() is None:
            return [_("choose a diffusion scan")]
        if self.list.chosen():
            return []
        return self.list.left_out() or [_("choose a model")]

    def _ready(self) -> bool:
        """Have the packages installed, asking first; False if the user declined."""
        if not self.dependencies.ensure():
            self.messages.log(_("Nothing was installed. The packages are needed to go on."))
            return False
        if not self.models:
            self._fill_models()
            self._refresh()
            return False  # the user has not chosen a model yet
        return True

    def _show_running(self) -> None:
        self._refresh_sections()
        self.ui.applyButton.setEnabled(self.job is None and not self._reasons())
