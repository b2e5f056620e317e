"""AMICO as a peer: A. Daducci et al., NeuroImage 105 (2015) 32-44.

Its licence is for research only; it is run here if it is installed and is no dependency.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from _common import clock

GAMMA = 2.675987e8
"""Gyromagnetic ratio that AMICO uses [rad/s/T]."""


@dataclass
class Amico:
    """Maps by name, CPU seconds of each step, and main directions (n, 3) if the model has them."""

    maps: dict[str, np.ndarray]
    cpu: dict[str, float] = field(default_factory=dict)
    directions: np.ndarray | None = None


def available() -> bool:
    """Tell whether AMICO is installed."""
    import importlib.util

    return importlib.util.find_spec("amico") is not None


def scheme(acq, timing: bool) -> str:
    """AMICO's gradient table; b0 volumes must come first (see `fit`)."""
    lines = ["VERSION: STEJSKALTANNER" if timing else "VERSION: BVECTOR"]
    for b, g in zip(acq.bvals, acq.bvecs, strict=True):
        row = [*g, 0.0 if b <= acq.b0_threshold else b]
        if timing:
            big, small = acq.Delta * 1e-3, acq.delta * 1e-3
            row[3] = math.sqrt(row[3] * 1e6 / (big - small / 3)) / (GAMMA * small)
            row += [big, small, (acq.TE or acq.Delta + acq.delta) * 1e-3]
        lines.append(" ".join(f"{v:.10g}" for v in row))
    return "\n".join(lines) + "\n"


def fit(signal: np.ndarray, acq, model: str = "NODDI") -> Amico:
    """Fit (n, m) signals with AMICO's defaults, in one thread.

    b0 volumes go first: version 2.1.1 gives wrong maps, and says nothing, when there is a single
    b0 that is not the first volume.
    """
    import amico

    order = np.argsort(~acq.is_b0, kind="stable")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        subject = Path(folder) / "subject"
        subject.mkdir()
        (subject / "dwi.scheme").write_text(scheme(acq.subset(order), timing=model == "SANDI"))
        data = np.asarray(signal, np.float32)[:, None, None, order]
        nib.save(nib.Nifti1Image(data, np.eye(4)), subject / "dwi.nii")
        inside = np.ones(data.shape[:3], np.uint8)
        nib.save(nib.Nifti1Image(inside, np.eye(4)), subject / "mask.nii")
        amico.set_verbose(0)
        amico.setup()
        job = amico.Evaluation(folder, "subject")
        job.set_config("nthreads", 1)
        job.set_config("BLAS_nthreads", 1)
        cpu, start = {}, clock()
        job.load_data("dwi.nii", "dwi.scheme", "mask.nii", b0_thr=acq.b0_threshold)
        cpu["load"] = (clock() - start)[1]
        job.set_model(model)
        start = clock()
        job.generate_kernels(regenerate=True, ndirs=1 if model == "SANDI" else 500)
        job.load_kernels()
        cpu["kernels"] = (clock() - start)[1]
        start = clock()
        job.fit()
        cpu["fit"] = (clock() - start)[1]
    values = job.RESULTS["MAPs"].reshape(len(signal), -1).T
    directions = job.RESULTS.get("DIRs")
    if directions is not None:
        directions = np.asarray(directions)[:, 0, 0].reshape(len(signal), -1)[:, :3]
    return Amico(dict(zip(job.model.maps_name, values, strict=True)), cpu, directions)
