"""Opening files that are regular, and writing them: whole or not at all, and only over our own."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from ..registry import MobileVLMError, first_line, quote

__all__ = ["check_suffix", "check_target", "open_regular", "replace_file"]

_TEMPORARY = re.compile(r"[.]mobilevlm-[0-9a-f]{16}[.]tmp")

# Suffixes that say what a file holds, to people and to programs.
_FORMATS = frozenset(
    {
        *(".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"),
        *(".gguf", ".onnx", ".pt2", ".pte"),
        *(".h5", ".json", ".msgpack", ".npy", ".npz", ".safetensors"),
    }
)


def check_target(
    path: Path,
    suffix: str,
    is_ours: Callable[[Path], bool],
    error: type[MobileVLMError],
    *,
    replace: bool,
    devices: bool = False,
) -> None:
    """Refuse to write over what this library did not write; every command keeps this rule.

    A new file may be written, and so may an empty one and an earlier result of ours. Anything
    else, a link too, may be written only with `replace`; a link is then replaced itself, and its
    target stays as it is.

    Args:
        path: The file to write.
        suffix: The suffix of what will be written; one that means another format is refused.
        is_ours: Whether a file that is there says that this library wrote it.
        error: What to raise; also if the system does not accept the name.
        replace: Whether what is there may be replaced, whoever wrote it.
        devices: Whether a device or a pipe may be written to, as it is.
    """
    check_suffix(path, suffix, error)
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as fault:  # a name that is too long, or has a NUL in it
        reason = fault.strerror if isinstance(fault, OSError) else first_line(fault)
        raise error(f"cannot be written: {reason}", str(path), hint="Name another.") from fault
    hint = "Name another; replace=True replaces it, and what it holds is lost."
    # os.path returns False where Path raises, for example for a link to a name that is too long.
    if os.path.isdir(path):
        raise error("a folder", str(path), "a file to write")
    if os.path.exists(path) and not os.path.isfile(path):  # behind a link too: /dev/stdout
        if devices:
            return
        raise error("not a regular file", str(path), "a file to write", "Name another.")
    if replace:
        return
    if stat.S_ISLNK(status.st_mode):
        raise error(f"a link to {quote(os.readlink(path))}", str(path), "a file of its own", hint)
    if status.st_size and not is_ours(path):
        found = "already there, and nothing in it says that this library wrote it"
        raise error(found, str(path), "a new file or an earlier result", hint)


def check_suffix(path: Path, suffix: str, error: type[MobileVLMError], instead: str = "") -> None:
    """Refuse a name whose suffix means another format than what will be written.

    Args:
        path: The file or the folder to write.
        suffix: The suffix of what will be written; empty for a folder.
        error: What to raise.
        instead: What else may be done.
    """
    found = path.suffix.lower()
    if found in _FORMATS and found != suffix:
        expected = f"a {suffix} file" if suffix else "a folder"
        raise error(
            f"the suffix {path.suffix} means another format",
            str(path),
            expected,
            f"Name it {quote(path.with_suffix(suffix).name)}{instead}.",
        )


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to be read. A pipe or a device is refused before it is waited for.

    Raises:
        OSError: It cannot be opened, or is something else.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except ValueError as error:  # a path with a NUL or half a surrogate pair in it
        raise OSError(errno.EINVAL, first_line(error)) from error
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        reason = "a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file"
        raise OSError(errno.EINVAL, reason)
    return os.fdopen(handle, "rb")


def replace_file(path: Path, data: bytes) -> None:
    """Write beside the file, sync, and rename over it; a link is replaced, never followed.

    A file keeps its mode. A device or a pipe is written to as it is.

    Raises:
        OSError: It cannot be written; a file that was there before is untouched.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        path.write_bytes(data)
        return
    _remove_stale(path.parent)
    beside = path.with_name(f".mobilevlm-{secrets.token_hex(8)}.tmp")
    try:
        with open(beside, "xb") as file:
            with suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _remove_stale(folder: Path) -> None:
    """Remove the temporary files of writers that were killed: those that are a day old."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > 24 * 3600:
                        os.unlink(entry.path)
