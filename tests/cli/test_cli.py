"""The command line: what it prints, where, and with which exit status."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import run
from helpers.plugins import Site
from safetensors.torch import save_file
from typer.testing import CliRunner

from mobilevlm import (
    PROJECTORS,
    Projector,
    build_projector,
    dump_spec,
    load_projector,
    load_spec,
    plan_projector,
    save_projector,
    spec_of,
    to_upstream,
)
from mobilevlm.cli.app import app
from mobilevlm.cli.wording import on_the_command_line


def test_list_names_both_registries() -> None:
    status, out, err = run("list")
    assert (status, err) == (0, "")
    projectors, blocks = (part.splitlines() for part in out.split("\n\n"))
    assert projectors[0].split() == ["projector", "tokens", "parameters", "models"]
    assert "ldpnet                    144   18,936,832  MobileVLM, PALO" in projectors
    assert (
        "linear                    576    2,099,200  ColPali, DeepSeek-OCR 2, 5 more" in projectors
    )
    assert blocks[0].split() == ["block", "from"]
    assert ["depthwise-residual", "built-in"] in [line.split() for line in blocks]
    assert "mobilevlm.projectors" not in out


def test_list_finds_a_model() -> None:
    found = """\
projector  tokens  parameters  models, other names
---------  ------  ----------  -------------------------------------------------
idefics3      144   8,388,608  SmolVLM (merge=3), SmolVLM-256M (merge=4), 9 more
Tokens and parameters are those of the defaults; mobilevlm info SmolVLM has those of SmolVLM.
"""
    assert run("list", "smolvlm") == (0, found, "")
    (entry,) = json.loads(run("list", "smolvlm", "--json")[1])
    assert entry["by"]["SmolVLM-256M"] == entry["models"]["SmolVLM-256M"] == {"merge": 4}
    assert "nanoVLM" in entry["models"]
    assert "nanoVLM" not in entry["by"]


def test_list_says_whose_figures_it_prints() -> None:
    """Those of the defaults, which are not a model's that sets options."""
    for pattern in ("SmolVLM2", "inkling 2", "mlp1x_gelu"):
        line = run("list", pattern)[1].splitlines()[-1]
        assert line.startswith("Tokens and parameters are those of the defaults; mobilevlm info ")
        status, out, _ = run("info", shlex.split(line.partition("; ")[2])[2])
        assert (status, out.count("means ")) == (0, 1)
    for pattern in ("", "ldp", "Qwen2-VL", "llava-onevision"):
        assert "the defaults" not in run("list", pattern)[1]


@pytest.mark.parametrize(
    ("pattern", "families", "first"),
    [
        ("smolvlm2", ["idefics3"], ["SmolVLM2 (merge=3)"]),
        ("Qwen2-VL", ["qwen2-vl"], ["Qwen2-VL", "EXAONE 4.5"]),
        ("qwen2_vl*", ["qwen2-vl"], ["Qwen2-VL", "EXAONE 4.5"]),
        ("llava-onevision", ["mlp", "llava-onevision-video"], ["LLaVA-OneVision"]),
        ("llava-next", ["mlp", "llava-next-video"], ["LLaVA-NeXT"]),
        ("audio", ["mlp", "gemma4", "linear"], ["Audio Flamingo 3"]),
        ("ldp", ["ldp", "ldpnet", "ldpnetv2"], []),
        (
            "llava",
            ["mlp", "linear", "llava-next-video", "llava-onevision-video", "vipllava"],
            ["llava", "LLaVA", "LLaVA-1.5"],
        ),
    ],
)
def test_list_puts_what_was_typed_first(
    pattern: str, families: list[str], first: list[str]
) -> None:
    """Then names that go on with another word, then the rest."""
    table = run("list", pattern)[1].partition("\n\n")[0].splitlines()[2:]
    assert [line.split()[0] for line in table if line.split()[0] in PROJECTORS] == families
    names = table[0].split(maxsplit=3)[3] if first else ""
    assert names.startswith(", ".join(first))


