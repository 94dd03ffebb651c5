"""Reading a projector out of a checkpoint, or saying exactly what is in the way."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..blocks.core.errors import GridError
from ..blocks.core.feature import Grid, check_grid
from ..projectors.build import build_projector
from ..projectors.device import check_device, check_dtype
from ..projectors.document import parse_spec
from ..projectors.projector import Projector
from ..projectors.upstream import Checkpoint, Match
from ..registry import MobileVLMError, quote
from .errors import CheckpointError, convert_pickle
from .formats.tensor_file import TensorInfo
from .keys import seen_through
from .mapping import Part, parts
from .recognise import Candidate, Config, inner_config, recognise
from .save import DOCUMENT
from .state import check_keys, check_tensor
from .weights import ProgressCallback, Weights

__all__ = ["Known", "load_projector", "other_roots", "read_projector", "recognise_projector"]

MAX_ROOTS = 64  # places where projectors may be; a model has a handful
_SHOWN = 8  # of a list in a message


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
        where = f"{weights.path}[{quote(key)}]"
        if check_values and not torch.isfinite(tensor).all():
            raise CheckpointError(
                "NaN or infinite values",
                where,
                "finite weights",
                "Take an earlier checkpoint: a projector with these gives NaN.",
            )
        fits = tensor.to(dtype=dtype) if tensor.is_floating_point() else tensor
        # What was not finite before may stay so; it is looked for only where something is not.
        lossy = fits.dtype != tensor.dtype and not fits.isfinite().all()
        if lossy and not torch.equal(fits.isfinite(), tensor.isfinite()):
            found = f"values that {dtype} cannot hold"
            raise CheckpointError(found, where, hint="Take a wider dtype.")
        fits = fits.to(device=device)
        for part in wanted[key]:
            state[part.key] = part.read(fits)
    projector.load_state_dict(state, strict=True, assign=True)
    if any(buffer.is_meta for buffer in projector.buffers()):
        # Buffers that are not saved, such as a table of sines, need a module off the meta device.
        dtype = dtype or next((t.dtype for t in state.values() if t.is_floating_point()), None)
        projector = Projector(
            projector.spec, grid=projector.grid, device=device or "cpu", dtype=dtype
        )
        projector.load_state_dict(state, strict=True, assign=True)
    return projector


class Known(NamedTuple):
    """A recognised projector, on meta; upstream's keys with our parts; root and layout."""

    family: str
    projector: Projector
    pairs: list[tuple[str, Part]]
    root: str
    layout: str


@seen_through
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
            projector = Projector(parse_spec(document, "document"), grid=grid, device="meta")
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
        first.hint = _others(weights) or first.hint
        raise first
    return done[0]


def other_roots(weights: Weights, root: str) -> tuple[str, ...]:
    """Return the roots of the projectors that are not at this one."""
    config = inner_config(weights.config)
    fits = [fit for fit in _fitting(weights, config) if fit.root != root]
    return tuple(dict.fromkeys(done.root for done in _try_all(weights, config, fits, None)[0]))


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
    for key, tensor in stored.items():  # divides by the bias, so it must not be empty
        bias = stored.get(key.removesuffix("weight") + "bias")
        if bias is not None:
            _refuse_turned(f"{where}[{quote(root + key)}]", tensor.shape, bias.shape)
    try:
        shapes = {key: tensor.shape for key, tensor in stored.items()}
        # `recognise` returns no entry without a reader.
        match = cast("Callable[[Checkpoint], Match]", entry.read)(Checkpoint(config, shapes, root))
        family = match.preset or family
        grid = None if match.grid is None else grid or match.grid
        projector = build_projector(
            family, match.in_, match.out, grid=grid, device="meta", **match.options
        )
    except MobileVLMError as error:
        # A reader does not know whose config and tensors it reads, and a preset knows less.
        place = f"{where}: {error.where}" if error.where else where
        raise CheckpointError(error.found, place, error.expected, error.hint) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"cannot be read as {entry.layout}: {quote(str(error), 200)}",
            f"{where}: config.json" if weights.config else where,
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
        where = f"{weights.path}[{quote(root + key)}]"
        hint = "Its family or its widths do not match those of the other tensors."
        dtype_hint = "Load the model without quantisation and save it again."
        check_tensor(stored[key], part.stored, part.dtype, where, hint, dtype_hint)


def _refuse_packed(where: str, tensor: TensorInfo) -> None:
    """Refuse tensors that are not plain weights, and name the cause."""
    if tensor.fault:
        raise CheckpointError(
            f"a tensor of {tensor.shape}, {tensor.fault}",
            where,
            "a tensor of its own numbers",
            tensor.hint,
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
    if len(bias) != 1 or weight[:1] == bias:
        return
    [n] = bias
    flattened = len(weight) == 1 and weight[0] % n == 0
    if flattened or (len(weight) == 2 and weight[1] == n):
        found = f"a tensor of {weight} beside a bias of {n}"
        expected = str((n, math.prod(weight) // n))
        hint = "It looks transposed or flattened. Save it as upstream does."
        raise CheckpointError(found, where, expected, hint)


def _nothing_known(weights: Weights) -> CheckpointError:
    model_type = weights.config.get("model_type")
    words = ("projector", "merger", "connector", "mlp1", "aligner")
    likely = [key for key in weights.keys if any(word in key for word in words)]
    some = ", ".join(map(quote, (likely or weights.keys)[:4]))
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
