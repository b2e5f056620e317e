"""Networks on RISH features: shapes, diffusion there and back, guidance, codes; tiny ones."""

import math
import sys

import pytest
import torch
from rish_tiny import AUTOENCODER, DENOISER, DETAIL, blob, stirred
from torch import nn

from DMRIMicroLib.errors import InputError
from DMRIMicroLib.rish import methods
from DMRIMicroLib.rish.blocks import UNet, cut, filled, masked_mean, monai
from DMRIMicroLib.rish.cnn import PlainCNN
from DMRIMicroLib.rish.gan import ABSOLUTE, GAN, gan_loss
from DMRIMicroLib.rish.grid import finer_shape, resized
from DMRIMicroLib.rish.residual import LARGEST, LEAST, ResidualNet
from DMRIMicroLib.rish.superres import SuperResolution, resample
from DMRIMicroLib.rish.units import Units

pytest.importorskip("monai")

from DMRIMicroLib.rish.detail import DOUBT, Detail
from DMRIMicroLib.rish.diffusion import (
    HIGH,
    LOW,
    NONE,
    TIMES,
    Denoiser,
    Path,
    dropped,
    guided,
    invert,
    noisy,
    sample,
    scheduler,
)
from DMRIMicroLib.rish.ldm import LatentDiffusion, Sampling
from DMRIMicroLib.rish.noise import from_generator
from DMRIMicroLib.rish.vqvae import Autoencoder

ODD = (9, 6, 11)
"""Edges that nothing divides."""


def tiny_ldm(sampling=None, seed=0, detail=None):
    torch.manual_seed(seed)
    network = stirred(LatentDiffusion(AUTOENCODER, DENOISER, detail, sampling)).eval()
    network.low.begin(blob(2, (8, 8, 8)), 0)
    network.high.load_state_dict(network.low.state_dict())
    return network


@pytest.mark.parametrize(
    "build",
    [
        lambda: ResidualNet((4, 8), 1),
        lambda: PlainCNN(4, 3),
        lambda: GAN(4, 4),
        lambda: SuperResolution(4, 1),
        lambda: tiny_ldm(Sampling(steps=4, depth=(0.5,) * 3), detail=DETAIL),
    ],
    ids=["residual", "cnn", "gan", "superres", "ldm"],
)
def test_patches_of_any_edges_keep_them(build):
    network = stirred(build()).eval()
    features = blob(2, ODD)
    made = network(features)
    assert made.shape == features.shape
    assert torch.isfinite(made).all()
    other = features.clone()
    other[1] += 1
    assert torch.allclose(network(other)[0], made[0], atol=1e-5)  # rows do not see each other
    assert not torch.allclose(network(other)[1], made[1], atol=1e-3)


def test_an_untrained_residual_network_changes_nothing():
    features = blob(1, ODD)
    assert torch.allclose(ResidualNet((4, 8), 1)(features), features, atol=1e-6)


def test_what_a_residual_network_says_is_the_logarithm_of_lambda():
    units = Units()
    network = ResidualNet((4, 8), 1, units.zero)
    said = torch.tensor([0.2, -0.1, 0.5])
    with torch.no_grad():
        bound = torch.where(said < 0, LEAST, LARGEST)
        network.network.last.bias.copy_(bound * torch.atanh(said / bound))
    rish = torch.rand(3, *ODD) + 0.01
    with torch.no_grad():
        made = units.from_network(network(units.to_network(rish)[None])[0])
    expected = rish * (2 * said).exp()[:, None, None, None]  # energies go with lambda squared
    assert torch.allclose(made, expected, rtol=1e-4)


def test_a_residual_network_keeps_lambda_within_bounds():
    network = ResidualNet((4, 8), 1)
    with torch.no_grad():
        for bias, bound in ((1e3, LARGEST), (-1e3, -LEAST)):
            network.network.last.bias.fill_(bias)
            torch.testing.assert_close(
                network.log_lambda(blob(1, ODD)), torch.full((1, 3, *ODD), bound)
            )


def test_a_unet_that_is_filled_up_sees_what_it_sees_without():
    network = stirred(UNet(3, 3, (4, 8), 1))
    features = blob(1, (8, 8, 8))
    assert torch.equal(cut(network(filled(features, 2)), features), network(features))
    odd = filled(blob(1, ODD), 4)
    assert odd.shape[-3:] == (12, 8, 12)
    assert torch.equal(odd[..., 8, :, :], odd[..., 11, :, :])


