"""The one reader of JSON files from elsewhere: bounded, strict, and with our own errors."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..blocks.core.spec import WithDuplicate
from ..registry import MobileVLMError, first_line, quote
from .files import open_regular

__all__ = ["JsonReader"]


@dataclass(frozen=True)
class JsonReader:
    """Reads JSON objects of one kind.

    Attributes:
        error: What to raise.
        limit: How many bytes there may be.
        kind: What messages call a file of this kind.
        hint: One thing to try if it is damaged.
        depth: How deep it may be nested, in words.
        marks_duplicates: Whether an object with a key that is given twice is returned as a
            `WithDuplicate`, for `check_structure` to refuse with its path; else it is refused.
    """

    error: type[MobileVLMError]
    limit: int
    kind: str = "a JSON object"
    hint: str = ""
    depth: str = ""
    marks_duplicates: bool = False

    def read(self, path: Path, missing: str = "") -> dict[str, Any]:
        """Read a regular file. A pipe or a device is refused before anything is read of it.

        Args:
            path: The file.
            missing: One thing to try if there is no file.

        Raises:
            MobileVLMError: The `error`, which says where and why.
        """
        try:
            with open_regular(path) as file:
                data = file.read(self.limit + 1)
        except OSError as error:
            hint = missing if isinstance(error, FileNotFoundError) else ""
            found = f"cannot be read: {error.strerror}"
            raise self.error(found, str(path), self.kind, hint) from error
        return self.parse(data, str(path))

    def parse(self, data: bytes | str, where: str) -> dict[str, Any]:
        """Read text of at most `limit` bytes or characters; `where` is what messages call it."""
        if len(data) > self.limit:
            raise self.error("too long", where, f"at most {self.limit:,} bytes")

        def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            value = dict(pairs)
            if len(value) == len(pairs):
                return value
            key = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
            if self.marks_duplicates:
                return WithDuplicate(value, key)
            found = f"key {quote(key)} is given twice"
            raise self.error(found, where, hint="Leave one of them out.")

        try:
            text = data.decode("utf-8") if isinstance(data, bytes) else data
            value = json.loads(text, object_pairs_hook=make_object)
        except MobileVLMError:
            raise
        except json.JSONDecodeError as error:
            found = f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
            raise self.error(found, where, hint=self.hint) from None
        except RecursionError:
            raise self.error("nested too deep", where, self.depth, self.hint) from None
        except ValueError as error:  # not UTF-8, or an integer of more than 4,300 digits
            found = f"not usable JSON: {first_line(error)}"
            raise self.error(found, where, hint=self.hint) from None
        if not isinstance(value, dict):
            found = f"a JSON {type(value).__name__}"
            raise self.error(found, where, "a JSON object", self.hint)
        return value