def test_list_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mobilevlm', 'list', 'smolvlm']\n"
        "from mobilevlm.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'rich', 'transformers', 'mobilevlm.blocks.core.spec'}\n"
        "print(heavy & {*sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.endswith("\nset()\n")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("ldp", ["ldp", "ldpnet", "ldpnetv2"]),
        ("ldp*v2", ["ldpnetv2"]),
        ("MLP2x.GELU", ["mlp"]),
        ("norm_act", ["norm-act"]),
        ("*", None),
    ],
)
def test_list_takes_a_pattern(pattern: str, expected: list[str] | None) -> None:
    status, out, _ = run("list", pattern, "--json")
    found = json.loads(out)
    assert status == 0
    facts = {"by", "models", "note", "parameters", "tokens"}
    assert set(found[0]) == {"kind", "name", "source", "version", "target", *facts}
    if expected is None:
        expected = [entry["name"] for entry in json.loads(run("list", "--json")[1])]
    assert [entry["name"] for entry in found] == expected


def test_list_without_a_match() -> None:
    assert run("list", "zzz") == (1, "", "note: nothing matches 'zzz'\n")
    assert run("list", "zzz", "--json") == (1, "[]\n", "")
    assert run("list", "smollvm") == (
        1,
        "",
        "note: nothing matches 'smollvm'. Did you mean 'SmolVLM' or 'SmolVLM2'?\n",
    )


@pytest.mark.parametrize(
    ("pattern", "step"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "list Qwen2.5-VL"),
        ("llava-hf/llava-1.5-7b-hf", "list llava-1.5"),
        ("hf://HuggingFaceTB/SmolVLM-256M-Instruct", "list SmolVLM-256M"),
        ("org/unheard-of-7b", "inspect hf://org/unheard-of-7b"),
        ("hf://org/unheard-of-7b", "inspect hf://org/unheard-of-7b"),
    ],
)
def test_list_of_a_hub_name_says_what_to_write(pattern: str, step: str) -> None:
    note = f"note: nothing matches {pattern!r}. Write mobilevlm {step}\n"
    assert run("list", pattern) == (1, "", note)
    if step.startswith("list"):
        assert run(*step.split())[0] == 0