def test_the_mean_over_a_mask_counts_what_is_outside_as_told():
    error = torch.ones(1, 3, 2, 2, 2)
    error[..., 1] = 5
    mask = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    mask[..., 0] = True
    assert float(masked_mean(error, mask)) == 1
    assert float(masked_mean(error, mask, 0.5)) == pytest.approx((1 + 0.5 * 5) / 1.5)


def test_finer_features_lie_about_the_same_middle():
    n, factor = 9, 1.25 / 1.05
    place = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
    features = place[None, None, :, None, None].expand(1, 3, n, n, n)
    made = resample(features, factor)
    count = finer_shape((n, n, n), (factor,) * 3)[0]
    assert made.shape == (1, 3, count, count, count)
    wanted = (torch.arange(count) - (count - 1) / 2) / factor
    inside = wanted.abs() <= place.max()
    assert torch.allclose(made[0, 0, inside, 3, 3], wanted[inside], atol=1e-5)


def test_finer_features_agree_with_the_grids_of_enhanced_scans():
    features = blob(1, (9, 8, 10))
    factors, shape = (1.2, 1.0, 1.3), (11, 8, 13)
    one = resample(features, factors, shape)[0]
    other = resized(features[0], factors, shape, 1)
    inner = (slice(None), slice(2, -2), slice(2, -2), slice(2, -2))
    assert torch.allclose(one[inner], other[inner], atol=1e-4)


def test_an_untrained_super_resolution_only_interpolates():
    features = blob(1, ODD)
    assert torch.allclose(SuperResolution(4, 1)(features), features)


def test_each_network_of_the_gan_gets_the_gradient_of_its_own_loss_only():
    torch.manual_seed(0)
    gan = stirred(GAN(4, 4))
    low, high = blob(2, (8, 8, 8), 1), blob(2, (8, 8, 8), 2)
    mask = torch.ones(2, 8, 8, 8, dtype=torch.bool)
    gan_loss(gan, low, high, mask)[0].backward()
    together = {name: p.grad.clone() for name, p in gan.named_parameters()}
    gan.zero_grad()
    made = gan(low)
    judged = gan.discriminator(low, made)
    own = ABSOLUTE * (made - high).abs().mean() + (judged - 1).square().mean()
    wanted = torch.autograd.grad(own, list(gan.generator.parameters()))
    for (name, _), grad in zip(gan.generator.named_parameters(), wanted, strict=True):
        assert torch.allclose(together[f"generator.{name}"], grad, atol=1e-5)
    false = gan.discriminator(low, made.detach()).square().mean()
    true = (gan.discriminator(low, high) - 1).square().mean()
    wanted = torch.autograd.grad((true + false) / 2, list(gan.discriminator.parameters()))
    for (name, _), grad in zip(gan.discriminator.named_parameters(), wanted, strict=True):
        assert torch.allclose(together[f"discriminator.{name}"], grad, atol=1e-5)


def abar(time):
    """Products of the alphas by hand: betas rise from 1e-4 to 2e-2 (Ho et al. 2020)."""
    betas = [1e-4 + (2e-2 - 1e-4) * k / (TIMES - 1) for k in range(TIMES)]
    product = 1.0
    for beta in betas[: time + 1]:
        product *= 1 - beta
    return product


def test_noise_is_added_as_equation_5_says():
    latents, noise = blob(2, (4, 4, 4)), blob(2, (4, 4, 4), 1)
    made = noisy(latents, noise, torch.tensor([10, 400]))
    for row, time in enumerate((10, 400)):
        wanted = abar(time) ** 0.5 * latents[row] + (1 - abar(time)) ** 0.5 * noise[row]
        assert torch.allclose(made[row], wanted, atol=1e-4)


def test_inversion_is_equation_8():
    latents, said = blob(1, (4, 4, 4)), blob(1, (4, 4, 4), 1)
    made = invert(lambda x, t: said, latents, Path(steps=50, depth=1 / 50))
    before, after = abar(0), abar(10)
    wanted = (after / before) ** 0.5 * latents
    wanted = wanted + after**0.5 * ((1 / after - 1) ** 0.5 - (1 / before - 1) ** 0.5) * said
    assert torch.allclose(made, wanted, atol=1e-4)


def exact(latents, time):
    """Say the noise in latents whose distribution is the unit normal one."""
    return (1 - scheduler(TIMES).alphas_cumprod[time]).sqrt() * latents


