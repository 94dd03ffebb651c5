"""What a table of published figures is made of: papers, figures, setups, reasons and rows."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mobilevlm import Plan, list_projectors, plan_projector

Block = Mapping[str, Any]
FIGURE = re.compile(r"(?P<below>< )?(?P<digits>[\d,]+(?:\.\d+)?)(?: (?P<unit>[MBT])|(?P<times>x))?")
UNITS = {"M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Paper:
    """Where figures are published.

    Attributes:
        name: Its short name.
        source: Its authors, title and year, or what else it is.
        url: Where it is.
        read: How its figures were looked up: ``text`` of the paper, ``quoted`` by somebody else,
            or ``notes`` that were taken of it.
    """

    name: str
    source: str
    url: str
    read: str


@dataclass(frozen=True)
class Figure:
    """A number as published: ``144``, ``18.94 M``, ``< 20 M``, ``81x``."""

    text: str

    def agrees(self, value: float) -> bool:
        """Return whether a value, rounded to the published digits, is this number.

        A whole number without a unit is exact. With one, zeros at its end are no digits: 740 M is
        anything from 735 M to 745 M.
        """
        match = FIGURE.fullmatch(self.text)
        if match is None:
            raise ValueError(f"{self.text!r} is no figure")
        digits, unit = match["digits"].replace(",", ""), UNITS.get(match["unit"], 1)
        said = float(digits) * unit
        if match["below"]:
            return value < said
        whole, _, decimals = digits.partition(".")
        if unit == 1 and not decimals and not match["times"]:
            return value == said
        zeros = 0 if decimals else len(whole) - len(whole.rstrip("0"))
        return abs(value - said) <= 0.5 * 10.0 ** (zeros - len(decimals)) * unit * (1 + 1e-9)


def _inverted_residual(stride: int) -> list[Block]:
    return [
        {"type": "depthwise", "stride": stride, "bias": False},
        {"type": "norm-act", "act": "hardswish"},
        {"type": "squeeze-excite", "mid": 512, "act": "relu", "gate": "hardsigmoid"},
        {"type": "pointwise", "bias": False},
        {"type": "norm-act", "act": "none"},
    ]


def _plain(stride: int) -> list[Block]:
    norm = {"type": "norm-act", "act": "none"}
    depthwise = {"type": "depthwise", "stride": stride, "bias": False}
    return [depthwise, norm, {"type": "pointwise", "bias": False}, norm]


# Parts of chains that are no family's, by the names that the page gives them.
PIECES: dict[str, list[Block]] = {
    "PW": [{"type": "pointwise"}],
    "GELU": [{"type": "norm-act", "norm": "none"}],
    "pool": [{"type": "pool", "stride": 2}],
    "PE": [{"type": "position"}],
    "DW1": _inverted_residual(1),
    "DW2": _inverted_residual(2),
    "x + DW1": [{"type": "residual", "body": _inverted_residual(1)}],
    "x + plain1": [{"type": "residual", "body": _plain(1)}],
    "plain2": _plain(2),
}


@dataclass(frozen=True)
class Setup:
    """A configuration as this library says it.

    Attributes:
        said: A registered name, or a chain of `PIECES` with `` > `` between them.
        ends: The input and the output width.
        grid: The grid of tokens that enters.
        options: The options of the name.
    """

    said: str
    ends: tuple[int, int]
    grid: tuple[int, int]
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def plan(self) -> Plan:
        """Its plan."""
        if not self.pieces:
            return plan_projector(self.said, *self.ends, grid=self.grid, **self.options)
        blocks = [block for piece in self.pieces for block in PIECES[piece]]
        document = {"in": self.ends[0], "out": self.ends[1], "blocks": blocks}
        return plan_projector(document, grid=self.grid)

    @property
    def pieces(self) -> list[str]:
        """The names of its pieces; none if it is a registered name."""
        return self.said.split(" > ") if " > " in self.said else []

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        said = f"{self.said}({options})" if options else self.said
        (in_, out), (h, w) = self.ends, self.grid
        return f"`{said}` {in_} -> {out}, {h}x{w}"


@dataclass(frozen=True)
class Reason:
    """Why a figure is another one here.

    Attributes:
        sentence: It, with the numbers that it is about.
        holds: Whether these numbers, computed anew, still say so.
        solved: Whether it says how the published figure comes about. If not, the two differ.
    """

    sentence: str
    holds: bool
    solved: bool = True


@dataclass(frozen=True)
class Row:
    """A row of a published table, or a sentence of a paper with figures in it.

    Attributes:
        paper: The paper's short name.
        place: The table, equation or section; empty where notes do not give it.
        what: What the paper calls it.
        published: The figures by what they are: ``tokens``, ``parameters``, or a name of its own.
        setup: The configuration; None if the figures are of something else than one projector.
        ours: The figures here that are not the plan's own.
        reason: Why they differ, or what else must be said.
        score: What the paper measured, for information.
        needs: What no family can say yet; empty if one can.
        unknown: Names under which there is no family; once there is one, the row must say it.
    """

    paper: str
    place: str
    what: str
    published: Mapping[str, str]
    setup: Setup | None = None
    ours: Callable[[], Mapping[str, float]] = dict
    reason: Callable[[], Reason] | None = None
    score: str = ""
    needs: str = ""
    unknown: Sequence[str] = ()

    @cached_property
    def values(self) -> dict[str, float]:
        """The figures here, by what they are."""
        found: dict[str, float] = dict(self.ours())
        if self.setup is not None:
            plan = self.setup.plan
            for what, value in (("tokens", plan.tokens_out), ("parameters", plan.parameters)):
                if value is not None:
                    found.setdefault(what, value)
        return found

    @cached_property
    def why(self) -> Reason | None:
        """The reason, computed."""
        return self.reason() if self.reason is not None else None

    @property
    def differing(self) -> list[str]:
        """What of the published figures is another one here."""
        return [
            what
            for what, text in self.published.items()
            if not self.needs and not Figure(text).agrees(self.values[what])
        ]

    @property
    def verdict(self) -> str:
        """``equal``, ``explained``, ``differs`` or ``cannot be said yet``."""
        if self.needs:
            return "cannot be said yet"
        if not self.differing:
            return "equal"
        return "explained" if self.why is not None and self.why.solved else "differs"

    def problems(self) -> list[str]:
        """What is wrong with the row: nothing if it is equal or its reason holds."""
        where = ", ".join(filter(None, (self.paper, self.place, self.what)))
        found = [
            f"{where}: there is a family {name!r} now: say it"
            for name in self.unknown
            if list_projectors(name)
        ]
        if self.why is not None and not self.why.holds:
            found.append(f"{where}: no longer so: {self.why.sentence}")
        if self.why is None:
            found += [
                f"{where}: {what} {self.published[what]} published, {self.values[what]:,} here"
                for what in self.differing
            ]
        return found
