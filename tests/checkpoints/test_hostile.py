"""Strangers' files and names: refused in one sentence that any terminal can print."""

import contextlib
import io
import json
import os
import pickletools
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plugins import SWAY, Site
from safetensors.torch import save_file
from torch import nn

from mobilevlm import (
    BLOCKS,
    Block,
    Feature,
    MobileVLMError,
    SpecError,
    build_projector,
    dump_spec,
    load_projector,
    load_spec,
    plan_projector,
)
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.formats import torch_pickle
from mobilevlm.checkpoints.inspection import inspect_checkpoint
from mobilevlm.checkpoints.mapping import layouts, to_upstream
from mobilevlm.projectors.upstream import Name
from mobilevlm.registry import describe_error, first_line, printable

MERGE = {"type": "patch-merge", "size": 64}


@pytest.mark.parametrize("number", [5, 4000])
def test_no_chain_makes_more_channels_than_a_width_may_say(number: int) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec({"in": 64, "out": 8, "blocks": [MERGE] * number})
    assert str(caught.value) == (
        "blocks[1] (patch-merge): 1073741824 channels; expected at most 1,048,576. "
        "It is given ?x? x 262144 by blocks[0] (patch-merge)."
    )


def test_joined_branches_make_no_more_channels_either() -> None:
    wide = {"type": "pointwise", "out": 1 << 20}
    joined = {"type": "parallel", "join": "cat", "branches": [[wide], [wide]]}
    with pytest.raises(SpecError, match="2097152 channels; expected at most 1,048,576"):
        load_spec({"in": 8, "out": 8, "blocks": [joined]})
    load_spec({"in": 8, "out": 8, "blocks": [wide, "pointwise"]})
    with pytest.raises(SpecError, match="<int> channels"):
        Feature(channels=10**5000, ends=(8, 8))


