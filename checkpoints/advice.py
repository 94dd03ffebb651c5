"""What to try where no projector was recognised."""

from __future__ import annotations

from collections.abc import Mapping

from ..projectors.index import upstream_index
from ..registry import quote
from .attempt import attempt_all
from .connectors import connectors
from .errors import CheckpointError, convert_pickle, listed
from .families import find_family
from .own import missing_document
from .recognise import Config, is_known, recognise_as
from .request import Request, load_call
from .weights import Weights

__all__ = ["family_hint", "not_asked", "nothing_known"]


def not_asked(broken: Mapping[str, str]) -> str:
    """Name the plugins that could not be asked, each with the reason."""
    return "".join(f"; {name} cannot be asked ({why})" for name, why in broken.items())


def family_hint(weights: Weights, config: Config) -> str:
    """Name the families that the tensors fit, where the config names no model that is known.

    Each of them loads when it is asked for. A config of a known model is believed.
    """
    rows = upstream_index()
    models = {name: sum((each.model_types for each in row), ()) for name, row in rows.items()}
    if config.get("model_type") is None or is_known(config):
        return ""
    fitting: dict[str, str] = {}  # by family with its widths: the call
    for name in sorted(models, key=lambda name: -len(models[name])):
        request = Request(family=name)
        fits = recognise_as(find_family(name), config, weights.keys)
        done, _ = attempt_all(weights, config, fits, request)
        if done and not any(each.notes for each in done):
            root = quote(done[0].root, 200) if done[1:] else None
            spec = done[0].projector.spec
            call = load_call(weights.path, root=root, family=quote(name))
            fitting[f"{name} ({spec.in_} -> {spec.out})"] = call
    if not fitting:
        return ""
    which = "it" if len(fitting) == 1 else "the one that the model computes"
    call = next(iter(fitting.values()))
    return f"The tensors fit {listed(list(fitting))}; ask for {which}: {call}."


def nothing_known(weights: Weights, config: Config, broken: Mapping[str, str]) -> CheckpointError:
    """Return the error that nothing is recognised, which names what looks like a connector."""
    ours = missing_document(weights)
    if ours is not None:
        return ours
    model_type = config.get("model_type")
    which = f" of model type {quote(model_type)}" if model_type else ""
    likely = connectors(weights.keys)
    found = f"no projector that is known{which}, among {len(weights.keys)} tensors"
    if likely:
        names = [quote(root.rstrip("."), 200) for root in likely]
        found += f"; {listed(names)} look{'s' if len(likely) == 1 else ''} like one"
    else:
        found += ", none of which looks like a connector's"
    found += not_asked(broken)
    if weights.pickled_files and not weights.pickled:
        hint = f"Is it in {weights.pickled_files[0]}, a pickle? "
        hint += convert_pickle(weights.path / weights.pickled_files[0])
        return CheckpointError(found, str(weights.path), hint=hint)
    root = quote(next(iter(likely)), 200) if likely else None
    call = load_call(weights.path, root=root, spec="document", module_names="[...]")
    by_spec = f"Describe it as a document, and name its modules in order of use: {call}."
    return CheckpointError(
        found, str(weights.path), hint=lambda: family_hint(weights, config) or by_spec
    )
