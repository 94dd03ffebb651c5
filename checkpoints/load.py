"""Reading a projector out of a checkpoint, or saying exactly what is in the way."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..blocks.core.errors import GridError, SpecError
from ..blocks.core.feature import Grid, check_grid
from ..projectors.build import build_projector
from ..projectors.device import check_device, check_dtype
from ..projectors.document import load_spec
from ..projectors.index import aliases, upstream_index
from ..projectors.lookup import instantiate
from ..projectors.projector import Projector
from ..projectors.stack import Stack
from ..projectors.upstream import Checkpoint
from ..registry import MobileVLMError, quote
from .errors import CheckpointError, convert_pickle
from .formats.tensor_file import TensorInfo
from .mapping import Part, parts
from .recognise import Candidate, Config, inner_config, recognise
from .save import DOCUMENT
from .state import check_keys, check_tensor
from .weights import ProgressCallback, Weights

__all__ = [
    "Inspection",
    "Known",
    "inspect_checkpoint",
    "inspect_known",
    "load_projector",
    "matching_preset",
    "read_projector",
    "recognise_projector",
]


MAX_ROOTS = 64  # places where projectors may be; a model has a handful
_SHOWN = 8  # of a list in a message


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint holds, worked out without reading a weight.

    Attributes:
        path: The file or folder.
        family: The preset's name; ``document`` where the file itself holds the specification.
        spec: The specification.
        dtype: The weights' dtype.
        root: What stands before the projector's keys.
        used: The keys that are the projector's.
        left: How many other tensors there are.
        others: Where other projectors are: the roots that `load_projector` takes.
        layout: What `to_upstream` calls the naming of its keys; empty for a document.
    """

    path: str
    family: str
    spec: Stack
    dtype: torch.dtype
    root: str
    used: tuple[str, ...]
    left: int
    others: tuple[str, ...] = ()
    layout: str = ""

    @property
    def title(self) -> str:
        """The family; of a document also the name that means the same, ``document (mlp)``."""
        name = matching_preset(self.spec) if self.family == "document" else ""
        return f"{self.family} ({name})" if name else self.family

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "path": self.path,
            "family": self.family,
            "layout": self.layout,
            "in": self.spec.in_,
            "out": self.spec.out,
            "dtype": str(self.dtype).removeprefix("torch."),
            "root": self.root,
            "used": list(self.used),
            "left": self.left,
            "others": list(self.others),
            "spec": self.spec.model_dump(mode="json"),
        }

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        others = "".join(f"\n  another under {root!r}" for root in self.others)
        place = f"under {self.root!r}" if self.root else "without a prefix"
        return (
            f"{self.path}: {self.title}, {self.spec.in_} -> "
            f"{self.spec.out}, {dtype}, {len(self.used)} tensors {place}, {self.left} others left"
            f"{others}"
        )


def matching_preset(stack: Stack) -> str:
    """Return the built-in name whose defaults are just these blocks; empty if there is none.

    >>> matching_preset(build_projector("mlp", 64, 128, prefix_tokens=1, device="meta").spec)
    'mlp'
    """
    models = {
        family: sum(len(entry.model_types) for entry in entries)
        for family, entries in upstream_index().items()
    }
    # Of families that compute the same, the one that most models use; aliases come last.
    for name in [*sorted(models, key=models.__getitem__, reverse=True), *aliases()]:
        try:
            if instantiate(name, {}).stack(stack.in_, stack.out).blocks == stack.blocks:
                return name
        except SpecError:  # it has not these widths
            continue
    return ""


def inspect_checkpoint(
    path: str | os.PathLike[str],
    *,
    root: str | None = None,
    grid: Sequence[int] | None = None,
) -> Inspection:
    """Work out which projector a checkpoint holds; reads headers and config, no weights.

    Args:
        path: A safetensors file, or a model's folder with one or with shards.
        root: Which of several projectors is meant, as for `load_projector`.
        grid: The token grid (h, w), for a projector that cannot be built without one.

    Raises:
        CheckpointError: It cannot be read, or holds no projector that is known.
        GridError: The grid is none.
    """
    weights = Weights(path)
    return inspect_known(weights, recognise_projector(weights, root, grid))


