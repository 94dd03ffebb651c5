"""The pack of test vectors as files: its format, its bytes, and what may be written over."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import on_a_terminal, run
from helpers.plugins import Site
from safetensors.torch import load_file, save_file

from mobilevlm import (
    PROJECTORS,
    Preset,
    RegistryError,
    SpecError,
    Stack,
    load_projector,
    load_spec,
)
from mobilevlm.checkpoints.mapping import from_upstream
from mobilevlm.testing.vectors import VectorsError, check, write, write_vectors
from mobilevlm.testing.vectors.check import PackError
from mobilevlm.testing.vectors.entries import all_entries, find_entries

Tensors = dict[str, torch.Tensor]
KEYS = {
    "entry": {
        *("family", "options", "in", "out", "grid", "document", "chain", "traps", "source"),
        *("weights", "upstream", "vectors", "cases"),
    },
    "case": {
        *("name", "purpose", "grids", "packed", "batch", "token_order", "prefix_tokens", "dtype"),
        *("scale", "input", "shape", "outputs", "output", "output_shape", "tolerance", "mistakes"),
    },
    "mistake": {
        *("name", "cause", "kind", "block", "at_block", "at_output"),
        *("shape_at_block", "shape_at_output"),
    },
}


@pytest.fixture
def pack(small_pack: Path) -> Path:
    return small_pack


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def check_format(folder: Path) -> None:
    """Compare what the manifest says with what the files hold."""
    found = manifest(folder)
    assert list(found) == ["format", "mobilevlm", "blocks", "entries"]
    assert found["format"] == 1
    named = {"manifest.json", "check.py"}
    for name, entry in found["entries"].items():
        assert entry.keys() == KEYS["entry"]
        named |= {entry["weights"], entry["vectors"], *entry["upstream"].values()}
        spec = load_spec(entry["document"])
        assert (spec.in_, spec.out) == (entry["in"], entry["out"])
        blocks = entry["document"]["blocks"]
        assert [{"type": row["type"], **row["options"]} for row in entry["chain"]] == blocks
        assert [row["path"] for row in entry["chain"]] == [
            f"blocks.{i}" for i in range(len(blocks))
        ]
        assert {row["type"] for row in entry["chain"]} <= found["blocks"].keys()
        assert {case["name"] for case in entry["cases"]} >= {"class-token", "scale-1e-3", "bf16"}
        tensors, used = load_file(folder / entry["vectors"]), set()
        for case in entry["cases"]:
            used |= check_case(case, tensors, [row["path"] for row in entry["chain"]], name)
        assert used == tensors.keys()
    assert named == contents(folder).keys()


def check_case(
    case: Mapping[str, Any], tensors: Tensors, blocks: list[str], where: str
) -> set[str]:
    """Check one case, and return the tensors that it names."""
    where = f"{where}, {case['name']}"
    assert case.keys() == KEYS["case"], where
    dtype = torch.bfloat16 if case["dtype"] == "bfloat16" else torch.float32
    stored = tensors[case["input"]]
    assert ([*stored.shape], stored.dtype) == (case["shape"], dtype), where
    tokens = sum(h * w for h, w in case["grids"]) + case["prefix_tokens"]
    assert stored.shape[-2] == tokens, where
    assert stored.dim() == (2 if case["packed"] else 3), where
    changed = case["prefix_tokens"] or case["token_order"] != "raster"
    paths = [row["path"] for row in case["outputs"]]
    assert paths == (["entry", *blocks] if changed else blocks), where
    for row in case["outputs"]:
        y = tensors[row["tensor"]]
        assert ([*y.shape], y.dtype) == (row["shape"], torch.float32), where
        assert y.isfinite().all(), where
    assert case["output"] == case["outputs"][-1]["tensor"], where
    assert torch.Size(case["output_shape"]).numel() == tensors[case["output"]].numel(), where
    assert 0 < case["tolerance"]["relative"] < 0.1, where
    used = {case["input"], *(row["tensor"] for row in case["outputs"])}
    names = [mistake["name"] for mistake in case["mistakes"]]
    assert len(names) == len({*names}), where
    for mistake in case["mistakes"]:
        assert mistake.keys() == KEYS["mistake"], where
        assert mistake["block"] in paths, where
        for key in ("at_block", "at_output"):
            sample = tensors[mistake[key]]
            values = torch.Size(mistake[f"shape_{key}"]).numel()
            assert sample.shape == (min(64, values),), where
            assert sample.isfinite().all(), (where, mistake["name"])
            used.add(mistake[key])
    return used


def test_the_manifest_says_what_is_there(pack: Path) -> None:
    check_format(pack)
    found = manifest(pack)["entries"]
    assert [*found] == [
        *("minimax-m3-vl", "kosmos-2", "gemma3", "ldpnetv2", "ldpnetv2-stride-2", "phi-3-vision"),
    ]
    assert found["gemma3"]["options"] == {"pool": 2}
    assert found["gemma3"]["chain"][1]["options"]["eps"] == 1e-6
    assert found["gemma3"]["traps"].startswith("the norm scales by 1 + w")
    assert [case["name"] for case in found["minimax-m3-vl"]["cases"]] == [
        *("square", "wide", "tall", "raster", "packed", "class-token", "scale-1e-3"),
        *("fp16-hazard", "bf16"),
    ]
    assert "odd" in [case["name"] for case in found["ldpnetv2"]["cases"]]
    assert [*found["minimax-m3-vl"]["upstream"]] == ["minimax-m3-vl", "minimax-m3-vl-module"]
    assert "/" not in manifest(pack)["mobilevlm"]
    assert (pack / "check.py").read_bytes() == Path(write.__file__).with_name(
        "check.py"
    ).read_bytes()


def test_the_same_call_gives_the_same_bytes(pack: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    try:
        write_vectors(tmp_path, ["kosmos-2", "gemma3"])
    finally:
        torch.set_default_dtype(torch.float32)
    expected = contents(pack)
    found = contents(tmp_path)
    names = [name for name in expected if name.partition("/")[0] in ("kosmos-2", "gemma3")]
    assert {name: found[name] for name in names} == {name: expected[name] for name in names}
    entries = manifest(pack)["entries"]
    assert manifest(tmp_path)["entries"] == {name: entries[name] for name in ("kosmos-2", "gemma3")}
    write_vectors(tmp_path, ["kosmos-2", "gemma3"])  # over itself
    assert contents(tmp_path) == found


@pytest.mark.slow
def test_another_processor_gives_the_same_within_tolerance(pack: Path, tmp_path: Path) -> None:
    code = "import sys; from mobilevlm.testing.vectors import write_vectors as w; w(*sys.argv[1:])"
    code = code.replace("*sys.argv[1:]", "sys.argv[1], sys.argv[2:]")
    limits = {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    }
    command = [sys.executable, "-c", code, str(tmp_path), "gemma3", "ldpnetv2"]
    subprocess.run(command, env={**os.environ, **limits}, check=True)
    for name in ("gemma3", "ldpnetv2"):
        path = f"{name}/weights.safetensors"
        assert (tmp_path / path).read_bytes() == (pack / path).read_bytes()
        other = load_file(tmp_path / name / "vectors.safetensors")
        for key, tensor in load_file(pack / name / "vectors.safetensors").items():
            if key.endswith(".input"):
                assert torch.equal(other[key], tensor), key
            elif key in other:  # a mistake at the edge of the tolerance may be left out
                error = (other[key] - tensor).abs().max() / tensor.abs().max()
                assert error < 1e-6, key


def test_upstreams_weights_are_ours(pack: Path) -> None:
    check_upstream(pack)


def check_upstream(folder: Path) -> None:
    """Load the weights under upstream's names, and compare them with ours."""
    for name, entry in manifest(folder)["entries"].items():
        ours = load_projector(folder / entry["weights"], grid=entry["grid"])
        assert ours.spec == load_spec(entry["document"])
        for layout, path in entry["upstream"].items():
            loaded = load_projector(
                folder / path, spec=ours.spec, module_names=layout, grid=ours.grid
            )
            for key, tensor in ours.state_dict().items():
                assert torch.equal(loaded.state_dict()[key], tensor), (name, layout, key)


