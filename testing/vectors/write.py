"""Write the test vectors into a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...checkpoints.formats.safetensors import SafetensorsFile
from ...checkpoints.save import holds_document
from ...projectors.errors import CheckpointError
from ...projectors.files import check_suffix, check_target, replace_file
from ...projectors.json_file import JsonReader
from ...registry.requirements import own_version
from .entries import all_entries, find_entries
from .errors import VectorsError
from .pack import MARK, EntryFiles, entry_files

__all__ = ["Written", "write_vectors"]

_FORMAT = 1
_MANIFEST, _CHECK = "manifest.json", "check.py"
_READER = JsonReader(VectorsError, 64_000_000)


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        entries: The number of families with a set of options.
        cases: The number of cases.
        mistakes: The number of wrong outputs, of all cases.
        hidden: The mistakes that show in none of an entry's cases, by its name; they are left out.
        size: The number of bytes.
    """

    entries: int
    cases: int
    mistakes: int
    hidden: Mapping[str, tuple[str, ...]]
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON can hold them."""
        return asdict(self)

    def __str__(self) -> str:
        entries = "1 entry" if self.entries == 1 else f"{self.entries:,} entries"
        return (
            f"{entries}, {self.cases:,} cases, {self.mistakes:,} wrong outputs, "
            f"{self.size / 1e6:.1f} MB\n"
            f"{sum(map(len, self.hidden.values())):,} mistakes change nothing in any case of their "
            "entry, and are left out."
        )


def write_vectors(
    out: str | os.PathLike[str],
    names: str | Iterable[str] | None = None,
    *,
    replace: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Written:
    """Write test vectors, by which authors of other engines check their own projectors.

    The folder holds, for each family and each set of options that matters, small weights under our
    names and under upstream's, inputs, what leaves each block, and what typical mistakes lead to;
    ``manifest.json``, which says all about them; and ``check.py``, which compares another engine's
    outputs with them, says at which block they differ first, and what usually causes that. It
    needs NumPy alone.

    What is right is computed in fp64 from the weights and inputs that are stored. The weights are
    not trained. The same call gives the same bytes.

    Each file is replaced at once or not at all. Files of an earlier pack are replaced, its manifest
    last and removed first: what is half written has none, and `check.py` does not take it for a
    pack. What this library did not write, and links, are replaced only with `replace`. An earlier
    pack's folders of other families stay; the manifest does not name them.

    Args:
        out: The folder; created if needed.
        names: Registered names, of which a family's mean all its entries; other names of a family,
            such as ``qwen2-5-vl``; or names of entries, such as ``internvl-merge-3``. Default: all
            built-in families.
        replace: Whether files may be replaced, whoever wrote them.
        progress: Called with the entries that are done, the number of all, and the next one's
            name.

    Raises:
        RegistryError: A name is not registered, or its plugin is broken.
        MobileVLMError: A projector cannot be built from its options, takes no small grid, or fails
            on it; the path is not a folder, or the folder holds what this library did not write.
            Nothing is written then.
        OSError: The folder cannot be written.
    """
    folder = Path(out)
    if not folder.is_dir():
        check_suffix(folder, "", VectorsError)
    _check(folder, [_MANIFEST, _CHECK], replace=replace)  # before all is computed
    if names is None:
        entries = all_entries()
    else:
        entries = find_entries([names] if isinstance(names, str) else names)
    found: dict[str, EntryFiles] = {}
    for done, entry in enumerate(entries):
        if progress is not None:
            progress(done, len(entries), entry.name)
        found[entry.name] = entry_files(entry)
    files = {name: data for each in found.values() for name, data in each.files.items()}
    files[_CHECK] = Path(__file__).with_name(_CHECK).read_bytes()
    files[_MANIFEST] = _manifest(found).encode()  # last: it says that the others are there
    _check(folder, files, replace=replace)
    _write(folder, files)
    cases = [case for each in found.values() for case in each.row["cases"]]
    return Written(
        entries=len(found),
        cases=len(cases),
        mistakes=sum(len(case["mistakes"]) for case in cases),
        hidden={name: each.hidden for name, each in found.items() if each.hidden},
        size=sum(map(len, files.values())),
    )


def _manifest(found: Mapping[str, EntryFiles]) -> str:
    """Write the manifest, one entry on a line."""
    blocks = {name: text for each in found.values() for name, text in each.blocks.items()}
    head = {"format": _FORMAT, "mobilevlm": own_version(), "blocks": blocks}
    rows = (f"{json.dumps(name)}:{_compact(each.row)}" for name, each in found.items())
    start = _compact(head).removesuffix("}")
    return f'{start},"entries":{{\n' + ",\n".join(rows) + "\n}}\n"


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _check(folder: Path, names: Collection[str], *, replace: bool) -> None:
    """Refuse to write over what this library did not write."""
    for path in _folders(folder, names):
        if os.path.lexists(path) and not path.is_dir():
            raise VectorsError("not a folder", str(path), "a folder", "Name another.")
    for name in names:
        path = folder / name
        check_target(path, path.suffix, _is_ours, VectorsError, replace=replace)


def _is_ours(path: Path) -> bool:
    if path.name == _CHECK:
        return path.read_bytes().splitlines()[:1] == _first_line()
    if path.name == _MANIFEST:
        try:
            return {"format", "mobilevlm", "entries"} <= _READER.read(path).keys()
        except VectorsError:
            return False
    try:
        return MARK in SafetensorsFile(path).metadata or holds_document(path)
    except CheckpointError:
        return False


def _first_line() -> list[bytes]:
    return Path(__file__).with_name(_CHECK).read_bytes().splitlines()[:1]


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, the manifest last, or none that was not there before."""
    made = [path for path in _folders(folder, files) if not path.is_dir()]
    new = [folder / name for name in files if not os.path.lexists(folder / name)]
    try:
        with suppress(FileNotFoundError):
            (folder / _MANIFEST).unlink()  # the earlier one: half of it may be replaced
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data)
    except BaseException:
        with suppress(OSError):
            for path in new:
                path.unlink(missing_ok=True)
            for path in reversed(made):
                path.rmdir()
        raise


def _folders(folder: Path, files: Iterable[str]) -> list[Path]:
    """Return the folders of files, each after the one that it is in."""
    return [folder, *dict.fromkeys((folder / name).parent for name in files if "/" in name)]
