"""Reading a projector out of a checkpoint, or saying exactly what is in the way."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..projectors.device import check_device, check_dtype
from ..projectors.projector import Projector
from ..registry import describe_error, quote
from .advice import family_hint, not_asked, nothing_known
from .attempt import attempt_all
from .errors import CheckpointError, listed
from .families import find_family, plugin_families
from .hub import NotHere, find, is_hub, not_here, refuse_pickles
from .hub_weights import HubWeights
from .kept import AGAIN, Origin, folder_of, keep, origin_of
from .known import Known
from .mapping import Part
from .own_keys import by_document, by_document_of, by_spec
from .recognise import (
    Candidate,
    Config,
    inner_config,
    is_known,
    recognise,
    recognise_as,
    recognise_beside,
    recognise_plugin,
)
from .request import ModuleNames, Request, Spec, load_call
from .source import Source, remember
from .weights import ProgressCallback, Weights
from .wrapped_keys import seen_through

__all__ = [
    "load_projector",
    "open_projector",
    "other_roots",
    "read_projector",
    "recognise_projector",
]

_ALONE = "only what load_projector kept is here, so the model's other tensors are not counted"
MAX_ROOTS = 64  # places where projectors may be; a model has a handful


def load_projector(
    path: str | os.PathLike[str],
    *,
    root: str | None = None,
    family: str | None = None,
    spec: Spec | None = None,
    module_names: ModuleNames | None = None,
    grid: Sequence[int] | None = None,
    prefix_tokens: int | None = None,
    token_order: str | None = None,
    tokens: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    check_values: bool = False,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> Projector:
    """Load a projector from a file, a model's folder or a hub, all of it or not at all.

    What the tensors leave open, such as the activation, is read from the ``config.json`` of the
    folder, or beside the file. What it says and the tensors override is a warning.

    For example::

        load_projector("keye-vl", family="paddleocr-vl")  # a model type that is not known
        load_projector("model", root="connector", spec=document, module_names=["fc1", "fc2"])
        load_projector("hf://llava-hf/llava-1.5-7b-hf")  # of which only the projector is fetched

    Args:
        path: A safetensors file, a folder of `save_projector`, or a model's folder; of a whole
            model only the projector's tensors are read. ``hf://ORG/MODEL@REVISION/FOLDER`` is a
            model on a hub, of which only the projector is fetched, and then kept: see
            `docs/hub.md`.
        root: What stands before the keys of the projector that is meant, such as
            ``model.visual.deepstack_merger_list.0``, where a checkpoint holds several; the
            default is the model's main one. `inspect_checkpoint` lists the others.
        family: The registered name of the family that it is of, where the config names a model
            that is not known, or none.
        spec: A document or a `Stack`, where the checkpoint has none and no family describes it.
        module_names: The checkpoint's names of the modules that `spec` describes and that hold
            parameters, in order of use, as `to_upstream` takes them; or the name of a layout. The
            default is the document's own keys.
        grid: The default token grid (h, w) of `forward` and `plan`. It is not saved.
        prefix_tokens: How many leading tokens (CLS, registers) to drop on entry. It becomes part
            of the specification, as does the next.
        token_order: The order of the input tokens, as in a document.
        tokens: How many tokens are to come out, in place of the option of the `family` that
            decides it; see `build_projector`.
        device: Where to put it; default: the CPU.
        dtype: The parameters' dtype or its name, ``"bf16"``; default: that of the checkpoint.
        check_values: Look for NaN and infinities.
        progress: Called with the number of bytes that are read, and of all that will be.
        **options: Options of the `family`, in place of what the config says.

    Raises:
        CheckpointError: It cannot be read, holds no projector that is known, or does not fit;
            or the dtype makes an infinity of a weight; or a hub cannot be reached, or refuses.
        GridError: The grid does not fit.
        RegistryError: There is no such family, or its plugin is broken.
        SpecError: The dtype is not a floating one, the device is not there, or the document or an
            option does not fit.
    """
    request = Request.of(
        root=root,
        family=family,
        spec=spec,
        module_names=module_names,
        grid=grid,
        prefix_tokens=prefix_tokens,
        token_order=token_order,
        tokens=tokens,
        options=options,
    )
    weights, known = open_projector(path, request, keeps=True, progress=progress)
    for note in known.notes:
        warnings.warn(f"{weights.where}: {note}.", stacklevel=2)
    return read_projector(
        weights,
        known,
        grid=grid,
        device=device,
        dtype=dtype,
        check_values=check_values,
        progress=progress,
    )


def open_projector(
    path: str | os.PathLike[str],
    request: Request,
    *,
    keeps: bool = False,
    pickled: bool = False,
    progress: ProgressCallback | None = None,
) -> tuple[Weights, Known]:
    """Open a checkpoint, on this machine or on a hub, and work out what it is.

    Args:
        path: What `load_projector` takes.
        request: Which projector is meant.
        keeps: Whether a hub's projector is read now and kept, if it is not on this machine.
        pickled: Whether the weights are pickled.
        progress: Called with the bytes that are read now, and all that will be.

    Raises:
        CheckpointError: They hold no projector that is known, or several; or the hub refuses.
        GridError: The grid does not fit.
        RegistryError: There is no such family, or its plugin is broken.
    """
    if not is_hub(path):
        weights = Weights(path, pickled=pickled)
        return weights, recognise_projector(weights, request)
    if pickled:
        raise refuse_pickles(path)
    for place in find(path, keeps=keeps):
        folder = folder_of(place.repo, place.commit, place.path, request)
        origin = origin_of(folder)
        if origin is not None and keeps:
            return _kept(folder, origin, request)
        try:
            weights = HubWeights(place)
            known = recognise_projector(weights, request)
            if not keeps or weights.are_here(known.used):
                return weights, known
        except NotHere:  # in part, or not at all
            if origin is None:
                continue
            weights, known = _kept(folder, origin, request)
            return weights, known._replace(notes=(*known.notes, _ALONE))
        # What is read once is in memory, and not asked for again.
        projector = read_projector(weights, known, progress=progress)
        keep(projector, folder, weights.where, known, place.revision)
        return weights, known
    raise not_here(path)


def _kept(folder: Path, origin: Origin, request: Request) -> tuple[Weights, Known]:
    """Open a projector that is kept, under the name of the model that it was read off."""
    try:
        weights = Weights(folder)
    except CheckpointError as error:
        error.hint = AGAIN
        raise
    known = recognise_projector(weights, Request(grid=request.grid or origin.grid))
    weights.where = origin.uri
    return weights, known._replace(notes=origin.notes)


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
        projector = Projector(
            projector.spec, grid=grid, device="meta", dtype=dtype, name=projector.name
        )
    wanted: dict[str, list[Part]] = {}
    for key, part in pairs:
        wanted.setdefault(key, []).append(part)
    state: dict[str, Tensor] = {}
    # One by one, so that no more than a tensor is held twice.
    for key, tensor in weights.read(wanted, progress):
        where = f"{weights.where}[{quote(key)}]"
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
            projector.spec,
            grid=projector.grid,
            device=device or "cpu",
            dtype=dtype,
            name=projector.name,
        )
        projector.load_state_dict(state, strict=True, assign=True)
    remember(projector, Source.of(weights, known))
    return projector


@seen_through
def recognise_projector(weights: Weights, request: Request) -> Known:
    """Work out what the weights are; reads no values.

    Raises:
        CheckpointError: They hold no projector that is known, or several.
        GridError: The grid does not fit.
        RegistryError: There is no such family, or its plugin is broken.
    """
    if request.spec is not None:
        return by_spec(weights, request.spec, request)
    known = None if request.family else by_document(weights, request)
    if known is not None:
        return known
    config = inner_config(weights.config)
    if request.family:
        family = find_family(request.family)
        fits = recognise_as(family, config, weights.keys, request.root)
    else:
        fits = _built_in(weights, config, request)
    done, failures = attempt_all(weights, config, _meant(fits, request, weights, config), request)
    broken: dict[str, str] = {}
    # A model that ours know, and whose tensors do not fit, is nobody else's.
    if not done and not request.family and not any(fit.is_of(config) for fit in fits):
        theirs, broken = _of_plugins(weights, config)
        fits += theirs
        done, failed = attempt_all(
            weights, config, _meant(theirs, request, weights, config), request
        )
        failures = [*failed, *failures]
    if len(done) > 1:
        raise _several(done, weights)
    if done:
        return done[0]
    own = by_document_of(weights, request) if request.family else None
    if own is not None:
        return own
    if failures:
        first = failures[0]
        first.found += not_asked(broken)
        own_hint = first.hint
        if not request.family:
            first.hint = lambda: family_hint(weights, config, request) or own_hint
        raise first
    if request.family and request.root is not None:
        fits = recognise_as(family, config, weights.keys)
    if fits and request.root is not None:
        raise _nothing_there(fits, request, weights)
    raise nothing_known(weights, config, broken, request)


def _built_in(weights: Weights, config: Config, request: Request) -> list[Candidate]:
    """Return the built-in entries that fit; if one beside a known projector is meant, it too."""
    fits = recognise(config, weights.keys)
    there = any(fit.root == request.root for fit in fits)
    beside = fits and request.root is not None and not there
    return [*fits, *(recognise_beside(config, weights.keys) if beside else ())]


def _of_plugins(weights: Weights, config: Config) -> tuple[list[Candidate], dict[str, str]]:
    """Ask every family that is not built in; return the entries that fit, and who is broken."""
    families, broken = plugin_families()
    fits: list[Candidate] = []
    for family in families:
        try:
            fits += recognise_plugin(family, config, weights.keys)
        except Exception as error:  # its entry may hold anything, such as no pattern
            broken[family.name] = describe_error(error)
    return fits, broken


def _meant(
    fits: list[Candidate], request: Request, weights: Weights, config: Config
) -> list[Candidate]:
    """Return the candidates at the root that is given; or the main ones.

    If none is main, others are meant; but of a model that is not known, the main one is not known.
    """
    fits = _few(fits, weights)
    if request.root is not None:
        return [fit for fit in fits if fit.root == request.root]
    main = [fit for fit in fits if not fit.entry.secondary]
    alone = "model_type" not in config or is_known(config) or any(fit.is_of(config) for fit in fits)
    return main or (fits if alone or request.family else [])


def _few(fits: list[Candidate], weights: Weights) -> list[Candidate]:
    """Return the candidates, unless there are too many to look into."""
    roots = list(dict.fromkeys(fit.root for fit in fits))
    if len(roots) > MAX_ROOTS:
        raise CheckpointError(
            f"{len(roots):,} projectors, under {listed([quote(root, 200) for root in roots])}",
            weights.where,
            f"at most {MAX_ROOTS}",
            "Save the one that is meant in a file of its own.",
        )
    return fits


def _several(done: list[Known], weights: Weights) -> CheckpointError:
    """Return the error that several projectors fit: in several places, or of several families."""
    names = [f"{known.family} under {quote(known.root, 200)}" for known in done]
    root = f"root={quote(done[0].root, 200)}"
    if len({known.root for known in done}) == 1:
        root = f"family={quote(done[0].family)}"
    return CheckpointError(
        f"more than one projector fits: {listed(names)}",
        weights.where,
        hint=f"Say which one, as {root}.",
    )


def _nothing_there(fits: list[Candidate], request: Request, weights: Weights) -> CheckpointError:
    """Return the error that there are projectors, but none that is known at the root given."""
    roots = sorted({fit.root for fit in fits})
    hint = ""
    if request.root and weights.under(request.root):
        root = quote(request.root, 200)
        call = load_call(weights, root=root, spec="document", module_names="[...]")
        hint = f"Or describe it as a document, and name its modules in order of use: {call}."
    return CheckpointError(
        f"no projector at root={quote(request.root, 200)}",
        weights.where,
        f"one of {listed([quote(root, 200) for root in roots])}",
        hint,
    )


def other_roots(weights: Weights, known: Known) -> tuple[str, ...]:
    """Return the roots of the projectors that stand beside one, as `load_projector` takes them."""
    config = inner_config(weights.config)
    found: dict[str, None] = {}
    fits = recognise(config, weights.keys) + recognise_beside(config, weights.keys)
    for fit in _few(fits, weights):
        if fit.root != known.root and fit.root not in found:
            done, _ = attempt_all(weights, config, [fit], Request(root=fit.root))
            if done and not set(done[0].used) <= set(known.used):
                found[fit.root] = None
    return tuple(found)
