"""The verb compare: what it prints is what `compare_projectors`, `suggest` and `measure` say."""

import json
import re
from pathlib import Path

import pytest
from helpers.command import on_a_terminal, run

from mobilevlm import compare_projectors, dump_spec, load_spec, spec_of

WIDTHS = ("in=64", "out=96")
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "image_size": 56,
    "patch_size": 14,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "vocab_size": 1000,
}


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    """The folders of a vision tower and of a language model."""
    folders = []
    for name, config in (("clip", CLIP), ("llama", LLAMA)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        folders.append(str(tmp_path / name))
    return folders[0], folders[1]


def test_it_prints_the_comparison() -> None:
    status, out, err = run("compare", "ldp", "c-abstractor(queries=4)", *WIDTHS, "grid=8x6")
    assert (status, err) == (0, "")
    specs = ["ldp", ("c-abstractor", {"queries": 4})]
    assert out == f"{compare_projectors(specs, 64, 96, grid=(8, 6))}\n"
    header, _, first, second = out.splitlines()[:4]
    assert re.split(r" {2,}", header)[:4] == ["projector", "grid", "tokens", "parameters"]
    assert re.split(r" {2,}", first)[:3] == ["ldp", "8x6", "48 -> 12"]
    assert re.split(r" {2,}", second)[:3] == ["c-abstractor(queries=4)", "8x6", "48 -> 4"]


def test_documents_have_their_file_as_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dump_spec(spec_of("ldp", 64, 96, kernel=5), "mine.json")
    Path("other").write_text('{"in": 64, "out": 96, "blocks": ["pointwise"]}')
    status, out, err = run("compare", "mine.json", "other", "grid=4x4")
    assert (status, err) == (0, "")
    specs = [("mine.json", load_spec(Path("mine.json"))), ("other", load_spec(Path("other")))]
    assert out == f"{compare_projectors(specs, grid=(4, 4))}\n"


@pytest.mark.parametrize("packed", [False, True])
def test_several_grids(packed: bool) -> None:
    words = ("compare", "mlp", "ldp", *WIDTHS, "grid=4x6,8x2")
    found = compare_projectors(["mlp", "ldp"], 64, 96, grid=[(4, 6), (8, 2)], packed=packed)
    assert run(*words, *(["--packed"] if packed else [])) == (0, f"{found}\n", "")
    assert len(found.rows) == (2 if packed else 4)


def test_all_are_asked_for_as_many_tokens() -> None:
    status, out, _ = run("compare", "internvl", "gemma3", *WIDTHS, "grid=8x8", "tokens=4", "--json")
    rows = json.loads(out)["rows"]
    assert (status, [row["name"] for row in rows]) == (0, ["internvl(merge=4)", "gemma3(pool=4)"])
    assert [row["tokens_out"] for row in rows] == [4, 4]


def test_a_tower_and_a_model_give_widths_grid_and_more_columns(models: tuple[str, str]) -> None:
    tower, lm = models
    expected = compare_projectors(["mlp", "ldp"], tower=tower, lm=lm)
    assert expected.rows[0].share is not None
    for words in (("--tower", tower, "--lm", lm), (f"tower={tower}", f"lm={lm}")):
        assert run("compare", "mlp", "ldp", *words) == (0, f"{expected}\n", "")
    header = str(expected).splitlines()[0].split()
    assert header[-5:] == ["prefill", "KV", "cache", "saved", "share"]
    one = compare_projectors(["mlp"], 64, 96, tower=tower, grid=(2, 2), dtype="float32")
    words = ("--tower", tower, *WIDTHS, "--grid", "2x2", "--dtype", "fp32")
    assert run("compare", "mlp", *words) == (0, f"{one}\n", "")


def test_a_projector_that_does_not_fit_is_a_row_that_says_why() -> None:
    status, out, err = run("compare", "ldp", "internvl", *WIDTHS, "grid=5x5")
    assert (status, err) == (0, "")
    assert re.split(r" {2,}", out.splitlines()[3]) == ["internvl", "5x5", *"-----"]
    assert (
        "internvl on 5x5: blocks[0] (patch-merge): a grid of 5x5 does not divide into windows of "
        "2x2. If it was trained so, say odd=pad or odd=drop: an option of some names, and of the "
        "block in any document, which mobilevlm spec writes. "
    ) in out
    [refused] = json.loads(run("compare", "ldp", "internvl", *WIDTHS, "grid=5x5", "--json")[1])[
        "refused"
    ]
    assert refused["name"] == "internvl"
    assert "odd=pad" in refused["error"]


def test_if_none_fits_it_fails() -> None:
    status, out, err = run("compare", "internvl", "llama4", *WIDTHS, "grid=5x5")
    assert (status, out) == (2, "")
    first, *reasons = err.splitlines()
    assert first == "error: no projector fits. Each is refused:"
    assert [line.split(":")[0] for line in reasons] == ["  internvl on 5x5", "  llama4 on 5x5"]
    assert "say odd=pad or odd=drop" in reasons[0]
    status, _, err = run("compare", "internvl", *WIDTHS, "grid=5x5")
    assert status == 2
    assert err.startswith("error: blocks[0] (patch-merge): a grid of 5x5 does not divide")


def test_all_that_keep_within_limits() -> None:
    words = ("--all", "--tokens", "<=16", "--parameters", "<=30k", "--macs", "<2M", "--json")
    status, out, err = run("compare", *words, *WIDTHS, "grid=8x8")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert len(found["rows"]) > 3
    for row in found["rows"]:
        assert row["tokens_out"] <= 16
        assert row["parameters"] <= 30_000
        assert row["macs_run"] < 2_000_000
    tokens = [row["tokens_out"] for row in found["rows"]]
    assert tokens == sorted(tokens, reverse=True)
    names = {row["name"] for row in found["rows"]}
    assert "gemma3(pool=2)" in names
    assert "mlp" in {each["name"] for each in found["left_out"]}
    assert any(note.startswith("best first: the most tokens") for note in found["notes"])


def test_json_has_what_the_table_has_and_more() -> None:
    status, out, err = run("compare", "ldp", *WIDTHS, "grid=8x6", "--json")
    found = compare_projectors(["ldp"], 64, 96, grid=(8, 6)).to_dict()
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(found))


