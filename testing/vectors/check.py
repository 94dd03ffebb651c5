"""Check another engine's projectors against the test vectors beside this file.

It names the first block that differs, says by how much and where, and what usually causes that.

  python check.py show ldpnetv2
  python check.py check OUTPUTS --entry ldpnetv2
  python check.py run "python port.py {weights} {input} {output}" --entry "ldp*" --case square

check reads OUTPUTS/<entry>/<case>.safetensors, .npz or .npy. It holds "output" and, if you have
them, what leaves each block, under the paths that show lists. Values count in the order of memory:
(b, h, w, c), (b, n, c) and rows (b*n, c) are the same.

run starts a command once for each case, without a shell, and replaces in it
  {weights}              weights under our names
  {upstream}             under upstream's: the first file that show lists; {upstream.NAME}: another
  {input}                an .npy file, float32
  {output}               write safetensors, .npz or .npy there; numpy may add its suffix
  {entry} {case} {manifest}

Exit status: 0 all right; 1 some wrong; 2 a file or an argument that cannot be used. It needs
Python 3.9 or newer and numpy. As a library:

  case = Pack("vectors")["ldpnetv2"].cases["square"]
  result = compare(case, {"output": my_engine(case.input)})
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Case", "Cause", "Entry", "Pack", "PackError", "Result", "compare", "main"]
__all__ += ["read_tensors", "summarise"]

FORMAT = 1
SUFFIXES = (".safetensors", ".npz", ".npy")
FP16_MAX = 65504.0

_DTYPES = {"BF16": "<u2", "BOOL": "?", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
_DTYPES.update({f"{kind}{8 * n}": f"<{kind.lower()}{n}" for kind in "IU" for n in (1, 2, 4, 8)})

_WORDS = {str: "text", int: "a size", float: "a number", bool: "true or false"}
_WORDS |= {list: "a list", tuple: "two sizes", dict: "an object"}
# What is read of a safetensors file's header for each tensor, and of the manifest for an entry.
_TENSOR = {"dtype": str, "shape": [int], "data_offsets": (int, int)}
_MISTAKE: Any = dict.fromkeys(("kind", "cause", "block", "at_block", "at_output"), str)
_MISTAKE |= {"shape_at_block": [int], "shape_at_output": [int]}
_CASE: Any = dict.fromkeys(("name", "purpose", "dtype", "input", "output"), str) | {"packed": bool}
_CASE |= {"grids": [(int, int)], "outputs": [{"path": str, "tensor": str}], "mistakes": [_MISTAKE]}
_CASE |= {"tolerance": {"relative": float, "absolute": float}}
_ENTRY: Any = {"in": int, "out": int, "options": dict, "upstream": dict, "cases": [_CASE]}
_ENTRY |= {"traps": str, "weights": str, "vectors": str}
_ENTRY |= {"chain": [{"path": str, "type": str, "options": dict}]}


class PackError(Exception):
    """A file or an argument that cannot be used."""


# ---------------------------------------------------------------------------------------- files


def read_tensors(path: str | Path) -> dict[str, Any]:
    """Return the arrays of a file of safetensors, .npz or .npy; its first bytes tell which.

    bfloat16 becomes float32. The array of an .npy file is ``"output"``.
    """
    data = _read(path)
    if data.startswith((b"\x93NUMPY", b"PK\x03\x04")):
        return _read_numpy(data, path)
    return _read_safetensors(data, path)


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise PackError(f"{path}: {error.strerror}") from None


def _read_numpy(data: bytes, path: str | Path) -> dict[str, Any]:
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        arrays = {"output": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # numpy and zipfile raise many for damaged files
        raise PackError(f"{path}: numpy cannot read it: {error}") from None
    for name, array in arrays.items():
        if np.asarray(array).dtype.kind not in "biuf":
            found = f"{path}[{name!r}]: dtype {np.asarray(array).dtype}"
            raise PackError(f"{found}; expected real numbers. Save it as float32.")
    return arrays


def _read_safetensors(data: bytes, path: str | Path) -> dict[str, Any]:
    begin = 8 + int.from_bytes(data[:8], "little")
    if not 8 < begin <= len(data):
        found = f"{path}: no header in {len(data):,} bytes"
        raise PackError(f"{found}; expected safetensors, .npz or .npy. It may be cut off.")
    header = _parse(data[8:begin], f"{path}: header")
    header.pop("__metadata__", None)
    _check(header, dict.fromkeys(header, _TENSOR), f"{path}: header")
    body, position, arrays = memoryview(data)[begin:], 0, {}
    for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        where, code, shape, span = f"{path}[{name!r}]", *(info[key] for key in _TENSOR)
        if code not in _DTYPES:
            raise PackError(f"{where}: dtype {code}; expected one of {', '.join(_DTYPES)}")
        if span[0] != position:
            raise PackError(f"{where}: at {span}; expected {position:,}, where the last one ends")
        position = span[1]
        if position > len(body):
            raise PackError(f"{where}: ends at byte {position:,} of {len(body):,}: it is cut off")
        try:
            array = np.frombuffer(body[slice(*span)], _DTYPES[code]).reshape(shape)
        except ValueError:
            raise PackError(f"{where}: {code} of {shape} does not fit {span}") from None
        arrays[name] = (array.astype("<u4") << 16).view("<f4") if code == "BF16" else array
    return arrays


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PackError(f"{where}: no JSON: {error}") from None
    _check(parsed, {}, where)
    return parsed  # type: ignore[no-any-return]


def _check(value: Any, schema: Any, where: str) -> None:
    """Check JSON. A schema is a type; a list or an object of schemas; or a tuple, for two sizes."""
    kind: Any = schema if isinstance(schema, type) else type(schema)
    types = {float: (int, float), tuple: (list,)}.get(kind, (kind,))
    right = type(value) in types
    if right and kind is int:
        right = 0 <= value < 1 << 48
    elif right and kind is tuple:
        right = len(value) == len(schema)
    if not right:
        raise PackError(f"{where}: {value!r:.60}; expected {_WORDS[kind]}")
    if kind in (list, tuple):
        for each in value:
            _check(each, schema[0], where)
    for key in schema if isinstance(schema, dict) else ():
        if key not in value:
            raise PackError(f"{where}: has no {key!r}")
        _check(value[key], schema[key], f"{where}: {key}")


# ----------------------------------------------------------------------------------------- pack


class Pack:
    """A folder of test vectors: ``pack[name]`` is an entry, a family with its options.

    Args:
        folder: Holds manifest.json; by default the folder of this file.
    """

    def __init__(self, folder: str | Path = Path(__file__).parent) -> None:
        self.manifest = Path(folder).resolve() / "manifest.json"
        facts = _parse(_read(self.manifest), "manifest.json")
        _check(facts, {"format": int, "entries": {}}, "manifest.json")
        if facts["format"] != FORMAT:
            found = f"manifest.json: format {facts['format']}; expected {FORMAT}"
            raise PackError(f"{found}. Use the check.py that came with it.")
        self._entries, self.names = facts["entries"], list(facts["entries"])

    def __getitem__(self, name: str) -> Entry:
        name = _matches([name], self.names, "entry")[0]
        _check(self._entries[name], _ENTRY, f"manifest.json: {name}")
        return Entry(self.manifest.parent, name, self._entries[name])


class Entry:
    """A family with its options. `facts` is what the manifest says of it."""

    def __init__(self, folder: Path, name: str, facts: Mapping[str, Any]) -> None:
        self.folder, self.name, self.facts = folder, name, facts
        self.weights = folder / facts["weights"]
        self.upstream = {key: folder / str(each) for key, each in facts["upstream"].items()}
        self.cases = {each["name"]: Case(self, each) for each in facts["cases"]}

    @cached_property
    def _vectors(self) -> dict[str, Any]:
        return read_tensors(self.folder / self.facts["vectors"])

    def vector(self, name: str) -> Any:
        """Return a stored array, in float64."""
        if name not in self._vectors:
            raise PackError(f"{self.facts['vectors']}: has no {name!r}. Write the pack again.")
        return self._vectors[name].astype(float)


class Case:
    """An input and what is right for it. `facts` is what the manifest says of it."""

    def __init__(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        self.entry, self.facts, self.name = entry, facts, facts["name"]

    @property
    def input(self) -> Any:
        """The input."""
        return self.entry.vector(self.facts["input"])

    @cached_property
    def expected(self) -> dict[str, Any]:
        """What leaves each block, by its path, in order; ``"output"`` is last."""
        names = {each["path"]: each["tensor"] for each in self.facts["outputs"]}
        names["output"] = self.facts["output"]
        return {path: self.entry.vector(name) for path, name in names.items()}


def _matches(patterns: Iterable[str], names: Iterable[str], what: str) -> list[str]:
    """Return the names that the patterns match."""
    found: dict[str, None] = {}
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            near = difflib.get_close_matches(pattern, names) or list(names)[:5]
            raise PackError(f"there is no {what} {pattern!r}; try {', '.join(near)}")
        found.update(dict.fromkeys(matched))
    return list(found)


# ------------------------------------------------------------------------------------ comparing


@dataclass(frozen=True)
class Cause:
    """What may have gone wrong, and how likely that is: the share of the difference explained."""

    kind: str
    text: str
    share: float


@dataclass(frozen=True)
class Result:
    """How a case went."""

    case: str
    problem: str = ""  # what is wrong, in words; empty if nothing is
    path: str = ""  # the first output that differs
    error: float | None = None  # the largest difference, relative to the largest right value
    causes: Sequence[Cause] = ()  # what may have gone wrong, likeliest first
    ignored: Sequence[str] = ()  # outputs that the case does not have

    @property
    def ok(self) -> bool:
        """Whether all is right."""
        return not self.problem


@np.errstate(all="ignore")  # what was found may be of any size, infinite or NaN
def compare(case: Case, outputs: Mapping[str, Any]) -> Result:
    """Compare outputs, arrays by path, with what is right, up to the first that differs."""
    given = {
        path: np.array(outputs[path], float, ndmin=1) for path in case.expected if path in outputs
    }
    ignored = sorted(outputs.keys() - given.keys())
    error, right = 0.0, ""
    for path, found in given.items():
        here = Difference(case, path, found)
        if not here.tolerable:
            problem = str(here)
            if path == "output" and not right:
                problem += ". Give what leaves each block too, to see which is the first."
            causes = _explain(here, given, right)
            return Result(case.name, problem, path, here.error, causes, ignored)
        error, right = max(error, here.error or 0.0), path
    problem = "" if "output" in given else f"there is no 'output' among {sorted(outputs)}"
    return Result(case.name, problem, error=error, ignored=ignored)


class Difference:
    """An output beside what is right; `right` is that as ``(images, tokens, channels)``."""

    def __init__(self, case: Case, path: str, found: Any) -> None:
        self.case, self.path, self.found, self.want = case, path, found, case.expected[path]
        shape = self.want.shape if self.want.ndim > 2 else (1, *self.want.shape)
        self.right = self.want.reshape(shape[0], math.prod(shape[1:-1]), shape[-1])
        self.same_size = found.size == self.want.size
        self.error, self.tolerable = None, False
        if self.same_size:
            largest = np.abs(self.want).max(initial=0.0)
            limits = case.facts["tolerance"]
            self.distance = np.abs(found.reshape(self.want.shape) - self.want)
            self.wrong = ~(self.distance <= limits["absolute"] + limits["relative"] * largest)
            self.tolerable = not self.wrong.any()
            error = float(self.distance.max(initial=0.0) / (largest or 1.0))
            self.error = error if math.isfinite(error) else None

    def __str__(self) -> str:
        if not self.same_size:
            return f"shape {list(self.found.shape)} where {list(self.want.shape)} is expected"
        worst = np.unravel_index(np.argmax(self.distance), self.want.shape)
        names = ["row", "column"] if self.want.ndim == 4 else ["token"]
        place = zip((["image", *names, "channel"])[-self.want.ndim :], worst)
        found = self.found.reshape(self.want.shape)[worst]
        return (
            f"{self.wrong.sum():,} of {self.want.size:,} values differ{self._only()}, most at "
            f"{', '.join(f'{name} {at}' for name, at in place)}: {found:.4g} where "
            f"{self.want[worst]:.4g} is expected; relative error {self.error or math.nan:.1e}, "
            f"allowed {self.case.facts['tolerance']['relative']:.0e}"
        )

    def _only(self) -> str:
        """Name the images, tokens or channels that differ, if others do not."""
        parts = []
        for axis, name in enumerate(("images", "tokens", "channels")):
            wrong = np.moveaxis(self.wrong.reshape(self.right.shape), axis, 0).any((1, 2))
            if not wrong.all():
                parts.append(f"{name} {str(np.flatnonzero(wrong).tolist())[1:-1]:.30}")
        return f" (only {'; '.join(parts)})" if parts else ""


# --------------------------------------------------------------------------------------- causes
# A cause predicts an output. The nearer that is to what was found, the likelier is the cause.

Prediction = tuple[str, str, Any]  # the kind of cause, its text, the output


def _explain(wrong: Difference, given: Mapping[str, Any], right: str) -> list[Cause]:
    """Return what may have caused a difference, likeliest first, one of each kind."""
    if not np.isfinite(wrong.found).all():
        return [_not_finite(wrong)]
    causes = _ranked([*_mistakes(wrong, given, right), *_patterns(wrong)])
    causes = [cause for cause in causes if cause.share > 0.3] or [*_hints(wrong)]
    best: dict[str, Cause] = {}
    for cause in causes:
        if cause.share > causes[0].share / 2:
            best.setdefault(cause.kind, cause)
    return list(best.values())[:3]


def _ranked(causes: Iterable[Cause]) -> list[Cause]:
    """Sort by share; among equals stored mistakes, which come first, say most."""
    return sorted(causes, key=lambda cause: -round(cause.share, 2))


def _share(left: Any, whole: Any) -> float:
    """Return which share of a difference is explained if this is left of it."""
    share = 1 - float(np.linalg.norm(left) / np.linalg.norm(whole))
    return share if share > 0 else 0.0  # nor if it is NaN


def _mistakes(wrong: Difference, given: Mapping[str, Any], right: str) -> Iterator[Cause]:
    """Yield the stored mistakes made after the last right output."""
    case, paths = wrong.case, list(wrong.case.expected)
    possible = paths[paths.index(right) + 1 if right else 0 : paths.index(wrong.path) + 1]
    for mistake in case.facts["mistakes"]:
        at = "block" if mistake["block"] == wrong.path else "output"
        path = wrong.path if at == "block" else "output"
        size = math.prod(mistake[f"shape_at_{at}"])
        if mistake["block"] not in possible or path not in given or given[path].size != size:
            continue
        want, sample = case.expected[path].ravel(), case.entry.vector(mistake[f"at_{at}"])
        sample = sample.ravel()[:size]
        places = np.linspace(0, size - 1, len(sample)).round().astype(int)
        here = want[places] if want.size == size else 0.0
        found, sample = given[path].ravel()[places] - here, sample - here
        share, factor = _alike(found, sample)
        differs = np.abs(found) > case.facts["tolerance"]["relative"] * np.abs(want).max()
        if differs.sum() >= 12:  # enough to tell a mistake that was made for some images only
            part, size_of_part = _alike(found[differs], sample[differs])
            share, factor = max((share, factor), (0.9 * part, size_of_part))
        text = f"{mistake['cause']} (explains {share:.0%}"
        if factor:
            share *= max(0.0, 1 - abs(math.log10(factor)) / 8)
            text += f", at {factor:.2g} times its size" * (abs(math.log10(factor)) > 0.2)
        yield Cause(mistake["kind"], f"{text})", share)


def _alike(found: Any, mistake: Any) -> tuple[float, float]:
    """Return the share of a difference that a mistake explains, and its size beside it."""
    # Of another eps, the difference is larger or smaller, not another one.
    factor = max(0.0, float(found @ mistake / (mistake @ mistake)))
    return _share(found - factor * mistake, found), factor


def _patterns(wrong: Difference) -> list[Cause]:
    """Return the best of what the values alone show."""
    right, found, whole = wrong.right, wrong.found, wrong.found.ravel()
    predictions: list[Prediction] = []
    if wrong.same_size:
        whole = whole - wrong.want.ravel()
        predictions += _same_size(wrong, found.reshape(right.shape), right)
    if found.size and right.size and found.shape[-1] == right.shape[2]:
        rows = found.reshape(-1, right.shape[2])
        if len(rows) % len(right) == 0:
            predictions += _shifts(rows.reshape(len(right), -1, right.shape[2]), right)
    causes = []
    for kind, text, predicted in predictions:
        share = _share(found.ravel() - predicted.ravel(), whole)
        if share > 0.9:
            causes.append(Cause(kind, f"{text} (explains {share:.0%})", share))
    return causes and [max(causes, key=lambda cause: round(cause.share, 3))]


def _same_size(wrong: Difference, found: Any, right: Any) -> Iterator[Prediction]:
    """Yield outputs of the right size."""
    if not found.any():
        yield "zeros", "all values are zero: nothing was written", found
    yield "layout", "right values in another layout: (b, c, h, w)", right.transpose(0, 2, 1)
    yield "layout", "right values in another layout: (n, b, c)", right.transpose(1, 0, 2)
    if wrong.case.facts["dtype"] == "float32":
        bits = right.astype(np.float32).view(np.uint32)
        bfloat16 = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
        yield "half-precision", "the values are rounded to bfloat16", bfloat16
        yield "half-precision", "the values are rounded to float16", right.astype(np.float16)
    factor = (found * right).sum() / ((right**2).sum() or 1.0)
    yield "scale", f"all values are {factor:.4g} times what they should be", factor * right
    yield "activation-added", "a GELU or the like follows", right / (1 + np.exp(-1.7 * right))
    yield "activation-added", "a ReLU follows", np.maximum(right, 0)
    paths, values = list(wrong.case.expected), [wrong.case.input, *wrong.case.expected.values()]
    before = values[paths.index(wrong.path)]
    if before.size == right.size:
        before = before.reshape(right.shape)
        yield "residual-added", "the block's input is added to what comes out", right + before
        yield "residual-forgotten", "the block's input is not added", right - before
        yield "block-forgotten", "the block did nothing: this is its input", before
    for kind, text, order in _token_orders(_grids(wrong)):
        yield kind, f"the tokens are in another order, {text}", right[:, order]
    for axis, name in enumerate(("image", "token", "channel")):
        rows = [np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (found, right)]
        nearest = ((rows[1] ** 2).sum(1) - 2 * rows[0] @ rows[1].T).argmin(1)
        moved = np.flatnonzero(nearest != np.arange(len(nearest)))
        if len(moved) and len(np.unique(nearest)) == len(nearest):
            text = f"the {name}s are in another order: {name} {moved[0]} is what {name} "
            yield f"{name}-order", f"{text}{nearest[moved[0]]} should be", right.take(nearest, axis)


def _shifts(found: Any, right: Any) -> Iterator[Prediction]:
    """Yield the right tokens with some too many or missing at either end."""
    extra = found.shape[1] - right.shape[1]
    for before in dict.fromkeys((0, extra, *range(-4, 5))):
        source = np.arange(found.shape[1]) - before
        inside = (source >= 0) & (source < right.shape[1])
        ends = before, extra - before
        names = {(1, 0): "left-in", (-1, 0): "dropped-twice", (1, -1): "last"}
        kind = f"class-token-{names[ends]}" if ends in names else "extra-tokens"
        if any(ends) and inside.any():
            predicted = found.copy()
            predicted[:, inside] = right[:, source[inside]]
            text = "{:+} tokens at the beginning, {:+} at the end".format(*ends)
            yield kind, text, predicted


def _grids(wrong: Difference) -> Sequence[tuple[int, ...]]:
    """Return the grids of the tokens, or none if they are not known."""
    if wrong.want.ndim == 4:
        return [wrong.want.shape[1:3]]
    for side in (1, 2, 3, 4):  # what merging leaves of the input's
        grids = [tuple(length // side for length in grid) for grid in wrong.case.facts["grids"]]
        if sum(map(math.prod, grids)) == wrong.right.shape[1]:
            return grids
    return []


def _token_orders(grids: Sequence[tuple[int, ...]]) -> Iterator[Prediction]:
    """Yield orders of an image's tokens, or of a pack's."""
    ends = np.cumsum([math.prod(grid) for grid in grids])
    parts = np.split(np.arange(ends[-1]), ends[:-1]) if grids else []
    images = [part.reshape(grid) for part, grid in zip(parts, grids)]

    def order(change: Callable[[Any], Any]) -> Any:
        return np.concatenate([change(image).ravel() for image in images])

    if images:
        yield "transposed", "column by column", order(lambda x: x.T)
        text = "as if the grid were (w, h)"
        yield "transposed", text, order(lambda x: x.reshape(x.shape[::-1]).T)
    for s in (2, 3, 4):
        if images and all(h % s == w % s == 0 for h, w in grids):
            blocks = order(lambda x: x.reshape(len(x) // s, s, -1, s).swapaxes(1, 2))  # noqa: B023
            text = f"block by block ({s}x{s}) where they should come row by row"
            yield "raster-for-block-major", text, blocks
            text = f"as if they came block by block ({s}x{s}), and they came row by row"
            yield "block-major-for-raster", text, np.argsort(blocks)


def _hints(wrong: Difference) -> Iterator[Cause]:
    """Yield what may be said where nothing explains the values."""
    if wrong.error is not None and wrong.error < 2**-5 and wrong.case.facts["dtype"] == "float32":
        name = "float16 or TF32" if wrong.error < 2**-9 else "bfloat16"
        yield Cause("half-precision", f"the error is as large as that of {name}", 0.3)
    elif wrong.case.facts["packed"]:
        yield Cause("packed", "if only packed images are wrong, they are mixed up", 0.3)


def _not_finite(wrong: Difference) -> Cause:
    values = [wrong.case.input, *wrong.case.expected.values()]
    count = int((~np.isfinite(wrong.found)).sum())
    largest = max(float(np.abs(each).max(initial=0)) for each in values)
    if largest**2 > FP16_MAX:
        text = f"float16 overflows: values reach {largest:.3g}, their squares {largest**2:.3g}"
        return Cause("half-precision", f"{count:,} values are NaN or infinite: {text}", 1.0)
    text = "a division by zero (an eps left out), or memory that was not written"
    return Cause("not-finite", f"{count:,} values are NaN or infinite: {text}", 1.0)


def summarise(results: Iterable[Result]) -> list[Cause]:
    """Return the causes over several cases of an entry, by their mean share of the wrong ones."""
    wrong = [result for result in results if not result.ok]
    causes = [cause for result in wrong for cause in result.causes]
    best = []
    for kind in dict.fromkeys(cause.kind for cause in causes):
        same = [cause for cause in causes if cause.kind == kind]
        if kind == "packed" and len(same) < len(wrong):
            continue  # other cases are wrong too
        text = max(same, key=lambda cause: cause.share).text
        best.append(Cause(kind, text, sum(cause.share for cause in same) / len(wrong)))
    return _ranked(best)


# ------------------------------------------------------------------------------------- commands


def _from_file(case: Case, base: Path, missing: str = "") -> Result:
    """Compare the file of this name, with a suffix or without."""
    for file in (Path(f"{base}{suffix}") for suffix in ("", *SUFFIXES)):
        if file.is_file():
            try:
                return compare(case, read_tensors(file))
            except PackError as error:  # the other cases may be right
                return Result(case.name, str(error))
    return Result(case.name, missing or f"there is no {base}.safetensors, .npz or .npy")


def _from_command(case: Case, command: Sequence[str]) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        files = {"input": Path(folder, "input.npy"), "output": Path(folder, "output")}
        np.save(files["input"], case.input.astype(np.float32))
        files |= {"weights": case.entry.weights, "manifest": case.entry.folder / "manifest.json"}
        values = {**files, "entry": case.entry.name, "case": case.name}
        for layout, file in case.entry.upstream.items():
            values[f"upstream.{layout}"] = file
            values.setdefault("upstream", file)
        words = list(command)
        for name, value in values.items():
            words = [word.replace(f"{{{name}}}", str(value)) for word in words]
        if unknown := re.search(r"{upstream[^{}]*}", " ".join(words)):
            names = ", ".join(case.entry.upstream) or "none"
            return Result(case.name, f"there is no {unknown[0]}; upstream's names: {names}")
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise PackError(f"{words[0]}: {error.strerror}") from None
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            problem = ": ".join([f"the command ended with {done.returncode}", *last])
            return Result(case.name, problem)
        return _from_file(case, files["output"], "the command wrote nothing to {output}")


def _with_options(name: str, options: Mapping[str, Any]) -> str:
    return ", ".join([name, *(f"{key}={json.dumps(value)}" for key, value in options.items())])


def _describe_entry(entry: Entry) -> Iterator[str]:
    facts = entry.facts
    yield _with_options(f"{entry.name}: {facts['in']} -> {facts['out']}", facts["options"])
    yield from textwrap.wrap(facts["traps"] and f"Traps: {facts['traps']}", 100)
    for block in facts["chain"]:
        yield _with_options(f"{block['path']}: {block['type']}", block["options"])
    for file in (entry.weights, *entry.upstream.values()):
        yield f"\n{file.relative_to(entry.folder)}"
        yield from (f"  {name} {list(each.shape)}" for name, each in read_tensors(file).items())
    for case in entry.cases.values():
        keys = ("packed", "token_order", "prefix_tokens", "dtype", "tolerance")
        facts = {key: case.facts[key] for key in keys if key in case.facts}
        yield f"\n{case.name}: {case.facts['purpose']}"
        yield _with_options(f"  grids={case.facts['grids']}", facts)
        shapes = {"input": case.input, **case.expected}
        yield from (f"  {path} {list(each.shape)}" for path, each in shapes.items())


def _describe_results(entry: Entry, results: Sequence[Result]) -> Iterator[str]:
    blocks = {block["path"]: block for block in entry.facts["chain"]}
    for result in results:
        if result.ok:
            yield f"  {result.case}: ok, relative error {result.error:.1e}"
        else:
            path = f" at {result.path}" if result.path else ""
            if block := blocks.get(result.path):
                path += f" ({_with_options(block['type'], block['options'])})"
            yield f"  {result.case}: WRONG{path}"
            yield f"    {result.problem}"
        yield from (f"    likely: {cause.text}" for cause in result.causes)
        if result.ignored:
            yield f"    not compared: {', '.join(result.ignored)}"
    for cause in summarise(results)[:1]:
        yield f"  likely, over all wrong cases: {cause.text}"


def _compare_all(pack: Pack, args: argparse.Namespace) -> int:
    names = _matches(args.entry or ["*"], pack.names, "entry")
    if args.verb == "check":
        there = [name for name in names if Path(args.what, name).is_dir()]
        if not there:
            raise PackError(f"{args.what}: has no folder with the name of an entry")
        names = names if args.entry else there
    report, count, right = {}, 0, 0
    for name in names:
        entry = pack[name]
        cases = [entry.cases[case] for case in _matches(args.case or ["*"], entry.cases, "case")]
        if args.verb == "run":
            results = [_from_command(case, args.what) for case in cases]
        else:
            results = [_from_file(case, Path(args.what, name, case.name)) for case in cases]
        count, right = count + len(results), right + sum(result.ok for result in results)
        report[name] = {"causes": summarise(results), "cases": results}
        if not args.json:
            print(name, *_describe_results(entry, results), sep="\n")
    if args.json:
        print(json.dumps({"ok": right == count, "entries": report}, indent=1, default=asdict))
    else:
        entries = f"{len(report)} of {len(pack.names)} entries"
        print(f"{right} of {count} cases are right; {entries} compared")
    return 0 if right == count else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, what, text in (
        ("list", None, "list the entries and their cases"),
        ("show", "ENTRY", "show an entry's chain, weights and cases"),
        ("check", "OUTPUTS", "compare the files in a folder"),
        ("run", "COMMAND", "compare what a command writes"),
    ):
        command = verbs.add_parser(verb, help=text)
        command.add_argument("--pack", default=Path(__file__).parent, help="where manifest.json is")
        if what:
            kind = shlex.split if verb == "run" else str
            command.add_argument("what", metavar=what, type=kind)
        if verb in ("check", "run"):
            command.add_argument("--json", action="store_true", help="print JSON")
            for name in ("entry", "case"):
                text = f"only this {name}; it may hold *, and be given again"
                command.add_argument(f"--{name}", action="append", metavar="NAME", help=text)
    args = parser.parse_args(arguments)
    if args.verb == "run" and not args.what:
        parser.error("COMMAND is empty")
    try:
        pack, status = Pack(args.pack), 0
        if args.verb == "list":
            print(*(f"{name}: {', '.join(pack[name].cases)}" for name in pack.names), sep="\n")
        elif args.verb == "show":
            print(*_describe_entry(pack[args.what]), sep="\n")
        else:
            status = _compare_all(pack, args)
        print(end="", flush=True)
        return status
    except PackError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:  # the reader has gone, as with head, or the disk is full
        # When Python ends, it would write what is left, and fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        print(f"error: cannot write: {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
