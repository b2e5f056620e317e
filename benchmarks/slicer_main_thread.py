"""How long the Slicer module keeps the main thread from its events, method by method.

`python3 run.py bench slicer_main_thread` writes benchmarks/results/slicer_main_thread.json: a scan
of 60 slices in the real MRML scene, the panel in the stand-in of the tests (Testing/
slicer_standin.py, which is not the desktop: views and dialogs are missing). A timer of 5 ms on the
main thread notes how long it had to wait for its turn: as time on the wall; without the time in
which the thread could have run and the system gave the core to others ("own", Linux tells it),
which is nearer to what an idle machine would show; and as processor time of the main thread alone.
A wait counts as blocked when it is longer than 100 ms. What the main thread was at is looked up by
another thread.

dti, the codebook and tracking have the whole head, so that maps are as large and as noisy as real
ones; the worker of the others has a small ball, with maps of full size. Enhancement interpolates to
7 T voxels: the volume is as large as that of a network. `--name` names the file, `--only` some
methods, `--note` is kept beside the numbers.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
from _common import Results, shells

LIMIT = 100.0
"""Longest time without events [ms]."""

TICK = 5
"""Of the timer, and of the look at what the main thread does [ms]."""

SHAPE, EDGE = (96, 96, 60), 2.0
"""Voxels, and their edge [mm]."""

HEAD, BALL = 0.9, 6.0
"""Half axes of the head, as part of those of the image; radius of the ball [voxels]."""

SNR = 25.0
S0 = 1000.0

KEPT = 5
"""Longest waits that are written down."""

PACKAGE = "DMRIMicroSlicer"


class Watch:
    """Waits of the main thread between its timer's ticks, and what it did meanwhile."""

    def __init__(self, qt) -> None:
        self._timer = qt.QTimer()
        self._timer.setTimerType(qt.Qt.TimerType.PreciseTimer)
        self._timer.setInterval(TICK)
        self._timer.timeout.connect(self._tick)
        self._main = threading.get_ident()
        self._on = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def begin(self) -> None:
        """Forget what was, and watch."""
        self._waits: list[tuple[float, float, float, float]] = []
        self._seen: list[tuple[float, str]] = []
        self._last = time.perf_counter(), time.thread_time(), _queued()
        self._on.set()
        self._timer.start()

    def end(self) -> dict:
        """Stop, and tell the longest waits."""
        self._tick()
        self._timer.stop()
        self._on.clear()
        start, end, used, queued = 1e3 * np.array(self._waits).T
        wall = end - start
        own = wall - queued
        worst = np.unique(np.concatenate([np.argsort(by)[-KEPT:] for by in (wall, own, used)]))
        return {
            "seconds": round(float(wall.sum() / 1e3), 1),
            "longest_ms": round(float(wall.max()), 1),
            "longest_own_ms": round(float(own.max()), 1),
            "longest_cpu_ms": round(float(used.max()), 1),
            "blocked": int((wall > LIMIT).sum()),
            "blocked_own": int((own > LIMIT).sum()),
            "blocked_cpu": int((used > LIMIT).sum()),
            "waits": [
                {
                    "ms": round(float(wall[k]), 1),
                    "own_ms": round(float(own[k]), 1),
                    "cpu_ms": round(float(used[k]), 1),
                    "at": self._doing(*self._waits[k][:2]),
                }
                for k in sorted(worst, key=lambda k: -own[k])
            ],
        }

    def _tick(self) -> None:
        now = time.perf_counter(), time.thread_time(), _queued()
        spent = [after - before for after, before in zip(now[1:], self._last[1:], strict=True)]
        self._waits.append((self._last[0], now[0], *spent))
        self._last = now

    def _look(self) -> None:
        while True:
            self._on.wait()
            time.sleep(TICK / 1e3)
            frame = sys._current_frames().get(self._main)
            self._seen.append((time.perf_counter(), _where(frame)))

    def _doing(self, start: float, end: float) -> dict[str, float]:
        """Share of the looks by what was seen; a call that keeps Python to itself is seen late."""
        # what is seen just after the wait was going on in it
        seen = Counter(what for at, what in self._seen if start < at <= end)
        return {what: round(n / seen.total(), 2) for what, n in seen.most_common(4)}


def _queued() -> float:
    """Time that this thread could have run, but had no core [s]; 0 where nobody tells."""
    try:
        with open("/proc/thread-self/schedstat") as told:
            return int(told.read().split()[1]) / 1e9
    except OSError:
        return 0.0


