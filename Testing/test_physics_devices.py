"""Every physics function works where its inputs are: no tensor is made elsewhere.

On the meta device, which has no data, mixing devices is an error as it is on a GPU; where there is
a GPU, the numbers are compared too.
"""

import pytest
import torch

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.physics import bessel, compartments, legendre, noise, sh, tissue, watson

B = torch.tensor([0.0, 0.5, 1.0, 3.0])
UNIT = torch.tensor([[0.0, 0, 1], [0.6, 0, 0.8], [0, 1, 0], [0.8, -0.6, 0]])
CALLS = {
    "legendre": lambda b, v: legendre.legendre(v, 6),
    "quadrature": lambda b, v: torch.stack(legendre.gauss_legendre(5, b)),
    "zeppelin": lambda b, v: compartments.zeppelin(b, v[:, 2], 1.7, 0.3),
    "means": lambda b, v: compartments.zeppelin_mean(b, 1.7, 0.3) * compartments.stick_mean(b, 2.0),
    "kernel": lambda b, v: compartments.axial_kernel(b, 1.7, 0.3, 6),
    "sphere": lambda b, v: compartments.sphere(b, 5.0, 3.0, 10.0, 30.0),
    "odi": lambda b, v: watson.odi_from_kappa(watson.kappa_from_odi(b / 3)),
    "watson": lambda b, v: watson.watson_sh(b, v, 6),
    "slopes": lambda b, v: watson.watson_slopes(watson.watson_moments(b, 8)),
    "basis": lambda b, v: sh.sh_basis(v, 4),
    "fit": lambda b, v: sh.fit_matrix(v, 2),
    "rish": lambda b, v: sh.rish(sh.sh_basis(v, 4), 4),
    "ratio": lambda b, v: bessel.bessel_ratio(b, 2),
    "likelihood": lambda b, v: noise.log_likelihood(b + 1, b, 1.3, 2),
    "terms": lambda b, v: noise.magnitude_terms(b + 1, b, b + 0.5)[0],
    "moments": lambda b, v: noise.expectation(b, 1.0) + noise.variance(b, b, 3),
    "information": lambda b, v: noise.fisher(b, 1.0),
    "underlying": lambda b, v: noise.underlying(b + 2, 1.0),
    "corrupt": lambda b, v: noise.corrupt(b, 1.0, torch.stack([b, b])),
}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_where_the_inputs_are(name):
    here = CALLS[name](B, UNIT)
    there = CALLS[name](B.to("meta"), UNIT.to("meta"))
    assert there.device.type == "meta"
    assert there.shape == here.shape
    assert there.dtype == here.dtype == torch.float32


def state(like):
    whole = (torch.full_like(like, v) for v in (0.4, 0.2, 0.2, 0.1, 0.1, 2.0, 1.5, 0.5, 6.0))
    axis = like.new_tensor([0.0, 0.0, 1.0]).expand(len(like), 3)
    return tissue.TissueState(*whole, watson.watson_sh(like, axis, 6))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*CALLS, "tissue"])
def test_a_gpu_gives_the_same_numbers(name):
    acq = Acquisition(1000 * B.numpy(), UNIT.numpy(), 10.0, 30.0)
    call = CALLS.get(name, lambda b, v: tissue.signal(state(b), acq))
    for dtype in (torch.float32, torch.float64):
        here = call(B.to(dtype), UNIT.to(dtype))
        there = call(B.to("cuda", dtype), UNIT.to("cuda", dtype))
        torch.testing.assert_close(there.cpu(), here, equal_nan=True)
