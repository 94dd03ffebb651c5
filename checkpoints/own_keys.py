"""Weights that a document describes: those of our own keys, and those that a caller describes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ..blocks.core.errors import GridError, SpecError
from ..projectors.document import parse_spec
from ..projectors.lookup import instantiate
from ..projectors.projector import Projector
from ..projectors.stack import Stack
from ..registry import MobileVLMError, quote
from .errors import CheckpointError, listed
from .formats.exported import DOCUMENT
from .known import Known, check_fit, refuse_packed
from .mapping import Part, named_parts, parts
from .request import Request, load_call
from .roots import Roots
from .source import Source
from .weights import Weights

__all__ = ["by_document", "by_document_of", "by_spec", "is_document", "missing_document"]

_OWN_KEY = re.compile(r"(?<![^.])blocks\.\d+\.\w")


def is_document(config: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` is a document of ours, and so no model's."""
    return {"in", "out", "blocks"} <= config.keys() and "model_type" not in config


def by_document(weights: Weights, request: Request) -> Known | None:
    """Return the projector of the document that comes with the weights; None if there is none.

    It is in the file's metadata, as `save_projector` puts it there; or it is the ``config.json``
    beside the weights; or that file, a model's, has it under the key ``mobilevlm``. The metadata
    are of the whole file; elsewhere the projector's keys may stand at any root.

    Raises:
        CheckpointError: It does not fit, or the weights do not.
        GridError: The grid does not fit.
    """
    text = weights.metadata.get(DOCUMENT)
    if text is not None:
        if request.root:
            raise CheckpointError(
                f"root={request.root!r}",
                weights.where,
                "none",
                "The file is one projector, of save_projector.",
            )
        where = f"{weights.where}[__metadata__]"
        projector, pairs = _own(lambda: parse_spec(text, "document"), where, request)
        stored = {key: weights.stored(key) for key in weights.keys}
        check_fit(pairs, stored, "document", weights, "")
        return Known("document", projector, pairs, "", "")
    config = weights.config
    document = config if is_document(config) else config.get(DOCUMENT)
    if not isinstance(document, Mapping) or not any(map(_OWN_KEY.search, weights.keys)):
        return None
    where = f"{weights.where}: config.json" + ("" if document is config else f"[{DOCUMENT!r}]")
    projector, pairs = _own(lambda: Stack.parse(document), where, request)
    roots = _roots(weights, pairs)
    if not roots or (document is not config and request.root not in (None, *roots)):
        return None  # another projector is meant
    return _at_root(weights, projector, pairs, request, "")


def by_document_of(weights: Weights, request: Request) -> Known | None:
    """Return the projector of the document that is there, if it is of the family asked for.

    It is where the card says so, or where the family with the options that are given, or its
    defaults, expands to just these blocks. None if there is no document.

    Raises:
        CheckpointError: It is not; or as `by_document`.
        GridError: The grid does not fit.
    """
    known = by_document(weights, request)
    if known is None:
        return None
    spec, family, given = known.projector.spec, request.family, dict(request.options)
    if request.tokens is not None:
        given["tokens"] = request.tokens
    if not given and Source.of(weights, known).family == family:
        return known
    try:
        stack = instantiate(family, request.options).stack(spec.in_, spec.out)
        if request.tokens is None and stack.blocks == spec.blocks:
            return known
    except SpecError:  # an option, or a width that the family cannot have
        pass
    options = ", ".join(f"{name}={quote(value)}" for name, value in given.items())
    raise CheckpointError(
        f"it holds its own document, which is not {family} with {options or 'its defaults'}",
        weights.where,
        hint="The document says everything itself: leave out family="
        + (" and its options." if given else "."),
    )


def by_spec(weights: Weights, spec: Stack, request: Request) -> Known:
    """Return the projector that the caller describes, by its own keys or by names of modules.

    Raises:
        CheckpointError: The weights do not fit, or fit in several places.
        GridError: The grid does not fit.
    """
    projector = Projector(request.applied(spec), grid=request.grid, device="meta")
    pairs = _own_pairs(projector)
    if request.names is not None:
        pair = parts if request.layout else named_parts
        try:
            pairs = [(part.theirs, part) for part in pair(projector, request.names)]
        except CheckpointError as error:
            error.where = error.where or weights.where
            raise
    return _at_root(weights, projector, pairs, request, request.layout)


