"""Export: what every format shares, and `.pt2`, which needs no extra."""

import io
import json
import logging
import math
import os
import re
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.command import on_a_terminal
from helpers.full_disk import export_on_a_full_disk
from helpers.plugins import at_once
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils import prune
from typer.testing import CliRunner

from mobilevlm import (
    BLOCKS,
    LDP,
    Block,
    Feature,
    GridError,
    MobileVLMError,
    build_projector,
    build_vision_projector,
    export_projector,
    load_projector,
    load_spec,
    save_projector,
)
from mobilevlm.blocks.patch_merge import PatchMergeModule
from mobilevlm.blocks.pool import AdaptiveAvgPool, BilinearPool
from mobilevlm.cli.app import app
from mobilevlm.export import check, formats
from mobilevlm.export.check import processor
from mobilevlm.export.errors import ExportError, Mismatch
from mobilevlm.export.rewrites import (
    IntervalPool,
    LinearPool,
    SlicedMerge,
    with_exact_pools,
    with_sliced_merges,
)
from mobilevlm.registry.requirements import install_command

COMPOSED = {
    "in": 6,
    "out": 10,
    "blocks": [
        {"type": "pointwise", "out": 8},
        {"type": "pool", "mode": "avg", "stride": 2, "ceil": True},
        {"type": "patch-merge", "odd": "pad"},
        "pointwise",
    ],
}


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is about time: one turn says as much."""
    monkeypatch.setattr(check, "_ENOUGH", 0.0)
    monkeypatch.setattr(check, "_CALLS", 1)


KNOWN = ", ".join(formats.FORMATS)


def refusal(projector: Any, path: Path | str, **keywords: Any) -> str:
    with pytest.raises(MobileVLMError) as caught:
        export_projector(projector, path, **keywords)
    return str(caught.value)


def program(path: Path) -> Any:
    return torch.export.load(path).module()


# ---------------------------------------------------------------------- what comes out


def test_a_fixed_grid_takes_tokens_and_any_batch(tmp_path: Path) -> None:
    path = tmp_path / "ldp.pt2"
    projector = build_projector("ldp", 6, 10)
    report = export_projector(projector, path, grid=(5, 7))
    assert report.format == "pt2"
    assert report.weights == "f32"
    assert report.bytes == path.stat().st_size
    assert report.inputs == ("batch", 35, 6)
    assert report.outputs == ("batch", 12, 10)
    assert report.versions == {"torch": torch.__version__}
    assert [check.shape for check in report.checks] == [(1, 35, 6), (3, 35, 6)]
    assert report.relative < 1e-6
    assert report.time_ratio is not None
    x = torch.randn(4, 35, 6)
    torch.testing.assert_close(program(path)(x), projector(x, grid=(5, 7)))
    assert list(tmp_path.iterdir()) == [path]


def test_a_dynamic_grid_is_shown_by_the_input(tmp_path: Path) -> None:
    path = tmp_path / "ldpnetv2.pt2"
    projector = build_projector("ldpnetv2", 6, 10)
    report = export_projector(projector, path, grid=(24, 18), dynamic_grid=True)
    assert report.inputs == ("batch", "height", "width", 6)
    assert report.outputs == ("batch", 144, 10)
    first, second = (check.shape for check in report.checks)
    assert first == (1, 24, 18, 6)
    assert (second[0], second[3]) == (3, 6)
    assert 24 != second[1] != second[2] != 18
    module = program(path)
    for h, w in [(12, 12), (13, 29), (24, 24)]:
        x = torch.randn(2, h, w, 6)
        torch.testing.assert_close(module(x), projector(x.flatten(1, 2), grid=(h, w)))


def test_formulas_name_the_axes_they_are_made_of(tmp_path: Path) -> None:
    projector = build_projector("qwen2-vl", 8, 10)
    report = export_projector(projector, tmp_path / "q.pt2", dynamic_grid=True)
    assert report.outputs == ("batch", "((height//2))*((width//2))", 10)


def test_blocks_that_read_no_grid_take_any_number_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "mlp.pt2"
    projector = build_projector("mlp", 6, 10, prefix_tokens=1)
    report = export_projector(projector, path)
    assert report.inputs == ("batch", "tokens", 6)
    assert report.checks[0].shape == (1, 577, 6)
    x = torch.randn(3, 8, 6)
    torch.testing.assert_close(program(path)(x), projector(x))
    assert program(path)(x).shape == (3, 7, 10)
    assert export_projector(projector, path, grid=(3, 3)).inputs == ("batch", 10, 6)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_sequence_of_frames_stays_one(dynamic: bool, tmp_path: Path) -> None:
    projector = build_projector("voxtral", 6, 10)
    path = tmp_path / "v.pt2"
    report = export_projector(projector, path, grid=(1, 64), dynamic_grid=dynamic)
    assert report.inputs == (("batch", 1, "width", 6) if dynamic else ("batch", 64, 6))


def test_the_grid_of_the_build_is_the_default(tmp_path: Path) -> None:
    projector = build_projector("ldp", 6, 10, grid=(4, 6))
    assert export_projector(projector, tmp_path / "p.pt2").inputs == ("batch", 24, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_reload_equals_eager_in_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"
    projector = build_projector("mlp2x_gelu", 32, 48, dtype=dtype)
    report = export_projector(projector, path, grid=(4, 6))
    assert report.weights == {torch.float32: "f32", torch.float16: "f16"}.get(dtype, "bf16")
    assert report.max_abs == 0
    x = torch.randn(2, 24, 32).to(dtype)
    assert torch.equal(program(path)(x), projector(x))
    other = export_projector(projector, path, grid=(4, 6), weights="f32")
    assert other.weights == "f32"
    assert program(path)(x.float()).dtype == torch.float32


@pytest.mark.parametrize("weights", ["f16", "bf16"])
@pytest.mark.parametrize("name", ["ldp", "ldpnet", "ldpnetv2", "c-abstractor", "mlp2x_gelu"])
def test_half_precision_is_as_near_to_the_truth_as_eager(
    name: str, weights: str, tmp_path: Path
) -> None:
    options = {"hidden": 64, "depth": 1} if name == "c-abstractor" else {}
    projector = build_projector(name, 64, 96, **options)
    report = export_projector(projector, tmp_path / "p.pt2", grid=(12, 12), weights=weights)
    for done in report.checks:
        assert done.error is not None
        assert done.eager_error is not None
        assert 0 < done.error < 2 * done.eager_error < (4e-3 if weights == "f16" else 4e-2)


@pytest.mark.parametrize(
    ("first", "rest", "weights"),
    [
        (torch.float32, torch.bfloat16, "f32"),
        (torch.bfloat16, torch.float32, "f32"),
        (torch.bfloat16, torch.float16, "f32"),
        (torch.bfloat16, torch.bfloat16, "bf16"),
    ],
)
def test_several_dtypes_are_written_in_one_that_holds_them(
    first: torch.dtype, rest: torch.dtype, weights: str, tmp_path: Path
) -> None:
    projector = build_projector("internvl", 16, 24).to(rest)
    projector.blocks[1].to(first)
    assert {p.dtype for p in projector.parameters()} == {first, rest}
    report = export_projector(projector, tmp_path / "p.pt2", grid=(4, 4))
    assert report.weights == weights


def test_the_report_says_what_it_was_checked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = export_projector(build_projector("mlp", 6, 10), tmp_path / "p.pt2")
    assert report.processor == processor()
    assert f"checked on {processor()}" in str(report).splitlines()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    found = {"avx2": True, "avx512_f": True, "avx_vnni": False, "avx512_vnni": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert processor() == "x86-64 with AVX2, AVX-512, VNNI"
    found.update(avx512_f=False, avx512_vnni=False)
    assert processor() == "x86-64 with AVX2"
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    found.clear()
    assert processor() == "riscv64"
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    for name, there in {"avx2": True, "avx512": False, "vnni": True}.items():
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda there=there: there)
    assert processor() == "riscv64 with AVX2, VNNI"


def test_the_document_lies_inside(tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"
    projector = build_projector(COMPOSED)
    export_projector(projector, path, grid=(5, 7))
    extra = {"mobilevlm.json": ""}
    loaded = torch.export.load(path, extra_files=extra)
    assert loaded.example_inputs is None
    assert load_spec(extra["mobilevlm.json"]) == projector.spec


def test_a_drop_in_is_exported_as_the_projector_that_it_is(tmp_path: Path) -> None:
    config = {"mm_projector_type": "ldpnet", "mm_hidden_size": 6, "hidden_size": 10}
    projector = build_vision_projector(config).eval()
    path = tmp_path / "p.pt2"
    assert export_projector(projector, path, grid=(4, 4)).relative < 1e-5
    assert any("blocks.0.weight" in key for key in torch.export.load(path).state_dict)
    assert "model.mlp.1.weight" in projector.state_dict()


def test_the_projector_is_left_as_it_was(tmp_path: Path) -> None:
    projector = build_projector("ldp", 6, 10, dtype=torch.float64).train()
    before = {name: p.clone() for name, p in projector.named_parameters()}
    refused = refusal(projector, tmp_path / "p.pt2", grid=(4, 4))
    assert refused == "projector: parameters of torch.float64; expected f32, f16, bf16"
    export_projector(projector, tmp_path / "p.pt2", grid=(4, 4), weights="f32")
    assert projector.training
    for name, parameter in projector.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad


def test_every_kind_of_projector_can_be_exported(tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"
    export_projector(LDP(6, 10), path, grid=(4, 6))
    config = {"mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 6, "hidden_size": 10}
    export_projector(build_vision_projector(config), path)
    export_projector(build_projector("identity", 6, 6), path)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stages: list[str] = []
    projector = build_projector("ldp", 6, 10)
    export_projector(projector, tmp_path / "p.pt2", grid=(4, 6), progress=stages.append)
    assert stages == ["Tracing", "Running the file", "Timing the file", "Writing"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_threads_export_in_turn(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def job(name: str) -> None:
        for _ in range(2):
            export_projector(build_projector("ldp", 6, 10), tmp_path / name, grid=(4, 6))

    assert at_once(*(partial(job, f"{index}.pt2") for index in range(2))) == []
    assert len(list(tmp_path.iterdir())) == 2
    print("still heard")
    os.write(2, b"here too")
    assert capfd.readouterr() == ("still heard\n", "here too")


def test_an_export_within_another(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    projector = build_projector("mlp", 6, 10)

    def nested(stage: str) -> None:
        print(stage)
        if stage == "Timing the file":
            export_projector(projector, tmp_path / "inner.pt2")

    export_projector(projector, tmp_path / "outer.pt2", progress=nested)
    assert len(list(tmp_path.iterdir())) == 2
    stages = "Tracing\nRunning the file\nTiming the file\nWriting\n"
    assert capfd.readouterr() == (stages, "")


# ---------------------------------------------------------------------- traps


class Rooted(nn.Module):
    """Takes the grid from the number of tokens, as upstream's code does."""

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        side = int(math.sqrt(h * w))
        return x.view(b, side, h * w // side, c).flip(1).view(b, h, w, c)


class Lying(nn.Module):
    """Does something else once it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            print("a line of an exporter")
            logging.warning("advice of an exporter")
            logging.getLogger("torch.onnx").warning("more advice")
            return x * 1.01
        return x


class Spotted(nn.Module):
    """Gets one number slightly wrong once it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            first = torch.arange(x[0].numel()).view(x.shape[1:]) == 0
            return x + first.to(x.dtype) * 8 * torch.finfo(x.dtype).eps
        return x


class Narrow(nn.Module):
    """Computes in fp32 whatever it is given, and takes no fp64."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            raise RuntimeError("expected scalar type Float but found Double")
        return (x.float() * self.weight.float() / 3).to(x.dtype)


class Local(Block):
    kind: str = "rooted"
    made: ClassVar[dict[str, type[nn.Module]]] = {
        "rooted": Rooted,
        "lying": Lying,
        "spotted": Spotted,
        "narrow": Narrow,
    }

    def build(self, x: Feature) -> nn.Module:
        return self.made[self.kind]()


def local(kind: str, *before: str) -> Any:
    if "local-export" not in BLOCKS:
        BLOCKS.register("local-export")(Local)
    blocks = [*before, {"type": "local-export", "kind": kind}]
    return build_projector({"in": 6, "out": 6, "blocks": blocks})


@pytest.mark.usefixtures("registries")
def test_a_square_root_never_freezes_the_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.pt2"
    export_projector(local("rooted"), path, grid=(4, 4))  # fixed: nothing wrong with it
    path.unlink()
    message = refusal(local("rooted"), path, grid=(4, 4), dynamic_grid=True)
    assert message.startswith("torch.export failed: ")
    assert message.endswith(
        "; expected blocks that can be traced with batch, height, width free. The usual cause is "
        "a Python number computed from a tensor or a size."
    )
    # Dim.AUTO would have frozen it without a word; the file itself is looked at too.
    monkeypatch.setattr(Dim, "DYNAMIC", lambda max=None: Dim.AUTO)
    message = refusal(local("rooted"), path, grid=(4, 4), dynamic_grid=True)
    assert message == (
        f"{path}: the exporter has frozen an axis: the file takes ('batch', 5, 'width', 6); "
        "expected an input ('batch', 'height', 'width', 6). No file was written."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("registries")
def test_a_file_that_differs_is_not_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.pt2"
    path.write_text("as before")
    with pytest.raises(Mismatch) as caught:
        export_projector(local("lying"), path, grid=(4, 4), replace=True)
    assert str(caught.value) == (
        f"{path}: for an input of (1, 16, 6) the output differs from eager's by 1.0e-02; expected "
        "at most 1e-05, relative to the largest value. No file was written."
    )
    assert path.read_text() == "as before"
    assert list(tmp_path.iterdir()) == [path]
    out, err = capfd.readouterr()
    assert out == ""
    assert "a line of an exporter" in err  # it failed, so what was printed is shown


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("weights", ["f16", "bf16"])
def test_half_precision_does_not_hide_a_wrong_file(weights: str, tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"
    message = refusal(local("lying", "pointwise"), path, grid=(9, 9), weights=weights)
    assert re.fullmatch(
        re.escape(f"{path}: for an input of (1, 81, 6) the output's ")
        + r"(mean|largest) error from fp64 is \S+; expected at most (2|4) times eager's, which is "
        r"\d\S+\d\. No file was written\.",
        message,
    )
    message = refusal(local("spotted", "pointwise"), path, grid=(24, 24), weights=weights)
    assert "the output's largest error from fp64 is" in message
    assert not path.exists()
    # Where a block has no fp64, fp32 is the truth.
    report = export_projector(local("narrow", "pointwise"), path, grid=(9, 9), weights=weights)
    assert report.checks[0].error is not None


def test_numbers_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    projector = build_projector("mlp", 6, 10)
    with torch.no_grad():
        next(projector.parameters()).fill_(6e4)
    assert refusal(projector, tmp_path / "p.pt2", weights="f16") == (
        "the projector itself gives NaN or infinities in torch.float16 at unit scale; "
        'expected finite values. Export with weights="f32".'
    )


@pytest.mark.usefixtures("registries")
def test_advice_that_is_logged_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where a notebook's handlers keep its own streams, and where nobody set logging up."""
    monkeypatch.setattr(logging.root, "handlers", [])
    with pytest.raises(Mismatch):
        export_projector(local("lying"), tmp_path / "p.pt2", grid=(4, 4))
    assert logging.root.handlers == []
    assert "advice" not in capfd.readouterr().err
    handler = logging.StreamHandler(notebook := io.StringIO())
    logging.root.addHandler(handler)
    with pytest.raises(Mismatch):
        export_projector(local("lying"), tmp_path / "p.pt2", grid=(4, 4))
    logging.warning("heard")
    assert notebook.getvalue() == "heard\n"
    assert (logging.root.handlers, handler.filters) == ([handler], [])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of a process")
def test_a_full_disk_ends_neither_the_process_nor_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"
    export_projector(build_projector("mlp", 6, 10), path)
    export_on_a_full_disk(path, "f32", "start")


def test_a_projector_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    projector = build_projector("mlp", 6, 10)
    with torch.no_grad():
        next(projector.parameters())[0, 0] = math.nan
    assert refusal(projector, tmp_path / "p.pt2") == (
        "the projector itself gives NaN or infinities in torch.float32 at unit scale; "
        "expected finite values. Check the weights: load_projector(..., check_values=True)."
    )


@pytest.mark.slow
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.pt2"
    path.write_text("as before")
    path.chmod(0o640)
    link = tmp_path / "link.pt2"
    link.symlink_to(path)

    def full(*args: Any, **keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    for to in (path, link):
        with pytest.raises(OSError, match="No space left"):
            export_projector(build_projector("mlp", 6, 10), to, replace=True)
    assert path.read_text() == "as before"
    monkeypatch.undo()
    export_projector(build_projector("mlp", 6, 10), link, replace=True)
    assert not link.is_symlink()
    assert program(link)(torch.ones(1, 2, 6)).shape == (1, 2, 10)
    assert path.read_text() == "as before"
    export_projector(build_projector("mlp", 6, 10), path, replace=True)
    assert path.stat().st_mode & 0o777 == 0o640
    assert program(path)(torch.ones(1, 2, 6)).shape == (1, 2, 10)


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"
    projector = build_projector("mlp", 6, 10)
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(2, 2),)), path)
    mine = path.read_bytes()
    link = tmp_path / "link.pt2"
    link.symlink_to("p.pt2")
    hint = "Name another; replace=True replaces it, and what it holds is lost."
    assert refusal(projector, path) == (
        f"{path}: already there, and nothing in it says that this library wrote it; expected a new "
        f"file or an earlier result. {hint}"
    )
    assert refusal(projector, link) == (
        f"{link}: a link to 'p.pt2'; expected a file of its own. {hint}"
    )
    result = run("mlp", str(path), "in=6", "out=10")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Name another; --force replaces it, and what it holds is lost." in result.stderr
    assert path.read_bytes() == mine
    assert run("mlp", str(path), "in=6", "out=10", "--force").exit_code == 0
    assert run("mlp", str(path), "in=6", "out=12").exit_code == 0  # an earlier result by now
    assert program(path)(torch.ones(1, 2, 6)).shape == (1, 2, 12)