def load_projector(
    path: str | os.PathLike[str],
    *,
    root: str | None = None,
    grid: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    check_values: bool = False,
) -> Projector:
    """Load a projector from a file or a model's folder, all of it or not at all.

    Args:
        path: A safetensors file, a folder of `save_projector`, or a model's folder; of a whole
            model only the projector's tensors are read.
        root: What stands before the keys of the projector that is meant, such as
            ``model.visual.deepstack_merger_list.0``, where a checkpoint holds several; the
            default is the model's main one. `inspect_checkpoint` lists the others.
        grid: The default token grid (h, w) of `forward` and `plan`. It is not saved.
        device: Where to put it; default: the CPU.
        dtype: The parameters' dtype or its name, ``"bf16"``; default: that of the checkpoint.
        check_values: Look for NaN and infinities.

    Raises:
        CheckpointError: It cannot be read, holds no projector that is known, or does not fit;
            or the dtype makes an infinity of a weight.
        GridError: The grid does not fit.
        SpecError: The dtype is not a floating one, or the device is not there.
    """
    weights = Weights(path)
    known = recognise_projector(weights, root, grid)
    return read_projector(
        weights, known, grid=grid, device=device, dtype=dtype, check_values=check_values
    )


def read_projector(
    weights: Weights,
    known: Known,
    *,
    grid: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    check_values: bool = False,
    progress: ProgressCallback | None = None,
) -> Projector:
    """Read a projector that is recognised, as `load_projector` does.

    Raises:
        CheckpointError: A tensor cannot be read, or its values are not finite or too large for
            the dtype.
        SpecError: The dtype is not a floating one, or the device is not there.
    """
    if device is not None:
        device = check_device(device)
    if dtype is not None:
        dtype = check_dtype(dtype)
    projector, pairs = known.projector, known.pairs
    if dtype is not None or (grid is not None and projector.grid != tuple(grid)):
        grid = projector.grid if grid is None else grid
        projector = Projector(projector.spec, grid=grid, device="meta", dtype=dtype)
    wanted: dict[str, list[Part]] = {}
    for key, part in pairs:
        wanted.setdefault(key, []).append(part)
    state: dict[str, Tensor] = {}
    # One by one, so that no more than a tensor is held twice.
    for key, tensor in weights.read(wanted, progress):
        fits = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        where = f"{weights.path}[{quote(key)}]"
        if check_values:
            _refuse_non_finite(where, tensor)
        if fits.dtype != tensor.dtype:
            _refuse_overflow(where, tensor, fits)
        for part in wanted[key]:
            state[part.key] = part.read(fits)
    projector.load_state_dict(state, strict=True, assign=True)
    if any(buffer.is_meta for buffer in projector.buffers()):
        # Buffers that are not saved, such as a table of sines, come with a module built in earnest.
        dtype = dtype or next((t.dtype for t in state.values() if t.is_floating_point()), None)
        projector = Projector(
            projector.spec, grid=projector.grid, device=device or "cpu", dtype=dtype
        )
        projector.load_state_dict(state, strict=True, assign=True)
    return projector


def _refuse_non_finite(where: str, tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            "NaN or infinite values",
            where,
            "finite weights",
            "Take an earlier checkpoint: a projector with these gives NaN.",
        )


def _refuse_overflow(where: str, stored: Tensor, converted: Tensor) -> None:
    """Refuse finite values that another dtype makes infinite."""
    if converted.is_meta or bool(torch.isfinite(converted).all()):
        return
    if bool((torch.isfinite(stored) & ~torch.isfinite(converted).to(stored.device)).any()):
        raise CheckpointError(
            f"values that {converted.dtype} cannot hold", where, hint="Take a wider dtype."
        )


def inspect_known(weights: Weights, known: Known) -> Inspection:
    """Say what a recognised projector is."""
    family, projector, pairs, root, layout = known
    used = tuple(dict.fromkeys(key for key, _ in pairs))
    dtype = weights.stored(used[0]).dtype if used else torch.get_default_dtype()
    left = len(weights.keys) - len(used)
    others: tuple[str, ...] = ()
    if family != "document":
        config = inner_config(weights.config)
        fits = [fit for fit in _fitting(weights, config) if fit.root != root]
        others = tuple(
            dict.fromkeys(done.root for done in _try_all(weights, config, fits, None)[0])
        )
    return Inspection(
        str(weights.path), family, projector.spec, dtype, root, used, left, others, layout
    )


class Known(NamedTuple):
    """A recognised projector, on meta; upstream's keys with our parts; root and layout."""

    family: str
    projector: Projector
    pairs: list[tuple[str, Part]]
    root: str
    layout: str


