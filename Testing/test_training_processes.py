"""Training by two processes: the losses and the weights of one, to rounding."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from DMRIMicroLib.errors import InputError

pytest.importorskip("lightning_fabric")

from two_processes import Net, loss, main, stream

from DMRIMicroLib.training.loop import CHECKPOINT, LOG, Training, train
from DMRIMicroLib.training.processes import Crew, launched

SCRIPT = Path(__file__).with_name("two_processes.py")
CLOSE = {"rtol": 2e-6, "atol": 1e-6}
"""Sums of two halves round unlike the sum of the whole."""


def start(folder, steps=20):
    """Run the training in two processes, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    words = [str(SCRIPT), str(folder), str(steps)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}", "OMP_NUM_THREADS": "1"}
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        env.pop(name, None)
    command = [sys.executable, *launcher, *words]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return folder


def losses(folder):
    return [float(row["loss"]) for row in csv.DictReader((folder / LOG).open())]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    main(folder, 20)
    return folder


def test_two_processes_give_the_losses_and_weights_of_one(alone, tmp_path):
    start(tmp_path)
    one, two = losses(alone), losses(tmp_path)
    assert len(one) == len(two) == 20
    assert one[-1] < 0.5 * one[0]
    torch.testing.assert_close(torch.tensor(one), torch.tensor(two), rtol=1e-5, atol=2e-5)
    expected, found = (torch.load(f / "made.pt") for f in (alone, tmp_path))
    torch.testing.assert_close(expected, found, **CLOSE)


def test_two_processes_go_on_where_they_were_stopped(alone, tmp_path):
    start(tmp_path, steps=7)
    assert torch.load(tmp_path / CHECKPOINT)["step"] == 7
    start(tmp_path)
    expected, found = (torch.load(f / "made.pt") for f in (alone, tmp_path))
    torch.testing.assert_close(expected, found, **CLOSE)
    assert len(losses(tmp_path)) == 20


def test_the_launcher_says_how_many_there_are():
    assert launched({}) == (1, 1)
    assert launched({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}) == (4, 2)
    # a batch script's own process: the job has tasks, this step has one
    assert launched({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}) == (1, 1)
    slurm = {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}
    assert launched(slurm) == (4, 2)
    with pytest.raises(InputError, match="8 processes on 3 nodes"):
        launched(slurm | {"SLURM_STEP_NUM_NODES": "3"})


def test_examples_that_cannot_be_shared_are_refused():
    fabric = SimpleNamespace(launch=lambda: None, world_size=2, global_rank=0)
    with pytest.raises(InputError, match="3 examples a step cannot be shared by 2"):
        Crew.of(fabric, 3)


def test_each_process_has_its_own_examples():
    def numbers(first, step=1):
        while True:
            yield first
            first += step

    def plain(first):
        return numbers(first)

    for examples in (numbers, plain):
        told = []
        for rank in range(2):
            own = Crew(None, rank, 2).own(examples, 8)
            told.append([next(own) for _ in range(3)])
        assert told == [[8, 10, 12], [9, 11, 13]]


def test_a_training_alone_needs_no_launcher(tmp_path, monkeypatch):
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    settings = Training(steps=2, batch=3, save_every=1)
    train(Net(), stream, loss, settings, tmp_path)
    assert len(losses(tmp_path)) == 2
