"""Random weights and inputs, the same on every machine, that bf16 and fp16 hold exactly."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ...blocks.attention import FeedForward
from ...blocks.core.chain import Chain
from ...blocks.depthwise import ConvModule
from ...blocks.glu import GluModule
from ...blocks.norm_act import NormActModule, RMSNorm
from ...blocks.qformer import QFormerModule
from ...blocks.query_resampler import QueryResamplerModule
from ...blocks.resampler import ResamplerModule
from ...blocks.scale import Standardization

__all__ = ["Numbers", "fill"]


class Numbers:
    """A source of numbers k / 128 with whole k below 128, which 8 bits of precision hold.

    They are whole numbers from NumPy's frozen generator, divided by powers of two: no machine
    rounds them.

    Args:
        name: What they are for; the same name gives the same numbers.
    """

    def __init__(self, name: str) -> None:
        self._random = np.random.RandomState(zlib.crc32(name.encode()))

    def __call__(self, *shape: int, scale: float = 1.0, limit: int = 127) -> Tensor:
        """Return numbers between -1 and 1, times a scale that is a power of two.

        Args:
            *shape: How many.
            scale: What they are multiplied by.
            limit: Of k: 64 keeps 1 + k / 128 exact too.
        """
        whole = self._random.randint(-limit, limit + 1, shape)
        return torch.from_numpy(np.asarray(whole * (scale / 128), np.float32))

    def with_outliers(self, *shape: int) -> Tensor:
        """Return numbers between -2 and 2, of which one in 16 channels is 8 times as large.

        Vision towers make such channels, and norms differ most where they are.
        """
        x = self(*shape, scale=2.0)
        channels = self._random.permutation(shape[-1])[: max(1, shape[-1] // 16)]
        x[..., channels] *= 8
        return x

    def near(self, *shape: int, limit: float) -> Tensor:
        """Return numbers of both signs whose size is from 3/4 of a limit up to it.

        Args:
            *shape: How many.
            limit: A power of two.
        """
        whole = self._random.randint(-127, 128, shape)
        whole = np.where(whole < 0, -1, 1) * (96 + np.abs(whole) // 4)
        return torch.from_numpy(np.asarray(whole * (limit / 128), np.float32))


def fill(blocks: Chain, numbers: Numbers) -> None:
    """Give all parameters values that let mistakes show.

    Norms have weights and biases of their own, and what enters them is small, so that their eps
    matters. What enters an activation is large enough to leave its linear part.
    """
    gains = dict(_gains(blocks))
    with torch.no_grad():
        for module in blocks.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    gain = gains.get(id(module), 1.0)
                    parameter.copy_(_values(module, name, parameter.shape, gain, numbers))


def _values(
    module: nn.Module, name: str, shape: torch.Size, gain: float, numbers: Numbers
) -> Tensor:
    if isinstance(module, nn.LayerNorm | RMSNorm | Standardization):
        offset = isinstance(module, RMSNorm) and module.offset
        around = 0.0 if name == "bias" or offset else 1.0
        return around + numbers(*shape, limit=64)
    if len(shape) < 2:
        scale = gain / 8
    elif isinstance(module, nn.Linear | ConvModule):
        fan_in = shape[1:].numel()
        scale = gain * 2.0 ** -((fan_in.bit_length() - 1) // 2)
    elif isinstance(module, QFormerModule | ResamplerModule | QueryResamplerModule):
        scale = 1 / 64  # queries, which a norm takes
    else:  # other queries, tokens, tables
        scale = 1.0
    return numbers(*shape, scale=scale)


def _gains(blocks: nn.Module) -> Iterator[tuple[int, float]]:
    """Yield how large what comes out of linear layers is to be, by their identity."""
    for module in blocks.modules():
        if isinstance(module, GluModule):
            yield from ((id(layer), 2.0) for layer in (module.gate, module.value))
        elif isinstance(module, FeedForward):
            yield id(module.up), 2.0
        elif isinstance(module, nn.Sequential):
            layers = list(module)
            for layer, after in itertools.pairwise(layers):
                if isinstance(layer, nn.Linear | ConvModule) and isinstance(after, NormActModule):
                    yield id(layer), 2.0 if isinstance(after.norm, nn.Identity) else 1 / 16
