"""Trying whether a family's entry reads what stands at a root."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Grid
from ..projectors.index import aliases
from ..projectors.lookup import instantiate, to_stack
from ..projectors.projector import Projector
from ..projectors.tokens import with_tokens
from ..projectors.upstream import Checkpoint, Match, Upstream
from ..registry import MobileVLMError, describe_error, quote
from .connectors import connectors, does_half, halves_beside
from .errors import CheckpointError, SourceError, listed
from .known import Known, check_fit, refuse_packed, refuse_turned
from .mapping import parts
from .recognise import Candidate, Config, recognise, recognise_beside
from .request import Request, load_call
from .weights import Weights

__all__ = ["attempt", "attempt_all"]


def attempt_all(
    weights: Weights, config: Config, fits: Sequence[Candidate], request: Request
) -> tuple[list[Known], list[CheckpointError]]:
    """Return the projectors of those that really fit, and the errors of the others."""
    done: list[Known] = []
    failures: list[CheckpointError] = []
    for fit in fits:
        try:
            known = attempt(weights, config, fit, request)
        except SourceError:
            raise
        except CheckpointError as error:
            failures.append(error)
            continue
        # Entries of one family that differ only in the models that they name say the same.
        says = (known.family, known.projector.spec)
        same = (
            known.root == other.root
            and (request.family or says == (other.family, other.projector.spec))
            for other in done
        )
        if not any(same):
            done.append(known)
    return done, failures


def attempt(weights: Weights, config: Config, fit: Candidate, request: Request) -> Known:
    """Return the projector of an entry at a root, or say why it is not there.

    Raises:
        CheckpointError: It is not.
    """
    try:
        known = _read(weights, config, fit, request)
    except SourceError:
        raise
    except CheckpointError as error:
        doubt = "" if isinstance(error.__cause__, SpecError) else _doubt(request)
        if not error.hint and doubt:
            error.hint = doubt
        elif not error.hint and "config.json: " in error.where:
            error.hint = _by_document(weights, fit)
        raise
    except Exception as error:
        if not fit.family.plugin:
            raise
        raise CheckpointError(
            f"{fit.family.name} cannot read it: {describe_error(error)}",
            weights.where,
            hint=f"The fault is in the plugin of {fit.family.name}: tell its authors.",
        ) from error
    said = bool(request.family) or request.root is not None or fit.is_of(config)
    halves = _other_halves(weights, config, known, anywhere=said)
    if fit.entry.secondary or not halves:
        return known
    places = listed([quote(half, 200) for half in halves])
    if said:
        note = f"{places} beside it may be another part of the projector, and is not read"
        return known._replace(notes=(*known.notes, note))
    root = quote(known.root, 200)
    raise CheckpointError(
        f"half a projector: {places} beside {root} must be the other half",
        weights.where,
        "one module that is all of it",
        f"If it is not, say so: {load_call(weights, family=quote(known.family))}.",
    )


def _read(weights: Weights, config: Config, fit: Candidate, request: Request) -> Known:
    family, entry, root = fit.family.name, fit.entry, fit.root
    stored = {
        key.removeprefix(root): weights.stored(key)
        for key in weights.under(root)
        if key.startswith(entry.prefixes, len(root))
    }
    where = weights.where
    for key, tensor in stored.items():
        refuse_packed(f"{where}[{quote(root + key)}]", tensor)
    for key, tensor in stored.items():  # divides by the bias, so it must not be empty
        bias = stored.get(key.removesuffix("weight") + "bias")
        if bias is not None:
            refuse_turned(f"{where}[{quote(root + key)}]", tensor.shape, bias.shape)
    if request.family and entry.model_types and not fit.is_of(config):
        config = {**config, "model_type": entry.model_types[0]}
    shapes = {key: tensor.shape for key, tensor in stored.items()}
    given = {**fit.family.options, **request.options}
    ckpt = Checkpoint(config, shapes, root, family, bool(request.family), given)
    try:
        if request.tokens is not None:
            given = _with_tokens(request.tokens, ckpt, entry, request.grid)
            ckpt = replace(ckpt, given=given)
        match = _match(entry, ckpt)
        name, options = match.preset or family, dict(match.options)
        if request.family:
            # What a name of the family stands for may be overridden, so it is no part of the name.
            alias_of, meant = aliases().get(match.preset, ("", {}))
            name = alias_of or name
            options = {**({} if fit.family.alias else meant), **options, **given}
        shown = fit.family.alias or match.preset or family
        grid = None if match.grid is None else request.grid or match.grid
        stack = request.applied(to_stack(name, match.in_, match.out, options))
        projector = Projector(stack, grid=grid, device="meta", name=shown)
    except MobileVLMError as error:
        # A reader does not know whose config and tensors it reads, and a preset knows less.
        place = f"{where}: {error.where}" if error.where else where
        raise CheckpointError(error.found, place, error.expected, error.hint) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"cannot be read as {entry.layout}: {quote(str(error), 200)}",
            f"{where}: config.json" if weights.config else where,
            hint=_doubt(request) or "Compare config.json with the model it is of.",
        ) from error
    try:
        pairs = [(part.theirs, part) for part in parts(projector, entry.names)]
    except CheckpointError as error:
        hint = _doubt(request) or error.hint
        raise CheckpointError(error.found, where, error.expected, hint) from error
    check_fit(pairs, stored, shown, weights, root, _doubt(request))
    keys = [(root + key, part) for key, part in pairs]
    layout, notes = fit.family.layout(entry), tuple(ckpt.notes)
    return Known(shown, projector, keys, root, layout, notes)


def _match(entry: Upstream, ckpt: Checkpoint) -> Match:
    # `recognise` returns no entry without a reader.
    return cast("Callable[[Checkpoint], Match]", entry.read)(ckpt)


def _with_tokens(
    tokens: int, ckpt: Checkpoint, entry: Upstream, grid: Grid | None
) -> dict[str, Any]:
    """Return the options that are given, and the one that makes so many tokens.

    Others that count, such as end tokens, are as the checkpoint has them.
    """
    given, preset = ckpt.given, instantiate(ckpt.family, {})
    ways = type(preset).tokens_by
    defaults = {name: getattr(preset, name) for name in ways}  # what a reader may wait for
    ckpt = replace(ckpt, given={**defaults, **ckpt.given})
    found = _match(entry, ckpt).options
    others = {name: value for name, value in found.items() if name not in ways}
    return with_tokens(ckpt.family, {**others, **given}, tokens, grid)


def _doubt(request: Request) -> str:
    """Ask whether the caller's options are right; empty where there are none."""
    options = dict(request.options)
    if request.tokens is not None:
        options["tokens"] = request.tokens
    given = ", ".join(f"{name}={quote(value)}" for name, value in options.items())
    return given and f"Does {given} contradict the tensors? Without it, they say what they can."


def _by_document(weights: Weights, fit: Candidate) -> str:
    """Say how to load what a preset has no option for."""
    # Below a root that is given nothing may be left over; some entries take a part of it only.
    root = quote(fit.root, 200) if fit.root and fit.entry.prefixes == ("",) else None
    call = load_call(
        weights, root=root, spec="document", module_names=quote(fit.family.layout(fit.entry))
    )
    return f"Describe the projector as a document, with a block of your own if need be: {call}."


def _other_halves(weights: Weights, config: Config, known: Known, *, anywhere: bool) -> list[str]:
    """Return the modules beside a projector, or anywhere, that seem to do half of its work."""
    used = set(known.used)
    halves = halves_beside(known.root, weights.keys, used)
    if anywhere:
        places = connectors(weights.keys, used)
        halves += [each for each in places if does_half(each.split(".")[-2]) and each not in halves]
    if not halves:
        return []
    fits = [*recognise(config, weights.keys), *recognise_beside(config, weights.keys)]
    # What is a projector by itself is none's half.
    roots = [fit.root for fit in fits if fit.root != known.root]
    return [half for half in halves if not any(root.startswith(half) for root in roots)]
