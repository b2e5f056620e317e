"""The self-test that Slicer runs in the desktop: a synthetic scan through the whole module."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.scan import Scan

from . import dependencies
from .logic import DMRIMicroLogic
from .nodes import node_from_scan

DIFFUSIVITIES = (1.7e-3, 0.3e-3, 0.3e-3)
"""A fibre along x [mm2/s]."""


class DMRIMicroTest(ScriptedLoadableModuleTest):
    """Fit a tensor to a scan whose tensor is known."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run all tests."""
        self.setUp()
        self.test_fibre_along_x()

    def test_fibre_along_x(self) -> None:
        """A stick along x has high FA and the right mean diffusivity."""
        if dependencies.torch_missing() or dependencies.missing():
            self.delayDisplay("The Python packages are not installed: the fit is not tested.")
            return
        nodes = DMRIMicroLogic().fit(
            node_from_scan(synthetic_scan()), models=("dti",), device="cpu"
        )
        maps = {node.GetAttribute("DMRIMicro.metric"): node for node in nodes}
        diffusivity = slicer.util.arrayFromVolume(maps["MD"]).mean()
        self.assertAlmostEqual(float(diffusivity) * 1e3, 1e3 * sum(DIFFUSIVITIES) / 3, places=2)  # noqa: PT009 - Slicer runs unittest
        self.assertGreater(float(slicer.util.arrayFromVolume(maps["FA"]).mean()), 0.7)  # noqa: PT009
        self.delayDisplay("Test passed")


def synthetic_scan() -> Scan:
    """Return a small noise-free scan of one tensor: 1 b0 and 12 directions."""
    golden = (1 + 5**0.5) / 2
    corners = np.array([[0, s, t * golden] for s in (-1, 1) for t in (-1, 1)])
    directions = np.concatenate([np.roll(corners, k, axis=1) for k in range(3)])
    bvecs = np.vstack([np.zeros(3), directions / np.linalg.norm(directions, axis=1, keepdims=True)])
    bvals = np.r_[0.0, np.full(12, 1000.0)]
    attenuation = np.exp(-bvals * (bvecs**2 @ np.array(DIFFUSIVITIES)))
    signal = np.broadcast_to(1000 * attenuation, (6, 6, 6, 13)).astype(np.float32)
    return Scan(
        signal,
        np.diag([2.0, 2.0, 2.0, 1.0]),
        Acquisition(bvals, bvecs),
        np.ones((6, 6, 6), bool),
        "synthetic",
    )
