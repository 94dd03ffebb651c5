"""From the names and shapes of upstream's weights to ours, and back.

Our modules stand in order of use, so a layout is a list of upstream's module names in that order,
one for each of our modules that holds parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..projectors.index import upstream_entry, upstream_index
from ..projectors.projector import Projector
from ..projectors.unwrap import unwrap
from ..projectors.upstream import Axes, Fused, Name, Names
from ..registry import MobileVLMError, did_you_mean, quote
from .errors import CheckpointError, listed
from .families import plugin_families
from .state import checked_state_dict

__all__ = [
    "Part",
    "find_layout",
    "from_upstream",
    "layouts",
    "leaves",
    "named_parts",
    "names_of",
    "parts",
    "to_upstream",
]

_OTHER_FAMILY = "It belongs to another family."


@dataclass(frozen=True)
class Part:
    """One parameter of ours, and where and how upstream keeps it.

    Attributes:
        key: Our key.
        shape: Our shape.
        theirs: Upstream's key.
        stored: Upstream's shape.
        rows: The rows of upstream's tensor that are ours; None is all of them.
        axis: The axis of those rows.
        hwc: Whether it is a convolution whose inputs stand position after position here.
        transpose: Whether upstream stores it (in, out).
        skip: How many rows, along its second axis, stand before ours and have no use.
        dtype: What a buffer that holds no weights, such as a counter, must be; None for weights.
    """

    key: str
    shape: torch.Size
    theirs: str
    stored: torch.Size
    rows: tuple[int, int] | None = None
    transpose: bool = False
    skip: int = 0
    dtype: torch.dtype | None = None
    axis: int = 0
    hwc: bool = False

    def read(self, tensor: Tensor) -> Tensor:
        """Return our tensor out of upstream's."""
        if self.rows is not None:
            first, end = self.rows
            return tensor.narrow(self.axis, first, end - first).reshape(self.shape).clone()
        if self.skip:
            tensor = tensor[:, self.skip :].clone()
        if self.hwc:
            tensor = tensor.permute(0, 2, 3, 1).contiguous()
        return (tensor.t().contiguous() if self.transpose else tensor).reshape(self.shape)

    def write(self, tensor: Tensor) -> Tensor:
        """Return upstream's tensor, or its rows, out of ours."""
        if self.transpose:
            return tensor.t().contiguous()
        if self.skip:
            return torch.cat([tensor.new_zeros(self.skip, *self.shape[1:]), tensor])[None]
        if self.rows is not None:
            return tensor.unsqueeze(self.axis) if self.axis else tensor
        if self.hwc:
            out, in_, *kernel = self.stored
            return tensor.reshape(out, *kernel, in_).permute(0, 3, 1, 2).contiguous()
        return tensor.reshape(self.stored)


