"""The Mamba block: mamba_ssm's weights, output and gradients; and over images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from DMRIMicroLib.codebooks.mamba import DIRECTIONS, Mamba, Mamba2d
from DMRIMicroLib.errors import InputError

THEIRS = np.load(Path(__file__).parent / "mamba_reference.npz")
PREFIX = "block/in/"


def their_weights() -> dict[str, torch.Tensor]:
    names = [k.removeprefix(PREFIX) for k in THEIRS.files if k.startswith(PREFIX)]
    return {name: torch.tensor(THEIRS[PREFIX + name]) for name in names if name != "x"}


def test_the_numbers_are_from_the_version_that_the_script_names():
    script = (Path(__file__).parent / "mamba_reference.py").read_text(encoding="utf-8")
    assert f"mamba-ssm=={THEIRS['version']}" in script


def test_weights_output_and_gradients_are_those_of_mamba_ssm():
    ours = Mamba(20, d_state=16)
    ours.load_state_dict(their_weights(), strict=True)
    x = torch.tensor(THEIRS["block/in/x"]).requires_grad_()
    y = ours(x)
    torch.testing.assert_close(y, torch.tensor(THEIRS["block/y"]), rtol=1e-4, atol=1e-5)
    (y * torch.tensor(THEIRS["block/w"])).sum().backward()
    for name, value in [("x", x), *ours.named_parameters()]:
        their = torch.tensor(THEIRS[f"block/grad/{name}"])
        torch.testing.assert_close(
            value.grad, their, rtol=1e-4, atol=1e-5 * float(their.abs().max()), msg=name
        )


def test_steps_begin_between_a_thousandth_and_a_tenth():
    torch.manual_seed(0)
    steps = torch.nn.functional.softplus(Mamba(64).dt_proj.bias)
    assert 0.9e-3 < steps.min() < 3e-3
    assert 0.04 < steps.max() < 0.11


def image(c: int = 4, h: int = 5, w: int = 7) -> torch.Tensor:
    return torch.randn(1, c, h, w, generator=torch.Generator().manual_seed(3))


def seen_from(block: Mamba2d, row: int, column: int) -> torch.Tensor:
    """Pixels that pixel (row, column) knows of: (h, w) bool."""
    x = image().requires_grad_()
    block(x)[0, :, row, column].sum().backward()
    return x.grad[0].abs().sum(0) > 0


def wide_open(**options) -> Mamba2d:
    """A block that forgets slowly, so that what it knows of shows in single precision."""
    torch.manual_seed(0)
    return Mamba2d(4, d_conv=4, **options)


@pytest.mark.parametrize(
    ("direction", "before"),
    [
        ("right", lambda r, c: (r < 2) | ((r == 2) & (c <= 3))),
        ("left", lambda r, c: (r > 2) | ((r == 2) & (c >= 3))),
        ("down", lambda r, c: (c < 3) | ((c == 3) & (r <= 2))),
        ("up", lambda r, c: (c > 3) | ((c == 3) & (r >= 2))),
    ],
)
def test_each_direction_sees_the_pixels_before(direction, before):
    r, c = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    seen = seen_from(wide_open(directions=[direction]), 2, 3)
    assert torch.equal(seen, before(r, c))
    along = (r == 2) if direction in ("right", "left") else (c == 3)
    seen = seen_from(wide_open(directions=[direction], lines=True), 2, 3)
    assert torch.equal(seen, before(r, c) & along)


def test_both_ways_see_the_whole_image_and_lines_a_cross():
    assert seen_from(wide_open(directions=["right", "left"]), 2, 3).all()
    r, c = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    assert torch.equal(seen_from(wide_open(lines=True), 2, 3), (r == 2) | (c == 3))


def test_forward_along_rows_is_the_block_of_sequences():
    torch.manual_seed(0)
    plane, line = Mamba2d(4, ["right"]), Mamba(4)
    weights = {k.removeprefix("ways.0."): v for k, v in plane.state_dict().items()}
    line.load_state_dict(weights, strict=True)
    tokens = line(image().flatten(2).mT)
    torch.testing.assert_close(plane(image()).flatten(2).mT, tokens)


@pytest.mark.parametrize(
    "turn",
    [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT, lambda x: x.rot90(1, (2, 3))],
)
def test_shared_lines_turn_with_the_image(turn):
    torch.manual_seed(0)
    block = Mamba2d(4, lines=True, shared=True)
    torch.testing.assert_close(block(turn(image())), turn(block(image())), rtol=1e-4, atol=1e-6)
    apart = Mamba2d(4, lines=True)
    assert (apart(turn(image())) - turn(apart(image()))).abs().max() > 1e-3


def test_sharing_saves_the_weights_of_the_other_directions():
    def count(block):
        return sum(p.numel() for p in block.parameters())

    apart, shared, one = Mamba2d(8), Mamba2d(8, shared=True), Mamba(8)
    assert count(shared) == count(one)
    assert count(apart) - count(shared) == 3 * sum(p.numel() for p in apart.ways[0].parameters())


def test_an_unknown_direction_is_refused():
    with pytest.raises(InputError, match=r"right, left, down, up"):
        Mamba2d(4, directions=["right", "north"])
    assert len(DIRECTIONS) == 4