def test_upstreams_weights_are_recognised_by_their_family(pack: Path) -> None:
    for name, entry in manifest(pack)["entries"].items():
        layout, path = next(iter(entry["upstream"].items()))
        loaded = load_projector(pack / path, family=entry["family"], **entry["options"])
        state = from_upstream(loaded, layout, load_file(pack / path))
        assert loaded.spec == load_spec(entry["document"]), name
        assert all(torch.equal(loaded.state_dict()[key], state[key]) for key in state), name


# ---------------------------------------------------------------------- names


def test_a_name_means_a_family_an_alias_or_an_entry() -> None:
    def found(*names: str) -> list[str]:
        return [entry.name for entry in find_entries(names)]

    assert found("ldpnetv2") == ["ldpnetv2", "ldpnetv2-stride-2"]
    assert found("ldpv2") == ["ldpv2"]
    assert found("qwen2_5_vl", "linear-bias-false", "linear") == [
        *("qwen2-5-vl", "linear-bias-false", "linear"),
    ]
    assert len({entry.name for entry in all_entries()}) == len(all_entries())
    [alias] = find_entries(["idefics"])
    assert alias.preset.model_dump() | {"queries": 4, "act": "relu", "head_dim": 96} == (
        alias.preset.model_dump()
    )
    assert found("linear_bias_false") == ["linear-bias-false"]
    for name, hint in (
        ("ldpnetv3", "Did you mean 'ldpnetv2' or 'ldpnet'?"),
        ("ldpnetv2(stride=2)", "There are ldpnetv2, ldpnetv2-stride-2."),
        ("ldpnetv2-stride-3", "There are ldpnetv2, ldpnetv2-stride-2."),
    ):
        with pytest.raises(RegistryError) as caught:
            find_entries([name])
        assert str(caught.value) == f"unknown projector '{name}'. {hint}"


