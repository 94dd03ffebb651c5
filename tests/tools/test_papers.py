"""The page of published figures is what its tool writes, and a figure that changes is noticed."""

from dataclasses import replace

import papers
import pytest
from papers import PAGE, TABLES, main, page, problems, short
from published import parameters, tokens
from published.sources import PAPERS
from published.terms import Figure, Reason, Row, Setup

ROWS = [row for _, rows in TABLES.values() for row in rows]
LDP = Setup("ldpnet", (1024, 2048), (24, 24))


def test_the_page_is_what_the_tool_writes() -> None:
    assert PAGE.read_text("utf-8") == page(TABLES)
    main(["--check"])


def test_every_row_is_of_a_paper_and_every_paper_has_one() -> None:
    assert {row.paper for row in ROWS} == {paper.name for paper in PAPERS}


def test_rows_are_not_there_twice() -> None:
    assert len({(row.paper, row.place, row.what, *row.published.values()) for row in ROWS}) == len(
        ROWS
    )


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("144", [144], [143, 145, 144.4]),
        ("18.94 M", [18_936_832, 18_944_999], [18_946_000, 18_934_000]),
        ("740 M", [743_219_200, 735_000_000], [746_000_000]),
        ("5 M", [4_722_688], [4_400_000]),
        ("0.08 B", [76_054_528], [92_839_936]),
        ("< 20 M", [18_936_832], [20_000_000]),
        ("630x", [632], [617.25]),
        ("10.1 T", [10.07e12], [7.63e12]),
        ("4.96", [4.958], [4.97]),
    ],
)
def test_a_figure_is_as_exact_as_its_digits(
    text: str, inside: list[float], outside: list[float]
) -> None:
    assert all(map(Figure(text).agrees, inside))
    assert not any(map(Figure(text).agrees, outside))


def test_what_is_no_figure() -> None:
    with pytest.raises(ValueError, match="'about 20' is no figure"):
        Figure("about 20").agrees(20)


def test_a_changed_figure_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("MobileVLM V2", "table 5", "LDP", {"tokens": "144", "parameters": "18.95 M"}, LDP)
    found = "MobileVLM V2, table 5, LDP: parameters 18.95 M published, 18,936,832 here"
    assert row.verdict == "differs"
    assert row.problems() == [found]
    monkeypatch.setattr(papers, "TABLES", {"How many": ("", [*parameters.ROWS, row])})
    with pytest.raises(SystemExit) as error:
        main(["--check"])
    assert error.value.code == 1
    assert capsys.readouterr().err == f"{found}\n"


def test_a_reason_that_no_longer_holds_fails() -> None:
    row = Row(
        *("MobileVLM V2", "table 5", "LDP", {"tokens": "576"}, LDP),
        reason=lambda: Reason("It counts what enters.", holds=LDP.plan.tokens_in == 575),
    )
    assert row.problems() == ["MobileVLM V2, table 5, LDP: no longer so: It counts what enters."]


def test_a_row_that_can_be_said_by_now_fails() -> None:
    [gap] = [row for row in tokens.ROWS if row.what == "SVA"]
    assert gap.verdict == "cannot be said yet"
    assert not gap.problems()
    row = replace(gap, unknown=("ldpnet",))
    assert row.problems() == ["Cambrian-1, table 1, SVA: there is a family 'ldpnet' now: say it"]


def test_every_reason_is_needed() -> None:
    """Where a row is equal, its reason says something else of it; it never says how they differ."""
    for row in ROWS:
        if row.why is not None and row.why.solved:
            assert row.verdict in ("equal", "explained"), row
        elif row.why is not None:
            assert row.verdict == "differs", row
        else:
            assert row.verdict in ("equal", "cannot be said yet"), row


def test_a_page_out_of_date_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(papers, "TABLES", {"How many parameters": ("", parameters.ROWS)})
    assert not problems(papers.TABLES)
    with pytest.raises(SystemExit):
        main(["--check"])
    assert "docs/papers.md is out of date: run python tools/papers.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "text"),
    [(6_660_685_824, "6.661 G"), (1_600_000_000_000, "1.6 T"), (6_316_032, "6,316,032")],
)
def test_numbers_are_short(count: int, text: str) -> None:
    assert short(count) == text
