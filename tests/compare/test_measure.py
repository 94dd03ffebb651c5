"""What is measured: turns, time and memory. No time is asserted, only what is timed and how."""

import gc
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mobilevlm import SpecError, compare_projectors
from mobilevlm.compare import Comparison, Cost, Refused, measure
from mobilevlm.compare.memory import measured_peak
from mobilevlm.compare.timing import Spread, compare, forward, in_turns, repeat

CPU = torch.device("cpu")


class Turns:
    """Functions that note whose turn it is, and whether the garbage collector is on."""

    def __init__(self, count: int) -> None:
        self.taken: list[int] = []
        self.collecting: set[bool] = set()
        self.calls = [lambda index=index: self.take(index) for index in range(count)]

    def take(self, index: int) -> None:
        self.taken.append(index)
        self.collecting.add(gc.isenabled())

    def rounds(self) -> list[list[int]]:
        count = len(self.calls)
        return [self.taken[i : i + count] for i in range(0, len(self.taken), count)]


def test_each_has_a_turn_in_each_round_and_the_first_round_is_dropped() -> None:
    turns, ticks = Turns(3), []
    times = in_turns(turns.calls, 5, tick=lambda: ticks.append(len(turns.taken)))
    assert [len(each) for each in times] == [5, 5, 5]
    assert [sorted(each) for each in turns.rounds()] == [[0, 1, 2]] * 6
    assert ticks == [3, 6, 9, 12, 15, 18]
    assert turns.collecting == {False}
    assert gc.isenabled()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_nobody_has_a_place_of_its_own(count: int) -> None:
    """In 2n rounds each is in each place twice, and none always follows the same one."""
    turns = Turns(count)
    in_turns(turns.calls, 2 * count - 1)
    rounds = turns.rounds()
    places = Counter((place, index) for each in rounds for place, index in enumerate(each))
    assert set(places.values()) == {2}
    before = Counter(pair for each in rounds for pair in pairwise(each))
    assert all(before[a, b] == before[b, a] for a, b in before)


def test_two_in_turns_and_one_alone() -> None:
    turns = Turns(2)
    pair = compare(*turns.calls, rounds=3, number=2)
    assert turns.taken == [0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1]
    assert len(pair.ratios) == 3
    assert pair.ratio == Spread.of(pair.ratios)
    alone = Turns(1)
    assert repeat(alone.calls[0], rounds=2, number=5).low > 0
    assert len(alone.taken) == 15


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_garbage_collector_comes_back(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(error):
        in_turns([fail], 1)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.5, 0.001, 2), "500 ms (1 to 2000)"),
        ((3e-6,), "3 us (3 to 3)"),
        ((1.5, 1.25), "1.38 s (1.25 to 1.5)"),
    ],
)
def test_a_spread_is_a_median_and_its_range(values: tuple[float, ...], text: str) -> None:
    assert str(Spread.of(values)) == text


def test_the_peak_of_what_is_held_and_released() -> None:
    def call() -> None:
        first, second = torch.empty(1000, dtype=torch.uint8), torch.empty(500, dtype=torch.uint8)
        del first
        third = torch.empty(700, dtype=torch.uint8)
        del second, third

    assert measured_peak(call, CPU) == 1500


def test_the_peak_of_a_known_chain() -> None:
    """Two linear layers: the input, the hidden feature, and the output beside them."""
    n, width, hidden, out = 30, 32, 64, 48
    blocks = [{"type": "pointwise", "out": hidden}, "pointwise"]
    found = compare_projectors([{"in": width, "out": out, "blocks": blocks}], grid=(5, 6))
    for dtype, batch, size in (("float32", 1, 4), ("float64", 3, 8)):
        [row] = measure(found, dtypes=[dtype], batch=batch, rounds=1).rows
        assert row.measured[dtype].peak_bytes == batch * size * n * (width + hidden + out)


@pytest.mark.quick("mlp2x_gelu", "ldpnetv2")
@pytest.mark.parametrize("name", ["mlp2x_gelu", "ldpnetv2", "ldpnet", "internvl"])
def test_the_peak_is_what_the_ruler_says(name: str) -> None:
    found = compare_projectors([name], 128, 256, grid=(16, 16), dtype="float32")
    [row] = measure(found, dtypes=["float32"], rounds=1).rows
    assert row.measured["float32"].peak_bytes == pytest.approx(row.activation_bytes(), rel=0.02)