@pytest.mark.quick("words0-dtypes0")
@pytest.mark.parametrize(
    ("words", "dtypes"),
    [
        (("grid=4x4", "--batch", "2"), ["float32", "bfloat16"]),
        (("grid=4x4,4x6", "--packed", "dtype=f16"), ["float16"]),
    ],
)
def test_time_measures_time_and_memory(words: tuple[str, ...], dtypes: list[str]) -> None:
    common = ("compare", "mlp", "internvl", *WIDTHS, *words, "--time", "--rounds", "3")
    status, out, err = run(*common, "--threads", "1")
    assert (status, err) == (0, "")
    header = re.split(r" {2,}", out.splitlines()[0])
    columns = [f"{dtype} {what}" for dtype in dtypes for what in ("time", "peak")]
    assert header[7:] == columns
    images = "packed images" if "--packed" in words else "batch 2"
    assert f"time: of a forward on cpu, {images}, threads: 1; median of 3 rounds in turns" in out
    rows = json.loads(run(*common, "--json")[1])["rows"]
    for row in rows:
        assert list(row["measured"]) == dtypes
        for figures in row["measured"].values():
            assert 0 < figures["seconds"]["low"] <= figures["seconds"]["median"]
            assert figures["peak_bytes"] > 0


def test_a_picture_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("compare", "ldp", "mlp", *WIDTHS, "grid=4x4", "--picture", "out.svg")
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "picture: out.svg"
    assert Path("out.svg").read_text("utf-8").startswith("<?xml")
    assert run(*words)[0] == 0  # ours is replaced
    status, out, _ = run(*words, "--json")
    assert (status, json.loads(out)["picture"]) == (0, "out.svg")
    Path("out.svg").write_text("somebody else's")
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert "--force" in err
    assert Path("out.svg").read_text("utf-8") == "somebody else's"
    assert run(*words, "--force")[0] == 0
    status, out, err = run(*words[:-1], "out.jpg")
    assert (status, out) == (2, "")
    assert err.startswith("error: out.jpg: the suffix '.jpg'; expected .png, .svg or .pdf.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to compare; expected NAME, NAME(KEY=VALUE,...) or FILE. Or write --all."),
        (("ldp", "grid=4x4"), "ldp: 'in' is missing. Write in=... or tower=FOLDER."),
        (("ldp", "in=4", "grid=4x4"), "ldp: 'out' is missing. Write out=... or lm=FOLDER."),
        (("ldp", *WIDTHS), "ldp: 'grid' is missing. Write grid=24x24."),
        (("lpd", *WIDTHS), "unknown projector 'lpd'. Did you mean 'ldp' or 'mlp'?"),
        (
            ("ldp(64)", *WIDTHS),
            "ldp(64): '64'; expected NAME(KEY=VALUE,...), such as mlp(depth=3)",
        ),
        (
            ("ldp(kernel=3", *WIDTHS),
            "ldp(kernel=3: a bracket is not closed; expected NAME(KEY=VALUE,...), such as "
            "mlp(depth=3)",
        ),
        (("--all", "in=4", "grid=4x4"), "--all: 'out' is missing. Write out=... or lm=FOLDER."),
        (
            ("ldp(kernel=4,)", *WIDTHS, "grid=4x4"),
            "ldp.kernel: 4 is even; expected an odd kernel. Try 5.",
        ),
        (
            ("ldp", *WIDTHS, "grid=4x4,24"),
            "grid: '24'; expected height x width, such as 24x24. For a square of that side write "
            "24x24.",
        ),
        (
            ("ldp", *WIDTHS, "grid=4x4", "queries=64"),
            "'queries' is not an option of the comparison; expected one of in, out, grid, "
            "tower, lm, tokens. An option of a projector stands behind its name: "
            "NAME(queries=64).",
        ),
        (
            ("ldp", *WIDTHS, "Grid=4x4"),
            "'Grid' is not an option of the comparison; expected one of in, out, grid, "
            "tower, lm, tokens. Did you mean 'grid'?",
        ),
        (
            ("ldp", *WIDTHS, "grid=4x4", "--tokens", "<=64"),
            "--tokens without --all. Limits choose among all projectors: add --all.",
        ),
        (
            ("ldp", "--all", *WIDTHS, "grid=4x4"),
            "ldp with --all. All names are tried: leave it out.",
        ),
        (
            ("--all", *WIDTHS, "grid=4x4", "tokens=64"),
            'tokens= with --all. Write --tokens "=64".',
        ),
        (
            ("--all", *WIDTHS, "grid=4x4,8x8"),
            "several grids with --all; expected one grid, of one image",
        ),
        (
            ("--all", *WIDTHS, "grid=4x4", "--tokens", "64"),
            "tokens: '64'; expected a limit such as '<=64', '=64', '64..144' or '<20M', with k, M "
            "or G. Write --tokens '<=64' or '=64'.",
        ),
        (
            ("ldp", *WIDTHS, "grid=4x4", "--packed", "--batch", "2", "--time"),
            "--batch with --packed. Write grid= with all the images.",
        ),
        (
            ("ldp", *WIDTHS, "grid=4x4", "--dtype", "bf17"),
            "--dtype: 'bf17'; expected one of bfloat16, float16, float32, float64. Did you mean "
            "'bf16'?",
        ),
        (
            ("none.json", *WIDTHS),
            "none.json: cannot be read: No such file or directory; expected a JSON document",
        ),
    ],
)
def test_mistakes_of_a_comparison(words: tuple[str, ...], message: str) -> None:
    assert run("compare", *words) == (2, "", f"error: {message}\n")
    status, out, err = run("compare", *words, "--json")
    assert (status, out) == (2, "")
    assert json.loads(err)["error"] == message


