"""What runs the other tests here reports faults, and ends."""

import os
import signal
import time

import pytest
import torch
from processes import ranks
from torch import distributed


def total(value: int) -> int:
    found = torch.tensor(value + distributed.get_rank())
    distributed.all_reduce(found)
    return int(found)


def fail_on_the_last() -> None:
    if distributed.get_rank() == distributed.get_world_size() - 1:
        raise ValueError("no such thing")
    distributed.barrier()


def die() -> None:
    if distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def wait_for_the_other() -> None:
    if distributed.get_rank() == 0:
        distributed.barrier()
    time.sleep(60)


def sleep() -> None:
    time.sleep(60)


@pytest.mark.parametrize("number", [2, 3])
def test_they_exchange(number: int) -> None:
    assert ranks(number, total, 10) == [10 * number + sum(range(number))] * number


def test_an_error_is_reported() -> None:
    with pytest.raises(AssertionError, match=r"rank 2 of 3: (.|\n)*ValueError: no such thing"):
        ranks(3, fail_on_the_last)


def test_a_process_that_is_killed_ends_the_test() -> None:
    start = time.monotonic()
    with pytest.raises(AssertionError, match="rank 1 of 2: it ended"):
        ranks(2, die)
    assert time.monotonic() - start < 30


def test_one_that_waits_for_another_ends() -> None:
    with pytest.raises(AssertionError, match=r"rank 0 of 2: (.|\n)*Timed out waiting"):
        ranks(2, wait_for_the_other, seconds=5)


def test_those_that_hang_say_where() -> None:
    with pytest.raises(AssertionError, match=r"ranks \[0, 1\] were not done(.|\n)*in sleep"):
        ranks(2, sleep, seconds=5)
