"""Build the modules of a specification."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..blocks.core.block import Step, label, walk_cache
from ..blocks.core.chain import Chain
from ..blocks.core.errors import SpecError
from ..registry import MobileVLMError, describe_error, quote

__all__ = ["assemble"]


def assemble(steps: Sequence[Step]) -> Chain:
    """Build the modules of a walked chain, on the current default device.

    Raises:
        SpecError: A block cannot build its module; the cause is chained.
    """
    with walk_cache():  # blocks walk the chains inside them to build
        return Chain.of(steps, _build_block)


def _build_block(index: int, step: Step) -> nn.Module:
    where = f"blocks[{index}] ({label(step.block)})"
    try:
        module = step.block.build(step.x)
    except MobileVLMError:
        raise
    except Exception as error:  # a plugin's block: name it
        raise SpecError(f"building failed: {describe_error(error)}", where) from error
    if not isinstance(module, nn.Module):
        raise SpecError(f"build returned {quote(module)}", where, "a torch.nn.Module")
    return module
