"""How far training on several processes is from training on one: the table of docs/distributed.md.

``python tools/distributed_table.py`` trains some families in the ways that
`tests/extras/distributed` tests, and prints the largest difference of any weight.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"

# How many processes call a function, with what.
Way = tuple[int, Callable[..., Any], tuple[Any, ...]]


def ways() -> dict[str, Way]:
    """Return the ways, by what they are called."""
    from comparisons import compare_bfloat16, compare_data, compare_tensor
    from families import images, packed, some_without_images
    from llava import compare_llava_data, compare_llava_tensor, shard
    from ways import (
        by_block,
        replicate,
        replicate_static,
        share,
        share_by_transformers,
        whole,
        whole_from_meta,
    )

    return {
        "DDP": (2, compare_data, (images, replicate)),
        "DDP, `static_graph`": (2, compare_data, (images, replicate_static)),
        "DDP, packed images": (2, compare_data, (packed, replicate)),
        "DDP, a rank without images": (2, compare_data, (some_without_images, replicate)),
        "FSDP2, the projector whole": (2, compare_data, (images, whole)),
        "FSDP2, block by block": (2, compare_data, (images, by_block)),
        "FSDP2, from the meta device": (3, compare_data, (images, whole_from_meta)),
        "FSDP2, a rank without images": (2, compare_data, (some_without_images, by_block)),
        "FSDP2 in bf16, to one process in bf16": (2, compare_bfloat16, (whole,)),
        "tensor parallel, torch's styles": (2, compare_tensor, (share,)),
        "tensor parallel, uneven": (3, compare_tensor, (share,)),
        "tensor parallel, by transformers": (2, compare_tensor, (share_by_transformers,)),
        "in a LLaVA: DDP, a rank without images": (2, compare_llava_data, (replicate,)),
        "in a LLaVA: FSDP2, a rank without images": (2, compare_llava_data, (shard,)),
        "in a LLaVA: tensor parallel, with the language model": (2, compare_llava_tensor, ()),
    }


def rows() -> Iterator[list[str]]:
    """Yield the cells of each row."""
    from families import SAMPLE
    from processes import ranks

    yield ["way", "processes", *(f"`{name}`" for name in SAMPLE)]
    yield ["---"] * (len(SAMPLE) + 2)
    for way, (number, function, args) in ways().items():
        found = ranks(number, function, SAMPLE, *args, seconds=600)
        worst = [max(difference(each[name]) for each in found) for name in SAMPLE]
        yield [way, str(number), *(f"{each:.0e}" if each else "0" for each in worst)]


def difference(outcome: Any) -> float:
    """Return the difference from one process that computes alike."""
    first = outcome[0] if isinstance(outcome, tuple) else outcome
    return float(first.difference)


if __name__ == "__main__":
    sys.path[:0] = [str(TESTS), str(TESTS / "extras" / "distributed")]
    from helpers import torchvision_operators

    torchvision_operators.declare()
    for row in rows():
        print(f"| {' | '.join(row)} |", flush=True)