BRIDGE = """
from mobilevlm import Block, Preset, Stack
from torch import nn

class Twice(nn.Module):
    def forward(self, x):
        if not x.shape[1] > 1:
            raise ValueError("one row")
        return 2 * x

class Double(Block):
    def build(self, x):
        return Twice()

class Bridge(Preset):
    def expand(self, in_, out):
        blocks = ["pointwise", {"type": "acme-blocks/double"}, {"type": "norm-act", "eps": 1e-6}]
        return Stack.parse({"in": in_, "out": out, "blocks": blocks})
"""


def test_a_plugins_projector_is_written_by_its_name(site: Site, tmp_path: Path) -> None:
    points = (
        "[mobilevlm.blocks]\ndouble = acme:Double\n[mobilevlm.projectors]\nbridge = acme:Bridge\n"
    )
    site.install("acme-blocks", "1.0", points, {"acme.py": BRIDGE})
    out = tmp_path / "out"
    assert str(write_vectors(out, ["acme-blocks/bridge"])).startswith("1 entry, 9 cases, ")
    check_format(out)
    [(name, entry)] = manifest(out)["entries"].items()
    assert (name, entry["family"]) == ("acme-blocks-bridge", "acme-blocks/bridge")
    assert [row["type"] for row in entry["chain"]] == [
        "pointwise",
        "acme-blocks/double",
        "norm-act",
    ]
    kinds = {row["kind"] for case in entry["cases"] for row in case["mistakes"]}
    assert {"eps", "gelu-tanh", "transposed", "activation-before-norm"} <= kinds


def test_a_plugins_block_that_fails_is_named(site: Site, tmp_path: Path) -> None:
    points = (
        "[mobilevlm.blocks]\ndouble = acme:Double\n[mobilevlm.projectors]\nbridge = acme:Bridge\n"
    )
    site.install("acme-blocks", "1.0", points, {"acme.py": BRIDGE.replace("> 1", "> 99")})
    with pytest.raises(VectorsError) as caught:
        write_vectors(tmp_path / "out", ["acme-blocks/bridge"])
    message = "acme-blocks-bridge, case 'square': computing it in fp64 failed: ValueError: one row"
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


class Large(Preset):
    def expand(self, in_: int, out: int) -> Stack:
        merge = {"type": "patch-merge", "size": [16, 16]}
        return Stack.parse({"in": in_, "out": out, "blocks": [merge, "pointwise"]})


class Wide(Preset):
    def expand(self, in_: int, out: int) -> Stack:
        if in_ < 1000:
            raise SpecError("too narrow", "in", "at least 1000")
        return Stack.parse({"in": in_, "out": out, "blocks": ["pointwise"]})


def test_a_projector_that_takes_nothing_small_is_refused(registries: None, tmp_path: Path) -> None:
    PROJECTORS.register("large", Large)
    PROJECTORS.register("wide", Wide)
    with pytest.raises(VectorsError) as caught:
        write_vectors(tmp_path / "out", ["linear", "large"])
    message = "large: it takes no grid of at most 12x12; expected one that is small"
    assert str(caught.value) == message
    with pytest.raises(SpecError, match=r"^in: too narrow; expected at least 1000$"):
        write_vectors(tmp_path / "out", ["wide"])
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- what is there


def write_over(folder: Path, **options: Any) -> str:
    """Return the message that writing is refused with."""
    with pytest.raises(VectorsError) as caught:
        write_vectors(folder, ["linear-bias-false"], **options)
    return str(caught.value).replace(str(folder), "OUT")


ALREADY = (
    "already there, and nothing in it says that this library wrote it; expected a new file or an "
    "earlier result. Name another; replace=True replaces it, and what it holds is lost."
)


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "check.py",
        "linear-bias-false/weights.safetensors",
        "linear-bias-false/vectors.safetensors",
    ],
)
def test_what_this_library_did_not_write_stays(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({"weight": torch.ones(1)}, path)
    else:
        path.write_text('{"format": 1}')
    before = contents(tmp_path)
    assert write_over(tmp_path) == f"OUT/{name}: {ALREADY}"
    assert contents(tmp_path) == before
    write_vectors(tmp_path, ["linear-bias-false"], replace=True)
    check_format(tmp_path)
    write_vectors(tmp_path, ["linear-bias-false"])


def test_a_file_or_a_link_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "linear-bias-false").touch()
    assert write_over(tmp_path) == (
        "OUT/linear-bias-false: not a folder; expected a folder. Name another."
    )
    (tmp_path / "file").touch()
    assert write_over(tmp_path / "file") == "OUT: not a folder; expected a folder. Name another."
    assert write_over(tmp_path / "x.json").startswith("OUT: the suffix .json means another format")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert write_over(tmp_path / "link") == "OUT: not a folder; expected a folder. Name another."
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").symlink_to(tmp_path / "file")
    assert write_over(tmp_path / "out").startswith("OUT/manifest.json: a link to ")


