"""A whole model with a projector swapped in, whose tower and language model are frozen."""

import pytest
from families import SAMPLE, check
from llava import compare_llava_data, compare_llava_tensor, shard
from processes import ranks
from ways import Spread, replicate


@pytest.mark.parametrize("spread", [replicate, shard])
def test_a_rank_without_images_takes_part(spread: Spread) -> None:
    """Without find_unused_parameters."""
    check(ranks(2, compare_llava_data, SAMPLE, spread), SAMPLE)


def test_transformers_shares_both() -> None:
    check(ranks(2, compare_llava_tensor, SAMPLE), SAMPLE)
