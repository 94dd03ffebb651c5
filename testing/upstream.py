"""Checking a preset's upstream entries: what they write is recognised, and read back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from ..checkpoints.known import Known
from ..checkpoints.load import read_projector, recognise_projector
from ..checkpoints.mapping import to_upstream
from ..checkpoints.request import Request
from ..checkpoints.weights import Weights
from ..projectors import PROJECTORS
from ..projectors.errors import CheckpointError
from ..projectors.preset import Preset
from ..projectors.projector import Projector
from ..projectors.upstream import Upstream
from ..registry import MobileVLMError, RegistryError
from .projector import ProjectorSubject
from .report import Finding, attempt

__all__ = ["upstream"]

_CONFIG = (
    "What the tensors do not say, read takes from the config: give what that says, as "
    "check_projector(..., config={...})."
)


def upstream(subject: ProjectorSubject) -> None:
    """What an upstream entry writes is recognised, loads, and gives the same spec and tensors."""
    preset = subject.spec
    entries = type(preset).upstream if isinstance(preset, Preset) else ()
    findings: list[Finding] = []
    for entry in entries:
        if entry.read is not None:
            try:
                with _registered(type(preset)) as name:
                    _check(subject, entry, name, f"its upstream entry {entry.layout!r}")
            except Finding as finding:
                findings.append(finding)
            else:
                return  # the others may be for other options
    if findings:
        raise findings[0]


def _check(subject: ProjectorSubject, entry: Upstream, name: str, where: str) -> None:
    """Save what an entry names as its models do, and compare what is read."""
    module: Any = subject.variants[0].module()
    try:
        with attempt("its names", where, passing=CheckpointError):
            state = to_upstream(module, entry.names)
    except CheckpointError as error:
        expected = "the name of each module that holds parameters"
        raise Finding(str(error), where, expected) from error
    root = _root(entry, where)
    types = {"model_type": entry.model_types[0]} if entry.model_types else {}
    with TemporaryDirectory() as folder:
        stored = {root + key: tensor.detach().contiguous() for key, tensor in state.items()}
        save_file(stored, Path(folder) / "model.safetensors")
        (Path(folder) / "config.json").write_text(json.dumps({**types, **subject.config}))
        with attempt("reading what it writes", where, hint=_CONFIG):
            weights = Weights(folder)
            # A reader need not know of prefix tokens; the main projector is found without a root.
            request = Request(
                root=root if entry.secondary else None,
                fields={"prefix_tokens": module.spec.prefix_tokens},
            )
            try:
                known = recognise_projector(weights, request)
            except MobileVLMError as error:
                text = str(error).replace(folder, "the folder")
                raise Finding(f"it is not read back: {text}", where, hint=_CONFIG) from error
            loaded = read_projector(weights, known)
    _compare(module, loaded, known, name, where)


def _compare(module: Any, loaded: Projector, known: Known, name: str, where: str) -> None:
    if _class_of(known.family) is not _class_of(name):
        hint = "Name model_types that are yours, or tensors that others do not have."
        raise Finding(f"{known.family!r} recognises it", where, repr(name), hint)
    if loaded.spec != module.spec:
        found = f"what is read back is {loaded.spec!r}"
        raise Finding(found, where, repr(module.spec), _CONFIG)
    own = module.state_dict()
    wrong = [key for key, each in loaded.state_dict().items() if not torch.equal(each, own[key])]
    if wrong:
        hint = "Look at the order of names: that of the modules, as they are used."
        raise Finding(f"{wrong[0]!r} is another tensor when it is read back", where, hint=hint)


def _class_of(name: str) -> type[Preset]:
    thing = PROJECTORS.get(name)
    return thing if isinstance(thing, type) else type(thing)


def _root(entry: Upstream, where: str) -> str:
    """Return what stands before the keys in one of an entry's models."""
    if not entry.prefix:
        return ""
    text = re.sub(r"\(\?:([^()|]*)[^()]*\)", r"\1", entry.prefix).partition("|")[0]
    text = text.replace(r"\d+", "0").replace(r"\.", ".")
    if not re.fullmatch(entry.prefix, text):
        hint = r"Write plain names, with | between them; \. and \d+ may stand in them."
        raise Finding(f"no name is known that fits its prefix {entry.prefix!r}", where, hint=hint)
    return f"model.{text}."


@contextmanager
def _registered(preset: type[Preset]) -> Iterator[str]:
    """Register a class temporarily, unless it is registered, and yield its name."""
    try:
        name = PROJECTORS.name_of(preset)
    except RegistryError:
        PROJECTORS.register("under-test", preset)
        try:
            yield "under-test"
        finally:
            PROJECTORS.unregister("under-test")
    else:
        yield name