def parts(projector: Projector, layout: Names) -> Iterator[Part]:
    """Pair every parameter of a projector with upstream's."""
    own = leaves(projector)
    ours = iter(own)
    try:
        names = layout(projector.spec) if callable(layout) else layout
    except MobileVLMError:
        raise
    except (LookupError, ValueError) as error:  # it looks for blocks that only its family has
        raise _misfit() from error
    _check_names(names, "names")
    told = sum(len(entry.order) if isinstance(entry, Fused) else 1 for entry in names)
    if told != len(own):
        raise CheckpointError(
            f"the layout names {told} module{'s' if told != 1 else ''}, the projector has "
            f"{len(own)}",
            hint=_OTHER_FAMILY,
        )
    for entry in names:
        if isinstance(entry, Fused):
            yield from _fused([next(ours) for _ in entry.order], entry)
            continue
        if isinstance(entry, Axes):
            yield from _axes(*next(ours), entry)
            continue
        name = Name(entry) if isinstance(entry, str) else entry
        path, module = next(ours)
        for leaf, parameter in module._parameters.items():
            if parameter is None:
                continue
            shape = stored = parameter.shape
            theirs = f"{name.path}{name.join}{leaf}".removeprefix(".")
            least = {"batch": 1, "vector": 1, "conv": 2 if leaf == "weight" else 0}
            if len(shape) < least.get(name.form, 0) or (name.form == "matrix" and len(shape) > 2):
                raise _misfit()
            if name.form not in ("plain", "conv"):
                theirs = name.path
            if name.form == "matrix":
                stored = torch.Size(reversed(shape))
            elif name.form == "batch":
                stored = torch.Size([*[1] * name.axes, name.skip + shape[0], *shape[1:]])
            elif name.form == "vector":
                stored = shape[1:]
            elif name.form == "conv" and leaf == "weight":
                area = name.kernel[0] * name.kernel[1]
                stored = torch.Size([shape[0], shape[1] // area, *name.kernel])
            if stored.numel() != shape.numel() + name.skip * shape[1:].numel():
                raise _misfit()  # of a module that it takes for another
            turned = name.form == "matrix"
            hwc = name.order == "hwc" and leaf == "weight"
            yield Part(f"{path}.{leaf}", shape, theirs, stored, None, turned, name.skip, hwc=hwc)


def named_parts(projector: Projector, names: Names) -> list[Part]:
    """Return the pairs of names that a caller gave; where they misfit, name our modules."""
    try:
        return list(parts(projector, names))
    except CheckpointError as error:
        if error.hint == _OTHER_FAMILY:
            ours = [f"{path} ({type(module).__name__})" for path, module in leaves(projector)]
            error.hint = f"The modules that hold parameters are, in order of use: {listed(ours)}."
        raise


def leaves(projector: Projector) -> list[tuple[str, nn.Module]]:
    """Return our modules that hold parameters, in order of use."""
    return [
        (path, module)
        for path, module in projector.blocks.named_modules(prefix="blocks")
        if any(parameter is not None for parameter in module._parameters.values())
    ]


def _fused(ours: Sequence[tuple[str, nn.Module]], entry: Fused) -> Iterator[Part]:
    for place, (path, module) in enumerate(ours[index] for index in entry.order):
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                if not parameter.dim():
                    raise _misfit()
                n = parameter.shape[0]
                stored = torch.Size([len(ours) * n, *parameter.shape[1:]])
                rows = (place * n, (place + 1) * n)
                theirs = f"{entry.path}{entry.join}{leaf}"
                yield Part(f"{path}.{leaf}", parameter.shape, theirs, stored, rows=rows)


def _axes(path: str, module: nn.Module, entry: Axes) -> Iterator[Part]:
    tables = {"columns": entry.columns, "rows": entry.rows}
    if module._parameters.keys() != tables.keys():
        raise _misfit()
    shared = entry.columns == entry.rows
    for place, (leaf, theirs) in enumerate(tables.items()):
        shape = module.get_parameter(leaf).shape
        if shared:
            stored, rows = torch.Size([shape[0], 2, shape[1]]), (place, place + 1)
            yield Part(f"{path}.{leaf}", shape, theirs, stored, rows=rows, axis=1)
        else:
            yield Part(f"{path}.{leaf}", shape, theirs, shape)


def from_upstream(
    projector: Projector, layout: str | Names, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a state dict for a projector out of upstream's, all of it or none.

    Args:
        projector: The projector.
        layout: A layout's name, or its names.
        state: Upstream's tensors by upstream's keys.

    Raises:
        CheckpointError: A key is missing or left over, or a shape does not fit.
    """
    found: dict[str, Tensor] = {}
    left = dict.fromkeys(state)
    for part in parts(projector, names_of(layout, "layout")):
        if part.theirs not in state:
            raise CheckpointError("missing", part.theirs, f"a tensor of {tuple(part.stored)}")
        tensor = state[part.theirs]
        left.pop(part.theirs, None)
        if tensor.shape != part.stored:
            raise CheckpointError(
                f"a tensor of {tuple(tensor.shape)}", part.theirs, str(tuple(part.stored))
            )
        found[part.key] = part.read(tensor)
    if left:
        raise CheckpointError(f"tensors left over: {', '.join(left)}")
    return found


def to_upstream(projector: nn.Module, family: str | Names) -> dict[str, Tensor]:
    """Return a projector's weights under upstream's keys and in its shapes.

    Args:
        projector: The projector; or what DataParallel, DDP or torch.compile made of it.
        family: A layout's name, such as ``llava``, ``qwen2-vl`` or ``ldpnet``; or upstream's module
            names in order of use, or a function from the projector's stack to them.

    Raises:
        CheckpointError: It is no projector; there is no such layout, what is given are no names, or
            not those of this projector's weights; or these are not those of its specification, as
            with adapters that are not merged.
    """
    layout = names_of(family, "family")
    inner = unwrap(projector, CheckpointError)
    state = checked_state_dict(inner)
    found: dict[str, Tensor] = {}
    pair = parts if isinstance(family, str) else named_parts
    for part in pair(inner.unloaded().native(), layout):
        tensor = part.write(state[part.key])
        before = found.get(part.theirs)
        if before is not None:
            others = [side for side in range(tensor.dim()) if side != part.axis]
            if part.rows is None or any(before.shape[k] != tensor.shape[k] for k in others):
                raise _misfit()
            tensor = torch.cat([before, tensor], part.axis)
        found[part.theirs] = tensor
    return found


def _misfit() -> CheckpointError:
    return CheckpointError("the layout does not fit the projector's modules", hint=_OTHER_FAMILY)


def names_of(layout: str | Names, where: str) -> Names:
    """Return the module names that an argument gives, itself or by a layout's name.

    Raises:
        CheckpointError: There is no such layout, or it is no list of names.
    """
    if isinstance(layout, str):
        return find_layout(layout)
    if not callable(layout):
        _check_names(layout, where)
    return layout


def _check_names(names: object, where: str) -> None:
    """Refuse what are not module names."""
    if not isinstance(names, Sequence) or isinstance(names, str | bytes):
        expected = "a layout's name, or a list of module names in order of use"
        raise CheckpointError(quote(names), where, expected)
    for index, name in enumerate(names):
        place = f"{where}[{index}]"
        if not isinstance(name, str | Name | Fused | Axes):
            expected = "a module's name, a Name, a Fused or an Axes"
            raise CheckpointError(quote(name), place, expected)
        if isinstance(name, Fused) and set(name.order) != set(range(len(name.order))):
            expected = f"each of {', '.join(map(str, range(len(name.order))))} once"
            raise CheckpointError(f"order={quote(name.order)}", place, expected)


def layouts() -> list[str]:
    """Return the names of all layouts, sorted."""
    return sorted({entry.layout for entries in upstream_index().values() for entry in entries})


def find_layout(name: str) -> Names:
    """Return the module names of a layout; in its name ``_`` reads as ``-``.

    Plugins are imported only where no built-in family has it; a plugin's is found by its own name
    and by ``distribution/layout``.

    Raises:
        CheckpointError: There is no such layout, or several plugins have it.
    """
    wanted = name.replace("_", "-")
    for family, entries in upstream_index().items():
        for index, entry in enumerate(entries):
            if entry.layout == wanted:
                return upstream_entry(family, index).names
    found = {
        family.layout(entry): entry.names
        for family in plugin_families()[0]
        for entry in family.entries
        if wanted in (entry.layout, family.layout(entry))
    }
    if len(found) > 1:
        names = " and ".join(map(repr, found))
        raise CheckpointError(
            f"layout {quote(name)} is that of {names}", hint="Write one of these."
        )
    if found:
        return next(iter(found.values()))
    known = layouts()
    raise CheckpointError(
        f"unknown layout {quote(name)}",
        hint=did_you_mean(name, known) or f"Known: {', '.join(known)}.",
    )
