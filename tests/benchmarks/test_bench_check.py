"""What `make bench-check` makes of its measurements; of speed itself there is no test."""

import importlib
import math
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from mobilevlm import build_projector

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("check")


@pytest.mark.parametrize("n", [3, 5, 6, 9, 31, 32, 101])
def test_the_interval_holds_the_median_often_enough(n: int, check: ModuleType) -> None:
    low, high = check.interval(range(n, 0, -1))
    assert low + high == n + 1

    def confidence(rank: int) -> float:
        return 1 - 2 * sum(math.comb(n, heads) for heads in range(rank)) / 2**n

    assert confidence(low) >= 0.95 or low == 1
    assert confidence(low + 1) < 0.95  # none is narrower
    if n == 31:
        assert (low, high) == (10, 22)


@pytest.mark.thread_unsafe
@pytest.mark.usefixtures("clock")
@pytest.mark.quick("{'avx2': True}-0.02-['ok', 'SLOWER']")
@pytest.mark.parametrize(
    ("flags", "original", "expected"),
    [
        ({"avx512_bf16": True}, 0.05, ["ok"]),
        ({"avx512_bf16": True}, 0.0, ["SLOWER"]),
        ({"avx2": True}, 0.05, ["ok", "ok"]),  # five times as fast
        ({"avx2": True}, 0.02, ["ok", "SLOWER"]),  # twice as fast: enough in fp32 only
    ],
    ids=str,
)
def test_it_fails_where_ours_is_slower(
    flags: dict[str, bool],
    original: float,
    expected: list[str],
    check: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def peer() -> Any:
        ours = build_projector("linear", 8, 8)
        plain = ours.blocks[0]
        ours.register_forward_pre_hook(lambda *_: time.sleep(0.01))

        def theirs(x: Tensor) -> Tensor:
            time.sleep(original)
            y: Tensor = plain(x)
            return y

        return check.Peer(ours, theirs, plain, torch.randn(1, 4, 8), (2, 2))

    threads = torch.get_num_threads()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    monkeypatch.setattr(check, "CASES", {"small": peer})
    code = check.main(["--threads", "1", "--rounds", "5", "small"])
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.startswith("small")]
    assert [row[-1] for row in rows] == expected
    assert code == ("SLOWER" in expected)
    assert "processor: " in printed
    assert f"torch {torch.__version__}" in printed
