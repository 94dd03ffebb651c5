"""The command line: what it prints, where, and with which exit status."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from mobilevlm import load_spec, plan_projector, spec_of
from mobilevlm.cli.app import app


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.stdout, result.stderr


def test_list_names_both_registries() -> None:
    status, out, err = run("list")
    names = [line.split()[:2] for line in out.splitlines()[2:]]
    assert (status, err) == (0, "")
    assert ["ldp", "projector"] in names
    assert ["depthwise-residual", "block"] in names
    assert out.splitlines()[0].split() == ["name", "kind", "from", "target"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("ldp", ["ldp", "ldpnet", "ldpnetv2"]),
        ("ldp*v2", ["ldpnetv2"]),
        ("mlp2x_gelu", ["mlp2x-gelu"]),
        ("*", None),
    ],
)
def test_list_takes_a_pattern(pattern: str, expected: list[str] | None) -> None:
    status, out, _ = run("list", pattern, "--json")
    found = json.loads(out)
    assert status == 0
    assert set(found[0]) == {"kind", "name", "source", "version", "target"}
    if expected is None:
        expected = [entry["name"] for entry in json.loads(run("list", "--json")[1])]
    assert [entry["name"] for entry in found] == expected


def test_list_without_a_match() -> None:
    assert run("list", "zzz") == (0, "", "note: nothing matches 'zzz'\n")
    assert run("list", "zzz", "--json") == (0, "[]\n", "")
    assert run("list", "lpd") == (
        0,
        "",
        "note: nothing matches 'lpd'. Did you mean 'ldp' or 'mlp'?\n",
    )


def test_show_prints_the_plan() -> None:
    status, out, err = run("show", "ldp", "in=1024", "out=2048", "grid=24x24")
    assert (status, err) == (0, "")
    assert out == str(plan_projector("ldp", 1024, 2048, grid=(24, 24))) + "\n"
    total = " ".join(out.splitlines()[-1].split())
    assert total == "total 576 -> 144 tokens 24x24 x 1024 12x12 x 2048 10,541,056 4.24 G"


def test_show_as_json() -> None:
    status, out, _ = run("show", "ldpnet", "in=16", "out=32", "grid=8x6", "--json")
    plan = json.loads(out)
    assert status == 0
    assert (plan["tokens_in"], plan["tokens_out"], plan["grid"]) == (48, 12, [8, 6])
    assert plan["parameters"] == sum(
        block["parameters"] for block in plan["blocks"] if block["path"].count(".") == 1
    )
    assert plan["blocks"][4]["path"] == "blocks.3.body.0"


def test_show_and_check_read_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    status, out, _ = run("spec", "ldp", "in=16", "out=32", "kernel=5")
    assert status == 0
    file.write_text(out)
    assert load_spec(file) == spec_of("ldp", 16, 32, kernel=5)
    assert run("show", str(file))[1] == str(plan_projector("ldp", 16, 32, kernel=5)) + "\n"
    parameters = plan_projector("ldp", 16, 32, kernel=5).parameters
    assert run("check", str(file)) == (0, f"{file}: ok, 16 -> 32, {parameters:,} parameters\n", "")
    other = tmp_path / "other"  # a file without .json, where no such name is registered
    other.write_text(out)
    assert run("tokens", str(other), "grid=5x5") == (0, "9\n", "")


def test_check_reports_every_bad_file(tmp_path: Path) -> None:
    good, bad, none = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "none.json"
    good.write_text('{"in": 4, "out": 4, "blocks": ["pointwise"]}')
    bad.write_text('{"in": 4, "out": 4, "blocks": ["pointwsie"]}')
    status, out, err = run("check", str(good), str(bad), str(none))
    assert status == 1
    assert out == f"{good}: ok, 4 -> 4, 20 parameters\n"
    assert err == (
        f"error: {bad}: blocks[0].type: unknown block 'pointwsie'. Did you mean 'pointwise'?\n"
        f"error: {none}: cannot be read: No such file or directory; expected a JSON document\n"
    )
    status, out, err = run("check", str(good), str(bad), "--json")
    assert (status, err) == (1, "")
    assert json.loads(out) == [
        {"file": str(good), "ok": True, "in": 4, "out": 4, "parameters": 20},
        {
            "file": str(bad),
            "ok": False,
            "error": "blocks[0].type: unknown block 'pointwsie'. Did you mean 'pointwise'?",
        },
    ]


def test_tokens() -> None:
    assert run("tokens", "ldp", "grid=24x18") == (0, "108\n", "")
    status, out, _ = run("tokens", "ldp", "grid=24x18", "--json")
    assert (status, json.loads(out)) == (0, {"grid": [24, 18], "tokens": 108})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("show", "lpd", "in=1", "out=1"),
            "error: unknown projector 'lpd'. Did you mean 'ldp' or 'mlp'?\n",
        ),
        (
            ("show", "ldp"),
            "error: ldp: 'in' is missing. Write: mobilevlm show ldp in=1024 out=2048\n",
        ),
        (
            ("show", "ldp", "in=1024", "2048"),
            "error: '2048'; expected key=value, such as in=1024 or grid=24x24\n",
        ),
        (("show", "ldp", "in=1024", "in=1024"), "error: 'in' is given twice\n"),
        (
            ("show", "ldp", "in=wide", "out=8"),
            'error: in: "wide"; expected an integer\n',
        ),
        (
            ("show", "ldp", "in=8", "out=8", "kernel=4"),
            "error: ldp.kernel: 4 is even; expected an odd kernel. Try 5.\n",
        ),
        (
            ("show", "ldp", "in=8", "out=8", "grid=24"),
            "error: grid: '24'; expected height x width, such as grid=24x24\n",
        ),
        (
            ("show", "ldp", "spec=linear", "in=8", "out=8"),
            "error: 'spec' is no option. Name the projector or its file first.\n",
        ),
        (
            ("show", "x" * 5000, "in=1", "out=1"),
            f"error: unknown projector '{'x' * 76}.... Known: aya-vision, blip2, c-abstractor, "
            "cohere2-vision, deepseek-vl2, flamingo, gemma3, gemma3n, gemma4, glm4v, got-ocr2, "
            "granite-docling, and others.\n",
        ),
        (("tokens", "ldp"), "error: ldp: 'grid' is missing. Write grid=24x24.\n"),
        (
            ("tokens", "ldpnetv2", "grid=8x8"),
            "error: blocks[3] (pool): a grid of 8x8 cannot be pooled to 12x12; expected no more "
            "tokens each way than there are. It is given 8x8 x 1024 by blocks[2] (pointwise).\n",
        ),
        (
            ("spec", "nope.json"),
            "error: nope.json: cannot be read: No such file or directory; expected a JSON "
            "document\n",
        ),
    ],
)
def test_mistakes_are_one_line_on_standard_error(words: tuple[str, ...], message: str) -> None:
    assert run(*words) == (2, "", message)


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(app, ["show", "lpd", "in=1", "out=1", "--debug"])
    assert type(result.exception).__name__ == "UnknownName"


def test_usage_errors_have_status_2() -> None:
    for words in (["frobnicate"], ["show"], ["list", "--nope"], ["check"]):
        status, out, err = run(*words)
        assert (status, out) == (2, ""), words
        assert err.startswith("Usage: "), words


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mobilevlm.cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_as_a_process_it_is_plain_text_when_piped() -> None:
    result = process("list", FORCE_COLOR="")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert result.stdout == run("list")[1]
    failed = process("show", "lpd", "in=1", "out=1")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == "error: unknown projector 'lpd'. Did you mean 'ldp' or 'mlp'?\n"
    assert "Traceback" in process("show", "lpd", "in=1", "out=1", "--debug").stderr


def on_a_terminal(*words: str, **environment: str) -> str:
    """Run with standard output on a pseudo-terminal; return what it drew."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "mobilevlm.cli", *words],
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    ):
        os.close(child)
        drawn = b""
        while True:
            try:
                chunk = os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            drawn += chunk
    os.close(parent)
    return drawn.decode()


