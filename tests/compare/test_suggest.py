"""What keeps within limits: how they are written, what is tried, and in which order it comes."""

import math

import pytest
from helpers.plugins import Site

from mobilevlm import PROJECTORS, GridError, SpecError
from mobilevlm.compare import Comparison, Cost, Limit, suggest
from mobilevlm.projectors import FAMILIES
from mobilevlm.projectors.index import read_index

IN, OUT, GRID = 1024, 2048, (24, 24)


@pytest.fixture(scope="module")
def small() -> Comparison:
    return suggest(IN, OUT, grid=GRID, tokens="<=64", parameters="<=20M")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try some families only."""
    names = ["c-abstractor", "gemma3", "identity", "internvl", "ldpnetv2", "linear"]
    monkeypatch.setattr(PROJECTORS, "names", lambda: names)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("<=64", 0, 64),
        ("<64", 0, 63),
        (">=16", 16, math.inf),
        ("> 16", 17, math.inf),
        ("=64", 64, 64),
        ("64..144", 64, 144),
        ("0.5k .. 1k", 500, 1000),
        ("<=20M", 0, 20_000_000),
        ("<1.5G", 0, 1_499_999_999),
        ("<=64.9", 0, 64),
        ("<64.9", 0, 64),
        (" <= 2 k ", 0, 2000),
    ],
)
def test_limits(text: str, low: int, high: float) -> None:
    limit = Limit.parse(text, "tokens")
    assert (limit.low, limit.high) == (low, high)
    assert low in limit
    assert low - 1 not in limit
    assert high in limit or high == math.inf
    assert high + 1 not in limit or high == math.inf


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("64", "'64'; expected {}. Write tokens='<=64' or '=64'."),
        (64, "64; expected {}. Write tokens='<=64' or '=64'."),
        ("20M", "'20M'; expected {}. Write tokens='<=20M' or '=20M'."),
        ("", "''; expected {}"),
        ("few", "'few'; expected {}"),
        ("<=64 tokens", "'<=64 tokens'; expected {}"),
        ("<=-1", "'<=-1'; expected {}"),
        ("144..64", "nothing is within '144..64'"),
        ("=1.5", "nothing is within '=1.5'"),
        ("<0", "nothing is within '<0'"),
    ],
)
def test_what_is_no_limit(text: object, message: str) -> None:
    expected = "a limit such as '<=64', '=64', '64..144' or '<20M', with k, M or G"
    with pytest.raises(SpecError) as error:
        Limit.parse(text, "tokens")
    assert str(error.value) == f"tokens: {message.format(expected)}"


def test_all_that_fits_and_nothing_else(small: Comparison) -> None:
    assert small.rows == small.results
    for row in small.rows:
        assert row.tokens_out <= 64
        assert row.parameters <= 20_000_000
    tried = {each.name.partition("(")[0] for each in (*small.rows, *small.left_out)}
    assert tried == {*FAMILIES}
    for each in small.left_out:
        assert each.error.where in ("tokens", "parameters") or each.name == "identity"
    # The index has the tokens and parameters of each family by default, for these widths and grid.
    rows = {row.name for row in small.rows}
    for name, row in read_index().items():
        if name != "identity":
            assert (name in rows) == (row["tokens"] <= 64 and row["parameters"] <= 20_000_000), name


def test_the_best_comes_first(small: Comparison) -> None:
    def key(row: Cost) -> tuple[int, int, int]:
        return -row.tokens_out, row.macs_run, row.parameters

    assert [*map(key, small.rows)] == sorted(map(key, small.rows))
    assert [row.name for row in small.rows][:4] == [
        "gemma4",
        "gemma3(pool=3)",
        "deco(side=8)",
        "llava-next-video(stride=3)",
    ]
    rule = (
        "best first: the most tokens within the limits, then the fewest MACs as run, then the "
        "fewest parameters; on the Pareto front fewer tokens are better."
    )
    assert rule in small.notes()
    [least] = small.pareto()
    assert least.tokens_out == min(row.tokens_out for row in small.rows)
    front = f"Pareto front of the fewest tokens and MACs as run, 24x24: {least.name}."
    assert front in small.notes()


def test_it_says_what_is_left_out(small: Comparison) -> None:
    by = {each.name: str(each.error) for each in small.left_out}
    assert by["ldp"] == "tokens: 144; expected <=64"
    assert by["c-abstractor(queries=64)"] == "parameters: 22,124,032; expected <=20M"
    assert by["identity"].startswith("blocks[0] (identity): it ends the chain with 1024 channels")
    [line] = [line for line in small.notes() if " left out: " in line]
    counts = line.removesuffix(".").partition(": ")[2].split(", ")
    assert sum(int(count.split()[0]) for count in counts) == len(small.left_out)
    assert counts[-1] == "1 for other reasons"
    assert len(small.to_dict()["left_out"]) == len(small.left_out)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (
            "=64",
            [
                *("gemma3(pool=3)", "internvl(merge=3)"),
                *("ldpnetv2(size=8)", "c-abstractor(queries=64)"),
            ],
        ),
        # 49 is the largest square within; internvl divides 24 by 4.
        ("<50", ["ldpnetv2(size=7)", "c-abstractor(queries=49)", "gemma3", "internvl(merge=4)"]),
        # Without an upper end, the fewest.
        (
            ">=300",
            [
                *("gemma3(pool=1)", "linear", "internvl(merge=1)"),
                *("ldpnetv2(size=18)", "c-abstractor(queries=324)"),
            ],
        ),
        ("=7", []),
    ],
)
def test_options_are_set_for_the_tokens(tokens: str, expected: list[str]) -> None:
    if expected:
        found = suggest(IN, OUT, grid=GRID, tokens=tokens)
        assert [row.name for row in found.rows] == expected
        return
    with pytest.raises(SpecError) as error:
        suggest(IN, OUT, grid=GRID, tokens=tokens)
    assert str(error.value) == (
        "no projector is within the limits. 6 were tried: 5 by tokens, 1 for other reasons."
    )


@pytest.mark.usefixtures("few")
def test_macs_are_those_as_run() -> None:
    found = suggest(IN, OUT, grid=GRID, macs="<2G")
    row = next(row for row in found.rows if row.name == "ldpnetv2")
    assert row.macs_run < 2e9 < row.macs
    assert "c-abstractor" in {each.name for each in found.left_out}


@pytest.mark.usefixtures("few")
def test_without_limits_each_is_as_it_is_by_default() -> None:
    found = suggest(IN, IN, grid=GRID)
    assert {row.name for row in found.rows} == {*PROJECTORS.names()}
    assert found.left_out == ()


@pytest.mark.usefixtures("few")
def test_progress() -> None:
    calls: list[tuple[int, int, str]] = []
    suggest(IN, OUT, grid=GRID, progress=lambda *call: calls.append(call))
    assert calls == [(done, 6, name) for done, name in enumerate(PROJECTORS.names())]


@pytest.mark.usefixtures("few")
def test_the_tower_gives_the_grid() -> None:
    clip = {"model_type": "clip_vision_model", "hidden_size": 64, "image_size": 32, "patch_size": 8}
    found = suggest(tower=clip, out=32, tokens="<=4")
    assert {row.images for row in found.rows} == {"4x4"}
    with pytest.raises(GridError, match="the grid is missing"):
        suggest(IN, OUT)
    with pytest.raises(GridError, match="several grids; expected one"):
        suggest(IN, OUT, grid=[(8, 8), (4, 4)])  # type: ignore[list-item]


def test_a_broken_plugin_is_left_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("north-tools", "1.0", "[mobilevlm.projectors]\nbroken = north_tools:Gone\n")
    PROJECTORS.refresh()
    names = ["linear", "broken"]
    monkeypatch.setattr(PROJECTORS, "names", lambda: names)
    found = suggest(IN, OUT, grid=GRID)
    assert [row.name for row in found.rows] == ["linear"]
    [left] = found.left_out
    assert left.name == "broken"
    assert "north-tools" in str(left.error)