def test_show_prints_the_plan() -> None:
    status, out, err = run("show", "ldp", "in=1024", "out=2048", "grid=24x24")
    assert (status, err) == (0, "")
    plan = plan_projector("ldp", 1024, 2048, grid=(24, 24))
    assert out == f"{plan}\n\n{plan.chain()}\n"
    total = " ".join(str(plan).splitlines()[-1].split())
    assert total == "total 576 -> 144 tokens 24x24 x 1024 12x12 x 2048 10,541,056 4.24 G"
    out = run("show", "ldpnetv2", "in=16", "out=24", "grid=24x24")[1]
    remarks = "\nruns as: blocks.3 runs before blocks.2\nMACs as run: 335 k\n"
    assert f"{remarks}\n24x24 x 16, 576 tokens\n" in out


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
    plan = plan_projector("ldp", 16, 32, kernel=5)
    assert run("show", str(file))[1] == f"{plan}\n\n{plan.chain()}\n"
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
            ("show", "ldp", "In=1024", "out=2048"),
            "error: ldp: 'in' is missing. Did you write 'In' for it?\n",
        ),
        (
            ("tokens", "ldp", "Grid=24x24"),
            "error: ldp: 'grid' is missing. Did you write 'Grid' for it?\n",
        ),
        (
            ("show", "ldp", "in=8", "ouput=8"),
            "error: ldp: 'out' is missing. Did you write 'ouput' for it?\n",
        ),
        (
            ("tokens", "ldp", "grid=24 x 24"),
            "error: grid: '24 x 24'; expected height x width, such as 24x24\n",
        ),
        (
            ("tokens", "internvl", "grid=27x27"),
            "error: blocks[0] (patch-merge): a grid of 27x27 does not divide into windows of 2x2. "
            "If it was trained so, say odd=pad or odd=drop: an option of some names, and of the "
            "block in any document, which mobilevlm spec writes. It is given 27x27 x 1024 by the "
            "input.\n",
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
            "error: grid: '24'; expected height x width, such as 24x24. For a square of that side "
            "write 24x24.\n",
        ),
        (
            ("show", "ldp", "spec=linear", "in=8", "out=8"),
            "error: 'spec' is not an option. Name the projector or its file first.\n",
        ),
        (
            ("show", "x" * 5000, "in=1", "out=1"),
            f"error: unknown projector '{'x' * 76}.... Known: "
            f"{', '.join(PROJECTORS.names()[:12])}, and others.\n",
        ),
        (("tokens", "ldp"), "error: ldp: 'grid' is missing. Write grid=24x24.\n"),
        (
            ("tokens", "ldpnetv2", "grid=8x8"),
            "error: blocks[3] (pool): a grid of 8x8 cannot be pooled to 12x12; expected an output "
            "no larger than the input grid. It is given 8x8 x 1024 by blocks[2] (pointwise).\n",
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


def test_advice_about_odd_sides_can_be_followed(tmp_path: Path) -> None:
    assert run("tokens", "internvl", "grid=27x27", "odd=pad") == (0, "196\n", "")
    text = run("spec", "llama4", "in=64", "out=64")[1]
    file = tmp_path / "mine.json"
    file.write_text(text.replace('"odd": "refuse"', '"odd": "drop"'))
    assert run("tokens", str(file), "grid=27x27") == (0, "169\n", "")


def test_a_width_and_a_grid_are_options_and_words_alike(tmp_path: Path) -> None:
    expected = run("show", "ldp", "in=16", "out=8", "grid=4x4")
    assert expected[0] == 0
    assert run("show", "ldp", "--in", "16", "--out=8", "--grid", "4x4") == expected
    assert run("tokens", "ldp", "--grid", "24x18") == (0, "108\n", "")
    assert run("show", "ldp", "in=16", "--in", "16") == (2, "", "error: 'in' is given twice\n")
    file = tmp_path / "mine.json"
    file.write_text('{"in": 4, "out": 4, "blocks": [{"type": "position"}, "pointwise"]}')
    save_projector(build_projector(load_spec(file), grid=(3, 3)), tmp_path / "mine")
    for words in (("--grid", "3x3"), ("grid=3x3",)):
        assert run("inspect", str(tmp_path / "mine"), *words)[0] == 0
    status, out, err = run("show", "ldp", "--kernel", "5")
    assert (status, out) == (2, "")
    assert err.endswith(
        "Error: No such option: --kernel. A projector's options are written KEY=VALUE: kernel=5.\n"
    )
    assert run("show", "ldp", "--in")[2].endswith("Error: --in needs a value. Write in=VALUE.\n")
    assert "(Possible options: --json)" in run("show", "ldp", "--jsn")[2]


@pytest.mark.parametrize("word", ["dtype=BF16", "device=cpu"])
def test_bench_takes_what_it_runs_in_as_words_too(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    def build(*args: Any, **keywords: Any) -> Projector:
        given.update(keywords)
        return build_projector(*args, **keywords)

    monkeypatch.setattr("mobilevlm.projectors.build.build_projector", build)
    words = ("bench", "mlp", "in=64", "out=64", "grid=2x2", "--rounds", "3")
    status, _, err = run(*words, word)
    assert (status, err) == (0, "")
    assert given["dtype"] == (torch.bfloat16 if "BF16" in word else torch.float32)
    assert run(*words, "device=nowhere") == run(*words, "--device", "nowhere")
    status, out, err = run(*words, "device=nowhere")
    assert (status, out) == (2, "")
    assert err.startswith("error: device: 'nowhere' cannot be used: ")
    assert err.endswith("; expected a device that this torch has here. Try device=cpu.\n")
    _, _, err = run("show", "mlp", "in=64", "out=64", "--dtype", "bf16")
    assert err.endswith("No such option: --dtype\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dtype", "bf16"), "Error: No such option: --dtype\n"),
        (
            ("dtype=bf16",),
            "error: 'dtype' is not an option of a projector. Write --weights bf16.\n",
        ),
    ],
)
@pytest.mark.parametrize("target", ["ldp", "c.safetensors"])
def test_export_calls_the_dtype_weights(
    target: str, words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "c.pt2")
    status, out, err = run("export", target, file, "in=64", "out=128", "grid=6x9", *words)
    assert (status, out) == (2, "")
    assert err.endswith(said)


def test_export_takes_its_weights_as_a_word_too(tmp_path: Path) -> None:
    words = ("export", "mlp", str(tmp_path / "x.pt2"), "in=8", "out=8", "grid=2x2", "--json")
    status, out, _ = run(*words, "weights=bf16")
    assert (status, json.loads(out)["weights"]) == (0, "bf16")


def test_values_are_read_as_python_writes_them_too() -> None:
    words = ("spec", "mlp", "in=4", "out=8")
    assert run(*words, "bias=False") == run(*words, "bias=false")
    assert run(*words, "bias=False")[0] == 0


