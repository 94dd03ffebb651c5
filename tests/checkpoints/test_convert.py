"""Converting: results whole or not at all, values, and the command line."""

import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import header, mlp, pickle_refusal, same
from helpers.command import on_a_terminal, run
from helpers.golden import GOLDEN
from safetensors.torch import load_file, save_file
from torch import nn

from mobilevlm import (
    CheckpointError,
    SpecError,
    build_projector,
    convert_checkpoint,
    inspect_checkpoint,
    inspect_values,
    load_projector,
    save_projector,
)
from mobilevlm.checkpoints.formats.safetensors import SafetensorsFile
from mobilevlm.checkpoints.values import _values
from mobilevlm.cli.output import progress_bar

# ---------------------------------------------------------------------- what is written, and where


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(mlp(), tmp_path / "mm_projector.safetensors")
    return tmp_path / "mm_projector.safetensors"


def taken(source: Path, out: Path, **arguments: Any) -> str:
    """Return why `out` cannot be written; nothing there may change."""
    before = snapshot(out.parent)
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(source, out, **arguments)
    assert snapshot(out.parent) == before
    return str(caught.value).replace(str(out), "X")


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


ASK = "Name another; replace=True replaces it, and what it holds is lost."
TAKEN = "already there, and nothing in it says that this library wrote it; expected a new file or"
READ = "X: it is what is read; expected another place. Name another, and keep this one."