def test_other_files_and_entries_stay(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_vectors(tmp_path, ["linear-bias-false"])
    write_vectors(tmp_path, "fuyu")
    assert [*manifest(tmp_path)["entries"]] == ["fuyu"]
    assert {"notes.txt", "linear-bias-false/weights.safetensors"} <= contents(tmp_path).keys()


def test_a_write_that_fails_leaves_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes) -> None:
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(write, "replace_file", fail)
    with pytest.raises(OSError, match="No space left"):
        write_vectors(tmp_path / "new" / "out", ["fuyu"])
    assert not (tmp_path / "new" / "out").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match="No space left"):
        write_vectors(tmp_path / "old", ["fuyu"])
    assert contents(tmp_path / "old") == {"notes.txt": b"mine"}


def test_what_is_half_written_is_no_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over an earlier pack too: whenever the process is killed, there is no manifest."""
    write_vectors(tmp_path, ["fuyu"])
    written = []

    def kill_at_last(path: Path, data: bytes) -> None:
        assert not (tmp_path / "manifest.json").exists()
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        written.append(path.name)

    monkeypatch.setattr(write, "replace_file", kill_at_last)
    with pytest.raises(KeyboardInterrupt):
        write_vectors(tmp_path, ["fuyu"])
    assert written == [
        *("weights.safetensors", "upstream-fuyu.safetensors", "vectors.safetensors", "check.py"),
    ]
    with pytest.raises(PackError, match=r"manifest\.json: No such file or directory$"):
        check.Pack(tmp_path)
    monkeypatch.undo()
    write_vectors(tmp_path, ["fuyu"])
    assert check.Pack(tmp_path).names == ["fuyu"]


# ---------------------------------------------------------------------- the command


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, text, err = run("vectors", str(out), "linear", "--json")
    assert (status, err) == (0, "")
    found = json.loads(text)
    size = sum(map(len, contents(out).values()))
    assert found == {
        "folder": str(out),
        "entries": 2,
        "cases": 16,
        "mistakes": found["mistakes"],
        "hidden": {
            "linear": ["block-major-for-raster", "sides-swapped"],
            "linear-bias-false": ["block-major-for-raster", "sides-swapped"],
        },
        "size": size,
    }
    rows = [
        case["mistakes"] for entry in manifest(out)["entries"].values() for case in entry["cases"]
    ]
    assert found["mistakes"] == sum(map(len, rows)) > 20
    status, text, err = run("vectors", str(out), "linear")
    assert (status, err) == (0, "")
    assert text == (
        f"2 entries, 16 cases, {found['mistakes']} wrong outputs, {size / 1e6:.1f} MB\n"
        "4 mistakes change nothing in any case of their entry, and are left out.\n"
        f"Next: python {out}/check.py --help\n"
    )


def test_the_command_explains_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    status, text, err = run("vectors", str(tmp_path), "linear")
    assert (status, text) == (2, "")
    assert "already there, and nothing in it says" in err
    assert "--force replaces it" in err
    assert run("vectors", str(tmp_path), "fuyu", "--force")[0] == 0
    status, _, err = run("vectors", str(tmp_path), "fuyuu")
    assert status == 2
    assert "unknown projector 'fuyuu'. Did you mean 'fuyu'" in err


@pytest.mark.slow
def test_the_command_draws_a_bar_on_a_terminal(tmp_path: Path) -> None:
    drawn = on_a_terminal("vectors", str(tmp_path / "out"), "fuyu", "linear")
    assert "linear-bias-false ..." in drawn
    assert "3 entries" in drawn


# ---------------------------------------------------------------------- all families


@pytest.mark.slow
def test_all_families_are_small_and_complete(full_pack: Path) -> None:
    check_format(full_pack)
    check_upstream(full_pack)
    assert sum(map(len, contents(full_pack).values())) < 30_000_000
    found = manifest(full_pack)["entries"]
    built_in = {name for name in PROJECTORS if PROJECTORS.find(name).source == "built-in"}
    assert {entry["family"] for entry in found.values()} == built_in
    assert [*found] == [entry.name for entry in all_entries()]
    without = [name for name, entry in found.items() if not entry["upstream"]]
    assert {found[name]["family"] for name in without} == {"identity", "ldp", "oryx"}