def test_what_training_wraps_is_unwrapped(tmp_path: Path) -> None:
    projector = build_projector("mlp", 6, 10)
    for index, wrapped in enumerate(
        (nn.DataParallel(projector), torch.compile(nn.DataParallel(projector), backend="eager"))
    ):
        report = export_projector(wrapped, tmp_path / f"{index}.pt2")
        assert report.outputs[-1] == 10
    for parameter in projector.parameters():
        parameter.data = torch.empty(0)
    assert refusal(projector, tmp_path / "p.pt2") == (
        "blocks.0.weight: an empty tensor of shape (0,), as sharded training leaves it; expected "
        "all of its values. Save it with save_projector(..., state_dict=...), which says how to "
        "gather it, and load that."
    )


@pytest.mark.parametrize("grid", [(5, 4), (12, 12), (13, 17), (24, 36), (30, 5)])
def test_exact_pools_are_the_pools(grid: tuple[int, int]) -> None:
    x = torch.randn(2, *grid, 3)
    for size, stride in [((5, 4), None), ((1, 1), None), (None, 2), (None, 3)]:
        adaptive = AdaptiveAvgPool(size, stride)
        exact = with_exact_pools(nn.Sequential(adaptive))
        assert isinstance(exact[0], IntervalPool)
        assert exact[0].averages == adaptive.averages
        torch.testing.assert_close(exact(x), adaptive(x))
    for step in (1, 2, 3):
        bilinear = BilinearPool(step)
        exact = with_exact_pools(nn.Sequential(bilinear))
        assert isinstance(exact[0], LinearPool)
        assert exact[0].averages == bilinear.averages
        torch.testing.assert_close(exact(x), bilinear(x))