def _where(frame) -> str:
    """Name the module's function that runs, the one that it was called by, and the innermost."""
    inner, ours = None, []
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        name = f"{module.removeprefix(PACKAGE + '.')}.{frame.f_code.co_name}"
        inner = inner or name
        if module.startswith(PACKAGE):
            ours.append(name)
        frame = frame.f_back
    if not ours:
        return "events" if inner and inner.startswith("__main__") else f"events: {inner}"
    path = " < ".join(ours[:3])
    return path if ours[0] == inner else f"{path}: {inner}"


def head():
    """Return a noisy scan of a round head with fibres in rings, its head and its ball."""
    from phantom import fibre_tensors, ring_axes, tensor_signal

    from DMRIMicroLib.scan import Scan

    affine = np.diag([EDGE, EDGE, EDGE, 1.0])
    affine[:3, 3] = -EDGE * (np.array(SHAPE) - 1) / 2
    acquisition = shells({1000.0: 15, 2000.0: 15}, b0=3)
    offset = np.moveaxis(np.indices(SHAPE), 0, -1) - (np.array(SHAPE) - 1) / 2
    inside = (np.square(offset / (HEAD * np.array(SHAPE) / 2)).sum(-1) < 1).astype(np.uint8)
    ball = (np.square(offset + np.array([20, 0, 0])).sum(-1) < BALL**2).astype(np.uint8)
    signal = np.empty((*SHAPE, len(acquisition)), np.float32)
    chance = np.random.default_rng(0)
    axis = ring_axes(affine, (*SHAPE[:2], 1))[:, :, 0]  # alike in every slice
    for k in range(SHAPE[2]):
        clean = tensor_signal(acquisition, fibre_tensors(axis), S0 * inside[:, :, k])
        noise = chance.normal(0, S0 / SNR, (2, *clean.shape))
        signal[:, :, k] = np.hypot(clean + noise[0], noise[1])
    return Scan(signal, affine, acquisition, name="head"), inside, ball


@contextmanager
def desktop():
    """Give the stand-in with an empty scene."""
    import slicer_scene
    import slicer_standin

    there = slicer_standin.start()
    told: list[str] = []
    there.slicer.util.errorDisplay = lambda text, **_: told.append(text)
    there.slicer.util.setSliceViewerLayers = lambda **_: None
    with slicer_scene.clean_scene():
        panel = slicer_standin.load_widget()
        panel.dependencies = SimpleNamespace(ensure=lambda: True)
        panel.parent.show()
        yield SimpleNamespace(**vars(there), panel=panel, told=told)
        panel.cleanup()


class Methods:
    """What a user does, method by method: each call starts one."""

    def __init__(self, there, head_node, ball_node, dwi, file) -> None:
        self.panel, self.ui, self.there = there.panel, there.panel.ui, there
        self.head, self.ball, self.dwi, self.file = head_node, ball_node, dwi, file

    def idle(self) -> None:
        """Wait for a second: what the machine itself does."""

    def choose(self) -> None:
        """Choose the scan: which methods are possible is worked out."""
        self.ui.dwiSelector.setCurrentNode(None)
        self.panel.logic._asked = ""
        self.ui.dwiSelector.setCurrentNode(self.dwi)

    def importing(self) -> None:
        """Import the scan from a compressed NIfTI file."""
        self.ui.niftiPath.setCurrentPath(str(self.file))
        self.ui.importButton.click()

    def dti(self) -> None:
        """Fit the tensor in the whole head."""
        self._apply(["dti"], self.head)

    def models(self) -> None:
        """Fit all models that the scan allows, with uncertainty."""
        from DMRIMicroLib.models import MODELS

        possible = [name for name in self.panel.list.possible() if name in MODELS]
        self._apply(possible, self.ball, uncertainty=True)

    def codebook(self) -> None:
        """Estimate all metrics, with uncertainty, in the whole head."""
        self._apply(["codebook"], self.head, uncertainty=True)

    def pigment(self) -> None:
        """Run PIGMENT with the preset fast, which the panel does not offer."""
        start = partial(
            self.panel.logic.startPigment, self.dwi, self.ball, preset="fast", uncertainty=True
        )
        self.panel.work.run([partial(start, **self.panel.work.heard())])

    def enhance(self) -> None:
        """Interpolate to 7 T voxels."""
        self.ui.maskSelector.setCurrentNode(self.head)
        self.ui.enhanceMethodBox.setCurrentIndex(6)
        self.ui.enhanceResolutionBox.setCurrentIndex(0)
        self.ui.enhanceApplyButton.click()

    def tracts(self) -> None:
        """Track fibres on the tensor of `dti`, coloured by a map."""
        scene = self.there.scene
        self.ui.tensorSelector.setCurrentNode(scene.GetFirstNodeByName("head tensor"))
        self.ui.densitySpin.setValue(0.1)
        self.ui.colourBox.setCurrentText("FA")
        self.ui.tractsApplyButton.click()

    def planning(self) -> None:
        """Tell which fibres run near a lesion."""
        from DMRIMicroSlicer import plan_section

        plan_section.open_page = lambda _: None
        self.ui.lesionSelector.setCurrentNode(self.ball)
        self.ui.planApplyButton.click()

    def csd(self) -> None:
        """Track along deconvolved directions: the scan is written, too."""
        self.ui.followBox.setCurrentIndex(1)
        self.ui.densitySpin.setValue(0.002)
        self.ui.tractsApplyButton.click()

    def cancel(self) -> None:
        """Fit, and cancel when the worker tells of its progress."""
        self._apply(["dti"], self.head)

    def cancel_early(self) -> None:
        """Fit, and cancel at once."""
        self._apply(["dti"], self.head)

    def _apply(self, names, mask, uncertainty: bool = False) -> None:
        self.ui.maskSelector.setCurrentNode(mask)
        self.ui.uncertaintyCheck.setChecked(uncertainty)
        self.panel.list.check(names)
        self.panel._on_models()
        self.ui.applyButton.click()