def recognise_projector(
    weights: Weights, root: str | None = None, grid: Sequence[int] | None = None
) -> Known:
    """Work out what the weights are; reads no values.

    Raises:
        CheckpointError: They hold no projector that is known, or several.
        GridError: The grid does not fit.
    """
    where = str(weights.path)
    if root:
        root = root.removesuffix(".") + "."
    document = weights.metadata.get(DOCUMENT)
    if document is not None:
        if root:
            raise CheckpointError(
                f"root={root!r}", where, "none", "The file is one projector, of save_projector."
            )
        try:
            projector = Projector(_parse(document), grid=grid, device="meta")
        except MobileVLMError as error:
            if grid is not None and isinstance(error, GridError):
                raise
            place = f"{error.where}: " if error.where else ""
            raise CheckpointError(
                f"its document does not fit: {place}{error.found}",
                f"{where}[__metadata__]",
                error.expected,
                error.hint or "Save it again with save_projector.",
            ) from error
        own = []
        for key, tensor in projector.state_dict().items():
            dtype = None if tensor.is_floating_point() else tensor.dtype
            own.append((key, Part(key, tensor.shape, key, tensor.shape, dtype=dtype)))
        _fit(own, {key: weights.stored(key) for key in weights.keys}, "document", weights, "")
        return Known("document", projector, own, "", "")
    grid = None if grid is None else check_grid(grid)
    config = inner_config(weights.config)
    fits = _fitting(weights, config)
    if root is None:
        fits = _main(fits)
    else:
        roots = {fit.root for fit in fits}
        fits = [fit for fit in fits if fit.root == root]
        if roots and not fits:
            known = _listed([quote(found, 200) for found in sorted(roots)])
            raise CheckpointError(
                f"no projector at root={quote(root, 200)}", where, f"one of {known}"
            )
    done, failures = _try_all(weights, config, fits, grid)
    if len(done) > 1:
        names = [f"{family} under {quote(found, 200)}" for family, _, _, found, _ in done]
        raise CheckpointError(
            f"more than one projector fits: {_listed(names)}",
            where,
            hint=f"Say which one, as root={quote(done[0].root, 200)}.",
        )
    if not done:
        first = failures[0] if failures else _nothing_known(weights)
        hint = _others(weights) or first.hint
        raise CheckpointError(first.found, first.where, first.expected, hint) from first.__cause__
    return done[0]


def _fitting(weights: Weights, config: Config) -> list[Candidate]:
    """Return the entries that fit with their roots, unless there are too many to look into."""
    fits = recognise(config, weights.keys)
    roots = list(dict.fromkeys(fit.root for fit in fits))
    if len(roots) > MAX_ROOTS:
        raise CheckpointError(
            f"{len(roots):,} projectors, under {_listed([quote(root, 200) for root in roots])}",
            str(weights.path),
            f"at most {MAX_ROOTS}",
            "Save the one that is meant in a file of its own.",
        )
    return fits


def _listed(items: Sequence[str]) -> str:
    """List the first few for a message, and say how many more there are."""
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _main(fits: list[Candidate]) -> list[Candidate]:
    """Return the main projectors among those that fit, or all where there is no main one."""
    return [fit for fit in fits if not fit.entry.secondary] or fits


def _try_all(
    weights: Weights, config: Config, fits: list[Candidate], grid: Grid | None
) -> tuple[list[Known], list[CheckpointError]]:
    """Return the projectors of those that really fit, and the errors of the others."""
    done: list[Known] = []
    failures: list[CheckpointError] = []
    for fit in fits:
        try:
            done.append(_try(weights, config, fit, grid))
        except CheckpointError as error:
            failures.append(error)
    return done, failures


def _others(weights: Weights) -> str:
    """Say what would fit if there were no config, which may be another model's."""
    fits = _main(_fitting(weights, {})) if weights.config else []
    names = [
        f"{family}, {projector.spec.in_} -> {projector.spec.out}, under {quote(root, 200)}"
        for family, projector, _, root, _ in _try_all(weights, {}, fits, None)[0]
    ]
    if not names:
        return ""
    return f"The tensors alone fit {', or '.join(names[:_SHOWN])}: is config.json another model's?"


def _parse(document: str) -> Stack:
    """Read a document's text; any other text would be taken for a path."""
    if not document.startswith("{"):
        raise SpecError(quote(document), "document", "a JSON object")
    return load_spec(document)


