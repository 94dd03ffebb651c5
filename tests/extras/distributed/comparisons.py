"""What families learn on several ranks, beside what they learn in one process."""

from collections.abc import Callable, Sequence
from typing import Any

import families
import torch
from families import Outcome, compared, images, named, packed, some_without_images, train
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from ways import Spread

__all__ = ["compare_bfloat16", "compare_data", "compare_tensor"]


def compare_data(
    names: Sequence[str], make: Callable[[int], Any], spread: Spread
) -> dict[str, Outcome]:
    """Train families on all ranks, each with its batch, and alone with all batches."""
    batches = make(distributed.get_world_size())
    found = {}
    for name in names:
        with named(name):
            single, together = families.build(name), spread(families.build(name))
            train(single, *batches)
            train(together, batches[distributed.get_rank()])
            found[name] = compared(together, single, name)
    return found


class Bfloat16(nn.Module):
    """What one process makes of a policy of bf16: weights are cast in each call."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        cast = {name: each.bfloat16() for name, each in self.inside.named_parameters()}
        y: Tensor = torch.func.functional_call(self.inside, cast, (x.bfloat16(),))
        return y


def compare_bfloat16(names: Sequence[str], spread: Spread) -> dict[str, tuple[Outcome, Outcome]]:
    """Train families in bf16; compare with one process in bf16, and that with one in fp32."""
    batches = images(distributed.get_world_size())
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    found = {}
    for name in names:
        with named(name):
            plain, single = families.build(name), families.build(name)
            sharded = spread(families.build(name), mp_policy=policy)
            train(plain, *batches)
            train(Bfloat16(single), *batches)
            train(sharded, batches[distributed.get_rank()])
            found[name] = compared(sharded, single, name), compared(single, plain, name)
    return found


def batches() -> list[Sequence[Any]]:
    """Return images of one size, packed ones of two, and none, of which encoders learn."""
    made = [*images(1), *packed(1), some_without_images(2)[1]]
    for batch in made:
        batch[0].requires_grad_()
    return made


def compare_tensor(names: Sequence[str], share: Spread) -> dict[str, Outcome]:
    """Train families shared among all ranks and alone."""
    found = {}
    for name in names:
        with named(name):
            single, shared = families.build(name), share(families.build(name))
            assert any(isinstance(each, DTensor) for each in shared.parameters())
            alone, together = batches(), batches()
            train(single, *alone)
            train(shared, *together)
            found[name] = compared(shared, single, name)
            # The encoder learns the same, and so does a fast form without gradients.
            for mine, own in zip(together, alone, strict=True):
                torch.testing.assert_close(mine[0].grad, own[0].grad, rtol=1e-4, atol=1e-6)
                with torch.no_grad():
                    y, expected = shared(*mine), single(*own)
                torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    return found
