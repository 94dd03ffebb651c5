"""Our own cache: the projectors that were read off a hub by ranges, each as a folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..blocks import BLOCKS
from ..projectors import PROJECTORS
from ..projectors.files import open_regular, replace_file
from ..projectors.projector import Projector
from ..registry import RegistryError
from ..registry.requirements import OWN, own_version
from .errors import CheckpointError
from .formats.index import JSON
from .known import Known
from .names import WEIGHTS
from .request import Request
from .save import save_projector

__all__ = ["AGAIN", "Origin", "cache_folder", "commit_of", "folder_of", "keep", "origin_of"]

VARIABLE = "MOBILEVLM_CACHE"
AGAIN = f"Remove its folder, and it is read again; or name another cache, {VARIABLE}=FOLDER."
# Written last: a folder that has it is complete.
_ORIGIN = "origin.json"


def cache_folder() -> Path:
    """Return our cache: ``MOBILEVLM_CACHE``, or ``mobilevlm`` in the user's cache folder."""
    own = os.environ.get(VARIABLE)
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / OWN


@dataclass(frozen=True)
class Origin:
    """Where a projector that is kept comes from, and what a document does not say.

    Attributes:
        uri: The model, at its commit.
        family: What it was recognised as.
        root: What stands before its keys there.
        grid: Its default grid.
        notes: What the caller should know.
    """

    uri: str
    family: str
    root: str
    grid: tuple[int, int] | None
    notes: tuple[str, ...]


def folder_of(repo: str, commit: str, path: str, request: Request) -> Path:
    """Return the folder of a projector, whether it is there or not.

    It is another one for another root, family or other word of the request, and for another
    version of what recognises projectors: this library, and the plugins that are in use.
    """
    plugins = [
        str(entry)
        for registry in (BLOCKS, PROJECTORS)
        for entry in registry.entries()
        if entry.source != "built-in"
    ]
    try:
        own = own_version()
    except PackageNotFoundError:  # a clone that is not installed
        own = ""
    asked = {**vars(request), "spec": request.spec and request.spec.model_dump(mode="json")}
    text = json.dumps([path, asked, own, plugins], sort_keys=True, default=repr)
    return _model(repo) / commit / hashlib.sha256(text.encode()).hexdigest()[:32]


def origin_of(folder: Path) -> Origin | None:
    """Return where the projector of a folder comes from; None if the folder is not complete."""
    # os.path returns False where Path raises, as for the folder of another user.
    if not os.path.isfile(folder / _ORIGIN) or not os.path.isfile(folder / WEIGHTS):
        return None
    try:
        found: Mapping[str, Any] = JSON.read(folder / _ORIGIN)
        grid = found["grid"] and (int(found["grid"][0]), int(found["grid"][1]))
        notes = tuple(map(str, found["notes"]))
        return Origin(str(found["uri"]), str(found["family"]), str(found["root"]), grid, notes)
    except CheckpointError as error:
        error.hint = AGAIN
        raise
    except (LookupError, TypeError, ValueError):
        raise CheckpointError("damaged", str(folder / _ORIGIN), hint=AGAIN) from None


def keep(projector: Projector, folder: Path, uri: str, known: Known, revision: str) -> None:
    """Keep a projector, and what is needed to find it offline; or warn that it cannot be kept."""
    origin = Origin(uri, known.family, known.root, known.projector.grid, known.notes)
    refs = folder.parents[1] / "refs"
    try:
        save_projector(projector, folder, replace=True)  # what is there is not complete
        replace_file(folder / _ORIGIN, json.dumps(vars(origin)).encode())
        if folder.parent.name != revision:
            refs.mkdir(exist_ok=True)
            replace_file(refs / quote(revision, safe=""), folder.parent.name.encode())
    except (OSError, CheckpointError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.found
        advice = f"name a folder that can be written, {VARIABLE}=FOLDER"
        warnings.warn(f"{folder}: the projector cannot be kept: {reason}; {advice}.", stacklevel=4)
    except RegistryError as error:  # of a block that no document can name
        warnings.warn(f"{uri}: the projector cannot be kept: {error}", stacklevel=4)


def commit_of(repo: str, revision: str) -> str:
    """Return the commit that a branch or a tag was when a projector of it was kept last."""
    with (
        suppress(OSError, UnicodeDecodeError),
        open_regular(_model(repo) / "refs" / quote(revision, safe="")) as file,
    ):
        commit = file.read(100).decode("ascii")
        return commit if re.fullmatch("[0-9a-f]{40}", commit) else ""
    return ""


def _model(repo: str) -> Path:
    return cache_folder() / "hub" / f"models--{repo.replace('/', '--')}"
