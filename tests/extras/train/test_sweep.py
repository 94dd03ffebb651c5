"""The sweep: planned first, trained with the same data, summarised truly."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import sweep
from pretrain import Settings
from rich.console import Console
from sweep import Result, Row, Run, make_table, plan, summarise

from mobilevlm import MobileVLMError


def result(label: str, seed: int, accuracy: float, speed: float = 5.0) -> Result:
    return Result(label, seed, accuracy, loss=0.5, steps_per_second=speed)


def test_rows_are_the_means_over_seeds_the_best_first() -> None:
    plans = {"ldp": plan(("ldp", {}), 16), "internvl": plan(("internvl", {}), 16)}
    results = [
        result("internvl", 0, 0.5, 4.0),
        result("ldp", 0, 0.4),
        result("internvl", 1, 0.7, 8.0),
        result("ldp", 1, 0.4),
    ]
    best, other = summarise(plans, results)
    assert best.label == "internvl"
    assert (best.tokens, best.steps_per_second) == (16, 6.0)
    assert best.accuracy == pytest.approx(0.6)
    assert best.spread == pytest.approx(0.02**0.5)
    assert other == Row("ldp", plans["ldp"].parameters, 16, 5.0, 0.4, 0.0)
    [alone, _] = summarise(plans, results[:2])
    assert alone.spread == 0


def test_the_table_says_it() -> None:
    console = Console(width=100, file=io.StringIO())
    console.print(make_table([Row("ldp(kernel=5)", 48512, 16, 12.34, 0.456, 0.012)]))
    [line] = [line for line in console.file.getvalue().splitlines() if "ldp" in line]
    words = line.replace("│", " ").split()
    assert words == ["ldp(kernel=5)", "48,512", "16", "12.3", "45.6%", "±", "1.2%"]


def test_what_does_not_fit_is_refused_before_anything_trains(
    stage0: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "train_all", None)
    with pytest.raises(MobileVLMError, match="tokens"):
        sweep.main(["ldp", "mlp", "--tokens", "16", "--out", str(tmp_path)])


def test_it_trains_each_projector_with_each_seed(
    stage0: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_runs: list[Run] = []

    def train_all(runs: list[Run], workers: int) -> list[Result]:
        all_runs.extend(runs)
        return [sweep.train_one(replace(run, stage0=stage0)) for run in runs]

    monkeypatch.setattr(sweep, "train_all", train_all)
    words = [
        "--tokens",
        "16",
        "--seeds",
        "2",
        "--steps",
        "1",
        "1",
        "--questions",
        "40",
        "--unseen",
        "20",
        "--out",
    ]
    sweep.main(["ldp(kernel=5)", "internvl", *words, str(tmp_path)])
    assert {(run.label, run.seed) for run in all_runs} == {
        (label, seed) for label in ("ldp(kernel=5)", "internvl") for seed in (0, 1)
    }
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.json", "sweep.png"}


def test_processes_give_what_this_one_does(stage0: Settings) -> None:
    run = Run("ldp", ("ldp", {}), 0, 16, (1, 1), questions=40, unseen=20, stage0=stage0)
    here = sweep.train_one(run)
    [there] = sweep.train_all([run], workers=1)
    assert (there.loss, there.accuracy) == (here.loss, here.accuracy)
