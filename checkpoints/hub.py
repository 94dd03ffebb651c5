"""A model on a hub: which commit is meant, what files it has, and where their bytes are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

from ..projectors.json_file import JsonReader
from ..registry import describe_error, first_line, quote
from ..registry.requirements import OWN
from .errors import CheckpointError, SourceError, listed
from .formats.http import ask, require_hub
from .formats.ranges import Link, RemoteFile, read_whole
from .formats.tensor_file import ByteSource, LocalFile
from .kept import commit_of
from .names import CONFIG, WEIGHTS, WEIGHTS_INDEX
from .source import LICENCE

__all__ = [
    "HubFolder",
    "NotHere",
    "find",
    "is_hub",
    "not_here",
    "refuse_pickles",
]

SCHEME = "hf://"
_FORM = "hf://ORG/MODEL, hf://ORG/MODEL@REVISION or hf://ORG/MODEL@REVISION/FOLDER"
_COMMIT = re.compile("[0-9a-f]{40}")


class NotHere(SourceError):
    """What is asked for is on this machine in no cache, and the hub is switched off."""


def is_hub(path: object) -> TypeGuard[str]:
    """Return whether this is a URI of the hub's.

    >>> is_hub("hf://org/model"), is_hub("org/model")
    (True, False)
    """
    return isinstance(path, str) and path.startswith(SCHEME)


def find(uri: str, *, keeps: bool = False) -> Iterator[HubFolder]:
    """Yield where a model is: on the hub, at one commit; or, offline, at those that are kept.

    Args:
        uri: The model.
        keeps: Whether what is kept will do where a commit is named, so that the hub is not asked.

    Raises:
        CheckpointError: There is no such model, or the hub cannot be reached.
        HubMissing: huggingface_hub is not installed.
    """
    require_hub(uri)
    from huggingface_hub import is_offline_mode, parse_hf_uri
    from huggingface_hub.errors import HfUriError

    try:
        parsed = parse_hf_uri(uri)
    except HfUriError as error:
        raise CheckpointError(f"not a URI: {first_line(error)}", uri, _FORM) from None
    path = parsed.path_in_repo.strip("/")
    if parsed.type != "model" or {"..", "."} & {*path.split("/")}:
        raise CheckpointError("not a model's folder or file", uri, _FORM)
    revision = parsed.revision or "main"
    if not is_offline_mode():
        if keeps and _COMMIT.fullmatch(revision):
            yield HubFolder(parsed.id, revision, path, revision=revision, offline=True)
        yield _on_the_hub(uri, parsed.id, parsed.revision, path)
        return
    found = [_in_the_hubs_cache(parsed.id, revision, path)]
    kept = revision if _COMMIT.fullmatch(revision) else commit_of(parsed.id, revision)
    if kept and not any(each and each.commit == kept for each in found):
        found.append(HubFolder(parsed.id, kept, path, revision=revision, offline=True))
    places = [each for each in found if each is not None]
    if not places:
        raise not_here(uri)
    yield from places


def refuse_pickles(uri: str) -> CheckpointError:
    """Return the error that no pickle is read off a hub."""
    return CheckpointError(
        "from_pickle=True with a model on a hub, whose pickles are never fetched",
        uri,
        "a file or a folder on this machine",
        "If you trust it, run hf download ORG/MODEL --local-dir model, and convert that.",
    )


def not_here(where: str) -> NotHere:
    """Return the error that no cache has it."""
    return NotHere(
        "not in the hub's cache, nor kept by load_projector",
        where,
        hint="Unset HF_HUB_OFFLINE, and load it once.",
    )


class HubFolder:
    """A folder of a model, at one commit.

    Args:
        repo: The model's name on the hub.
        commit: The commit.
        path: The folder's path in the model, or a file's.
        files: The paths of the model's files; none where they are not known.
        revision: What the commit was asked for as.
        offline: Whether only what is on this machine may be read.
        licence: What the hub says of the model's licence; empty if it does not.

    Attributes:
        where: What messages call it: a URI with the commit.
        folder: The folder's path in the model; empty at the top.
        file: The name of the file that is meant; empty for the folder.
        names: The names of the folder's files.
    """

    def __init__(
        self,
        repo: str,
        commit: str,
        path: str,
        files: Iterable[str] = (),
        *,
        revision: str,
        offline: bool,
        licence: str = "",
    ) -> None:
        files = set(files)
        self.repo, self.commit, self.path = repo, commit, path
        self.where = f"{SCHEME}{repo}@{commit}" + (f"/{path}" if path else "")
        self.folder, _, self.file = path.rpartition("/") if path in files else (path, "", "")
        self._below = f"{self.folder}/" if self.folder else ""
        inside = (each.removeprefix(self._below) for each in files if each.startswith(self._below))
        self.names = sorted(name for name in inside if "/" not in name)
        self.revision, self.offline, self.licence = revision, offline, licence

    def open(self, name: str) -> ByteSource:
        """Return a file's bytes: in the hub's cache, or on the hub.

        Raises:
            SourceError: It is nowhere.
        """
        cached = self._cached(name)
        if cached is not None:
            return LocalFile(cached)
        whole = f"hf download {self.repo} --revision {self.commit}"
        return RemoteFile(self.where_of(name), lambda: self._link(name), whole)

    def read_json(self, name: str, reader: JsonReader) -> dict[str, Any]:
        """Read a JSON file.

        Raises:
            CheckpointError: It is nowhere, or damaged.
        """
        cached = self._cached(name)
        if cached is not None:
            return reader.read(cached)
        where = self.where_of(name)
        return reader.parse(read_whole(self._link(name), where, reader.limit), where)

    def where_of(self, name: str) -> str:
        """Return what messages call a file of the folder."""
        return f"{SCHEME}{self.repo}@{self.commit}/{self._below}{name}"

    def _cached(self, name: str) -> Path | None:
        """Return a file in the hub's cache, which holds whole ones only; None: ask the hub.

        Raises:
            NotHere: It is not there, and the hub may not be asked.
        """
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, self._below + name, revision=self.commit)
        if isinstance(found, str):
            return Path(found)
        if self.offline:
            raise not_here(self.where_of(name))
        return None

    def _link(self, name: str) -> Link:
        """Ask the hub where a file's bytes are."""
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        where = self.where_of(name)
        url = hf_hub_url(
            self.repo, self._below + name, revision=self.commit, endpoint=constants.ENDPOINT
        )
        try:
            found = ask(lambda: get_hf_file_metadata(url), where)
        except SourceError:
            raise
        except ValueError as error:  # of a redirect to what is no address
            raise SourceError(f"the hub's answer: {first_line(error)}", where) from None
        if found.commit_hash not in (None, self.commit):
            hint = "Name the commit that is meant, as @COMMIT."
            raise SourceError(f"the hub answers for {found.commit_hash}", where, hint=hint)
        if found.size is None or found.etag is None:
            raise SourceError("the hub does not say how long it is, or which", where)
        headers = build_hf_headers(library_name=OWN)
        return Link(url, headers, found.etag, found.size).to(found.location, where)