def _own(
    read: Callable[[], Stack], where: str, request: Request
) -> tuple[Projector, list[tuple[str, Part]]]:
    """Build the projector of a document on the meta device, and pair its keys with themselves."""
    try:
        stack = request.applied(read())
        projector = Projector(stack, grid=request.grid, device="meta")
    except MobileVLMError as error:
        if request.grid is not None and isinstance(error, GridError):
            raise
        place = f"{error.where}: " if error.where else ""
        raise CheckpointError(
            f"its document does not fit: {place}{error.found}",
            where,
            error.expected,
            error.hint or "Save it again with save_projector.",
        ) from error
    return projector, _own_pairs(projector)


def _own_pairs(projector: Projector) -> list[tuple[str, Part]]:
    pairs = []
    for key, tensor in projector.state_dict().items():
        dtype = None if tensor.is_floating_point() else tensor.dtype
        pairs.append((key, Part(key, tensor.shape, key, tensor.shape, dtype=dtype)))
    return pairs


def _roots(weights: Weights, pairs: list[tuple[str, Part]]) -> list[str]:
    """Return the roots at which all of the keys stand, or at least the first."""
    if not pairs:
        return [""]
    roots, keys = Roots(weights.keys), [key for key, _ in pairs]
    return roots.of_all(keys) or roots.of(keys[0])


def _at_root(
    weights: Weights,
    projector: Projector,
    pairs: list[tuple[str, Part]],
    request: Request,
    layout: str,
) -> Known:
    """Find where the keys stand, and refuse what does not fit there.

    Below a root that is given nothing may be left over; where it is found, nothing below the
    modules that are named.
    """
    roots = _roots(weights, pairs)
    if request.root is not None:
        roots = [request.root]
    if not roots:
        keys = f"{quote(pairs[0][0], 200)} and {len(pairs) - 1} more"
        raise CheckpointError(
            f"no tensors of the document's, at any root: {keys}",
            weights.where,
            hint="Name the modules that these tensors are of, in order of use: module_names=[...].",
        )
    if len(roots) > 1:
        raise CheckpointError(
            f"the document fits under {listed([quote(root, 200) for root in roots])}",
            weights.where,
            hint=f"Say which one, as root={quote(roots[0], 200)}.",
        )
    root = roots[0]
    own = request.names is None
    modules = {"blocks."} if own else {_module_of(key) for key, _ in pairs}
    tops = ("",) if request.root and not own else tuple(modules)
    wanted = {key for key, _ in pairs}
    stored = {}
    for whole in weights.under(root):
        key = whole.removeprefix(root)
        if key in wanted or key.startswith(tops):
            stored[key] = weights.stored(whole)
            refuse_packed(f"{weights.where}[{quote(whole)}]", stored[key])
    check_fit(pairs, stored, "document", weights, root)
    return Known("document", projector, [(root + key, part) for key, part in pairs], root, layout)


def _module_of(key: str) -> str:
    """Return the module of a tensor, with a dot; of one that stands alone, its key."""
    module, dot, _ = key.rpartition(".")
    return module + dot or key


def missing_document(weights: Weights) -> CheckpointError | None:
    """Return the error about keys of ours whose document is not there; None if there are none."""
    roots: dict[str, bool] = {}
    for key in weights.keys:
        match = _OWN_KEY.search(key)
        if match:
            roots.setdefault(key[: match.start()], True)
    # A tower has blocks too, and other modules beside them.
    ours = [
        root
        for root in roots
        if all(key.startswith(f"{root}blocks.") for key in weights.under(root))
        and any(re.fullmatch(r"blocks\.\d+\.\w+", key[len(root) :]) for key in weights.under(root))
    ]
    if not ours:
        return None
    under = f" under {listed([quote(root, 200) for root in ours])}" if any(ours) else ""
    root = quote(ours[0], 200) if ours[0] else None
    call = load_call(weights, root=root, spec="document")
    return CheckpointError(
        f"our own keys{under} without their document",
        weights.where,
        hint=f"Give it: {call}. Or write it into config.json beside them, under {DOCUMENT!r}.",
    )