def test_on_a_terminal_it_is_coloured_unless_told_not_to_be() -> None:
    coloured = on_a_terminal("list", "ldpnetv2")
    assert "ldpnetv2" in coloured
    assert "\x1b[" in coloured
    plain = on_a_terminal("show", "lpd", NO_COLOR="1")
    assert "error: unknown projector 'lpd'. Did you mean" in re.sub(r"\x1b\[[0-9;]*m", "", plain)
    assert re.findall(r"\x1b\[([0-9;]*)m", plain) == ["1", "0"]  # bold, but no colour


def test_a_closed_pipe_is_no_traceback() -> None:
    result = subprocess.run(
        f"{sys.executable} -m mobilevlm.cli list | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("name")
    assert result.stderr == ""


def test_the_version() -> None:
    import mobilevlm

    assert run("--version") == (0, f"{mobilevlm.__version__}\n", "")


def test_spec_is_json_either_way() -> None:
    plain, asked = (
        run("spec", "mlp", "in=4", "out=8"),
        run("spec", "mlp", "in_=4", "out=8", "--json"),
    )
    assert plain == asked
    assert json.loads(plain[1])["out"] == 8


def test_a_fault_of_ours_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("mobilevlm.projectors.build.plan_projector", explode)
    assert run("show", "ldp", "in=8", "out=8") == (
        1,
        "",
        "error: RuntimeError: boom. This is a fault of ours; --debug shows where.\n",
    )


def test_a_full_disk_is_one_line() -> None:
    result = subprocess.run(
        f"{sys.executable} -m mobilevlm.cli list > /dev/full",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == "error: cannot write: No space left on device\n"


def test_tables_are_never_cut_off() -> None:
    drawn = on_a_terminal("show", "ldpnet", "in=1024", "out=2048", "grid=24x24", COLUMNS="40")
    for number in ("18,936,832", "6.66 G", "blocks.3.body.4", "24x24 x 2048"):
        assert number in drawn
    assert "\u2026" not in drawn


def test_bench_times_both_forms() -> None:
    words = ("bench", "ldpnetv2", "in=8", "out=8", "grid=12x12", "--rounds", "3")
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["run", "plain", "as", "it", "runs", "ratio"]
    assert [lines[2][0], lines[3][0]] == ["infer", "train"]
    assert out.endswith("\nruns as: blocks.3 runs before blocks.2\n")
    found = json.loads(run(*words, "--json", "--dtype", "bfloat16", "--batch", "2")[1])
    assert found.keys() == {"infer", "train"}
    assert all(figures["plain_s"] > 0 < figures["ratio"] for figures in found.values())


def test_bench_says_what_is_missing() -> None:
    words = ("bench", "ldp", "in=8", "out=8")
    assert run(*words) == (2, "", "error: ldp: 'grid' is missing. Write grid=24x24.\n")
    status, out, err = run(*words, "grid=4x4", "--device", "nowhere")
    assert (status, out) == (2, "")
    assert err.startswith("error: device: 'nowhere'; expected a device that is there.")


def test_schema_prints_a_schema() -> None:
    status, out, err = run("schema")
    assert (status, err) == (0, "")
    assert json.loads(out)["$defs"]["pointwise"]["additionalProperties"] is False


def test_inspect_says_what_there_is_and_takes_a_root(tmp_path: Path) -> None:
    layers = {"0.weight": torch.zeros(24, 16), "2.weight": torch.zeros(24, 24)}
    roots = ("mm_projector.", "model.mm_projector.")
    state = {root + key: tensor.clone() for root in roots for key, tensor in layers.items()}
    path = tmp_path / "x.safetensors"
    save_file(state, path)
    status, out, err = run("inspect", str(path))
    assert (status, out) == (2, "")
    assert err.endswith("Say which one, as root='mm_projector.'.\n")
    for root, other in (roots, roots[::-1]):
        found = f"{path}: mlp, 16 -> 24, float32, 2 tensors under {root!r}, 2 others left\n"
        assert run("inspect", str(path), "--root", root) == (
            0,
            f"{found}  another under {other!r}\n",
            "",
        )
    status, out, _ = run("inspect", str(path), "--root", "model.mm_projector", "--json")
    assert (json.loads(out)["root"], json.loads(out)["others"]) == (roots[1], [roots[0]])