def _on_the_hub(uri: str, repo: str, revision: str | None, path: str) -> HubFolder:
    """Return the commit that a revision is now, as the hub says."""
    commit, files, licence = _asked(uri, repo, revision)
    asked = revision if _COMMIT.fullmatch(revision or "") else commit
    if not _COMMIT.fullmatch(commit) or commit != asked:
        raise CheckpointError(f"the hub answers for commit {quote(commit)}", uri, "one commit")
    place = HubFolder(
        repo,
        commit,
        path,
        files,
        revision=revision or "main",
        offline=False,
        licence=licence,
    )
    if path and not place.names:
        tops = sorted({each.partition("/")[0] for each in files})
        found = f"no file or folder {quote(path)} at commit {commit}"
        raise CheckpointError(found, uri, f"one of {listed([quote(top) for top in tops])}")
    return place


def _asked(uri: str, repo: str, revision: str | None) -> tuple[str, list[str], str]:
    """Ask the hub for the commit that a revision is now, its files, and the model's licence."""
    from huggingface_hub import HfApi, constants

    api = HfApi(library_name=OWN)
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    try:
        info = ask(lambda: api.model_info(repo, revision=revision, timeout=timeout), uri)
        files = [str(each.rfilename) for each in info.siblings or ()]
        licence = info.card_data and info.card_data.license
    except SourceError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # The client does not check it, and it may be a proxy's page that asks for a login.
        found = f"the answer is not a hub's: {describe_error(error)}"
        hint = "Look at HF_ENDPOINT, and whether a proxy answers in its place."
        raise SourceError(found, uri, hint=hint) from None
    if not isinstance(licence, str) or not LICENCE.fullmatch(licence):
        licence = ""  # several, or no identifier
    return str(info.sha), files, licence


def _in_the_hubs_cache(repo: str, revision: str, path: str) -> HubFolder | None:
    """Return what the hub's cache has of a model; None if nothing is found."""
    from huggingface_hub import try_to_load_from_cache

    below = f"{path}/" if path else ""
    for name in (path, *(below + name for name in (CONFIG, WEIGHTS, WEIGHTS_INDEX))):
        found = name and try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(found, str) and found:
            root = Path(found).parents[name.count("/")]
            folder = name.rpartition("/")[0]
            files = [f"{folder}/{each}".lstrip("/") for each in os.listdir(root / folder)]
            return HubFolder(repo, root.name, path, files, revision=revision, offline=True)
    return None
