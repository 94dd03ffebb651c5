"""Writing files so that a crash leaves the old one or the new one, never half."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replace_file", "replacing"]


def replace_file(path: Path, data: bytes) -> None:
    """Write beside the file, sync, and rename over it; a link goes on leading to its target.

    A device or a pipe is written to as it is.

    Raises:
        OSError: It cannot be written; a file that was there before is untouched.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    with replacing(path) as beside:
        beside.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, beside the file and with its suffix; then sync and rename over it.

    A link goes on leading to its target, and a file keeps its mode. If the body raises, what was
    there before is untouched and nothing else is left.

    Raises:
        OSError: It cannot be written.
    """
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{os.getpid()}.{threading.get_ident()}.{target.name}")
    open(beside, "xb").close()
    try:
        yield beside
        with open(beside, "rb+") as file:
            if target.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