def test_an_option_of_a_projector_is_no_option_of_the_verb() -> None:
    status, out, err = run("compare", "ldp", "--queries", "64")
    assert (status, out) == (2, "")
    assert err.endswith(
        "Error: No such option: --queries. A projector's options are written NAME(KEY=VALUE): "
        "NAME(queries=64).\n"
    )


def test_the_help_says_how_targets_are_written() -> None:
    status, out, _ = run("help", "compare")
    text = " ".join(out.split())
    assert status == 0
    assert text.startswith("Usage: mobilevlm compare [OPTIONS] [TARGET|KEY=VALUE]... Compare ")
    assert 'Example: mobilevlm compare ldp "c-abstractor(queries=64)" mine.json in=1024' in text
    assert "NAME, NAME(KEY=VALUE,...) or FILE; in=1024 out=2048, or tower=FOLDER lm=FOLDER;" in text


def test_on_a_narrow_terminal_there_is_progress_and_then_a_table_in_parts() -> None:
    words = ("compare", "mlp", "ldp", *WIDTHS, "grid=4x6,8x2", "--time", "--rounds", "3")
    drawn = on_a_terminal(*words, "dtype=f32", NO_COLOR="1", COLUMNS="50").replace("\r\n", "\n")
    progress, _, printed = drawn.rpartition("\r")  # a line that is removed at the end
    assert "\rplanning" in progress
    assert "\rtiming 100%" in progress
    assert "\x1b" not in drawn
    *parts, notes = printed.split("\n\n")
    assert len(parts) > 2
    for part in parts:
        header, _, *rows = part.splitlines()
        assert header.split()[:2] == ["projector", "grid"]
        assert [row.split()[:2] for row in rows] == [
            ["mlp", "4x6"],
            ["mlp", "8x2"],
            ["ldp", "4x6"],
            ["ldp", "8x2"],
        ]
    assert "time: of a forward on cpu" in notes


def test_a_search_without_a_result() -> None:
    words = ("compare", "--all", *WIDTHS, "grid=4x4", "--tokens", "=1M")
    status, out, err = run(*words)
    assert (status, out) == (1, "")
    assert err.startswith("error: no projector is within the limits. ")
    status, out, err = run(*words, "--json")
    assert (status, out) == (1, "")
    assert json.loads(err)["found"] == "no projector is within the limits"
