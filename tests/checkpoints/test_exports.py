"""Files of `export_projector`, read back as documents: written here by hand, byte by byte."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.command import run

from mobilevlm import SpecError, build_projector, load_spec, spec_of
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.formats import exported
from mobilevlm.checkpoints.inspection import inspect_checkpoint
from mobilevlm.checkpoints.load import load_projector
from mobilevlm.projectors.document import dump_spec

SPEC = spec_of("mlp", 64, 96)
DOCUMENT = dump_spec(SPEC).encode()


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def gguf(document: bytes | None = DOCUMENT, *, version: int = 3, more: bytes = b"") -> bytes:
    """A file with a value of each type, a document, and no tensors."""
    values = [
        (0, "B", 1), (1, "b", 1), (2, "H", 1), (3, "h", 1), (4, "I", 1), (5, "i", 1),
        (6, "f", 1.0), (7, "?", True), (10, "Q", 1), (11, "q", 1), (12, "d", 1.0),
    ]  # fmt: skip
    entries = [
        text(f"number.{form}".encode()) + struct.pack(f"<I{form}", type_, value)
        for type_, form, value in values
    ]
    entries.append(text(b"name") + struct.pack("<I", 8) + text(b"mlp"))
    entries.append(text(b"mean") + struct.pack("<IIQ3f", 9, 6, 3, 0.5, 0.5, 0.5))
    entries.append(text(b"words") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc"))
    if document is not None:
        entries.append(text(b"mobilevlm.spec") + struct.pack("<I", 8) + text(document))
    entries.append(text(b"last") + struct.pack("<II", 4, 7))
    head = b"GGUF" + struct.pack("<IQQ", version, 0, len(entries))
    return head + b"".join(entries) + more


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def message(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def onnx(document: bytes | None = DOCUMENT, *, graph: int = 5_000_000) -> bytes:
    """A model with a version, a name, a large graph, two properties, and fixed-size fields."""
    found = varint(1 << 3) + varint(10) + message(2, b"pytorch") + message(7, bytes(graph))
    found += varint(99 << 3 | 1) + bytes(8) + varint(98 << 3 | 5) + bytes(4)
    found += message(14, message(1, b"other") + message(2, b"{}"))
    if document is not None:
        found += message(14, message(2, document) + message(1, b"mobilevlm"))
    return found


FILES: dict[str, Callable[[], bytes]] = {"GGUF": gguf, "ONNX": onnx}


def written(kind: str, folder: Path, data: bytes | None = None) -> Path:
    path = folder / f"p.{kind.lower()}"
    path.write_bytes(FILES[kind]() if data is None else data)
    return path


@pytest.mark.parametrize("kind", FILES)
def test_an_export_says_what_it_was_made_of(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    found = inspect_checkpoint(path)
    assert found.spec == SPEC
    assert (found.family, found.title) == ("document", "document (mlp)")
    assert (found.export, found.used, found.left) == (kind, (), 0)
    assert str(found) == f"{path}: document (mlp), 64 -> 96, an export to {kind}"
    facts = found.to_dict()
    assert (facts["export"], facts["dtype"]) == (kind, None)
    build_projector(inspect_checkpoint(path).spec)(torch.randn(1, 4, 64))  # what the hint says


@pytest.mark.parametrize("kind", FILES)
def test_its_weights_are_not_read(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_projector(path)
    assert str(caught.value) == (
        f"{path}: an export to {kind}, of which the document can be read, but not the weights; "
        "expected a checkpoint. Load the checkpoint that it was made of. Read its document: "
        f"inspect_checkpoint('{path}').spec"
    )
    with pytest.raises(SpecError) as caught_too:
        load_spec(path)
    assert str(caught_too.value) == (
        f"{path}: an exported file; expected a JSON document. Read its document: "
        f"inspect_checkpoint('{path}').spec"
    )


@pytest.mark.parametrize("kind", FILES)
def test_the_command_line_says_the_same(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    assert run("inspect", str(path)) == (0, f"{inspect_checkpoint(path)}\n", "")
    facts = json.loads(run("inspect", "--json", str(path))[1])
    assert (facts["in"], facts["out"], facts["export"]) == (64, 96, kind)
    code, _, said = run("show", str(path))
    assert code
    assert said.rstrip().endswith(f"Read its document: mobilevlm inspect {path}")
    code, _, said = run("inspect", "--values", str(path))
    assert code
    assert "of which the document can be read, but not the weights" in said
    assert said.rstrip().endswith(f"Read its document: mobilevlm inspect {path}")


def test_the_exporters_write_it_where_it_is_read() -> None:
    """By the marks that exports are recognised by; with their packages, tests/extras does so."""
    from mobilevlm.export.gguf import Gguf
    from mobilevlm.export.onnx import Onnx

    assert Gguf.mark in gguf()
    assert Onnx.mark in message(14, message(1, b"mobilevlm") + message(2, DOCUMENT))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("GGUF", gguf(None)),
        ("GGUF", gguf(version=1)),
        ("GGUF", b"GGUF"),
        ("GGUF", b"something else" * 9),
        ("ONNX", onnx(None)),
        ("ONNX", b""),
    ],
)
def test_files_without_a_document_are_of_others(kind: str, data: bytes, tmp_path: Path) -> None:
    path = written(kind, tmp_path, data)
    for call in (load_projector, inspect_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            call(path)
        assert "an export to" not in str(caught.value)


def vocabulary(count: int) -> bytes:
    return struct.pack("<IQQ", 3, 0, 1) + text(b"t") + struct.pack("<IIQ", 9, 8, count)


HEAD = b"GGUF" + struct.pack("<IQ", 3, 0)
CUT = "It is cut off or damaged: export it again."
HOSTILE: dict[str, tuple[str, bytes, str]] = {
    "cut off": ("GGUF", gguf()[: -len(DOCUMENT) - 20], "bytes where"),
    "many entries": (
        "GGUF",
        HEAD + struct.pack("<Q", 1 << 60),
        "1,152,921,504,606,846,976 entries",
    ),
    "a long key": ("GGUF", HEAD + struct.pack("<QQ", 1, 1 << 62), "bytes where at most 0 may be"),
    "a long text": (
        "GGUF",
        HEAD + struct.pack("<Q", 1) + text(b"a") + struct.pack("<IQ", 8, 1 << 62),
        "4,611,686,018,427,387,904 bytes where 0 are left",
    ),
    "a long document": (
        "GGUF",
        HEAD + struct.pack("<Q", 1) + text(b"mobilevlm.spec") + struct.pack("<IQ", 8, 1 << 40),
        "bytes where at most 0 may be",
    ),
    "a long array": (
        "GGUF",
        HEAD + struct.pack("<Q", 1) + text(b"a") + struct.pack("<IIQ", 9, 4, 1 << 61),
        "bytes where 0 are left",
    ),
    "an array of arrays": (
        "GGUF",
        HEAD + struct.pack("<Q", 1) + text(b"a") + struct.pack("<IIQ", 9, 9, 1),
        "a value of type 9",
    ),
    "an unknown type": (
        "GGUF",
        HEAD + struct.pack("<Q", 1) + text(b"a") + struct.pack("<I", 77),
        "a value of type 77",
    ),
    "a document that is no text": ("GGUF", gguf(b"\xff"), "its document is not UTF-8"),
    "a model that is cut off": ("ONNX", onnx()[:-9], "bytes where at most"),
    "a graph beyond the end": ("ONNX", varint(7 << 3 | 2) + varint(1 << 50), "are left"),
    "a field of no type": ("ONNX", bytes([7]), "a field of type 7, not an ONNX model"),
    "a number without an end": ("ONNX", b"\xff" * 20, "a number of more than 64 bits"),
    "many fields": ("ONNX", b"\x08\x01" * 100_001, "more than 100,000 fields"),
    "many fields in a property": ("ONNX", message(14, b"\x08\x01" * 9), ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    kind, data, said = HOSTILE[name]
    path = written(kind, tmp_path, data)
    for call in (inspect_checkpoint, load_projector):
        with pytest.raises(CheckpointError) as caught:
            call(path)
        assert said in str(caught.value)
        assert str(caught.value).startswith(f"{path}: ")


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what will be read, in order."""
    read: list[int] = []
    real = exported._Reader.read

    def spy(self: exported._Reader, n: int) -> bytes:
        read.append(n)
        return real(self, n)

    monkeypatch.setattr(exported._Reader, "read", spy)
    return read