def test_help_of_a_verb() -> None:
    assert run("help") == run("--help")
    for verb in ("show", "help", "list"):
        status, out, err = run("help", verb)
        assert (status, out, err) == run(verb, "--help")
        assert (status, err) == (0, "")
        assert f" {verb} [OPTIONS]" in out.splitlines()[0]
    assert "Did you mean 'show'?" in run("help", "shwo")[2]
    assert run("help", "shwo")[0] == 2


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (
            ("show", "lpd", "in=1", "out=1"),
            2,
            {
                "error": "unknown projector 'lpd'. Did you mean 'ldp' or 'mlp'?",
                "where": "",
                "found": "unknown projector 'lpd'",
                "expected": "",
                "hint": "Did you mean 'ldp' or 'mlp'?",
            },
        ),
        (("show",), 2, {"error": "Missing argument 'NAME-or-FILE'."}),
        (("frobnicate",), 2, {"error": "No such command 'frobnicate'."}),
        (("bench", "ldp", "--batch", "0"), 2, None),
        (("list", "zzz"), 1, None),
        (("inspect", "no-such-file"), 2, None),
        (("convert", "no-such-file", "out", "--dtype", "bf17"), 2, None),
        (("export", "ldp", "out.txt"), 2, None),
    ],
)
def test_errors_are_json_where_json_is_asked_for(
    words: tuple[str, ...], status: int, said: dict[str, str] | None
) -> None:
    found, out, err = run(*words, "--json")
    assert found == status
    assert out in ("", "[]\n")
    lines = [json.loads(line) for line in err.splitlines()]
    assert lines if out == "" else not lines
    if said is not None:
        assert lines == [said]


@pytest.mark.slow
def test_one_vocabulary_of_dtypes(tmp_path: Path) -> None:
    save_projector(build_projector("mlp", 4, 4), tmp_path / "mine")
    for index, dtype in enumerate(("bf16", "bfloat16", "torch.bfloat16", "BF16")):
        out = str(tmp_path / str(index))
        assert run("convert", str(tmp_path / "mine"), out, "--dtype", dtype) == (
            0,
            f"{out}: document (mlp), 4 -> 4, bfloat16\n",
            "",
        )
        file = str(tmp_path / f"{index}.pt2")
        status, text, _ = run("export", out, file, "--weights", dtype, "--json")
        assert (status, json.loads(text)["weights"]) == (0, "bf16")
    status, _, err = run("convert", str(tmp_path / "mine"), "x", "--dtype", "bf17")
    assert (status, err) == (
        2,
        "error: --dtype: 'bf17'; expected one of bfloat16, float16, float32, float64. Did you mean "
        "'bf16'?\n",
    )
    words = ("bench", "mlp", "in=4", "out=4", "grid=2x2", "--rounds", "3", "--json")
    assert run(*words, "--dtype", "half")[0] == 0


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("mobilevlm ver", ["version"]),
        ("mobilevlm show ldpn", ["ldpnet", "ldpnetv2"]),
        ("mobilevlm tokens mlp2x_g", ["mlp2x_gelu", "mlp2x_gelu_Norm"]),
        ("mobilevlm export qwen3", ["qwen3-vl", "qwen3-vl-deepstack"]),
        ("mobilevlm compare ldp mlp2x_g", ["mlp2x_gelu", "mlp2x_gelu_Norm"]),
        ("mobilevlm help doc", ["doctor"]),
        ("mobilevlm bench ldp --dtype b", ["bfloat16"]),
        ("mobilevlm show ldp --j", ["--json"]),
        ("mobilevlm show no-such", []),
    ],
)
def test_a_shell_completes(typed: str, expected: list[str]) -> None:
    code = (
        "import sys; from mobilevlm.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "_MOBILEVLM_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(typed.split()) - 1),
        },
    )
    *found, loaded = result.stdout.split("\n")[:-1]
    assert [name for name in found if name] == expected
    assert (loaded, result.stderr) == ("False", "")


def test_the_script_for_a_shell() -> None:
    scripts = [
        process("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"),
        process(_MOBILEVLM_COMPLETE="source_bash"),
    ]
    for script in scripts:
        assert (script.returncode, script.stderr) == (0, "")
        assert script.stdout.strip() == scripts[0].stdout.strip()
        assert script.stdout.rstrip().endswith(" mobilevlm")
        assert "_MOBILEVLM_COMPLETE=complete_bash" in script.stdout


