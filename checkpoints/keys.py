"""Finding a projector under the names of wrappers, and saying what else hides it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import TypeAlias

from ..projectors.unwrap import is_stale, without_wrappers
from ..registry import quote
from .errors import CheckpointError
from .hidden import hidden_layers
from .known import Known
from .recognise import inner_config, recognise
from .request import Request
from .weights import Weights

__all__ = ["seen_through"]

_MAX_FITS = 256  # places of projectors that are looked at; a model has a handful


_Find: TypeAlias = Callable[[Weights, Request], Known]


def seen_through(find: _Find) -> _Find:
    """Let a function that finds a projector in weights look below wrappers' names too.

    It is called with the keys as they are first, so that a module that is really called
    ``module`` is found. Then the names of wrappers are taken out of all keys, and the weights keep
    the keys with which a projector is found. A layer that is quantised, or has an adapter that is
    not merged, is refused as such.
    """

    @wraps(find)
    def found(weights: Weights, request: Request) -> Known:
        try:
            return find(weights, request)
        except CheckpointError as error:
            first = error
        inner = copy.copy(weights)
        names, clashes = _without_wrappers(weights)
        inner.rename(names)
        if request.root:
            request = replace(request, root=without_wrappers(request.root))
        _refuse_hidden(inner, request.root)
        if names.keys() == set(weights.keys):
            raise first
        try:
            known = find(inner, request)
        except CheckpointError as error:
            if recognise(inner_config(weights.config), weights.keys):
                raise first from None
            raise error from None
        for key, _ in known.pairs:
            if key in clashes:
                one, other = (quote(each, 200) for each in clashes[key])
                raise CheckpointError(
                    f"{one} and {other}, of which either may be {quote(key, 200)}",
                    str(weights.path),
                    "one of them",
                    "Save the one that is meant in a file of its own.",
                )
        weights.rename(names)
        return known

    return found


def _without_wrappers(weights: Weights) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Return the present keys by the keys without wrappers' names, and those of which two give one.

    The copy that PEFT keeps of a module as it was is left out.
    """
    names: dict[str, str] = {}
    clashes: dict[str, tuple[str, str]] = {}
    for key in weights.keys:
        if not is_stale(key):
            name = without_wrappers(key)
            if names.setdefault(name, key) != key:
                clashes[name] = (names[name], key)
    return names, clashes


def _refuse_hidden(weights: Weights, root: str | None) -> None:
    """Refuse a layer that is quantised or has an adapter, where a projector would be without it."""
    plain, hidden = hidden_layers(weights.keys)
    if not hidden:
        return
    fits = recognise(inner_config(weights.config), plain)
    starts = tuple(fit.root + start for fit in fits[:_MAX_FITS] for start in fit.entry.prefixes)
    for layer, (key, found, hint) in hidden.items():
        if layer.startswith(root or starts):
            where = f"{weights.path}[{quote(weights.key_in_file(key), 200)}]"
            raise CheckpointError(found, where, "plain floating-point weights", hint)
