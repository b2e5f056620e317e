"""The training loop, on a problem of a second."""

import csv

import pytest
import torch
from torch import nn

from DMRIMicroLib.errors import InputError

pytest.importorskip("lightning_fabric")

from DMRIMicroLib.training.loop import CHECKPOINT, LOG, Training, train

SHORT = Training(steps=12, batch=2, rate=0.3, warmup=2, save_every=4, average=0.5)


def stream(first):
    number = first
    while True:
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(8, 3, generator=generator)
        yield x, x @ torch.tensor([1.0, -2.0, 0.5])
        number += 1


def loss(network, example, step):
    x, y = example
    value = (network(x)[:, 0] - y).square().mean()
    return value, {"loss": float(value.detach())}


def network():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def test_the_loss_falls_and_the_log_tells(tmp_path):
    steps = []
    made = train(network(), stream, loss, SHORT, tmp_path, lambda share, text: steps.append(share))
    rows = list(csv.DictReader((tmp_path / LOG).open()))
    assert [int(r["step"]) for r in rows] == [4, 8, 12]
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert steps[-1] == 1
    x, y = next(stream(10**6))
    assert float(loss(made, (x, y), 0)[0]) < float(loss(network(), (x, y), 0)[0])


def test_a_training_that_was_stopped_comes_to_the_same_weights(tmp_path):
    whole = train(network(), stream, loss, SHORT, tmp_path / "whole").state_dict()
    asked = []
    train(
        network(),
        stream,
        loss,
        SHORT,
        tmp_path / "parts",
        cancelled=lambda: asked.append(1) or len(asked) > 6,
    )
    assert torch.load(tmp_path / "parts" / CHECKPOINT)["step"] == 4
    other = network()
    with torch.no_grad():
        other.weight.zero_()  # all comes from the checkpoint
    parts = train(other, stream, loss, SHORT, tmp_path / "parts").state_dict()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    rows = list(csv.DictReader((tmp_path / "parts" / LOG).open()))
    assert [int(r["step"]) for r in rows] == [4, 8, 12]


def test_another_batch_cannot_go_on(tmp_path):
    train(network(), stream, loss, SHORT, tmp_path)
    with pytest.raises(InputError, match="begun with 2 examples a step"):
        train(network(), stream, loss, Training(steps=14, batch=3), tmp_path)


def test_the_rate_rises_and_falls():
    rates = [SHORT.rate_at(k) for k in range(13)]
    assert rates[0] < rates[1] <= SHORT.rate
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(0.02 * SHORT.rate)


def test_the_log_of_a_short_last_part_is_a_mean_too(tmp_path):
    settings = Training(steps=5, batch=1, rate=1e-9, save_every=4)

    def constant(network, example, step):
        return loss(network, example, step)[0], {"loss": 1.0}

    train(network(), stream, constant, settings, tmp_path)
    rows = list(csv.DictReader((tmp_path / LOG).open()))
    assert [float(r["loss"]) for r in rows] == [1.0, 1.0]


def test_one_bad_example_does_not_end_the_training(tmp_path):
    def bad(network, example, step):
        value, told = loss(network, example, step)
        return value * (torch.nan if step == 3 else 1), told

    made = train(network(), stream, bad, SHORT, tmp_path)
    assert torch.isfinite(made.weight).all()
