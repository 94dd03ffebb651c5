"""Earlier results: which files that are there say themselves that this library wrote them."""

from __future__ import annotations

import mmap
from pathlib import Path

__all__ = ["is_ours"]

# What holds the document in each format, as it stands in the file; no document, no mark.
_MARKS = {
    # The key's length, the key, and the kind of its value, a string.
    ".gguf": (14).to_bytes(8, "little") + b"mobilevlm.spec" + (8).to_bytes(4, "little"),
    ".onnx": b"\x0a\x09mobilevlm\x12",  # the key of a property, and the value's tag
    ".pt2": b"/extra/mobilevlm.json",  # a member of the archive
}


def is_ours(path: Path) -> bool:
    """Whether a file holds a projector's document where exports have it."""
    mark = _MARKS.get(path.suffix)
    if mark is None:  # ExecuTorch's has no place for it
        return False
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(mark) >= 0
    except (OSError, ValueError):
        return False
