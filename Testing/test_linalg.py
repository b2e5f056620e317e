"""The batched small-matrix algebra against numpy, and where it must give up."""

import numpy as np
import pytest
import torch

from DMRIMicroLib.physics.linalg import cholesky_inverse, cholesky_solve, eigh3, packed_index


@pytest.mark.parametrize("p", [1, 2, 7, 22])
def test_solves_like_numpy(p):
    rng = np.random.default_rng(p)
    a = rng.normal(size=(50, p + 5, p))
    a = np.swapaxes(a, 1, 2) @ a
    b = rng.normal(size=(50, p))
    rows, columns = packed_index(p)
    x, good = cholesky_solve(torch.tensor(a[:, rows, columns].T.copy()), torch.tensor(b.T.copy()))
    assert good.all()
    np.testing.assert_allclose(x.T, np.linalg.solve(a, b[..., None])[..., 0], rtol=1e-8)


@pytest.mark.parametrize("p", [1, 2, 7, 22])
def test_inverts_like_numpy(p):
    rng = np.random.default_rng(p)
    a = rng.normal(size=(50, p + 5, p))
    a = np.swapaxes(a, 1, 2) @ a
    rows, columns = packed_index(p)
    inverse, good = cholesky_inverse(torch.tensor(a[:, rows, columns].T.copy()), p)
    assert good.all()
    truth = np.moveaxis(np.linalg.inv(a), 0, -1)
    np.testing.assert_allclose(inverse, truth, atol=1e-9 * np.abs(truth).max())


def test_singular_systems_are_marked():
    a = torch.tensor([[1.0, 1, 1], [2, 0, 1], [0, 0, 0], [float("nan"), 0, 1]]).T.contiguous()
    _, good = cholesky_inverse(a.clone(), 2)
    assert good.tolist() == [False, True, False, False]
    _, good = cholesky_solve(a, torch.ones(2, 4))
    assert good.tolist() == [False, True, False, False]


def test_eigenvalues_and_first_vector_equal_lapack():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20000, 3, 3, generator=generator)
    special = [
        torch.eye(3),
        torch.diag(torch.tensor([2.0, 2, 0.3])),
        torch.diag(torch.tensor([0.3, 2.0, 0.3])),
        torch.zeros(3, 3),
    ]
    a = torch.cat([(a + a.mT) / 2, torch.stack(special)])
    packed = torch.stack([a[:, 0, 0], a[:, 1, 1], a[:, 2, 2], a[:, 0, 1], a[:, 0, 2], a[:, 1, 2]])
    values, vector = eigh3(packed)
    truth = torch.linalg.eigvalsh(a.double()).flip(1)
    size = a.abs().amax((1, 2)).clamp(min=1e-12)
    assert ((values.T - truth).abs().amax(1) / size).max() < 2e-6
    assert (vector.norm(dim=0) - 1).abs().max() < 1e-6
    residual = (a.double() @ vector.T.double()[..., None]).squeeze(-1) - truth[:, :1] * vector.T
    assert (residual.norm(dim=1) / size).max() < 1e-4


def upright(tensor):
    """Eigenvalues and the first vector, whose sign is arbitrary, turned to positive x."""
    values, vector = eigh3(tensor)
    return values, vector * vector[:1].sign()


def test_derivatives_of_eigenvalues_and_vector_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    tensor = torch.randn(6, 30, generator=generator, dtype=torch.float64, requires_grad=True)
    options = {"check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(upright, (tensor,), **options)
    forwards, backwards = torch.func.jacfwd(eigh3)(tensor), torch.func.jacrev(eigh3)(tensor)
    for one, other in zip(forwards, backwards, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_of_equal_eigenvalues_are_bounded_and_their_sum_is_exact(dtype):
    eps = torch.finfo(dtype).eps
    tensor = torch.zeros(6, 5, dtype=dtype)
    near = [1 + eps, 1, 0.3]  # what rounding makes of equal ones
    diagonals = [[1.0, 1, 1], [2, 2, 0.3], [0.3, 2, 0.3], [0, 0, 0], near]
    tensor[:3] = torch.tensor(diagonals, dtype=dtype).T
    tensor.requires_grad_()
    values, vector = eigh3(tensor)
    (trace,) = torch.autograd.grad(values.sum(), tensor, retain_graph=True)
    torch.testing.assert_close(trace, tensor.new_tensor([1, 1, 1, 0, 0, 0])[:, None].expand(6, 5))
    (turn,) = torch.autograd.grad((vector * tensor.new_tensor([[1], [2], [3]])).sum(), tensor)
    assert turn.abs().max() < 10 / eps**0.5
