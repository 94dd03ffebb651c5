"""What lies at a path that is no checkpoint, and what to do about it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..projectors.files import open_regular
from ..registry import printable
from .errors import CheckpointError, convert_pickle
from .formats.dcp import METADATA
from .formats.exported import exported_document
from .formats.index import JSON

__all__ = ["refuse_export", "refuse_foreign", "refuse_part", "weights_nearby"]

_ZERO_SCRIPT = "zero_to_fp32.py"
_DEEPSPEED = re.compile(r"global_step\d+|(?:zero_pp_rank_\d+_)?mp_rank_\d+_model_states[.]pt")
_WEIGHTS = re.compile(r".+[.](?:safetensors|bin|pt|pth|ckpt|distcp)")
_MAX_ENTRIES = 1_000  # of a folder, that are looked at


def refuse_export(path: Path) -> None:
    """Refuse a file that `export_projector` wrote: its weights are in another format's layout."""
    kind, document = exported_document(path)
    if document:
        raise CheckpointError(
            f"an export to {kind}, of which the document can be read, but not the weights",
            str(path),
            "a checkpoint",
            "Load the checkpoint that it was made of. Read its document: "
            f"inspect_checkpoint({str(path)!r}).spec",
        )


def refuse_part(path: Path, *, pickled: bool) -> None:
    """Refuse a file that is part of a folder's checkpoint, or JSON beside one; name what to give.

    Args:
        path: The file.
        pickled: Whether pickles are read.
    """
    suffix, folder = path.suffix.lower(), path.parent
    is_dcp = path.name == METADATA or suffix == ".distcp"
    if not (is_dcp or suffix == ".json") or not os.path.isfile(path):
        return
    found, expected = "a file of a checkpoint of torch.distributed.checkpoint", "its folder"
    hint = convert_pickle(folder)
    if is_dcp and not (folder / METADATA).exists():
        hint = f"The folder's file {METADATA} is missing: copy that too."
    elif not is_dcp:
        found, expected = "JSON, in which there are no weights", "a checkpoint"
        beside = any(map(_WEIGHTS.fullmatch, _names(folder)))
        if _is_document(path) and not (beside and path.name == "config.json"):
            hint = f"It is a document: build_projector(load_spec({str(path)!r}))"
        elif not pickled:
            hint = f"Name the model's folder: load_projector({str(folder)!r})"
    raise CheckpointError(found, str(path), expected, hint)


def _is_document(path: Path) -> bool:
    with suppress(CheckpointError):
        return {"in", "out", "blocks"} <= JSON.read(path).keys()
    return False


def refuse_foreign(folder: Path, expected: str) -> None:
    """Refuse a folder of another tool's format, by name."""
    names = _names(folder)
    found = hint = ""
    if METADATA in names or any(name.endswith(".distcp") for name in names):
        found = "a checkpoint of torch.distributed.checkpoint"
        hint = f"Its file {METADATA} is missing: copy that too."
        if METADATA in names:
            hint = "It holds pickles, which can run code, so it is not loaded. "
            hint += convert_pickle(folder)
    elif _ZERO_SCRIPT in names or any(map(_DEEPSPEED.fullmatch, names)):
        found = "a checkpoint of DeepSpeed"
        hint = "Save it in one file, with DeepSpeed's zero_to_fp32.py."
        for place in (folder, folder.parent):
            if (place / _ZERO_SCRIPT).is_file():
                hint = f"In {printable(place)} run: python {_ZERO_SCRIPT} . fp32 "
                hint += f"--safe_serialization, then load_projector({str(place / 'fp32')!r})"
                break
        else:
            name = "mp_rank_00_model_states.pt"
            whole = [*folder.glob(name), *sorted(folder.glob(f"global_step*/{name}"))]
            if whole:
                hint = "It holds pickles, which can run code, so it is not loaded. "
                hint += convert_pickle(whole[0])
    if found:
        raise CheckpointError(found, str(folder), expected, hint)


def weights_nearby(folder: Path) -> str:
    """Return a hint if the weights are in a folder below this one; else nothing."""
    places = list(_below(folder))
    if not places:
        return ""
    shown = ", ".join(printable(place.name) for place in places[:4])
    more = f" (of {shown})" if len(places) > 1 else ""
    return f"There are weights one level down{more}: load_projector({str(places[0])!r})"


def _below(folder: Path) -> Iterator[Path]:
    """Yield the folders with weights one level down, or a model's in the hub's cache."""
    snapshots = folder / "snapshots"
    if folder.name.startswith("models--") and snapshots.is_dir():
        main = ""
        with suppress(OSError, UnicodeDecodeError), open_regular(folder / "refs" / "main") as file:
            main = file.read(100).decode("ascii").strip()
        folder = snapshots
        names = sorted(_names(folder), key=lambda name: (name != main, name))
    else:
        # The projector's own folder first, as in VILA's models; then the latest checkpoint.
        names = sorted(_names(folder), key=lambda name: ("projector" not in name, _number(name)))
    for name in names:
        if os.path.isdir(folder / name) and any(map(_WEIGHTS.fullmatch, _names(folder / name))):
            yield folder / name


def _number(name: str) -> tuple[int, str]:
    """Sort ``checkpoint-1000`` before ``checkpoint-500``, and both by the number."""
    number = re.search(r"\d{1,18}\Z", name)
    return (-int(number[0]) if number else 0, name)


def _names(folder: Path) -> list[str]:
    """Return the names of some of a folder's files and folders: not hidden, but for DCP's."""
    names: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == METADATA or not entry.name.startswith("."):
                names.append(entry.name)
            if len(names) == _MAX_ENTRIES:
                break
    return sorted(names)
