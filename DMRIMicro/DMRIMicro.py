"""3D Slicer module DMRIMicro: wiring only. The work is in DMRIMicroSlicer and DMRIMicroLib."""

from DMRIMicroSlicer.logic import DMRIMicroLogic
from DMRIMicroSlicer.selftest import DMRIMicroTest
from DMRIMicroSlicer.widget import DMRIMicroWidget
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

__all__ = ["DMRIMicro", "DMRIMicroLogic", "DMRIMicroTest", "DMRIMicroWidget"]

HOMEPAGE = "https://github.com/DMRIMicro/DMRIMicro"


class DMRIMicro(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("DMRIMicro")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Diffusion")]
        parent.dependencies = []
        parent.contributors = ["DMRIMicro developers"]
        parent.helpText = _(
            "Maps of brain microstructure from any diffusion MRI scan. "
            'See the <a href="{homepage}">documentation</a>.<br><br>'
            "<b>For research use only. Not a medical device.</b>"
        ).format(homepage=HOMEPAGE)
        parent.acknowledgementText = _(
            "DMRIMicro builds on 3D Slicer, PyTorch, MONAI, DIPY and NiBabel. "
            "Please cite the paper of the model that you use."
        )