def test_a_folder_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_projector(build_projector("mlp", 4, 4), "mine")
    assert run("show", "mine", "in=4", "out=4") == (
        2,
        "",
        "error: unknown projector 'mine'; expected a registered name. It is a folder: write "
        "mobilevlm inspect mine.\n",
    )
    assert run("inspect", "mine") == (
        0,
        "mine: document (mlp), 4 -> 4, float32, 4 tensors without a prefix, 0 others left\n",
        "",
    )


def test_export_without_a_grid_says_how_one_is_written(tmp_path: Path) -> None:
    status, _, err = run("export", "ldp", str(tmp_path / "x.pt2"), "in=8", "out=8")
    assert status == 2
    assert err.endswith("expected (height, width). Pass grid=24x24 or --dynamic-grid.\n")


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        (
            "convert_checkpoint('a b.bin', 'projector', from_pickle=True)",
            "mobilevlm convert --from-pickle 'a b.bin' projector",
        ),
        (
            "convert_checkpoint('x.bin', 'projector', from_pickle=True, root='a.', spec=document)",
            "mobilevlm convert --from-pickle x.bin projector --root 'a.' --spec document.json",
        ),
        ("load_projector(..., check_values=True).", "mobilevlm inspect --values."),
        ("with replace=True (--force).", "with --force."),
        ("with replace=True.", "with --force."),
        ("Leave out from_pickle=True.", "Leave out --from-pickle."),
        ("Give grid=(h, w) at build.", "Give grid=HxW at build."),
        ("as root='a.b.'.", "as --root 'a.b.'."),
        ("as family='mlp'.", "as --family 'mlp'."),
        (
            "write family='idefics3', merge=3, act='silu'.",
            "write --family 'idefics3' merge=3 act=silu.",
        ),
        (
            "Give it: load_projector('a b', root='x.', spec=document).",
            "Give it: mobilevlm inspect 'a b' --root 'x.' --spec document.json.",
        ),
        (
            "load_projector('a', spec=document, module_names=[...]).",
            "mobilevlm inspect a --spec document.json --module-names A,B.",
        ),
        (
            "load_projector('a', spec=document, module_names='llava').",
            "mobilevlm inspect a --spec document.json --module-names 'llava'.",
        ),
        (
            "ask for it: load_projector('a', family='mlp').",
            "ask for it: mobilevlm inspect a --family 'mlp'.",
        ),
        ("Give spec=load_spec('document.json').", "Give --spec document.json."),
        ("Set ceil=True.", "Set ceil=True."),
        ("as act='gelu'.", "as act=gelu."),
        ("Write tokens='<=64' or '=64'.", "Write --tokens '<=64' or '=64'."),
        ('Write load_spec("it\'s.json").', "Write mobilevlm show 'it'\"'\"'s.json'."),
        (
            "Name it \"a root='x' b\", or 'replace=True'.",
            "Name it \"a root='x' b\", or 'replace=True'.",
        ),
    ],
)
def test_advice_speaks_shell(python: str, shell: str) -> None:
    assert on_the_command_line(python) == shell


def test_a_message_and_its_parts_say_the_same(tmp_path: Path) -> None:
    """Advice is said as a shell has it; paths and what was found stay as they are."""
    folder = tmp_path / "root='x' replace=True"
    folder.mkdir()
    own = tmp_path / "own"
    save_projector(build_projector("mlp", 4, 4), own)
    file = folder / "a: b.safetensors"
    file.write_text("mine")
    status, _, err = run("convert", str(own), str(file), "--to", "mlp", "--json")
    said = json.loads(err)
    assert (status, said["where"]) == (2, str(file))
    assert said["hint"] == "Name another; --force replaces it, and what it holds is lost."
    assert said["error"] == "{where}: {found}; expected {expected}. {hint}".format(**said)


def test_check_gives_its_advice_in_shell(tmp_path: Path) -> None:
    block = {"type": "position", "kind": "learned"}
    file = tmp_path / "grid=(h, w).json"
    file.write_text(json.dumps({"in": 4, "out": 4, "blocks": [block]}))
    status, out, _ = run("check", str(file), "--json")
    [result] = json.loads(out)
    assert status == 1
    assert result["file"] == str(file)
    assert result["error"].endswith(". Give grid=HxW at build.")
    assert run("check", str(file))[2] == f"error: {file}: {result['error']}\n"


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


