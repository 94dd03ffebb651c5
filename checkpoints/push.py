"""Pushing a projector to the hub: one commit with what `save_projector` would write."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import nn

from ..projectors.document import MAX_BYTES, is_document
from ..projectors.unwrap import unwrap
from ..registry import MobileVLMError, printable, quote
from ..registry.requirements import OWN
from .card import card_title, is_card, model_card
from .errors import CheckpointError
from .formats.http import PASSES, explained, require_hub
from .names import CARD, CONFIG, WEIGHTS
from .save import hidden_weights, holds_document, is_ours, weights_and_config
from .source import LICENCE, MODEL, Source, source_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["card_beside", "push_projector"]

_ELSEWHERE = (
    "Push to another; replace=True commits over these files, which then are in its history only."
)
_STAYS = (
    f"its {CARD} stays, as this library did not write it or it was edited since: replace=True "
    "writes the model card over it."
)
_MAX_TEXT = 300  # of what a client says
_CHANGED = ("it has changed while this was pushed", "Look at what it holds now, and push again.")
# By status: what is wrong, and what to try.
_ANSWERS = {
    401: ("the hub does not accept the token", "Log in: hf auth login. Or give another token."),
    403: ("the token may not write there", "Give a token with the right to write there."),
    409: _CHANGED,
    412: _CHANGED,
}


def push_projector(
    projector: nn.Module,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    licence: str | None = None,
    card: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    replace: bool = False,
) -> str:
    """Push a projector to a repository of the hub, in one commit; needs the extra ``hub``.

    The commit holds the files of `save_projector`, and ``load_projector("hf://org/name")`` reads
    them. The rule is that of `save_projector` too: an earlier result of this library is replaced,
    and what else is there stays beside it; other weights are refused, and a ``README.md`` that
    somebody wrote or edited there stays, with a warning. A commit that somebody else makes
    meanwhile is not overwritten.

    Args:
        projector: The projector; or what DataParallel, DDP, FSDP or torch.compile made of it.
        repo_id: The repository, ``org/name``; created if needed.
        private: Whether only its organisation may see it, if it is created; default: what the
            organisation has set.
        token: A token that may write there; default: that of ``hf auth login``, or ``HF_TOKEN``.
            It is given to huggingface_hub, and to nothing else.
        licence: The licence, by the hub's identifier, such as ``apache-2.0``; default: that of the
            source, if it is known.
        card: The text of ``README.md``, in place of the model card that is made, and of whatever
            is there.
        revision: The branch; default: ``main``.
        commit_message: The message; default: what is pushed.
        replace: Whether the three files may be replaced, whoever wrote them. They stay in the
            repository's history.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: It cannot be saved; huggingface_hub is not installed; the repository holds
            what this library did not write; or the hub refuses it, or cannot be reached. Nothing
            is pushed then, but a repository that was created stays.
        RegistryError: A block is not registered, so no document can name it.
    """
    require_hub("push_projector")
    from huggingface_hub import HfApi

    if not isinstance(repo_id, str) or not MODEL.fullmatch(repo_id):
        raise CheckpointError(quote(repo_id), "repo_id", "a repository of the hub, 'org/name'")
    files = weights_and_config(projector)
    bare = unwrap(projector, CheckpointError)
    source = _with_licence(source_of(bare), licence, card)
    if card is None:
        branch = "" if revision is None else f"@{revision.replace('/', '%2F')}"
        files[CARD] = model_card(bare, source, f"hf://{repo_id}{branch}").encode()
    else:
        files[CARD] = card.encode()
    message = commit_message or f"Push a projector: {card_title(bare, source)}"
    api = HfApi(token=token, library_name=OWN)
    with _reporting(repo_id, revision):
        api.create_repo(repo_id, private=private, exist_ok=True)
        there = _Files.of(api, repo_id, revision)
        if not replace:
            _check_files(there)
            if card is None and there.is_foreign(CARD, is_card):
                del files[CARD]
        commit = _commit(there, files, message, revision)
    if CARD not in files:
        warnings.warn(f"{repo_id}: {_STAYS}", stacklevel=2)
    return commit


def _with_licence(source: Source, licence: str | None, card: str | None) -> Source:
    """Return a source under the licence that is given, if one is.

    Raises:
        CheckpointError: It is none of the hub's identifiers, or the card is given too.
    """
    if licence is None:
        return source
    if not LICENCE.fullmatch(licence):
        expected = "an identifier of the hub's, such as 'apache-2.0'"
        raise CheckpointError(quote(licence), "licence", expected)
    if card is not None:
        hint = "Write it into the card, as license: in its front matter."
        raise CheckpointError("a licence beside a card", "licence", "one of them", hint)
    return replace_fields(source, licence=licence)


def card_beside(folder: Path) -> str | None:
    """Return the ``README.md`` of a saved projector that somebody wrote or edited; else None.

    Raises:
        CheckpointError: It is not UTF-8.
    """
    path = folder / CARD
    if not path.is_file() or is_card(path) or not holds_document(folder / WEIGHTS):
        return None
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError("not UTF-8", str(path), hint="Save it as UTF-8.") from error


@dataclass(frozen=True)
class _Files:
    """The files of a repository, as they are at a commit, without those in folders.

    Attributes:
        api: The client.
        repo_id: The repository.
        commit: The commit.
        sizes: The files' sizes, by name.
    """

    api: HfApi
    repo_id: str
    commit: str | None
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, api: HfApi, repo_id: str, revision: str | None) -> _Files:
        """Return the files at the head of a branch."""
        commit = api.model_info(repo_id, revision=revision).sha
        tree = api.list_repo_tree(repo_id, revision=commit)
        sizes = {entry.path: entry.size for entry in tree if hasattr(entry, "size")}
        return cls(api, repo_id, commit, sizes)

    def is_foreign(self, name: str, is_result: Callable[[Path], bool]) -> bool:
        """Return whether a file is there that this library did not write; an empty one is none."""
        size = self.sizes.get(name, 0)
        if not 0 < size <= MAX_BYTES:
            return size > 0
        with TemporaryDirectory() as folder:
            path = self.api.hf_hub_download(
                self.repo_id, name, revision=self.commit, local_dir=folder
            )
            return not is_result(Path(path))

    def holds_ours(self) -> bool:
        """Return whether the weights are a result of this library; reads their header only."""
        from huggingface_hub.errors import SafetensorsParsingError

        if not self.sizes.get(WEIGHTS):
            return False
        try:
            header = self.api.parse_safetensors_file_metadata(
                self.repo_id, WEIGHTS, revision=self.commit
            )
        except SafetensorsParsingError:
            return False
        return is_ours(header.metadata, header.tensors)


def _check_files(there: _Files) -> None:
    """Refuse a repository in which a commit would replace, or hide, what is not ours."""
    ours = there.holds_ours()
    others = hidden_weights(there.sizes, ours=ours)
    if others:
        raise CheckpointError(
            f"a repository with other weights, {printable(others[0])}, which ours would hide",
            there.repo_id,
            "a new repository or an earlier result",
            _ELSEWHERE,
        )
    foreign = bool(there.sizes.get(WEIGHTS)) and not ours
    for name, is_there in ((WEIGHTS, foreign), (CONFIG, there.is_foreign(CONFIG, is_document))):
        if is_there:
            raise CheckpointError(
                "already there, and nothing in it says that this library wrote it",
                f"{there.repo_id}/{name}",
                "a new file or an earlier result",
                _ELSEWHERE,
            )


def _commit(there: _Files, files: Mapping[str, bytes], message: str, revision: str | None) -> str:
    """Commit files on top of those that were looked at, and return the commit's address."""
    from huggingface_hub import CommitOperationAdd

    commit = there.api.create_commit(
        there.repo_id,
        [CommitOperationAdd(name, data) for name, data in files.items()],
        commit_message=message,
        revision=revision,
        parent_commit=there.commit,
    )
    return commit.commit_url


@contextmanager
def _reporting(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub answers, and what its client raises, into an error of ours."""
    try:
        yield
    except MobileVLMError:
        raise
    except Exception as error:  # those of its client, of httpx and of hf_xet share no base class
        answered = _answered(error)
        status = 0 if answered is None else answered.response.status_code
        if answered is not None and status in PASSES:
            raise explained(answered, repo_id) from error
        found, hint = _ANSWERS.get(status, ("", ""))
        if type(error).__name__ == "RevisionNotFoundError":
            found = f"there is no branch {quote(revision)}"
            hint = f"Create it: huggingface_hub.create_branch({repo_id!r}, branch={revision!r})."
        text = " ".join(str(error).split())  # of several lines, of which the first says little
        found = found or f"not pushed: {type(error).__name__}: {printable(text[:_MAX_TEXT])}"
        raise CheckpointError(found, repo_id, hint=hint) from error


def _answered(error: BaseException | None) -> Any:
    """Return the error that has the hub's answer: this one or its cause; None if none has."""
    while error is not None and getattr(error, "response", None) is None:
        error = error.__cause__
    return error
