"""Every family, small, and what a few steps of training make of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor.experimental import implicit_replication

from mobilevlm import Projector, build_projector, build_vision_projector, list_projectors

__all__ = [
    "FAMILIES",
    "SAMPLE",
    "SMALL",
    "Outcome",
    "build",
    "check",
    "compared",
    "images",
    "named",
    "packed",
    "some_without_images",
    "tokens",
    "train",
    "weights",
]

IN, OUT, GRID = 48, 64, (12, 12)
STEPS = 3
# The grids of the packed images of each rank.
PACKED = [[(12, 12), (24, 12)], [(24, 24)], [(12, 24), (24, 12), (12, 24)]]
# Widths that a family has for itself, and heads where there would be one.
SMALL: dict[str, dict[str, Any]] = {
    "aya-vision": {"hidden": 64},
    "blip2": {"width": 48, "depth": 2, "heads": 4},
    "c-abstractor": {"hidden": 32, "depth": 1},
    "flamingo": {"depth": 1, "heads": 4, "head_dim": 8},
    "glm-4v-9b": {"hidden": 64},
    "idefics2": {"hidden": 64, "depth": 1, "heads": 8, "kv_heads": 4, "head_dim": 8},
    "kosmos-2": {"head_dim": 16},
    "llama4": {"hidden": 64},
    "minicpmv": {"heads": 4},
    "molmo": {"heads": 4, "head_dim": 16, "hidden": 64},
    "moondream2": {"hidden": 64},
    "muse-glimmer": {"hidden": 64},
    # The mean of 65,531 random embeddings is nearly zero.
    "ovis2": {"words": 95},
    "pp-formulanet": {"hidden": 32, "wide": 64},
    "qwen-vl": {"heads": 4, "queries": 16},
    "step3": {"hidden": 64},
    "token-packer": {"width": 32, "heads": 4},
}
FAMILIES = [name for name in list_projectors() if name != "identity"]  # it has no weights
# Convolutions, an attention, frozen weights, a resampler, merged patches, and two linear layers.
SAMPLE = ["ldp", "ldpnetv2", "c-abstractor", "blip2", "qwen-vl", "idefics2", "qwen2-vl", "mlp"]


def build(name: str) -> Projector:
    """Return a family's small projector, or a drop-in, each time with the same weights."""
    torch.manual_seed(0)
    drop_in = name.removeprefix("drop-in ")
    if drop_in != name:
        return build_vision_projector(
            SimpleNamespace(mm_projector_type=drop_in, mm_hidden_size=IN, hidden_size=OUT)
        )
    return build_projector(name, IN, OUT, grid=GRID, **SMALL.get(name, {}))


def tokens(number: int) -> Tensor:
    """Return the tokens of so many images, each time the same; ``(b, n, c)``."""
    made = torch.Generator().manual_seed(1)
    return torch.randn(number, GRID[0] * GRID[1], IN, generator=made)


def images(number: int) -> list[Sequence[Any]]:
    """Return a batch for each rank."""
    return [[part] for part in tokens(2 * number).split(2)]


def some_without_images(number: int) -> list[Sequence[Any]]:
    """Return a batch for each rank, of which all but the first one's have no image."""
    x = tokens(1)
    return [[x], *([x[0, :0], []] for _ in range(number - 1))]


def packed(number: int) -> list[Sequence[Any]]:
    """Return packed images for each rank, of other sizes on each."""
    made = []
    for grids in PACKED[:number]:
        n = sum(h * w for h, w in grids)
        made.append([tokens(-(-n // 144)).flatten(0, 1)[:n], grids])
    return made


def loss(y: Tensor) -> Tensor:
    """Return how far from one it is, seen from one direction; of no images, zero; ``(..., d)``."""
    if not y.numel():
        return y.sum()
    direction = torch.linspace(-1, 1, y.shape[-1], dtype=torch.float32).sin()
    return (y.float() @ direction - 1).square().mean()


def train(module: nn.Module, *batches: Sequence[Any]) -> None:
    """Take a few steps that make less the mean loss of batches, each what a call is given."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (sum(loss(module(*batch)) for batch in batches) / len(batches)).backward()
        assert all(weight.grad is not None for weight in trained)
        with implicit_replication():  # of what tensor parallelism leaves as it is
            nn.utils.clip_grad_norm_(trained, 5)
            optimizer.step()


def full(tensor: Tensor) -> Tensor:
    """Return the whole of what may be a process's part, on every process."""
    whole = getattr(tensor, "full_tensor", None)
    return (tensor if whole is None else whole()).detach().clone()


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the whole weights by the names that they have outside of any wrapper."""
    return {name.removeprefix("module."): full(each) for name, each in module.named_parameters()}


@dataclass(frozen=True)
class Outcome:
    """How far weights have moved, and how far from where they should be."""

    moved: float
    difference: float


def compared(found: nn.Module, expected: nn.Module, name: str) -> Outcome:
    """Compare the weights of two projectors of a family, trained in different ways."""
    mine, others, before = weights(found), weights(expected), weights(build(name))
    assert mine.keys() == others.keys() == before.keys()
    return Outcome(_distance(others, before), _distance(mine, others))


def _distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return max((float((a[key] - b[key]).abs().max()) for key in a), default=0.0)


def check(found: Sequence[Mapping[str, Outcome]], names: Sequence[str]) -> None:
    """Assert that on each rank these families have learnt what one process learns."""
    for outcomes in found:
        assert [*outcomes] == [*names]
        for name, outcome in outcomes.items():
            assert outcome.moved > 1e-4, (name, outcome)
            assert outcome.difference < 1e-6, (name, outcome)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Say in an error which family it is of."""
    try:
        yield
    except Exception as error:
        error.add_note(f"family {name}")
        raise
