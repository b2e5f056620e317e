"""Batches on the CPU's threads."""

from collections.abc import Iterator

import pytest
import torch

from DMRIMicroLib.fitting.threads import in_threads

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("inference", [True, False])
def test_batches_write_to_what_the_caller_made(inference):
    """A scan larger than a batch, its tensor fitted while a network is asked."""
    with torch.inference_mode(inference):
        out = torch.zeros(6)

        def work(start: int) -> int:
            out[start : start + 2] = float(start)
            assert torch.is_inference_mode_enabled() == inference
            return start

        assert list(in_threads(work, range(0, 6, 2), CPU)) == [0, 2, 4]
    assert out.tolist() == [0, 0, 2, 2, 4, 4]


def test_threads_that_are_used_again_are_as_they_were():
    assert torch.get_num_threads() == 2
    with torch.inference_mode():
        list(in_threads(lambda k: k, range(4), CPU))
    assert torch.get_num_threads() == 2
    assert not any(in_threads(lambda k: int(torch.is_inference_mode_enabled()), range(4), CPU))