@pytest.mark.parametrize("order", ["hwc", "chw"])
@pytest.mark.parametrize("odd", ["refuse", "pad", "drop"])
@pytest.mark.parametrize("transpose", [False, True])
def test_sliced_merges_are_merges(order: str, odd: str, transpose: bool) -> None:
    for size, grid in [((2, 2), (4, 6)), ((2, 3), (6, 9)), ((1, 4), (3, 8)), ((3, 1), (9, 5))]:
        h, w = grid if odd == "refuse" else (grid[0] + 1, grid[1] + 2)
        x = torch.randn(2, h, w, 5)
        merge = PatchMergeModule(size, order, odd, transpose=transpose)
        sliced = with_sliced_merges(nn.Sequential(merge))
        assert isinstance(sliced[0], SlicedMerge)
        assert torch.equal(sliced(x), merge(x))


# ---------------------------------------------------------------------- refusals


def test_refusals_say_what_was_found_and_expected(tmp_path: Path) -> None:
    ldp = build_projector("ldp", 6, 10)
    path = tmp_path / "p.pt2"
    assert refusal(ldp, path) == (
        "grid: the grid is not known; expected (height, width). "
        "Pass grid=(24, 24) or dynamic_grid=True."
    )
    assert refusal(ldp, "p.onx") == (
        f"p.onx: no format has the suffix '.onx'; expected one of {KNOWN}"
    )
    assert refusal(ldp, "ldp") == (f"ldp: it has no suffix; expected one of {KNOWN}")
    assert refusal(nn.Linear(6, 10), path) == (
        "projector: a Linear; expected a Projector. build_projector and load_projector make one."
    )
    assert refusal(ldp, path, weights="int8") == ("weights: 'int8'; expected one of f32, f16, bf16")
    assert refusal(ldp, path, opset=20) == "opset: .pt2 does not take this option"
    assert refusal(ldp, path, grid=(0, 3)) == (
        "grid: (0, 3) is not a grid; expected (height, width), two integers from 1 to 65536"
    )
    missing = tmp_path / "none" / "p.pt2"
    assert refusal(ldp, missing, grid=(4, 4)) == (
        f"{missing}: its folder does not exist; expected a file to write"
    )
    (tmp_path / "folder.pt2").mkdir()
    assert refusal(ldp, tmp_path / "folder.pt2", grid=(4, 4)) == (
        f"{tmp_path / 'folder.pt2'}: a folder; expected a file to write"
    )
    meta = build_projector("ldp", 6, 10, device="meta")
    assert refusal(meta, path, grid=(4, 4)) == (
        "blocks.0.weight: a weight that is on the meta device, torch.float32; expected a plain "
        "float tensor. Load the weights without quantisation or sharding."
    )
    cls = build_projector("ldp", 6, 10, prefix_tokens=1)
    assert refusal(cls, path, dynamic_grid=True) == (
        "dynamic_grid: an input (b, h, w, c) has no place for 1 prefix tokens; expected "
        "prefix_tokens=0, or a fixed grid. Drop them before the projector, and build it with "
        "prefix_tokens=0."
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.pt2"]


def test_a_projector_that_cannot_be_copied_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"
    projector = build_projector("linear", 6, 10)
    prune.l1_unstructured(projector.blocks[0], "weight", amount=0.5)
    with pytest.raises(ExportError) as caught:
        export_projector(projector, path)
    cause = caught.value.__cause__
    assert type(cause) is RuntimeError
    hint = "copy.deepcopy must work: after torch.nn.utils.prune, call prune.remove."
    assert str(caught.value) == f"projector: it cannot be copied: RuntimeError: {cause}. {hint}"
    prune.remove(projector.blocks[0], "weight")
    assert export_projector(projector, path).max_abs == 0
    projector.lock = threading.Lock()
    assert refusal(projector, path) == (
        f"projector: it cannot be copied: TypeError: cannot pickle '_thread.lock' object. {hint}"
    )


def test_grids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"
    projector = build_projector("ldpnetv2", 6, 10)
    with pytest.raises(GridError):
        export_projector(projector, path, grid=(4, 4))
    learned = build_projector("c-abstractor", 6, 10, hidden=8, position=True, grid=(12, 12))
    with pytest.raises(GridError) as caught:
        export_projector(learned, path, dynamic_grid=True)
    assert str(caught.value) == (
        "position: a grid of 14x13, but its table is for 12x12; expected the grid given at build"
    )
    assert export_projector(learned, path).inputs == ("batch", 144, 6)


@pytest.mark.parametrize(
    ("suffix", "packages", "extra"),
    [
        (".onnx", "onnx, onnxruntime, onnxscript", "onnx"),
        (".gguf", "gguf", "gguf"),
        (".pte", "executorch, torchao", "executorch"),
    ],
)
def test_a_missing_extra_is_one_line(
    suffix: str, packages: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    ldp = build_projector("ldp", 6, 10)
    assert refusal(ldp, tmp_path / f"p{suffix}", grid=(4, 4)) == (
        f"{suffix} needs {packages}. Run: {install_command(extra)}"
    )


# ---------------------------------------------------------------------- the command line


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["export", *arguments])


def test_the_command_line_exports_a_folder(tmp_path: Path) -> None:
    projector = build_projector("ldpnetv2", 6, 10)
    save_projector(projector, tmp_path / "saved")
    path = tmp_path / "p.pt2"
    result = run(str(tmp_path / "saved"), str(path), "grid=16x12", "--dynamic-grid", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["dynamic"] == ["batch", "height", "width"]
    assert report["checks"][0]["shape"] == [1, 16, 12, 6]
    x = torch.randn(1, 13, 14, 6)
    want = load_projector(tmp_path / "saved")(x.flatten(1, 2), grid=(13, 14))
    torch.testing.assert_close(program(path)(x), want)
    result = run(str(tmp_path / "saved"), str(path), "in=6")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {tmp_path / 'saved'}: 'in' comes from the checkpoint\n"
    torch.save(projector.state_dict(), tmp_path / "mm_projector.bin")
    result = run(str(tmp_path / "mm_projector.bin"), str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "mobilevlm convert --from-pickle" in result.stderr


def test_the_command_line_exports_a_name_and_says_that_its_weights_are_random(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.pt2"
    result = run("mlp", str(path), "in=6", "out=10", "--weights", "bf16")
    assert result.exit_code == 0
    assert result.stderr == "note: mlp is not a checkpoint: its weights are random\n"
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{path}: bf16, 0.0 MB, torch ")
    same = "differs from eager by 0.0e+00, 0.0e+00 relative; from fp64 by N, eager by N"
    assert [re.sub(r"by \d[.]\de-03", "by N", line) for line in lines[1:4]] == [
        "(batch, tokens, 6) -> (batch, tokens, 10)",
        f"at (1, 576, 6): {same}",
        f"at (3, 650, 6): {same}",
    ]
    assert lines[4] == f"checked on {processor()}"
    assert lines[5].startswith("takes ")
    result = run("ldp", "in=6", "out=10", "p.pt2")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: 'in=6' is not a file to write. Write: mobilevlm export NAME OUT in=1024 out=2048\n",
    )
    result = run("ldp", "p.onx", "in=6", "out=10")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: p.onx: no format has the suffix '.onx'")


@pytest.mark.usefixtures("registries")
def test_a_check_that_fails_has_status_1(tmp_path: Path) -> None:
    local("lying")
    document = tmp_path / "mine.json"
    document.write_text(
        '{"in": 6, "out": 6, "blocks": [{"type": "local-export", "kind": "lying"}]}'
    )
    result = run(str(document), str(tmp_path / "p.pt2"), "grid=4x4")
    assert result.exit_code == 1
    assert "the output differs from eager's by 1.0e-02" in result.stderr


@pytest.mark.slow
def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    with (tmp_path / "stdout").open("wb") as stdout:
        shown = on_a_terminal(
            "export", "mlp", "p.pt2", "in=6", "out=10", cwd=tmp_path, stdout=stdout
        )
    assert "Tracing ..." in shown
    assert b"Tracing" not in (tmp_path / "stdout").read_bytes()