def test_there_and_back_gives_the_latents():
    latents = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))

    def lost(steps, refine=0):
        path = Path(steps=steps, depth=0.25, refine=refine)
        back = sample(exact, invert(exact, latents, path), path)
        return float((back - latents).norm() / latents.norm())

    assert lost(50) == pytest.approx(0.0228, abs=2e-3)  # as `invert` tells
    assert lost(500) < 0.003  # an error of the steps' length, no other
    assert lost(50, refine=1) < 1e-3


def test_there_and_back_with_one_label_and_no_guidance_gives_the_latents_of_a_network():
    denoiser = tiny_ldm().denoiser
    latents, path = blob(1, (2, 2, 2), channels=4), Path(50, 0.1, refine=1)
    with torch.no_grad():
        up = invert(denoiser.towards(LOW), latents, path)
        back = sample(denoiser.towards(LOW), up, path)
        other = sample(denoiser.towards(HIGH, 4.0), up, path)
    assert float((up - latents).norm() / latents.norm()) > 0.02
    assert float((back - latents).norm() / latents.norm()) < 2e-3
    assert float((other - back).abs().max()) > 1e-4  # another label leads elsewhere


def test_fresh_noise_keeps_the_distribution_and_depends_on_its_generator():
    latents = torch.randn(1, 4, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    path = Path(steps=50, depth=0.5, eta=1.0)
    up = invert(exact, latents, path)
    made = [
        sample(exact, up, path, from_generator(torch.Generator().manual_seed(k))) for k in (1, 1, 2)
    ]
    assert torch.equal(made[0], made[1])
    assert float((made[0] - made[2]).std()) > 0.5
    # variances of eq. 16 are a little small where the data are noise themselves: sd 0.942 by hand
    assert float(made[0].std()) == pytest.approx(0.942, abs=0.02)
    assert torch.equal(sample(exact, up, path), sample(exact, up, Path(50, 0.5, 0.0)))


def test_guidance_is_equation_10():
    said = {LOW: torch.tensor(3.0), HIGH: torch.tensor(5.0), NONE: torch.tensor(1.0)}
    assert float(guided(said.get, HIGH, 2.0)) == 3 * 5 - 2 * 1
    assert float(guided(said.get, LOW, 0.0)) == 3
    asked = []
    guided(lambda label: asked.append(label) or said[label], HIGH, 0.0)
    assert asked == [HIGH]  # without guidance the network is asked once


def test_labels_are_dropped_as_often_as_told():
    labels = torch.full((4000,), HIGH)
    generator = torch.Generator().manual_seed(0)
    away = dropped(labels, 0.25, generator)
    assert float((away == NONE).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert set(away.unique().tolist()) == {NONE, HIGH}
    assert torch.equal(dropped(labels, 0.0, generator), labels)
    assert not dropped(labels, 1.0, generator).any()


def test_a_denoiser_hears_its_label():
    torch.manual_seed(0)
    denoiser = stirred(Denoiser(**DENOISER)).eval()
    latents, times = blob(1, (4, 4, 4), channels=4), torch.tensor([100])
    with torch.no_grad():
        said = [denoiser(latents, times, torch.tensor([label])) for label in (NONE, LOW, HIGH)]
    assert float((said[0] - said[1]).abs().max()) > 1e-4
    assert float((said[1] - said[2]).abs().max()) > 1e-4


def test_latents_come_to_unit_variance_and_back():
    denoiser = Denoiser(**DENOISER)
    latents = 3 + 2 * torch.randn(2, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    denoiser.begin(latents)
    scaled = denoiser.to_units(latents)
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scaled.std()) == pytest.approx(1, abs=1e-2)
    assert torch.allclose(denoiser.from_units(scaled), latents, atol=1e-4)


def test_codes_begin_where_encodings_are():
    torch.manual_seed(0)
    network = Autoencoder(**AUTOENCODER).eval()
    features = blob(2, (8, 8, 8))
    network.begin(features, 0)
    with torch.no_grad():
        found = network.encode(features).movedim(1, -1).reshape(-1, 4)
    codes = network.network.quantizer.quantizer.embedding.weight
    assert float(torch.cdist(codes, found).min(1).values.max()) < 1e-5


def test_codes_that_nothing_is_near_to_get_another_place():
    torch.manual_seed(0)
    network = Autoencoder(**AUTOENCODER)
    latents = blob(1, (4, 4, 4), channels=4)
    quantizer = network.network.quantizer.quantizer
    quantizer.ema_cluster_size.fill_(1.0)
    quantizer.ema_cluster_size[[2, 5]] = 0.0
    before = quantizer.embedding.weight.clone()
    assert network.used() == pytest.approx(6 / 8)
    assert network.revive(latents, 0, 49) == 2
    after = quantizer.embedding.weight
    same = (after == before).all(1)
    assert same.tolist() == [k not in (2, 5) for k in range(8)]
    found = latents.movedim(1, -1).reshape(-1, 4)
    assert float(torch.cdist(after[[2, 5]], found).min(1).values.max()) < 1e-5
    assert network.used() == 1


def test_decoding_quantises():
    network = tiny_ldm().low
    with torch.no_grad():
        latents = network.encode(blob(1, (8, 8, 8), seed=5))
        codes = network.network.quantizer.quantizer.embedding.weight
        nearest = torch.cdist(latents.movedim(1, -1).reshape(-1, 4), codes).argmin(1)
        quantised = codes[nearest].reshape(1, 2, 2, 2, 4).movedim(-1, 1)
        made = network.decode(latents)
        assert torch.allclose(made, network.network.decode(quantised), atol=1e-5)
        assert not torch.allclose(made, network.network.decode(latents), atol=1e-4)


def test_each_order_is_read_off_its_own_guidance_and_depth():
    features = blob(1, (8, 8, 8))
    one = Sampling((0.0,) * 3, (0.2,) * 3, steps=10)
    other = Sampling((3.0,) * 3, (0.5,) * 3, steps=10)
    both = Sampling((0.0, 3.0, 3.0), (0.2, 0.5, 0.5), steps=10)
    assert both.runs() == {0.2: {0.0: [0]}, 0.5: {3.0: [1, 2]}}
    network, made = tiny_ldm(), []
    for network.sampling in (one, other, both):
        made.append(network(features))
    assert torch.equal(made[2][:, 0], made[0][:, 0])
    assert torch.equal(made[2][:, 1:], made[1][:, 1:])
    assert Sampling.read(both.told()) == both


def test_ways_of_one_depth_go_up_once(monkeypatch):
    network = tiny_ldm(Sampling((0.0, 1.0, 0.0), (0.2, 0.2, 0.5), steps=10))
    asked, up = [], network.up
    monkeypatch.setattr(
        network, "up", lambda encoded, depth: asked.append(depth) or up(encoded, depth)
    )
    network(blob(1, (8, 8, 8)))
    assert asked == [0.2, 0.5]


def test_without_detail_the_answer_is_what_is_decoded():
    features = blob(1, ODD)
    network = tiny_ldm(Sampling((0.0,) * 3, (0.0,) * 3))
    made = network.low.again(features)  # both fields are alike, and there is no noise
    assert torch.allclose(network(features), made, atol=1e-5)
    assert not torch.allclose(made, features, atol=1e-2)


def test_detail_begins_as_shares_of_what_codes_lose():
    given, again, made, mask = *(blob(2, ODD, k) for k in (1, 2, 3)), torch.ones(2, *ODD).bool()
    share = torch.tensor([0.2, 0.9, 0.0])
    wanted = made + share[:, None, None, None] * (given - again)
    mask[:, 0] = False
    wanted[:, :, 0] = 1e3  # does not count
    seen, detail = torch.cat([given, again, made], 1), Detail(**DETAIL)
    detail.begin([(seen[:1], wanted[:1], mask[:1]), (seen[1:], wanted[1:], mask[1:])])
    assert torch.allclose(detail.share, share, atol=1e-5)
    begun = wanted + (given - wanted) / (1 + math.exp(DOUBT))  # the scan is trusted a little
    assert torch.allclose(detail(seen)[:, :, 1:], begun[:, :, 1:], atol=1e-5)
    # all of what is lost gives the scan back where both fields are alike
    network = tiny_ldm(Sampling((0.0,) * 3, (0.0,) * 3))
    network.detail = Detail(**DETAIL)
    network.detail.share.fill_(1.0)
    assert torch.allclose(network(given), given, atol=1e-5)


def test_a_method_without_weights_tells_what_trains_it(monkeypatch):
    monkeypatch.setattr(methods, "available", lambda kind: {})
    with pytest.raises(InputError, match="dmrimicro train rish-residual"):
        methods.load_method("residual")
    with pytest.raises(InputError, match="there is no learned method 'unet'"):
        methods.load_method("unet")


def test_where_monai_is_missing_the_message_tells(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(InputError, match="pip install"):
        monai("not_loaded_yet")


def test_stirred_networks_have_no_quiet_layer():
    assert all(p.any() for p in stirred(nn.Sequential(nn.Linear(2, 2))).parameters())
