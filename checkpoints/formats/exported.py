"""The document in a file that `export_projector` wrote: GGUF's and ONNX's metadata.

Only what describes a file is read, never its tensors, and without the formats' own libraries.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import IO

from ...projectors.document import MAX_BYTES
from ...projectors.files import open_regular
from ..errors import CheckpointError

__all__ = ["DOCUMENT", "exported_document"]

DOCUMENT = "mobilevlm"  # the key of the document in metadata
MAX_METADATA = 2 * MAX_BYTES  # bytes, of a GGUF file: a document and a little more
MAX_FIELDS = 100_000  # of a model, and of a GGUF file's metadata
_PROPERTY_FIELDS = 4  # that are looked at; it has a key and a value

# GGUF's types of values that have a fixed size, and that size in bytes.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9


def exported_document(path: Path) -> tuple[str, str]:
    """Return the name of an exported file's format, and the document in it.

    Both are empty for a file of another suffix, and the document where the file has none.

    Raises:
        CheckpointError: The file cannot be read or is damaged.
    """
    readers = {".gguf": ("GGUF", _in_gguf), ".onnx": ("ONNX", _in_onnx)}
    kind, read = readers.get(path.suffix.lower(), ("", None))
    if read is None or not os.path.isfile(path):
        return "", ""
    try:
        with open_regular(path) as file:
            data = read(_Reader(file, os.fstat(file.fileno()).st_size, path))
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", str(path)) from error
    try:
        return kind, data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError("its document is not UTF-8", str(path)) from error


class _Reader:
    """Reads forwards, a little at a time, and never beyond what is left."""

    def __init__(self, file: IO[bytes], left: int, path: Path) -> None:
        self._file, self.left, self.path = file, left, path

    def error(self, found: str) -> CheckpointError:
        hint = "It is cut off or damaged: export it again."
        return CheckpointError(found, str(self.path), hint=hint)

    def read(self, n: int) -> bytes:
        """Return the next n bytes."""
        if n > min(self.left, MAX_BYTES):
            raise self.error(f"{n:,} bytes where at most {min(self.left, MAX_BYTES):,} may be")
        data = self._file.read(n)
        if len(data) < n:
            raise self.error("the file changed while it was read")
        self.left -= n
        return data

    def skip(self, n: int) -> None:
        """Pass over the next n bytes."""
        if n > self.left:
            raise self.error(f"{n:,} bytes where {self.left:,} are left")
        self.left -= n
        self._file.seek(n, os.SEEK_CUR)

    def number(self, form: str) -> int:
        """Return the next number, in a form of `struct`."""
        [found] = struct.unpack(f"<{form}", self.read(struct.calcsize(f"<{form}")))
        return int(found)

    def varint(self) -> int:
        """Return the next number in protobuf's form: seven bits in each byte, the lowest first."""
        value = 0
        for shift in range(0, 64, 7):
            [byte] = self.read(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise self.error("a number of more than 64 bits")


def _in_gguf(file: _Reader) -> bytes:
    """Return the text of the key ``mobilevlm.spec``."""
    if file.left < 24 or file.read(4) != b"GGUF" or file.number("I") not in (2, 3):
        return b""
    file.skip(8)  # the number of tensors
    entries = file.number("Q")
    if entries > MAX_FIELDS:
        raise file.error(f"{entries:,} entries of metadata")
    rest = file.left - MAX_METADATA
    for _ in range(entries):
        if file.left < rest:  # ours are shorter
            return b""
        key, type_ = file.read(file.number("Q")), file.number("I")
        if key == f"{DOCUMENT}.spec".encode() and type_ == _TEXT:
            return file.read(file.number("Q"))
        count = 1
        if type_ == _ARRAY:
            type_, count = file.number("I"), file.number("Q")
        if type_ in _SIZES:
            file.skip(count * _SIZES[type_])
        elif type_ == _TEXT:
            if count > MAX_FIELDS:  # a language model's vocabulary
                return b""
            for _ in range(count):
                file.skip(file.number("Q"))
        else:
            raise file.error(f"a value of type {type_}")
    return b""


def _in_onnx(file: _Reader) -> bytes:
    """Return the value of the model's metadata property ``mobilevlm``."""
    for _ in range(MAX_FIELDS):
        if not file.left:
            return b""
        field, data = _field(file, (14,))
        if field == 14:
            entry = _Reader(io.BytesIO(data), len(data), file.path)
            found: dict[int, bytes] = {}
            for _ in range(_PROPERTY_FIELDS):
                if not entry.left:
                    break
                field, data = _field(entry, (1, 2))
                found[field] = data
            if found.get(1) == DOCUMENT.encode():
                return found.get(2, b"")
    raise file.error(f"more than {MAX_FIELDS:,} fields")


def _field(file: _Reader, wanted: tuple[int, ...]) -> tuple[int, bytes]:
    """Read a field in protobuf's form: its number, and its bytes if it is one of those wanted."""
    field, type_ = divmod(file.varint(), 8)
    if type_ == 0:
        file.varint()
    elif type_ in (1, 5):
        file.skip(8 if type_ == 1 else 4)
    elif type_ != 2:
        raise file.error(f"a field of type {type_}, not an ONNX model")
    else:
        length = file.varint()
        if field in wanted:
            return field, file.read(length)
        file.skip(length)
    return field, b""
