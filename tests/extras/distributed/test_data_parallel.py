"""DistributedDataParallel: each rank has images of its own, of several sizes, or none."""

import pytest
from comparisons import compare_data
from families import FAMILIES, SAMPLE, check, images, packed, some_without_images
from processes import ranks
from ways import Spread, replicate, replicate_static


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("spread", [replicate, replicate_static])
def test_they_learn_what_one_process_learns(number: int, spread: Spread) -> None:
    check(ranks(number, compare_data, SAMPLE, images, spread), SAMPLE)


@pytest.mark.parametrize("number", [2, 3])
def test_packed_images_of_other_sizes_on_each_rank(number: int) -> None:
    check(ranks(number, compare_data, SAMPLE, packed, replicate), SAMPLE)


def test_a_rank_without_images_takes_part() -> None:
    """Nobody asks for find_unused_parameters."""
    check(ranks(2, compare_data, FAMILIES, some_without_images, replicate), FAMILIES)