class Talks(Block):
    """A block whose every part fails, with more to say than a line."""

    at: str

    def fail(self) -> None:
        raise ValueError("\n  first\x1b[31m\nsecond\nthird")

    def flow(self, x: Feature) -> Feature:
        if self.at == "flow":
            self.fail()
        return x

    def build(self, x: Feature) -> nn.Module:
        if self.at == "build":
            self.fail()
        owner = self

        class Module(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                owner.fail()
                return x

        return Module()


@pytest.mark.parametrize(
    ("at", "said"),
    [("flow", "walking failed"), ("build", "building failed"), ("forward", "its module fails on")],
)
def test_strangers_errors_are_cut_to_their_first_line(at: str, said: str, registries: None) -> None:
    BLOCKS.register("talks", Talks)
    document = {"in": 8, "out": 8, "blocks": [{"type": "talks", "at": at}]}
    with pytest.raises(SpecError) as caught:
        _ = plan_projector(document, grid=(2, 2)).macs
    text = str(caught.value)
    assert said in text
    assert "ValueError: first\\x1b[31m" in text
    assert "second" not in text
    assert text.isprintable()


def test_a_plugins_error_is_cut_to_its_first_line(site: Site) -> None:
    site.install(
        "north-tools",
        "1.0",
        "[mobilevlm.blocks]\nsway = north_tools:Sway\n",
        {"north_tools.py": 'raise ValueError("first\\x1b[31m\\nsecond")'},
    )
    with pytest.raises(MobileVLMError) as caught:
        BLOCKS.get("sway")
    assert "ValueError on import: first\\x1b[31m. " in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_error_without_words() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe_error(Mute()) == "Mute: no message"
    assert first_line(ValueError("x" * 1000)) == "x" * 297 + "..."


def test_what_no_terminal_should_be_given_is_escaped() -> None:
    assert printable("Zoë/東京 x") == "Zoë/東京 x"
    assert printable("a\x1b[2J\u202e\ud800\n") == "a\\x1b[2J\\u202e\\ud800\\n"
    error = MobileVLMError("found\ntwo lines\r", "a\nb", hint="\x9b")
    assert str(error) == "a\\nb: found\ntwo lines\\r. \\x9b"


@pytest.mark.parametrize("name", ["a\ud800b", "a\0b", "a\nb", "\x1b[2Jx", "x" * 5000])
def test_paths_that_no_file_has(name: str) -> None:
    for call in (load_spec, load_projector, inspect_checkpoint):
        with pytest.raises(MobileVLMError) as caught:
            call(name)
        str(caught.value).encode("utf-8")
        assert str(caught.value).isprintable()
        assert str(caught.value).startswith(f"{printable(name)}: cannot be read: ")


def test_paths_that_no_file_can_have(tmp_path: Path) -> None:
    stack = load_spec({"in": 8, "out": 8, "blocks": ["pointwise"]})
    for name in ("a\0b", "a\ud800b"):
        with pytest.raises(SpecError) as caught:
            dump_spec(stack, tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path}/{printable(name)}: cannot be written: ")


@pytest.mark.parametrize("shard", ["a\0.safetensors", "\ud800.safetensors", "x" * 5000])
def test_shards_of_names_that_no_file_has(shard: str, tmp_path: Path) -> None:
    keys = [f"mm_projector.{place}.{leaf}" for place in (0, 2) for leaf in ("weight", "bias")]
    index = {"weight_map": dict.fromkeys(keys, shard)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for call in (load_projector, inspect_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            call(tmp_path)
        text = str(caught.value)
        assert text.isprintable()
        assert text.startswith(f"{tmp_path}/{printable(shard)}: cannot be read: ")


def test_names_of_files_that_a_terminal_would_obey(tmp_path: Path) -> None:
    for name in ("a\x1b[2J.safetensors", "b\n.safetensors"):
        save_file({"x": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path)
    assert str(caught.value).isprintable()
    assert "a\\x1b[2J.safetensors, b\\n.safetensors" in str(caught.value)


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("name", ["linear", "identity", "mlp2x_gelu"])
def test_no_layout_stumbles_over_a_short_chain(layout: str, name: str) -> None:
    projector = build_projector(name, 8, 8)
    with contextlib.suppress(CheckpointError):
        theirs = to_upstream(projector, layout)
        assert sum(t.numel() for t in theirs.values()) == sum(
            t.numel() for t in projector.state_dict().values()
        )


@pytest.mark.parametrize(
    "name",
    [Name("latents", "bare"), Name("conv", "conv", (2, 2))],
    ids=["a norm for queries", "a linear layer for a convolution"],
)
def test_a_layout_that_takes_one_module_for_another(name: Name) -> None:
    stack = load_spec({"in": 6, "out": 6, "blocks": [{"type": "norm-act", "norm": "layer"}]})
    if name.form == "conv":
        stack = load_spec({"in": 6, "out": 6, "blocks": ["pointwise"]})
    with pytest.raises(CheckpointError) as caught:
        to_upstream(build_projector(stack), lambda projector: [name])
    hint = "It belongs to another family."
    if name.form == "conv":
        hint = "The modules that hold parameters are, in order of use: blocks.0 (Linear)."
    assert str(caught.value) == f"the layout does not fit the projector's modules. {hint}"


@pytest.mark.parametrize("mode", ["mlp", "pooling"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_deepseek_vl2_of_any_depth(mode: str, depth: int, tmp_path: Path) -> None:
    projector = build_projector("deepseek-vl2", 12, 24, mode=mode, depth=depth)
    theirs = to_upstream(projector, "deepseek-vl2")
    first = ["token_pooling_layer"] if mode == "pooling" else []
    names = [*first, *(f"layers.{2 * step}" for step in range(depth))]
    assert list(theirs) == [f"{name}.{leaf}" for name in names for leaf in ("weight", "bias")]
    save_file(
        {f"projector.{key}": tensor for key, tensor in theirs.items()}, tmp_path / "m.safetensors"
    )
    (tmp_path / "config.json").write_text('{"model_type": "deepseek_vl_v2"}')
    assert load_projector(tmp_path).spec == projector.spec


# ---------------------------------------------------------------------------- pickles


def pickled(data: bytes, members: int = 0) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/version", b"3\n")
        for number in range(members):
            archive.writestr(f"x/data/{number}", b"")
    return file.getvalue()


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        torch_pickle.PickleFile(path)
    return str(caught.value).replace(str(path), "X")


@pytest.mark.parametrize("opcode", [b"N", b"]", b"(", b"}"])
def test_no_pickle_is_looked_at_for_ever(
    opcode: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: Counter[str] = Counter()
    real = pickletools.genops

    def genops(data: bytes) -> Any:
        for each in real(data):
            looked["opcodes"] += 1
            yield each

    def load(*_: Any, **__: Any) -> None:
        looked["loads"] += 1

    monkeypatch.setattr(pickletools, "genops", genops)
    monkeypatch.setattr(torch, "load", load)
    monkeypatch.setattr(torch_pickle, "MAX_OPCODES", 1000)
    path = tmp_path / "x.bin"
    path.write_bytes(pickled(b"\x80\x02" + opcode * 100_000 + b"."))
    assert refused(path) == (
        "X: a pickle of more than 1,000 opcodes; expected tensors by name. Save the state dict "
        "alone, with torch.save, where the file was made."
    )
    assert looked == {"opcodes": 1001}


def test_all_that_torch_saves_in_the_bytes_allowed_is_within_the_limits() -> None:
    """The densest pickles: short keys, and views, scalars or parameters for tensors."""
    whole = torch.zeros(2000, 1)
    for state in (
        {str(index): row for index, row in enumerate(whole)},
        {str(index): torch.tensor(1.0) for index in range(2000)},
        {str(index): nn.Parameter(torch.tensor(1.0)) for index in range(2000)},
    ):
        file = io.BytesIO()
        torch.save(state, file)
        with zipfile.ZipFile(file) as archive:
            data = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
            members = len(archive.namelist())
        longest = torch_pickle.MAX_PICKLE / len(data)  # keys grow, and so does this many tensors
        assert sum(1 for _ in pickletools.genops(data)) * longest < torch_pickle.MAX_OPCODES
        assert members * longest < torch_pickle.MAX_MEMBERS


def test_an_archive_of_very_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_pickle, "MAX_MEMBERS", 100)
    path = tmp_path / "x.bin"
    path.write_bytes(pickled(b"\x80\x02}.", 99))
    assert refused(path) == (
        "X: an archive of 101 members; expected at most 100. Save the state dict alone, with "
        "torch.save, where the file was made."
    )
    path.write_bytes(pickled(b"\x80\x02}.", 98))
    assert "without tensors" in refused(path)


# ---------------------------------------------------------------------------- the command line

DOCUMENT = '{"in": 8, "out": 16, "blocks": ["pointwise"]}'


def command(*words: str, given: str = "", **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mobilevlm.cli", *words],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **kwargs,
    )


@pytest.mark.quick("-")
@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0"])
def test_a_document_from_a_pipe(name: str) -> None:
    done = command("check", name, given=DOCUMENT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{name}: ok, 8 -> 16, 144 parameters\n"
    done = command("tokens", name, "grid=2x3", given=DOCUMENT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "6\n", "")


def test_a_wrong_document_from_a_pipe() -> None:
    done = command("check", "-", given="{")
    assert done.returncode == 1
    assert done.stderr.startswith("error: -: not JSON: Expecting property name")
    done = command("check", "-", given=" " * 16_000_001)
    assert done.stderr == "error: -: too long; expected at most 16,000,000 bytes\n"


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    done = command("check", str(tmp_path / "x.json"))
    assert done.returncode == 1
    assert "cannot be read: not a regular file; expected a JSON document" in done.stderr


def test_names_of_documents_that_a_terminal_would_obey(tmp_path: Path) -> None:
    for name, text in (("a\x1b[2J.json", DOCUMENT), ("b\x1b[2J\n.json", "{}")):
        (tmp_path / name).write_text(text)
        done = command("check", str(tmp_path / name))
        assert "\\x1b[2J" in done.stdout + done.stderr
        assert (done.stdout + done.stderr).count("\n") == 1 + 3 * (text == "{}")
        assert "\x1b" not in done.stdout + done.stderr


def test_the_current_folder_installs_nothing(site: Site) -> None:
    site.install(
        "evil",
        "1.0",
        "[mobilevlm.blocks]\nsway = evil:Sway\n",
        {"evil.py": 'open("ran", "w").close()\n' + SWAY},
    )
    (site.folder / "d.json").write_text('{"in": 8, "out": 8, "blocks": ["sway"]}')
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = command("check", "d.json", cwd=site.folder, env=environment)
    assert done.returncode == 1
    assert "unknown block 'sway'" in done.stderr
    assert not (site.folder / "ran").exists()
    done = command(
        "check", "d.json", cwd=site.folder, env={**environment, "PYTHONPATH": str(site.folder)}
    )
    assert "unknown block" not in done.stderr
    assert (site.folder / "ran").exists()
