"""What the command writes on a terminal: its width, its styles, its escape sequences."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import on_a_terminal, run
from typer.testing import CliRunner

from mobilevlm import build_projector, plan_projector, save_projector
from mobilevlm.cli.app import app
from mobilevlm.cli.table import cut

WIDTHS = ("in=1024", "out=2048", "grid=24x24")


def drawn(*words: str, columns: int, **environment: str) -> str:
    """Run on a terminal of so many columns; return its lines, none of which is longer."""
    text = on_a_terminal(*words, COLUMNS=str(columns), NO_COLOR="1", **environment)
    text = text.replace("\r\n", "\n")
    assert max(map(len, text.splitlines())) <= columns
    return text


def piped(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "mobilevlm.cli", *words],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


# ---------------------------------------------------------------------- width


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 60])
def test_show_is_printed_in_parts_and_drawn(columns: int) -> None:
    text = drawn("show", "c-abstractor", *WIDTHS, columns=columns)
    *parts, chain = text.rstrip("\n").split("\n\n")
    assert chain == plan_projector("c-abstractor", 1024, 2048, grid=(24, 24)).chain(columns)
    titles = [title for part in parts for title in part.splitlines()[0].split("  ")[1:]]
    found = [title.strip() for title in titles if title.strip()]
    assert found == ["type", "feature in", "feature out", "parameters", "MACs"]
    for figure in ("22,124,032", "5.46 G", "24x24 x 1024", "squeeze-excite"):
        assert figure in text
    path = {40: "\n    body.0  pointwise\n", 60: "\n    blocks.0.0.body.0.body.0  pointwise\n"}
    assert path[columns] in text
    assert "\u2026" not in text


@pytest.mark.slow
def test_show_on_a_wide_terminal_is_what_is_piped() -> None:
    words = ("show", "ldp", *WIDTHS)
    assert drawn(*words, columns=120) == run(*words)[1]


@pytest.mark.quick("60")
@pytest.mark.parametrize("columns", [40, 60])
def test_list(columns: int) -> None:
    text = drawn("list", "*smolvlm*", columns=columns)
    parts = text.rstrip("\n").split("\n\n")
    [models] = [line for line in parts[-1].splitlines() if line.startswith("idefics3")]
    assert "SmolVLM (merge=3), " in models
    assert models.endswith(" more")
    assert len(parts) == {40: 2, 60: 1}[columns]
    assert "8,388,608" in text


@pytest.mark.slow
def test_info() -> None:
    text = drawn("info", "ldp", columns=40)
    assert "\ncomputes    The eleven steps of the LDP\n            layer's description;" in text
    assert "\nkernel         The side of the depthwise\n               kernels, odd.\n" in text


def test_names_are_cut_at_a_name() -> None:
    names = ["Idefics3", "SmolVLM", "nanoVLM"]
    assert cut(names, 26) == "Idefics3, SmolVLM, nanoVLM"
    assert cut(names, 25) == "Idefics3, SmolVLM, 1 more"
    assert cut(names, 24) == "Idefics3, 2 more"
    assert cut(names, 15) == "3 names"
    assert cut([], 0) == ""


def test_columns_of_a_pipe() -> None:
    row = piped("list", "smolvlm", COLUMNS="300").stdout.decode().splitlines()[2]
    assert row.endswith("Idefics3, ModernVBERT, UltraVBERT, nanoVLM")


# ---------------------------------------------------------------------- styles


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    save_projector(build_projector("mlp", 4, 4), folder / "saved")
    (folder / "bad.json").write_text("{")
    return folder


SMALL = ("in=4", "out=4", "grid=4x4")
VERBS = [
    ["list", "ldp"],
    ["list", "zzz"],
    [],
    ["frobnicate"],
    ["help", "show"],
    ["show", "lpd"],
    ["list", "--nope"],
    ["info", "ldp"],
    ["show", "mlp", *SMALL],
    ["tokens", "ldp", "grid=4x4"],
    ["spec", "mlp", "in=4", "out=4"],
    ["check", "bad.json"],
    ["schema"],
    ["inspect", "saved", "--values"],
    ["convert", "saved", "out"],
    ["compare", "mlp", "ldp", *SMALL],
    ["bench", "mlp", *SMALL, "--rounds", "2"],
    ["plugins"],
    ["doctor"],
    ["new", "acme-blocks"],
    ["export", "saved", "x.pt2", "--grid", "4x4"],
    ["version"],
]


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        *((words, {"NO_COLOR": "1"}) for words in VERBS[:2]),
        *((words, {"TERM": "dumb"}) for words in VERBS[:2]),
        *(pytest.param(words, {"NO_COLOR": "1"}, marks=pytest.mark.slow) for words in VERBS[2:]),
        *(pytest.param(words, {"TERM": "dumb"}, marks=pytest.mark.slow) for words in VERBS[2:]),
        (VERBS[0], {"NO_COLOR": "1", "FORCE_COLOR": "1"}),
    ],
)
def test_not_one_escape_sequence(
    words: list[str], environment: dict[str, str], folder: Path
) -> None:
    printed = on_a_terminal(*words, cwd=folder, **environment)
    assert printed
    assert "\x1b" not in printed


@pytest.mark.slow
def test_a_terminal_has_styles() -> None:
    assert "\x1b[1mprojector" in on_a_terminal("list", "ldpnetv2")
    assert "\x1b[1;31merror: \x1b[0m" in on_a_terminal("show", "lpd")
    assert "\x1b[1mprojector" in on_a_terminal("list", "ldpnetv2", NO_COLOR="")  # not set


def test_a_pipe_has_them_if_it_is_told_to() -> None:
    plain, forced = piped("list", "ldpnetv2"), piped("list", "ldpnetv2", FORCE_COLOR="1")
    assert b"\x1b" not in plain.stdout + plain.stderr
    assert b"\x1b[1mprojector" in forced.stdout
    assert piped("list", "zzz", FORCE_COLOR="1").stderr.startswith(b"\x1b[1mnote: \x1b[0m")


# ---------------------------------------------------------------------- encoding


DRAWN_IN_ASCII = """
4x4 x 4, 16 tokens
|
+- pointwise
+- norm-act (act="gelu")
+- pointwise
+- norm-act (norm="layer")
+-+ residual
| +- pointwise
| +- norm-act (act="gelu")
| +- pointwise
+-+ +
+- norm-act (norm="layer")
+-+ residual
| +- pointwise
| +- norm-act (act="gelu")
| +- pointwise
+-+ +
v
4x4 x 4, 16 tokens
"""


def test_a_drawing_where_there_is_only_ascii() -> None:
    done = CliRunner(charset="ascii").invoke(app, ["show", "mlp-res", *SMALL])
    assert done.exit_code == 0
    assert done.stdout.endswith(DRAWN_IN_ASCII)