@pytest.mark.quick(" 2>&1")
@pytest.mark.parametrize("stream", ["", " 2>&1"])
def test_a_closed_pipe_is_quiet_and_says_so(stream: str, tmp_path: Path) -> None:
    """Of good files `check` prints on standard output, of others on standard error."""
    (tmp_path / "good").write_text('{"in": 4, "out": 4, "blocks": ["pointwise"]}')
    name = "bad" if stream else "good"
    files = " ".join([name] * 2000)
    result = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m mobilevlm check {files}{stream} | head -n 1; "
            'echo "status ${PIPESTATUS[0]}"',
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    first, status = result.stdout.splitlines()
    assert first.startswith("error: bad: " if stream else "good: ok")
    assert status == "status 141"  # as of every program that SIGPIPE ends; 1 is a fault
    assert result.stderr == ""


def test_the_version() -> None:
    import mobilevlm

    assert run("--version") == (0, f"{mobilevlm.__version__}\n", "")
    assert run("version") == (0, f"{mobilevlm.__version__}\n", "")
    assert json.loads(run("version", "--json")[1]) == {"version": mobilevlm.__version__}


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
        "error: RuntimeError: boom. This is a bug in mobilevlm; --debug shows where.\n",
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
    assert err.startswith("error: device: 'nowhere' cannot be used: ")


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
    assert err.endswith("Say which one, as --root 'mm_projector.'.\n")
    for root, other in (roots, roots[::-1]):
        found = f"{path}: mlp, 16 -> 24, float32, 2 tensors under {root!r}, 2 others left\n"
        assert run("inspect", str(path), "--root", root) == (
            0,
            f"{found}  another under {other!r}\n",
            "",
        )
    status, out, _ = run("inspect", str(path), "--root", "model.mm_projector", "--json")
    assert (json.loads(out)["root"], json.loads(out)["others"]) == (roots[1], [roots[0]])


def test_inspect_and_convert_take_what_the_caller_knows(tmp_path: Path) -> None:
    """Each message's advice is what is written next."""
    projector = build_projector("llava", 16, 24)
    state = {f"bridge.{key}": each for key, each in to_upstream(projector, "llava").items()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "my_vlm"}')
    path, document = str(tmp_path), str(tmp_path / "document.json")
    dump_spec(projector.spec, document)
    found = f"{path}: {{}}, 16 -> 24, float32, 4 tensors under 'bridge.', 0 others left\n"
    status, _, err = run("inspect", path)
    assert status == 2
    assert "--spec document.json --module-names A,B" in err
    for names in ("linear_1,linear_2", "llava"):
        words = ("--spec", document, "--module-names", names)
        assert run("inspect", path, *words) == (0, found.format("document (mlp)"), "")
    assert run("inspect", path, "--family", "mlp", "--root", "bridge") == (
        0,
        found.format("mlp"),
        "",
    )
    options = ("family=mlp", "root=bridge", "act=relu", "prefix_tokens=1", "--json")
    spec = json.loads(run("inspect", path, *options)[1])["spec"]
    assert (spec["prefix_tokens"], spec["blocks"][1]["act"]) == (1, "relu")
    for words in (
        ("--spec", document, "--module-names", "llava"),
        ("--family", "mlp", "root=bridge"),
    ):
        out = str(tmp_path / words[0])
        assert run("convert", path, out, *words)[0] == 0
        assert load_projector(out).spec == projector.spec
    assert run("inspect", path, "--values", "--family", "mlp", "root=bridge")[0] == 0
    status, _, err = run("inspect", path, "act=relu")
    assert (status, err) == (
        2,
        "error: option 'act' without a family. Options belong to a family: say which, as "
        "--family 'mlp', act=...\n",
    )
    out = str(tmp_path / "x.pt2")
    assert run("export", path, out, "family=mlp", "root=bridge", "grid=2x2")[0] == 0
    assert run("export", path, out, "act=relu")[2] == (
        f"error: {path}: 'act' comes from the checkpoint\n"
    )