def test_the_peak_counts_buffers_of_operators() -> None:
    """The distances of all to all are found by way of more than themselves."""

    def call(x: Tensor) -> Tensor:
        return torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist")

    x = torch.randn(100, 8)
    assert measured_peak(forward(call, x), CPU) > 100 * 100 * 4


def test_a_device_without_a_record_has_no_peak() -> None:
    assert measured_peak(lambda: None, torch.device("mps")) is None


def two(grid: object = (4, 6), *, packed: bool = False) -> Comparison:
    specs = ["mlp", ("ldp", {"prefix_tokens": 1})]
    return compare_projectors(specs, 16, 24, grid=grid, packed=packed)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    measure(two(), dtypes=["float32"], rounds=1)
    assert capfd.readouterr() == ("", "")


def test_all_dtypes_and_all_steps() -> None:
    steps: list[tuple[int, int]] = []
    before = two([(4, 6), (4, 4)])
    found = measure(before, rounds=3, progress=lambda *step: steps.append(step))
    # Each row is built in two dtypes; for each grid there are a round to warm up and three.
    assert steps == [(index + 1, 16) for index in range(16)]
    assert [row.measured for row in before.rows] == [{}] * 4
    for row in found.rows:
        assert list(row.measured) == ["float32", "bfloat16"]
        for each in row.measured.values():
            assert 0 < each.seconds.low <= each.seconds.median <= each.seconds.high
            assert each.peak_bytes > 0
        figures = row.to_dict()["measured"]["bfloat16"]
        assert figures["seconds"].keys() == {"median", "low", "high"}
        assert figures["peak_bytes"] > 0
    assert [row.name for row in found.rows] == [row.name for row in before.rows]


def test_what_was_measured_is_in_the_table() -> None:
    found = measure(two(), dtypes=["bf16"], rounds=1)
    header, rows = found.table()
    assert header[-2:] == ["bfloat16 time", "bfloat16 peak"]
    assert rows[0][-2] == str(found.rows[0].measured["bfloat16"].seconds)
    assert (
        f"time: of a forward on cpu, batch 1, threads: {torch.get_num_threads()}; median of 1 "
        "rounds in turns (lowest to highest). peak: what it holds at most, with its input, without "
        "weights."
    ) in found.notes()
    packed = measure(two([(4, 6), (4, 4)], packed=True), dtypes=["bf16"], rounds=1)
    assert "on cpu, packed images, threads: " in str(packed)


def test_what_does_not_fit_is_not_measured() -> None:
    found = compare_projectors(["ldp", "internvl"], 16, 24, grid=(5, 5))
    measured = measure(found, dtypes=["float32"], rounds=1)
    assert [type(each) for each in measured.results] == [Cost, Refused]
    assert measured.table()[1][1][-2:] == ["-", "-"]


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_timed_is_a_forward_of_these_tokens(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(call: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
        seen.append((tuple(x.shape), x.dtype, tuple(call(x).shape)))
        return forward(call, x)

    monkeypatch.setattr(import_module("mobilevlm.compare.measure"), "forward", noted)
    found = two([(4, 6), (8, 2)] if packed else (4, 6), packed=packed)
    measure(found, batch=2, dtypes=["bf16"], rounds=1)
    if packed:
        shapes = [((40, 16), (40, 24)), ((40, 16), (10, 24))]
    else:
        shapes = [((2, 24, 16), (2, 24, 24)), ((2, 25, 16), (2, 6, 24))]
    assert seen == [(x, torch.bfloat16, y) for x, y in shapes]


def test_learned_positions_get_their_grid() -> None:
    document = {"in": 8, "out": 8, "blocks": [{"type": "position"}, "pointwise"]}
    found = compare_projectors([document], grid=[(2, 3), (4, 4)])
    assert all(row.measured for row in measure(found, dtypes=["float32"], rounds=1).rows)


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    seen = []
    measure(
        two(),
        dtypes=["float32"],
        rounds=1,
        threads=before + 1,
        progress=lambda *_: seen.append(torch.get_num_threads()),
    )
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_a_device_or_a_dtype_that_cannot_be_used() -> None:
    with pytest.raises(SpecError, match="'nowhere' cannot be used"):
        measure(two(), device="nowhere")
    with pytest.raises(SpecError, match="'int8'"):
        measure(two(), dtypes=["int8"])
