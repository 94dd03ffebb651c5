"""Where a projector's weights were read from: what is certain, and nothing else.

It is kept beside the module's tensors, so that a copy or a pickle has it too, and in the model card
of `save_projector`, where it is read again when that folder is loaded. It is neither in a state
dict nor in a document: it changes nothing of what a projector computes.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from ..projectors.files import open_regular
from ..registry import printable
from .known import Known
from .memory import MemoryWeights
from .names import CARD
from .weights import Weights

__all__ = ["LICENCE", "MARK", "MODEL", "Source", "read_card", "remember", "source_of"]

LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
MODEL = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)  # a repository on the hub
# The line of a card that is for programs: a digest of the card, and where the weights came from.
MARK = re.compile(r"^<!-- mobilevlm card ([0-9a-f]{64}) (\{.*\}) -->$", re.MULTILINE)

_KEY = "_source"  # the attribute of a projector
_HEAD = 65_536  # bytes of a card that are looked at: front matter and mark come first
_FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_STATED = re.compile(
    rf"^license:[ \t]*([\"']?)({LICENCE.pattern})\1[ \t]*(?:#.*)?\r?$", re.MULTILINE
)
# The place of a model in the hub's cache.
_SNAPSHOT = re.compile(r"(?:^|/)models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})(?:/|$)")


@dataclass(frozen=True)
class Source:
    """Where a projector's weights were read from. A field is empty where it is not known.

    Attributes:
        family: The registered name of the family that recognised them.
        root: What stood before their keys.
        name: A model on the hub, ``org/model``; or the name of the file or folder, without what
            stands before it, which is nobody else's business.
        revision: The commit, of a model on the hub.
        licence: The licence that its model card states, by the hub's identifier.
    """

    family: str = ""
    root: str = ""
    name: str = ""
    revision: str = ""
    licence: str = ""

    @classmethod
    def of(cls, weights: Weights, known: Known) -> Source:
        """Return the source of a projector that was recognised in some weights.

        That of a folder of `save_projector` is what its card says, and so the folder's own source.
        """
        family = "" if known.family == "document" else known.family
        if isinstance(weights, MemoryWeights):
            return cls(family, known.root)
        card = "" if weights.folder is None else read_card(weights.folder)
        front = _FRONT_MATTER.match(card)
        stated = _STATED.search(front[1]) if front else None
        licence = stated[2] if stated else weights.licence
        mark = MARK.search(card)
        if mark:
            return replace(cls.parse(mark[2]), licence=licence)
        name, commit = (weights.model, weights.commit) if weights.model else _name(weights.where)
        return cls(family, known.root, name, commit, licence)

    @property
    def on_hub(self) -> bool:
        """Whether the name is that of a model on the hub."""
        return MODEL.fullmatch(self.name) is not None

    def dump(self) -> str:
        """Return it as JSON on one line, without the licence, which a card's front matter has."""
        fields = {key: value for key, value in asdict(self).items() if value and key != "licence"}
        return json.dumps(fields).replace(">", "\\u003e")  # it stands in a comment of HTML

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read what `dump` wrote; what is damaged is an empty source."""
        with suppress(ValueError, TypeError, RecursionError):
            source = cls(**json.loads(text))
            if all(isinstance(value, str) for value in vars(source).values()):
                return source
        return cls()


def remember(projector: nn.Module, source: Source) -> None:
    """Attach its source to a projector."""
    vars(projector)[_KEY] = source


def source_of(projector: nn.Module) -> Source:
    """Return the source of a projector; an empty one of what was built and not read."""
    source: Source = vars(projector).get(_KEY, Source())
    return source


def read_card(folder: Path) -> str:
    """Return the beginning of a folder's model card; empty if there is none that can be read."""
    with suppress(OSError), open_regular(folder / CARD) as file:
        return file.read(_HEAD).decode("utf-8", errors="replace")
    return ""


def _name(where: str) -> tuple[str, str]:
    """Return what weights may be called elsewhere, and their commit, of a model on the hub.

    >>> _name("/home/me/llava")
    ('llava', '')
    """
    found = _SNAPSHOT.search(where)
    if found:
        return f"{found[1]}/{found[2]}", found[3]
    return printable(Path(where).name), ""