def test_a_vocabulary_is_not_gone_through(tmp_path: Path) -> None:
    path = written("GGUF", tmp_path, b"GGUF" + vocabulary(200_000) + bytes(99))
    assert exported.exported_document(path) == ("GGUF", "")


def test_metadata_longer_than_ours_are_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = text(b"words") + struct.pack("<IIQ", 9, 8, 2_000) + text(bytes(10)) * 2_000
    last = text(b"last") + struct.pack("<IB", 0, 1)
    path = written("GGUF", tmp_path, HEAD + struct.pack("<Q", 2) + words + last)
    monkeypatch.setattr(exported, "MAX_METADATA", 1_000)
    assert exported.exported_document(path) == ("GGUF", "")
    for call in (load_projector, inspect_checkpoint):
        with pytest.raises(CheckpointError, match="a GGUF file") as caught:
            call(path)
        assert "cut off" not in str(caught.value)


def test_few_fields_of_a_property_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("ONNX", tmp_path, message(14, b"\x18\x00" * 10_000))
    read = reads(monkeypatch)
    assert exported.exported_document(path) == ("ONNX", "")
    assert len(read) < 20


def test_a_document_that_does_not_fit(tmp_path: Path) -> None:
    path = written("ONNX", tmp_path, onnx(b'{"in": 1}'))
    with pytest.raises(CheckpointError) as caught:
        inspect_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: its document does not fit: 2 problems")


def test_little_is_read_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("ONNX", tmp_path, onnx(graph=20_000_000))
    read = reads(monkeypatch)
    assert inspect_checkpoint(path).spec == SPEC
    assert sum(read) < 2 * len(DOCUMENT) + 200  # the property, and what is in it
