"""What language models and vision towers are made of, on paper."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from ..projectors.model_config import ModelConfig

__all__ = ["Flag", "Layer", "Part", "flag", "gated", "linear", "norm"]

Flag = bool | str  # as it is, or under a key of the config


@dataclass(frozen=True, kw_only=True)
class Part:
    """Weights, and the work that they are for each token. Parts add up.

    Attributes:
        parameters: How many parameters there are.
        macs: The multiply-accumulates of matrix products and convolutions for one token.
    """

    parameters: int = 0
    macs: int = 0

    def __add__(self, other: Part) -> Self:
        parameters, macs = self.parameters + other.parameters, self.macs + other.macs
        return replace(self, parameters=parameters, macs=macs)

    def __mul__(self, times: int) -> Self:
        return replace(self, parameters=self.parameters * times, macs=self.macs * times)


@dataclass(frozen=True, kw_only=True)
class Layer(Part):
    """A layer, or what mixes tokens in it; ``attention + mlp`` is a layer.

    Attributes:
        pair: The multiply-accumulates for each pair of a query and a key: each head's width, once
            for the product of queries and keys and once for that of weights and values.
        window: How many tokens a query sees, itself included; None if it sees all before it.
        chunked: Whether tokens see those of their own stretch of `window` tokens, not the last
            ones.
        chunk: The multiply-accumulates for each 64 tokens that linear attention takes at once.
        cache: How many numbers it keeps for each token that it may still see.
        state: How many numbers it keeps whatever the number of tokens.
        state_fp32: How many more it keeps in float32, whatever the model's dtype.
        last: Whether prefill runs it on the last token alone, as it makes no keys of its own.
    """

    pair: int = 0
    window: int | None = None
    chunked: bool = False
    chunk: int = 0
    cache: int = 0
    state: int = 0
    state_fp32: int = 0
    last: bool = False

    def prefill(self, tokens: int, *, causal: bool) -> int:
        """Return its multiply-accumulates for a number of tokens.

        Args:
            tokens: How many tokens there are.
            causal: Whether only the pairs of a query and a key count that the mask lets through.
        """
        queries = 1 if self.last else tokens
        pairs = queries * tokens
        if causal:
            pairs = self._seen(tokens) - self._seen(tokens - queries)
        return self.macs * queries + self.pair * pairs + self.chunk * -(-queries // 64)

    def kept(self, tokens: int, dtype_bytes: int) -> int:
        """Return the bytes that it keeps after `tokens` tokens.

        Of a window's tokens the oldest is dropped: the next token takes its place.
        """
        seen = tokens if self.window is None else min(tokens, self.window - 1)
        return (seen * self.cache + self.state) * dtype_bytes + self.state_fp32 * 4

    def _seen(self, tokens: int) -> int:
        """Return how many pairs the mask lets through."""
        size = tokens if self.window is None else min(self.window, tokens)
        triangle = size * (size + 1) // 2
        if not self.chunked:
            return triangle + (tokens - size) * size
        whole, rest = divmod(tokens, size) if size else (0, 0)
        return whole * triangle + rest * (rest + 1) // 2


def linear(width: int, out: int, bias: object = False) -> Part:
    """Return a linear layer; `bias` is read as true or false."""
    return Part(parameters=width * out + (out if bias else 0), macs=width * out)


def gated(width: int, inner: int, bias: object = False) -> Part:
    """Return an MLP of three layers: gate, up and down."""
    return linear(width, inner, bias) * 2 + linear(inner, width, bias)


def norm(width: int, bias: object = False) -> Part:
    """Return the weight of a norm, with or without a bias; it has no matrix product."""
    return Part(parameters=2 * width if bias else width)


def flag(config: ModelConfig, value: Flag) -> bool:
    """Return whether a part is there, which may stand in the config."""
    return bool(config.get(value)) if isinstance(value, str) else value