def test_nothing_is_lost(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "deep" / "out"
    convert_checkpoint(source, out)
    assert sorted(os.listdir(out)) == ["README.md", "config.json", "model.safetensors"]
    convert_checkpoint(source, out, dtype=torch.float16)  # over an earlier result
    assert inspect_checkpoint(out).dtype == torch.float16
    (out / "config.json").unlink()
    convert_checkpoint(source, out, replace=True)
    with pytest.raises(CheckpointError, match="cannot be read: No such file or directory"):
        convert_checkpoint(tmp_path / "none", out, replace=True)
    # What is beside it stays; what is not ours does, too.
    (out / "notes.txt").write_text("mine")
    convert_checkpoint(source, out)
    assert (out / "notes.txt").read_text() == "mine"
    for name, write in (
        ("model.safetensors", lambda path: save_file(mlp(), path)),
        ("model.safetensors", lambda path: path.write_bytes(b"cut off")),
        ("config.json", lambda path: path.write_text('{"model_type": "llava"}')),
    ):
        convert_checkpoint(source, out, replace=True)
        write(out / name)
        assert taken(source, out) == f"X/{name}: {TAKEN} an earlier result. {ASK}"
    convert_checkpoint(source, out, replace=True)
    # Files and links.
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for replace in (False, True):
        for name, what in (("file", "a file"), ("link", "a link to 'nowhere', not there")):
            assert taken(source, tmp_path / name, replace=replace) == (
                f"X: {what}; expected a folder. Name another."
            )
    # An empty folder is as good as none, and so are a link to one and an empty file.
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model.safetensors").touch()
    (tmp_path / "to-empty").symlink_to("empty")
    convert_checkpoint(source, tmp_path / "to-empty")
    assert same(load_projector(tmp_path / "empty"), load_projector(source))


def test_what_is_read_is_never_replaced(source: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    convert_checkpoint(source, own)
    for replace in (False, True):
        assert taken(own, own, replace=replace) == READ
        assert taken(own / "model.safetensors", own, replace=replace) == READ
    (tmp_path / "link").symlink_to("own")
    assert taken(tmp_path / "link", own, replace=True) == READ
    assert taken(source, source, replace=True, to="mlp") == READ
    assert taken(own, own / "model.safetensors", replace=True, to="mlp") == READ


def test_back_to_upstreams_keys(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "own")
    out = tmp_path / "back" / "again" / "mm_projector.safetensors"
    convert_checkpoint(tmp_path / "own", out, to="mlp", prefix="mm_projector.")
    assert os.listdir(out.parent) == [out.name]
    assert SafetensorsFile(out).metadata == {"format": "pt"}
    back = load_file(out)
    assert back.keys() == mlp().keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in mlp().items())
    # Upstream's keys do not say who wrote them.
    assert taken(source, out, to="mlp") == f"X: {TAKEN} an earlier result. {ASK}"
    convert_checkpoint(source, out, to="mlp", prefix="model.mm_projector.", replace=True)
    assert inspect_checkpoint(out).root == "model.mm_projector."
    for replace in (False, True):
        assert taken(source, out.parent, to="mlp", replace=replace) == (
            "X: a folder; expected a file to write"
        )
    other = "the layout names 14 modules, the projector has 2. It belongs to another family."
    for to, message in (
        ("mpl", "unknown layout 'mpl'. Did you mean 'mlp'?"),
        ("ldpnet", other),
    ):
        assert taken(source, tmp_path / "new.safetensors", to=to) == message
    with pytest.raises(CheckpointError, match="unknown layout 'mpl'"):  # before anything is read
        convert_checkpoint(tmp_path / "none", tmp_path / "new.safetensors", to="mpl")


@pytest.mark.parametrize(("name", "inner"), [("ldpnet", "model."), ("ldpnetv2", "")])
def test_mobilevlm_there_and_back(name: str, inner: str, tmp_path: Path) -> None:
    prefix = f"model.mm_projector.{inner}"
    vectors = load_file(GOLDEN / f"{name}.safetensors")
    state = {prefix + k[2:]: each for k, each in vectors.items() if k[:2] == "w."}
    torch.save(state, tmp_path / "mm_projector.bin")
    convert_checkpoint(tmp_path, tmp_path / "own", from_pickle=True)
    convert_checkpoint(tmp_path / "own", tmp_path / "back", to=name, prefix=prefix)
    back = load_file(tmp_path / "back")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], each) for key, each in state.items())


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_never_half_a_result(
    source: Path, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = getattr(os, call), []

    def crash(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > crashes:
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(os, call, crash)
    for crashes in (0, 1, 2):
        for to in (None, "mlp") if not crashes else (None,):
            calls.clear()
            with pytest.raises(KeyboardInterrupt):
                convert_checkpoint(source, tmp_path / "out", to=to)
            assert os.listdir(tmp_path) == [source.name]


def test_a_full_disk(source: Path, tmp_path: Path) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        status = run("convert", str(source), str(tmp_path / "out"))
    assert status == (2, "", "error: cannot write: No space left on device\n")
    assert os.listdir(tmp_path) == [source.name]


# ---------------------------------------------------------------------- values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_are_always_checked(value: float, tmp_path: Path) -> None:
    state = mlp()
    state["mm_projector.2.weight"][3, 4] = value
    torch.save(state, tmp_path / "x.bin")
    assert pickle_refusal(tmp_path / "x.bin") == (
        "X['mm_projector.2.weight']: NaN or infinite values; expected finite weights. "
        "Take an earlier checkpoint: a projector with these gives NaN."
    )


def test_a_dtype_that_is_too_narrow(tmp_path: Path) -> None:
    state = mlp()
    state["mm_projector.2.bias"][3] = 70_000
    torch.save(state, tmp_path / "x.bin")
    assert pickle_refusal(tmp_path / "x.bin", dtype=torch.float16) == (
        "X['mm_projector.2.bias']: values that torch.float16 cannot hold. Take a wider dtype."
    )
    convert_checkpoint(tmp_path / "x.bin", tmp_path / "x", from_pickle=True, dtype=torch.bfloat16)
    assert inspect_checkpoint(tmp_path / "x").dtype == torch.bfloat16
    with pytest.raises(SpecError, match=r"torch\.int8; expected a floating-point dtype"):
        convert_checkpoint(tmp_path / "x.bin", tmp_path / "y", from_pickle=True, dtype=torch.int8)
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_inspect_values(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilevlm.checkpoints.values.CHUNK", 100)
    state = {key: (3 + tensor).to(dtype) for key, tensor in mlp().items()}
    state["mm_projector.0.weight"][0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    state["mm_projector.0.bias"].fill_(math.nan)
    state["mm_projector.2.bias"].fill_(0.1)
    state["mm_projector.2.weight"][0, 0] = math.inf
    save_file(state, tmp_path / "x.safetensors")
    steps: list[tuple[int, int]] = []
    found = inspect_values(tmp_path / "x.safetensors", progress=lambda *step: steps.append(step))
    assert {each.key for each in found} == state.keys()
    for each in found:
        tensor = state[each.key].double()
        good = tensor[tensor.isfinite()]
        assert (each.dtype, each.shape) == (dtype, tuple(tensor.shape))
        assert each.nan == int(tensor.isnan().sum())
        assert each.infinite == int(tensor.isinf().sum())
        assert each.finite == (len(good) == tensor.numel())
        if not len(good):
            assert (each.minimum, each.maximum, each.mean, each.std) == (None,) * 4
            continue
        assert (each.minimum, each.maximum) == (float(good.min()), float(good.max()))
        assert each.mean == pytest.approx(float(good.mean()), rel=1e-12)
        assert each.std == pytest.approx(float(good.std(correction=0)), rel=1e-12, abs=1e-12)
    assert sum(each.nan for each in found) == 25
    total = sum(tensor.nbytes for tensor in state.values())
    assert steps[0] == (0, total)
    assert steps[-1] == (total, total)
    assert len(steps) == len(state) + 1


def test_a_number_alone_has_values() -> None:
    found = _values("scale", torch.tensor(-3.0))
    assert (found.shape, found.minimum, found.maximum, found.mean, found.std) == ((), -3, -3, -3, 0)


def test_numbers_beyond_all_sums(tmp_path: Path) -> None:
    projector = build_projector("linear", 4, 4, dtype=torch.float64)
    for parameter in projector.parameters():
        nn.init.constant_(parameter, 1.7e308)
    save_projector(projector, tmp_path)
    for each in inspect_values(tmp_path):
        assert each.finite
        assert each.maximum == 1.7e308
    status, out, _ = run("inspect", "--values", "--json", str(tmp_path))
    assert status == 0
    assert json.loads(out)["values"][0]["maximum"] == 1.7e308


# ---------------------------------------------------------------------- the command line


def test_convert(tmp_path: Path) -> None:
    torch.save(mlp(), tmp_path / "mm_projector.bin")
    path, out = str(tmp_path / "mm_projector.bin"), str(tmp_path / "out")
    assert run("convert", path, out) == (
        2,
        "",
        f"error: {path}: a pickle (PyTorch's own format); expected a safetensors file. A pickle "
        "can run code, so it is not loaded. "
        f"Convert it: mobilevlm convert --from-pickle {path} projector\n",
    )
    assert run("convert", "--from-pickle", path, out) == (0, f"{out}: mlp, 16 -> 24, float32\n", "")
    status, text, _ = run(*("convert", "--from-pickle", path, out, "--dtype", "bfloat16", "--json"))
    assert status == 0
    assert json.loads(text) == {
        **json.loads(run("inspect", "--json", out)[1]),
        "path": path,
        "out": out,
        "family": "mlp",
        "layout": "mlp",
        "dtype": "float32",
        "written": "bfloat16",
        "root": "mm_projector.",
        "used": list(mlp()),
        "left": 0,
    }
    back = str(tmp_path / "back.safetensors")
    words = ("--to", "mlp", "--prefix", "mm_projector.", "--dtype", "float32")
    assert run("convert", out, back, *words) == (0, f"{back}: mlp, 16 -> 24, float32\n", "")
    assert load_file(back).keys() == mlp().keys()
    assert run("convert", out, back, *words)[0] == 2
    assert run("convert", out, back, *words, "--force")[0] == 0
    assert run("convert", out, back, "--prefix", "x.") == (
        2,
        "",
        "error: --prefix without --to. Our own format has its own keys.\n",
    )
    assert run("convert", out, back, "--dtype", "int8")[0] == 2


def test_a_learned_table_is_given_its_grid(tmp_path: Path) -> None:
    options = {"position": True, "hidden": 16, "queries": 4}
    save_projector(
        build_projector("c-abstractor", 16, 24, grid=(4, 6), **options), tmp_path / "own"
    )
    own, out = str(tmp_path / "own"), str(tmp_path / "out")
    status, _, err = run("convert", own, out)
    assert status == 2
    assert "Give grid=HxW at build." in err
    assert run("convert", own, out, "--grid", "4x6")[0] == 0
    assert run("inspect", own, "--grid", "4x6", "--values")[0] == 0
    assert run("inspect", own, "--grid", "4") == (
        2,
        "",
        "error: --grid: '4'; expected height x width, such as 24x24. For a square of that side "
        "write 4x4.\n",
    )


def test_inspect_with_values(source: Path, tmp_path: Path) -> None:
    status, out, err = run("inspect", str(source), "--values")
    assert (status, err) == (0, "")
    first, empty, head, rule, *rows = out.splitlines()
    assert first == str(inspect_checkpoint(source))
    assert empty == ""
    assert " ".join(head.split()) == "tensor dtype shape NaN inf min max mean std"
    assert set(rule) == {"-", " "}
    assert {row.split()[0] for row in rows} == mlp().keys()
    [weight] = [row.split() for row in rows if row.startswith("mm_projector.2.weight")]
    numbers = mlp()["mm_projector.2.weight"].double()
    assert weight[1:] == [
        *("float32", "24x24", "0", "0"),
        *(f"{float(each):.4g}" for each in (numbers.min(), numbers.max(), numbers.mean())),
        f"{float(numbers.std(correction=0)):.4g}",
    ]
    state = mlp()
    state["mm_projector.0.bias"].fill_(math.nan)
    save_file(state, tmp_path / "bad.safetensors")
    status, out, err = run("inspect", str(tmp_path / "bad.safetensors"), "--values")
    assert status == 1
    assert err == (
        f"error: {tmp_path}/bad.safetensors: 1 of 4 tensors hold NaN or infinite values\n"
    )
    [bias] = [row.split() for row in out.splitlines() if row.startswith("mm_projector.0.bias")]
    assert bias[1:] == ["float32", "24", "24", "0", "-", "-", "-", "-"]
    status, out, _ = run("inspect", str(tmp_path / "bad.safetensors"), "--values", "--json")
    assert status == 1
    values = json.loads(out)["values"]
    assert values[list(state).index("mm_projector.0.bias")] == {
        "key": "mm_projector.0.bias",
        "dtype": "float32",
        "shape": [24],
        "nan": 24,
        "infinite": 0,
        "minimum": None,
        "maximum": None,
        "mean": None,
        "std": None,
    }
    # Without --values it is not seen.
    assert run("inspect", str(tmp_path / "bad.safetensors"))[0] == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_for_many_bytes_on_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large.safetensors"
    nbytes = 4 * 5_000 * 5_008
    entry = f'{{"weight":{{"dtype":"F32","shape":[5008,5000],"data_offsets":[0,{nbytes}]}}}}'
    large.write_bytes(header(entry))
    os.truncate(large, len(header(entry)) + nbytes)  # all zeros, and no room on the disk
    drawn = on_a_terminal("inspect", "--values", str(large))
    assert "reading large.safetensors" in drawn
    assert "100.2/100.2 MB" in drawn
    assert drawn.rstrip().splitlines()[-1].split()[:3] == ["weight", "float32", "5008x5000"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    status, out, err = run("inspect", "--values", str(large))
    assert (status, err) == (0, "")
    assert "reading" not in out
    for total, shown in ((99_999_999, False), (100_000_000, True)):
        monkeypatch.setattr(sys, "stderr", Terminal())
        with progress_bar("reading", in_bytes=True) as update:
            update(0, total)
            update(total, total)
        assert ("reading" in sys.stderr.getvalue()) == shown
