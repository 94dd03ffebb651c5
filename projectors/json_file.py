"""The one reader of JSON: whatever lies there, it answers soon and in our words."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..blocks.core.spec import first_duplicate
from ..registry import MobileVLMError, first_line, quote

__all__ = ["DuplicateKey", "JsonReader", "no_duplicates"]


class DuplicateKey(ValueError):
    """A key of a JSON object that is there twice."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its pairs; for `json.loads`.

    Raises:
        DuplicateKey: A key is there twice.
    """
    key = first_duplicate(pairs)
    if key is not None:
        raise DuplicateKey(key)
    return dict(pairs)


@dataclass(frozen=True)
class JsonReader:
    """Reads JSON objects of one kind that nobody vouches for.

    Attributes:
        fault: The error that it raises.
        limit: How many bytes there may be.
        kind: What a file of this kind is called in messages.
        hint: One thing to try where it is damaged.
        depth: How deep it may be nested, in words.
        pairs: Makes an object of its pairs; may refuse a key that is there twice.
    """

    fault: type[MobileVLMError]
    limit: int
    kind: str = "a JSON object"
    hint: str = ""
    depth: str = ""
    pairs: Callable[[list[tuple[str, Any]]], dict[str, Any]] = no_duplicates

    def read(self, path: Path, missing: str = "") -> dict[str, Any]:
        """Read a regular file. A pipe or a device is refused before anything is read of it.

        Args:
            path: The file.
            missing: One thing to try where there is no file.

        Raises:
            MobileVLMError: The `fault`, which says where and why.
        """
        where = str(path)
        try:
            # Without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                os.close(handle)
                raise self.fault("not a regular file", where, self.kind, self.hint)
            with os.fdopen(handle, "rb") as file:
                if status.st_size > self.limit:
                    raise self._too_long(status.st_size, where)
                data = file.read(self.limit + 1)  # however it grew meanwhile
        except MobileVLMError:
            raise
        except OSError as error:
            hint = missing if isinstance(error, FileNotFoundError) else ""
            found = f"cannot be read: {error.strerror}"
            raise self.fault(found, where, self.kind, hint) from error
        except ValueError as error:  # a path with a NUL or half a surrogate pair in it
            found = f"cannot be read: {first_line(error)}"
            raise self.fault(found, where, self.kind) from error
        return self.parse(data, where)

    def parse(self, data: bytes | str, where: str) -> dict[str, Any]:
        """Read text of at most `limit` bytes or characters; `where` is what messages call it."""
        if len(data) > self.limit:
            raise self._too_long(
                len(data), where, "bytes" if isinstance(data, bytes) else "characters"
            )
        try:
            text = data.decode("utf-8") if isinstance(data, bytes) else data
        except ValueError as error:
            found = f"cannot be read: {first_line(error)}"
            raise self.fault(found, where, self.kind, self.hint) from error
        try:
            value = json.loads(text, object_pairs_hook=self.pairs)
        except DuplicateKey as error:
            found = f"key {quote(error.key)} is given twice"
            raise self.fault(found, where, hint="Leave one of them out.") from None
        except json.JSONDecodeError as error:
            found = f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
            raise self.fault(found, where, hint=self.hint) from None
        except RecursionError:
            raise self.fault("nested too deep", where, self.depth, self.hint) from None
        except ValueError as error:  # an integer of more than 4,300 digits
            found = f"not usable JSON: {first_line(error)}"
            raise self.fault(found, where, hint=self.hint) from None
        if not isinstance(value, dict):
            found = f"a JSON {type(value).__name__}"
            raise self.fault(found, where, "a JSON object", self.hint)
        return value

    def _too_long(self, length: int, where: str, unit: str = "bytes") -> MobileVLMError:
        return self.fault(f"{length:,} {unit}", where, f"at most {self.limit:,}")