@pytest.mark.parametrize(
    ("verb", "word", "hint"),
    [
        ("inspect", "path=1", "Leave it out."),
        ("convert", "path=1", "Leave it out."),
        ("convert", "out=x", "Leave it out."),
        ("convert", "progress=3", "Leave it out."),
        ("convert", "replace=1", "Write --force."),
    ],
)
def test_a_word_that_is_no_option_of_a_family(
    verb: str, word: str, hint: str, tmp_path: Path
) -> None:
    save_file({"mm_projector.weight": torch.zeros(24, 16)}, tmp_path / "x.safetensors")
    paths = [str(tmp_path / "x.safetensors"), *([str(tmp_path / "y")] if verb == "convert" else [])]
    key = word.partition("=")[0]
    for words in (["--family", "mlp"], []):
        assert run(verb, *paths, *words, word) == (
            2,
            "",
            f"error: {key!r} is not an option of a projector. {hint}\n",
        )
    out = str(tmp_path / "x.pt2")
    assert run("export", paths[0], out, "family=mlp", "path=1") == (
        2,
        "",
        f"error: {paths[0]}: 'path' comes from the checkpoint\n",
    )


def test_a_models_name_for_a_family_is_answered_in_words_of_a_shell(tmp_path: Path) -> None:
    projector = build_projector("idefics3", 16, 24, merge=3)
    state = to_upstream(projector, "idefics3")
    root = "model.connector.modality_projection."
    save_file({f"{root}{key}": each for key, each in state.items()}, tmp_path / "x.safetensors")
    path = str(tmp_path / "x.safetensors")
    status, _, err = run("inspect", path, "--family", "SmolVLM")
    assert (status, err) == (
        2,
        "error: unknown projector 'SmolVLM'. SmolVLM uses idefics3: write --family 'idefics3' "
        "merge=3.\n",
    )


def test_a_plugins_layout_and_the_name_of_one_module(site: Site, tmp_path: Path) -> None:
    source = """
from mobilevlm import Preset, Stack
from mobilevlm.projectors.upstream import Upstream


class Bridge(Preset):
    def expand(self, in_, out):
        return Stack.parse({"in": in_, "out": out, "blocks": ["pointwise"]})

    upstream = (Upstream("acme-layout", ("up",)),)
"""
    point = "[mobilevlm.projectors]\nbridge = acme_bridge:Bridge\n"
    site.install("acme-bridge", "1.0", point, {"acme_bridge.py": source})
    PROJECTORS.refresh()
    save_file(
        {"m.up.weight": torch.zeros(24, 16), "m.up.bias": torch.zeros(24)},
        tmp_path / "x.safetensors",
    )
    path, document = str(tmp_path / "x.safetensors"), str(tmp_path / "document.json")
    Path(document).write_text('{"in": 16, "out": 24, "blocks": ["pointwise"]}')
    for names, layout in {
        "acme-layout": "acme-layout",
        "acme-bridge/acme-layout": "acme-bridge/acme-layout",
        "up": "",
    }.items():
        words = ("--spec", document, "--module-names", names, "--json")
        status, out, _ = run("inspect", path, *words)
        assert status == 0
        assert json.loads(out)["layout"] == layout
    assert run("inspect", path, "--spec", document, "module_names=up")[0] == 0
    sys.modules.pop("acme_bridge")


def test_what_a_stale_config_says_is_told(tmp_path: Path) -> None:
    state = to_upstream(build_projector("mlp", 4, 4), "mlp")
    save_file(
        {f"mm_projector.{key}": each for key, each in state.items()}, tmp_path / "a.safetensors"
    )
    (tmp_path / "config.json").write_text('{"mm_projector_type": "linear"}')
    note = "config.json says mm_projector_type 'linear', and the tensors are mlp2x_gelu's"
    path = str(tmp_path / "a.safetensors")
    assert run("inspect", path)[1].endswith(f"0 others left\n  note: {note}\n")
    status, _, err = run("convert", path, str(tmp_path / "out"))
    assert (status, err) == (0, f"note: {path}: {note}\n")


def test_a_checkpoint_is_no_document_and_a_folder_no_file(tmp_path: Path) -> None:
    save_projector(build_projector("linear", 4, 4), tmp_path / "own")
    file = tmp_path / "p.safetensors"
    (tmp_path / "own" / "model.safetensors").rename(file)
    for verb in ("show", "bench"):
        code, out, err = run(verb, str(file))
        assert (code, out, err) == (
            2,
            "",
            f"error: {file}: a checkpoint; expected a JSON document. Look into it with mobilevlm "
            f"inspect {file}.\n",
        )
    code, out, err = run("convert", str(file), str(tmp_path / "z.safetensors"))
    assert (code, out, err) == (
        2,
        "",
        f"error: {tmp_path / 'z.safetensors'}: the suffix .safetensors means another format; "
        "expected a folder. Name it 'z', or write a file in a layout of upstream's, with --to "
        "LAYOUT.\n",
    )