def _try(weights: Weights, config: Config, fit: Candidate, grid: Grid | None) -> Known:
    """Return the projector of an entry at a root, or say why it is not there."""
    family, entry, root = fit
    stored = {
        key.removeprefix(root): weights.stored(key)
        for key in weights.under(root)
        if key.startswith(entry.prefixes, len(root))
    }
    where = str(weights.path)
    for key, tensor in stored.items():
        _refuse_packed(f"{where}[{quote(root + key)}]", tensor)
    for key, tensor in stored.items():
        bias = stored.get(key.removesuffix("weight") + "bias")
        if bias is not None:
            _refuse_turned(f"{where}[{quote(root + key)}]", tensor.shape, bias.shape)
    try:
        assert entry.read is not None  # recognise takes no others
        shapes = {key: tensor.shape for key, tensor in stored.items()}
        match = entry.read(Checkpoint(config, shapes, root))
        family = match.preset or family
        grid = None if match.grid is None else grid or match.grid
        projector = build_projector(
            family, match.in_, match.out, grid=grid, device="meta", **match.options
        )
    except CheckpointError as error:
        # A reader does not know whose config and tensors it reads.
        raise CheckpointError(
            error.found, f"{where}: {error.where}", error.expected, error.hint
        ) from error
    except (
        *(MobileVLMError, ArithmeticError, AttributeError),
        *(LookupError, TypeError, ValueError),
    ) as error:
        raise CheckpointError(
            f"its config and tensors make no {entry.layout}: {quote(str(error), 200)}",
            where,
            hint="Compare config.json with the model it is of.",
        ) from error
    pairs = [(part.theirs, part) for part in parts(projector, entry.names)]
    _fit(pairs, stored, family, weights, root)
    keys = [(root + key, part) for key, part in pairs]
    return Known(family, projector, keys, root, entry.layout)


def _fit(
    pairs: list[tuple[str, Part]],
    stored: Mapping[str, TensorInfo],
    family: str,
    weights: Weights,
    root: str,
) -> None:
    """Refuse missing and left-over tensors, other shapes and other dtypes."""
    found = {root + key: info.shape for key, info in stored.items()}
    expected = {root + key: part.stored for key, part in pairs}
    hint = "The file is of another family or incomplete."
    check_keys(found, expected, family, str(weights.path), hint)
    for key, part in pairs:
        shape, wanted = stored[key].shape, tuple(part.stored)
        hint = "Its family or its widths do not match those of the other tensors."
        if shape == tuple(reversed(wanted)):
            hint = "It looks transposed. Save it as upstream does."
        elif sorted(side for side in shape if side != 1) == sorted(s for s in wanted if s != 1):
            hint = "It holds as many numbers in another shape. Save it as upstream does."
        where = f"{weights.path}[{quote(root + key)}]"
        dtype_hint = "Load the model without quantisation and save it again."
        check_tensor(stored[key], wanted, part.dtype, where, hint, dtype_hint)


def _refuse_packed(where: str, tensor: TensorInfo) -> None:
    """Refuse tensors that are not plain weights, and name the cause."""
    if tensor.fault:
        raise CheckpointError(
            f"a tensor of {tensor.shape}, {tensor.fault}",
            where,
            "a tensor of its own numbers",
            "Call .clone() on it before torch.save.",
        )
    if 0 in tensor.shape:
        raise CheckpointError(
            f"an empty tensor of {tensor.shape}, a DeepSpeed ZeRO-3 placeholder",
            where,
            "the gathered weights",
            "Save inside deepspeed.zero.GatheredParameters, or run zero_to_fp32.py first.",
        )
    if tensor.dtype == torch.uint8 and len(tensor.shape) == 2 and tensor.shape[1] == 1:
        raise CheckpointError(
            f"a tensor of {tensor.shape} and torch.uint8, weights packed in 4 bits",
            where,
            "floating-point weights",
            "Load the model without 4-bit quantisation and save it again.",
        )


def _refuse_turned(where: str, weight: tuple[int, ...], bias: tuple[int, ...]) -> None:
    """Refuse a linear layer's weight that its bias shows to be transposed or flattened."""
    if len(bias) != 1:
        return
    [n] = bias
    if len(weight) == 2 and weight[0] != n and weight[1] == n:
        expected, hint = (n, weight[0]), "It looks transposed."
    elif len(weight) == 1 and weight[0] != n and weight[0] % n == 0:
        expected, hint = (n, weight[0] // n), "It looks flattened."
    else:
        return
    hint += " Save it as upstream does."
    raise CheckpointError(f"a tensor of {weight} beside a bias of {n}", where, str(expected), hint)


def _nothing_known(weights: Weights) -> CheckpointError:
    model_type = weights.config.get("model_type")
    likely = [
        key
        for key in weights.keys
        if any(word in key for word in ("projector", "merger", "connector", "mlp1", "aligner"))
    ]
    some = ", ".join(map(quote, likely[:4])) or ", ".join(map(quote, weights.keys[:4]))
    which = f" of model type {quote(model_type)}" if model_type else ""
    hint = "Build one with build_projector and load its state dict yourself."
    if weights.pickled_files and not weights.pickled:
        hint = f"Is it in {weights.pickled_files[0]}, a pickle? "
        hint += convert_pickle(weights.path / weights.pickled_files[0])
    return CheckpointError(
        f"no projector that is known{which}, among {len(weights.keys)} tensors such as {some}",
        str(weights.path),
        hint=hint,
    )
