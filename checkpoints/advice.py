"""What to try where no projector was recognised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..projectors.index import upstream_index
from ..projectors.upstream import Upstream
from ..registry import quote
from .attempt import attempt_all
from .connectors import connectors
from .errors import CheckpointError, convert_pickle, listed
from .families import find_family
from .own_keys import missing_document
from .recognise import Config, entries_tried, is_known, recognise_as
from .request import Request, load_call
from .weights import Weights

__all__ = ["family_hint", "not_asked", "nothing_known"]


def not_asked(broken: Mapping[str, str]) -> str:
    """Name the plugins that could not be asked, each with the reason."""
    return "".join(f"; {name} cannot be asked ({why})" for name, why in broken.items())


def family_hint(weights: Weights, config: Config, meant: Request) -> str:
    """Name the families that the tensors fit, at the root that is given or where they find it.

    Each of them loads when it is asked for. A config of a known model, or none, is believed unless
    the caller has asked for a family, which is then another.
    """
    rows = upstream_index()
    models = {name: sum((each.model_types for each in row), ()) for name, row in rows.items()}
    if not meant.family and (config.get("model_type") is None or is_known(config)):
        return ""
    fitting: dict[str, str] = {}  # by family with its widths: the call
    for name in sorted(models, key=lambda name: -len(models[name])):
        request = Request(root=meant.root, family=name)
        fits = recognise_as(find_family(name), config, weights.keys, meant.root)
        done, _ = attempt_all(weights, config, fits, request)
        if done and not any(each.notes for each in done):
            one_of_many = done[1:] or meant.root is not None
            root = quote(done[0].root, 200) if one_of_many else None
            spec = done[0].projector.spec
            call = load_call(weights, root=root, family=quote(name))
            fitting[f"{name} ({spec.in_} -> {spec.out})"] = call
    if not fitting:
        return ""
    which = "it" if len(fitting) == 1 else "the one that the model computes"
    call = next(iter(fitting.values()))
    return f"The tensors fit {listed(list(fitting))}; ask for {which}: {call}."


def nothing_known(
    weights: Weights, config: Config, broken: Mapping[str, str], request: Request
) -> CheckpointError:
    """Return the error that nothing is recognised, or nothing of the family that is asked for.

    The former names what looks like a connector, the latter what the family's tensors are called.
    """
    ours = missing_document(weights)
    if ours is not None:
        return ours
    model_type = config.get("model_type")
    which = f" of model type {quote(model_type)}" if model_type else ""
    likely = connectors(weights.keys)
    found = f"no projector that is known{which}, among {len(weights.keys)} tensors"
    expected = ""
    if request.family:
        tried = entries_tried(find_family(request.family), config)
        found = f"no tensors of {request.family}'s, among {len(weights.keys)}"
        expected = f"keys that end in {listed(_first_missing(tried, weights.keys))}"
        if not tried:
            found, expected = f"{request.family} is not read from checkpoints", ""
    elif likely:
        names = [quote(root.rstrip("."), 200) for root in likely]
        found += f"; {listed(names)} look{'s' if len(likely) == 1 else ''} like one"
    else:
        found += ", none of which looks like a connector's"
    found += not_asked(broken)
    if weights.pickled_files and not weights.pickled:
        hint = f"Is it in {weights.pickled_files[0]}, a pickle? "
        hint += convert_pickle(weights.path / weights.pickled_files[0])
        return CheckpointError(found, weights.where, expected, hint)
    root = quote(next(iter(likely)), 200) if likely else None
    call = load_call(weights, root=root, spec="document", module_names="[...]")
    by_spec = f"Describe it as a document, and name its modules in order of use: {call}."
    return CheckpointError(
        found, weights.where, expected, lambda: family_hint(weights, config, request) or by_spec
    )


def _first_missing(entries: Sequence[Upstream], keys: Sequence[str]) -> list[str]:
    """Return, for each entry, the first of its tensors that stands at no root."""
    first: dict[str, None] = {}
    for entry in entries:
        missing = (
            tensor
            for tensor in entry.tensors
            if not any(f".{key}".endswith(f".{tensor}") for key in keys)
        )
        first[quote(next(missing, entry.tensors[0]), 200)] = None
    return list(first)
