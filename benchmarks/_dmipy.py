"""dmipy-fit as a peer: R. H. J. Fick, D. Wassermann, R. Deriche, Front. Neuroinform. 13 (2019) 64.

Its licence (AGPL or commercial) and its size keep it out of our dependencies; it is run here if it
is installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings

import numpy as np
from _common import clock


def available() -> bool:
    """Tell whether dmipy-fit is installed."""
    return importlib.util.find_spec("dmipy_fit") is not None


def noddi():
    """NODDI-Watson as dmipy builds it: a ball, and a dispersed stick and zeppelin, tortuous."""
    from dmipy_fit.core.modeling_framework import MultiCompartmentModel
    from dmipy_fit.distributions.distribute_models import SD1WatsonDistributed
    from dmipy_fit.signal_models.cylinder_models import C1Stick
    from dmipy_fit.signal_models.gaussian_models import G1Ball, G2Zeppelin

    bundle = SD1WatsonDistributed([C1Stick(), G2Zeppelin()])
    bundle.set_tortuous_parameter(
        "G2Zeppelin_1_lambda_perp", "C1Stick_1_lambda_par", "partial_volume_0"
    )
    bundle.set_equal_parameter("G2Zeppelin_1_lambda_par", "C1Stick_1_lambda_par")
    bundle.set_fixed_parameter("G2Zeppelin_1_lambda_par", 1.7e-9)
    model = MultiCompartmentModel([G1Ball(), bundle])
    model.set_fixed_parameter("G1Ball_1_lambda_iso", 3e-9)
    return model


def fit_noddi(signal: np.ndarray, acq) -> tuple[dict[str, np.ndarray], float]:
    """Fit (n, m) signals by its JAX solver; return the metrics and CPU seconds."""
    from dmipy_fit.core.acquisition_scheme import acquisition_scheme_from_bvalues

    directions = np.where(acq.is_b0[:, None], [1.0, 0, 0], acq.bvecs)
    b = np.where(acq.is_b0, 0, acq.bvals)
    scheme = acquisition_scheme_from_bvalues(
        b * 1e6, directions, acq.delta * 1e-3, acq.Delta * 1e-3
    )
    quiet = io.StringIO()
    with (
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # that there is no GPU
        model = noddi()
        start = clock()
        found = model.fit(scheme, signal.astype(np.float64), solver="jax")
        cpu = float((clock() - start)[1])
    values = found.fitted_parameters
    names = {"FWF": "partial_volume_0", "ODI": "SD1WatsonDistributed_1_SD1Watson_1_odi"}
    names["NDI"] = "SD1WatsonDistributed_1_partial_volume_0"
    return {metric: np.asarray(values[name]) for metric, name in names.items()}, cpu
