"""Tensor parallelism of every family, by torch's styles and by transformers' words."""

import pytest
from comparisons import compare_tensor
from families import FAMILIES, SAMPLE, check
from processes import ranks
from ways import Spread, share, share_by_transformers, share_from_meta

DROP_INS = ["drop-in mlp2x_gelu", "drop-in mlp2x_gelu_Norm", "drop-in pooler"]


def test_each_family_is_trained_as_by_one_process() -> None:
    check(ranks(2, compare_tensor, FAMILIES, share), FAMILIES)


def test_what_does_not_divide_is_gathered() -> None:
    """Three ranks divide neither most families' heads nor their widths."""
    check(ranks(3, compare_tensor, SAMPLE, share), SAMPLE)


@pytest.mark.parametrize("share", [share_from_meta, share_by_transformers])
def test_other_ways_to_share(share: Spread) -> None:
    check(ranks(2, compare_tensor, SAMPLE, share), SAMPLE)


def test_drop_ins_have_a_plan_too() -> None:
    check(ranks(2, compare_tensor, DROP_INS, share), DROP_INS)
