"""Finding a projector under the names of wrappers, and saying what else hides it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from typing import TypeAlias

from ..projectors.unwrap import is_beside, without_wrappers
from ..registry import quote
from .connectors import connectors
from .errors import CheckpointError, SourceError
from .hidden import hidden_layers
from .known import Known
from .recognise import Candidate, inner_config, recognise
from .request import Request
from .weights import Weights

__all__ = ["seen_through"]

_MAX_FITS = 256  # places of projectors that are looked at; a model has a handful


_Find: TypeAlias = Callable[[Weights, Request], Known]


def seen_through(find: _Find) -> _Find:
    """Let a function that finds a projector in weights look below wrappers' names too.

    It is called with the keys as they are, and with wrappers' names taken out of all of them. What
    only the latter shows is the projector, and the weights get these keys; but a part that is
    really called ``module`` keeps its name. Where neither finds one, a layer that is quantised, or
    has an adapter that is not merged, is refused as such.
    """

    @wraps(find)
    def found(weights: Weights, request: Request) -> Known:
        inner, clashes = _without_wrappers(weights)
        bare = request
        if request.root:
            bare = replace(request, root=without_wrappers(request.root))
        as_it_is: Known | CheckpointError
        try:
            as_it_is = find(weights, request)
        except SourceError:
            raise
        except CheckpointError as error:
            _refuse_hidden(inner, bare.root)
            as_it_is = error
        if inner.keys == weights.keys or _is_part_of_names(as_it_is):
            return _result(as_it_is)
        try:
            known = find(inner, bare)
        except CheckpointError:
            if isinstance(as_it_is, CheckpointError) and _fits(weights, weights.keys):
                raise as_it_is from None
            raise
        keys = dict.fromkeys(key for key, _ in known.pairs)
        for key in filter(clashes.__contains__, keys):
            one, other = (quote(each, 200) for each in clashes[key])
            raise CheckpointError(
                f"{one} and {other}, of which either may be {quote(key, 200)}",
                weights.where,
                "one of them",
                "Save the one that is meant in a file of its own.",
            )
        in_file = set(map(inner.key_in_file, keys))
        if not isinstance(as_it_is, CheckpointError) and in_file == {k for k, _ in as_it_is.pairs}:
            return as_it_is
        weights.rename({key: inner.key_in_file(key) for key in inner.keys})
        return known

    return found


def _result(known: Known | CheckpointError) -> Known:
    if isinstance(known, CheckpointError):
        raise known
    return known


def _is_part_of_names(known: Known | CheckpointError) -> bool:
    """Return whether a projector has a part with a wrapper's name."""
    if isinstance(known, CheckpointError):
        return False
    own = (key.removeprefix(known.root) for key, _ in known.pairs)
    return any(without_wrappers(key) != key for key in own)


def _without_wrappers(weights: Weights) -> tuple[Weights, dict[str, tuple[str, str]]]:
    """Return the weights by keys without wrappers' names, and which two keys become one.

    What wrappers keep beside the module is left out.
    """
    names: dict[str, str] = {}
    clashes: dict[str, tuple[str, str]] = {}
    for key in weights.keys:
        if not is_beside(key):
            name = without_wrappers(key)
            if names.setdefault(name, key) != key:
                clashes[name] = (names[name], key)
    inner = copy.copy(weights)
    inner.rename(names)
    return inner, clashes


def _fits(weights: Weights, keys: Iterable[str]) -> list[Candidate]:
    return recognise(inner_config(weights.config), keys)


def _refuse_hidden(weights: Weights, root: str | None) -> None:
    """Refuse a layer that is quantised or has an adapter, where a projector would be without it.

    Where none would be, all that may be one has to be hidden, as in a file of an adapter alone.
    """
    plain, hidden = hidden_layers(weights.keys)
    if not hidden:
        return
    fits = _fits(weights, plain)[:_MAX_FITS]
    starts = tuple(fit.root + start for fit in fits for start in fit.entry.prefixes)
    layers: Iterable[str] = hidden
    if not fits:
        starts = tuple(connectors(plain))[:_MAX_FITS] or ("",)
        layers = [layer for layer in plain if layer.startswith(root or starts)]
        if not all(layer in hidden for layer in layers):
            return
    for layer in layers:
        if layer.startswith(root or starts):
            key, found, hint = hidden[layer]
            where = f"{weights.where}[{quote(weights.key_in_file(key), 200)}]"
            raise CheckpointError(found, where, "plain floating-point weights", hint)