METHODS = (
    "idle", "choose", "importing", "dti", "models", "codebook", "pigment", "enhance", "tracts",
    "planning", "csd", "cancel", "cancel_early",
)  # fmt: skip

STAYS = ("dti", "tracts")
"""Methods whose nodes are needed by later ones; those of the others are removed."""


def run(there, methods: Methods, watch: Watch, name: str) -> dict:
    """Start a method on the main thread's loop, and watch until it is over."""
    panel, scene = there.panel, there.scene
    before = {scene.GetNthNode(k).GetID() for k in range(scene.GetNumberOfNodes())}
    loop, over = there.qt.QEventLoop(), time.monotonic() + 1.0
    pressed: list[float] = []

    def look() -> None:
        job = panel.job
        if (
            job is not None
            and not pressed
            and (name == "cancel_early" or (name == "cancel" and panel.ui.progressBar.value() > 0))
        ):
            pressed.append(time.perf_counter())
            panel.ui.cancelButton.click()
            pressed.append(time.perf_counter())
        if panel.job is None and time.monotonic() > over:
            loop.quit()

    timer = there.qt.QTimer()
    timer.setInterval(20)
    timer.timeout.connect(look)
    there.qt.QTimer.singleShot(50, getattr(methods, name))
    there.qt.QTimer.singleShot(100, timer.start)
    watch.begin()
    loop.exec()
    found = watch.end()
    timer.stop()
    new = [scene.GetNthNode(k) for k in range(scene.GetNumberOfNodes())]
    new = [node for node in new if node.GetID() not in before]
    found["volumes"] = sum(node.IsA("vtkMRMLVolumeNode") for node in new)
    if pressed:
        found["cancelled_after_ms"] = round(1e3 * (pressed[1] - pressed[0]), 1)
    if there.told:
        sys.exit(f"{name}: {there.told}")
    if name not in STAYS:
        hierarchy = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
        if hierarchy is not None:  # in the desktop a plugin drops the items of nodes that go
            scene.RemoveNode(hierarchy)
        for node in new:
            if node.IsA("vtkMRMLVolumeNode") or node.IsA("vtkMRMLModelNode"):
                scene.RemoveNode(node)
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="slicer_main_thread")
    parser.add_argument("--state", default="now", help="name of the entry, 'before' say")
    parser.add_argument("--only", default=",".join(METHODS))
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    results = Results(options.name)
    scan, inside, ball = head()
    with TemporaryDirectory() as folder, desktop() as there:
        import slicer_scene
        from DMRIMicroSlicer.nodes import node_from_scan

        from DMRIMicroLib.io import nifti

        masks = [
            slicer_scene.volume_node(mask, scan.affine, name=name)
            for name, mask in (("head mask", inside), ("ball", ball))
        ]
        file = nifti.save(scan, Path(folder) / "scan.nii.gz")
        methods = Methods(there, *masks, node_from_scan(scan), file)
        watch = Watch(there.qt)
        for name in options.only.split(","):
            found = run(there, methods, watch, name)
            results.put(options.state, name, value=found)
            longest = f"{found['longest_ms']} ms, own {found['longest_own_ms']} ms"
            sys.stderr.write(f"{name}: {longest}; {found['waits'][0]['at']}\n")
    results.put(
        options.state,
        "scan",
        value={"shape": [*SHAPE, len(scan.acquisition)], "mask": int(inside.sum()),
               "ball": int(ball.sum()), "note": options.note},
    )  # fmt: skip


if __name__ == "__main__":
    main()
