"""FSDP2: a projector's weights shared among ranks, each of which has images of its own."""

from collections.abc import Sequence

import pytest
from comparisons import compare_bfloat16, compare_data
from families import FAMILIES, SAMPLE, check, images, packed, some_without_images
from processes import ranks
from ways import Spread, by_block, whole, whole_from_meta


@pytest.mark.parametrize(("number", "spread"), [(2, whole), (2, by_block), (3, whole_from_meta)])
def test_it_learns_what_one_process_learns(number: int, spread: Spread) -> None:
    check(ranks(number, compare_data, SAMPLE, images, spread), SAMPLE)


def test_packed_images_of_other_sizes_on_each_rank() -> None:
    """A block is called once for each size, so that ranks would wait for each other in one."""
    check(ranks(2, compare_data, SAMPLE, packed, whole), SAMPLE)


@pytest.mark.parametrize(("names", "spread"), [(FAMILIES, whole), (SAMPLE, by_block)])
def test_a_rank_without_images_takes_part(names: Sequence[str], spread: Spread) -> None:
    check(ranks(2, compare_data, names, some_without_images, spread), names)


@pytest.mark.parametrize("spread", [whole, by_block])
def test_bf16_is_that_of_one_process(spread: Spread) -> None:
    """Blocks on their own take tokens in another order, which changes sums by roundings of bf16."""
    for outcomes in ranks(2, compare_bfloat16, SAMPLE, spread):
        assert [*outcomes] == SAMPLE
        for name, (sharded, single) in outcomes.items():
            assert single.difference > 1e-5, name  # from fp32
            assert sharded.difference < (1e-6 if spread is whole else single.difference), name
