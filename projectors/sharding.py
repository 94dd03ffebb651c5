"""How the processes of a tensor-parallel group share a projector's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from ..blocks.core.activation import keeps_nothing
from ..blocks.core.chain import Chain
from ..blocks.core.errors import SpecError
from ..blocks.core.linear import is_linear
from ..blocks.norm_act import NormActModule
from ..blocks.scale import ScaleModule
from ..registry import quote

if TYPE_CHECKING:
    from torch.distributed.tensor.parallel import ParallelStyle

__all__ = ["is_sharded", "parallel_styles", "tp_plan"]

# transformers' words, of `transformers.distributed.tensor_parallel`.
_COLWISE = "colwise"  # each process computes some of the outputs, and keeps them
_ROWWISE = "rowwise"  # each takes the inputs that it has; the results are added up
_GATHERED = "colwise_gather_output"  # each computes some of the outputs, and gets the others
_REPLICATE = "replicate"  # each computes all


def tp_plan(projector: nn.Module, size: int | None = None) -> dict[str, str]:
    """Return how to share each module that has parameters, by its path.

    Two linear layers with nothing but elementwise work between them need one exchange, ``colwise``
    and ``rowwise``, and so does one on its own, whose outputs are gathered. What is no linear
    layer, and what is inside a module of a class that says nothing about it, is replicated.

    A class says it by an attribute ``tp_styles``: the styles of its children, by name. It calls
    them, and does to the outputs of ``colwise`` ones nothing that mixes channels; or nothing that
    mixes heads, whose number is its attribute ``tp_parts``. Children that have no style there have
    a plan of their own, so that an empty one is enough for a class that only calls its children.

    Args:
        projector: The projector.
        size: The number of processes. What it does not divide is gathered layer by layer. None is
            one that divides all widths and numbers of heads.

    Raises:
        SpecError: That is no number of processes.
    """
    if size is not None and (type(size) is not int or size < 1):
        raise SpecError(quote(size), "size", "a number of processes, at least 1")
    found = {
        path: _REPLICATE
        for path, module in projector.named_modules()
        if path and next(module.parameters(recurse=False), None) is not None
    }
    for name, child in projector.named_children():
        found |= _walk(child, name, size)
    return found


def parallel_styles(plan: Mapping[str, str]) -> dict[str, ParallelStyle]:
    """Return torch's styles of a plan; what is replicated needs none."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    styles: dict[str, Callable[[], ParallelStyle]] = {
        _COLWISE: ColwiseParallel,
        _ROWWISE: RowwiseParallel,
        _GATHERED: partial(ColwiseParallel, output_layouts=Replicate()),
    }
    return {path: styles[style]() for path, style in plan.items() if style in styles}


def is_sharded(module: nn.Module) -> bool:
    """Return whether processes share a module's parameters now, as DTensors."""
    return any(hasattr(parameter, "placements") for parameter in module.parameters())


def _walk(module: nn.Module, path: str, size: int | None) -> Iterator[tuple[str, str]]:
    """Yield the styles of a module whose input and output each process has whole."""
    if is_linear(module):
        yield path, _GATHERED
    elif type(module) in (Chain, nn.Sequential):
        yield from _walk_row(list(module.named_children()), path, size)
    elif type(module) is nn.ModuleList or hasattr(module, "tp_styles"):
        styles = _styles(module) if _divides(module, size) else {}
        for name, child in module.named_children():
            if name in styles:
                yield from _shard(child, f"{path}.{name}", styles[name])
            else:
                yield from _walk(child, f"{path}.{name}", size)


def _walk_row(
    layers: Sequence[tuple[str, nn.Module]], path: str, size: int | None
) -> Iterator[tuple[str, str]]:
    """Yield the styles of modules that are called one after the other."""
    index = 0
    while index < len(layers):
        name, layer = layers[index]
        index += 1
        after = index
        while after < len(layers) and _is_elementwise(layers[after][1]):
            after += 1
        last = layers[after][1] if after < len(layers) else None
        if _can_open(layer) and is_linear(last) and _shares(last.in_features, size):
            yield from _shard(layer, f"{path}.{name}", _COLWISE)
            yield from _shard(last, f"{path}.{layers[after][0]}", _ROWWISE)
            index = after + 1
        else:
            yield from _walk(layer, f"{path}.{name}", size)


def _shard(module: nn.Module, path: str, style: str) -> Iterator[tuple[str, str]]:
    """Yield the style of a linear layer, or of those that a module consists of."""
    if is_linear(module):
        yield path, style
    else:
        yield from ((f"{path}.{name}", style) for name in _styles(module))


def _divides(module: nn.Module, size: int | None) -> bool:
    """Return whether processes can share a module as its styles say, and end with the whole."""
    styles = _styles(module)
    children = dict(module.named_children())
    last = next((children.get(name) for name in styles if styles[name] == _ROWWISE), None)
    return (
        is_linear(last)
        and _shares(getattr(module, "tp_parts", last.in_features), size)
        and all(_can_open(children[name]) for name in styles if styles[name] == _COLWISE)
        and _rest_is_elementwise(module)
    )


def _can_open(module: nn.Module) -> bool:
    """Return whether each process can compute some of a module's outputs."""
    if is_linear(module):
        return True
    styles = _styles(module)
    return (
        set(styles.values()) == {_COLWISE}
        and all(is_linear(child) for name, child in module.named_children() if name in styles)
        and _rest_is_elementwise(module)
    )


def _rest_is_elementwise(module: nn.Module) -> bool:
    """Return whether the children that see parts of a tensor do not care."""
    styles = _styles(module)
    return all(
        _is_elementwise(child) for name, child in module.named_children() if name not in styles
    )


def _is_elementwise(module: nn.Module) -> bool:
    """Return whether a module treats each number alike."""
    if type(module) is NormActModule:
        return all(map(_is_elementwise, (module.norm, module.act)))
    return type(module) is ScaleModule or (keeps_nothing(module) and type(module) is not nn.Softmax)


def _shares(parts: int, size: int | None) -> bool:
    return parts > 1 if size is None else parts % size == 0


def _styles(module: nn.Module) -> Mapping[str, str]:
    return getattr(module, "tp_styles", {})
