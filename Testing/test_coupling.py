"""What degree 2 of a signal says of degree 4."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_codebook import one_thread, shells, tiny_space  # noqa: F401

from DMRIMicroLib.brain.directions import spread
from DMRIMicroLib.codebooks.network import GROUP, GROUPS, Prior
from DMRIMicroLib.codebooks.recalibrate import FOURTH, Said
from DMRIMicroLib.codebooks.slices import open_codebook
from DMRIMicroLib.physics.sh import fit_matrix, products, sh_basis
from DMRIMicroLib.signals.coupling import LARGEST, Coupling
from DMRIMicroLib.signals.space import Space
from DMRIMicroLib.weights import available

EYE = torch.eye(3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on_sphere(count: int = 200) -> torch.Tensor:
    return spread(count, seeded()).double()


@pytest.mark.parametrize("degrees", [(2, 2, 4), (2, 4, 2), (2, 2, 0), (4, 4, 2)])
def test_products_are_those_of_functions_on_the_sphere(degrees):
    g, (one, other, wanted) = on_sphere(), degrees
    basis = sh_basis(g, 8)
    start = {degree: degree * (degree - 1) // 2 for degree in (0, 2, 4)}
    parts = [slice(start[k], start[k] + 2 * k + 1) for k in degrees]
    a, b = (torch.randn(2 * k + 1, generator=seeded(k)).double() for k in (one, other))
    value = (basis[:, parts[0]] @ a) * (basis[:, parts[1]] @ b)
    slow = (fit_matrix(g, 8, 0.0).double() @ value)[parts[2]]
    fast = torch.einsum("a,b,abc->c", a, b, products(one, other, wanted))
    assert torch.allclose(fast, slow, atol=1e-6)


def test_degree_4_of_a_tensor_is_half_the_square_of_its_degree_2():
    """E = exp(-bD) (1 - A + A^2 / 2 - ...), A of degree 2 where bD is of mean diffusivity alone."""
    g, small = on_sphere(), 0.05
    A = torch.randn(5, generator=seeded(1)).double() * small
    mean = 0.7
    E = torch.exp(-mean - sh_basis(g, 2)[:, 1:] @ A)
    found = fit_matrix(g, 4, 0.0).double() @ E
    told = Coupling(0.5 * np.exp(mean), 1.0).expected(found[None, 1:6])[0]
    error = (told - found[6:]).abs().max() / found[6:].abs().max()
    assert float(error) < 3 * small


def test_the_two_numbers_are_found():
    second = torch.randn(4000, 5, generator=seeded())
    noise = 0.3 * torch.randn(4000, 9, generator=seeded(1))
    found = Coupling.of(second, Coupling(0.8, 0.0).expected(second) + noise)
    assert found.scale == pytest.approx(0.8, rel=0.02)
    assert found.spread == pytest.approx(0.3, rel=0.02)


@pytest.mark.skipif(not available("codebook"), reason="no codebook is shipped")
def test_simulated_tissue_is_coupled():
    coupling = open_codebook().space.coupling
    assert 0.5 < coupling.scale < 1.5
    assert coupling.spread < 0.7  # numbers of degree 4 have unit variance


def test_a_card_keeps_it():
    space = tiny_space()
    assert Space.read(space.told()).coupling is None
    numbers = torch.randn(500, space.channels, generator=seeded())
    coupled = space.coupled(numbers)
    assert coupled.coupling is not None
    assert Space.read(json.loads(json.dumps(coupled.told()))).coupling == coupled.coupling


def test_noise_without_end_says_no_more_than_the_most_anisotropic_tissue():
    second = torch.randn(10, 5, generator=seeded())
    second = LARGEST * second / second.norm(dim=1, keepdim=True)
    coupling = Coupling(0.9, 0.5)
    assert torch.allclose(coupling.expected(1e6 * second), coupling.expected(second), rtol=1e-4)
    near = coupling.expected(0.5 * second)
    assert torch.allclose(4 * near, coupling.expected(second), rtol=1e-4, atol=1e-4)


def six_directions(coupling: Coupling, noise: float = 0.01) -> tuple[Said, torch.Tensor]:
    """Tissue of which neighbours say little, as six directions see it."""
    g, n, space = seeded(3), 800, tiny_space()
    truth = torch.randn(n, space.channels, generator=g)
    second, _ = space.firsts(truth)
    truth[:, FOURTH:] = coupling.expected(second)
    truth[:, FOURTH:] += coupling.spread * torch.randn(n, 9, generator=g)
    acquisition = shells(2000.0, count=6, b0=1)
    design = space.design(acquisition.subset(range(1, 7)), EYE)[0].float()
    y = truth @ design.T + noise * torch.randn(n, 6, generator=g)
    factors = torch.zeros(n, space.channels, 2)
    prior = Prior(torch.zeros_like(truth), torch.ones(n, GROUPS), factors, torch.zeros(n, 1))
    data = design.T @ design, y @ design, torch.full((n,), noise)
    return Said(prior, *data, coupling), truth


def test_six_directions_say_more_with_it():
    said, truth = six_directions(Coupling(0.9, 0.3))
    alone = replace(said, coupling=None)
    fourth = GROUP == int(GROUP[FOURTH])
    for part, most in ((fourth, 0.7), (~fourth, 1.0)):
        error, before = (
            float((s.posterior().mean - truth)[:, part].square().mean()) for s in (said, alone)
        )
        assert error < most * before
    assert float(said.posterior().variance.mean()) < float(alone.posterior().variance.mean())


def test_draws_are_of_the_same_posterior():
    said, _ = six_directions(Coupling(0.9, 0.3))
    drawn = torch.stack([said.draw(seeded(k)) for k in range(60)])
    found = said.posterior()
    assert torch.allclose(drawn.mean(0), found.mean, atol=0.8)
    assert float((drawn.mean(0) - found.mean).abs().mean()) < 0.1
    assert torch.allclose(drawn.var(0).mean(0), found.variance.mean(0), rtol=0.1, atol=1e-3)


def test_voxels_are_told_apart_as_they_are_together():
    said, _ = six_directions(Coupling(0.9, 0.3))
    some = said.subset(torch.arange(50))
    assert torch.allclose(some.posterior().mean, said.posterior().mean[:50], atol=1e-4)


def test_without_it_nothing_is_added():
    said, _ = six_directions(Coupling(0.9, 0.3))
    alone = replace(said, coupling=None)
    assert alone.informed is alone
    assert alone.informed.data[0] is said.matrix
