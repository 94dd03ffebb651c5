"""Train the same model with several projectors, at the same number of tokens, and compare them.

    python examples/train/sweep.py ldp internvl "c-abstractor(hidden=128)" --tokens 16 --seeds 3

Every projector meets the same pretrained tower and language model, the same questions and the same
steps. The seeds change its first weights and the order of the questions.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from answers import answer, exact_match
from data import chance, make_questions
from options import parse_projector, parser
from pictures import save
from pretrain import Settings
from rich.console import Console
from rich.progress import track
from rich.table import Table
from train import make_stages, train_both
from vlm import make_config, make_processor, make_vlm

from mobilevlm import Plan, plan_projector
from mobilevlm.models import swap_projector

Named = tuple[str, dict]  # a projector's name, and its options


@dataclass(frozen=True)
class Run:
    """A projector that is to be trained once."""

    label: str
    projector: Named
    seed: int
    tokens: int | None
    steps: tuple[int, int]
    questions: int
    unseen: int
    stage0: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class Result:
    """What came of it."""

    label: str
    seed: int
    accuracy: float  # exact match on unseen questions
    loss: float  # the last
    steps_per_second: float


@dataclass(frozen=True)
class Row:
    """A line of the table: a projector, over all seeds."""

    label: str
    parameters: int
    tokens: int
    steps_per_second: float
    accuracy: float
    spread: float  # the standard deviation, of 2 seeds or more


def label_of(projector: Named) -> str:
    """Write a projector as it is written on the command line."""
    name, options = projector
    inner = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}({inner})" if inner else name


def plan(projector: Named, tokens: int | None) -> Plan:
    """Plan a projector for the model; what does not fit is refused here, before anything trains."""
    config = make_config(make_processor().tokenizer)
    name, options = projector
    tower = config.vision_config
    return plan_projector(name, tower=tower, lm=config.text_config, tokens=tokens, **options)


def train_one(run: Run) -> Result:
    """Train one projector, on one thread."""
    torch.set_num_threads(1)
    model, processor = make_vlm(run.seed, run.stage0)
    name, options = run.projector
    swap_projector(model, name, processor=processor, tokens=run.tokens, **options)
    questions = make_questions(run.questions, seed=1)
    unseen = make_questions(run.unseen, seed=2, training=False)
    start = time.perf_counter()
    stages = make_stages(run.steps, lora=False)
    losses = train_both(model, processor, questions, stages, seed=run.seed, quiet=True)
    seconds = time.perf_counter() - start
    last = [loss for stage in losses.values() for loss in stage][-20:]
    return Result(
        label=run.label,
        seed=run.seed,
        accuracy=exact_match(answer(model, processor, unseen), unseen),
        loss=statistics.fmean(last),
        steps_per_second=sum(run.steps) / seconds,
    )


def train_all(runs: Sequence[Run], workers: int) -> Iterator[Result]:
    """Train in processes, as many at once as there are workers; yield what is ready first."""
    make_vlm(settings=runs[0].stage0)  # stage 0, once for all
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        waiting = as_completed([pool.submit(train_one, run) for run in runs])
        for each in track(waiting, "training", total=len(runs)):
            yield each.result()


def summarise(plans: dict[str, Plan], results: Sequence[Result]) -> list[Row]:
    """Put the results of each projector into a row, the best first."""
    rows = []
    for label, planned in plans.items():
        mine = [result for result in results if result.label == label]
        accuracies = [result.accuracy for result in mine]
        rows.append(
            Row(
                label=label,
                parameters=planned.parameters,
                tokens=planned.tokens_out,
                steps_per_second=statistics.fmean(result.steps_per_second for result in mine),
                accuracy=statistics.fmean(accuracies),
                spread=statistics.stdev(accuracies) if len(mine) > 1 else 0.0,
            )
        )
    return sorted(rows, key=lambda row: -row.accuracy)


def make_table(rows: Sequence[Row]) -> Table:
    """Lay the rows out as a table."""
    table = Table("projector")
    for heading in ("parameters", "tokens", "steps/s", "exact match"):
        table.add_column(heading, justify="right")
    for row in rows:
        accuracy = f"{row.accuracy:.1%} ± {row.spread:.1%}"
        speed = f"{row.steps_per_second:.1f}"
        table.add_row(row.label, f"{row.parameters:,}", str(row.tokens), speed, accuracy)
    return table


def plot(rows: Sequence[Row], blind: float, path: Path) -> None:
    """Plot exact match against parameters, with the spread over seeds."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for row in rows:
        axes.errorbar(row.parameters, row.accuracy, row.spread, fmt="o", capsize=4, label=row.label)
    axes.axhline(blind, color="grey", linestyle=":", label="chance")
    axes.set(xscale="log", xlabel="parameters", ylabel="exact match, unseen questions", ylim=(0, 1))
    axes.legend()
    save(figure, path)


def write(results: Sequence[Result], path: Path) -> None:
    """Write the results of all runs as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(result) for result in results], indent=2), "utf-8")


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__)
    add = options.add_argument
    add("projectors", nargs="+", type=parse_projector, help="such as ldp(kernel=5)")
    add("--seeds", type=int, default=3, metavar="N", help="runs of each; default: %(default)s")
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="runs at once; all cores")
    return options.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Plan, train and compare."""
    options = arguments(args)
    named = {label_of(projector): projector for projector in options.projectors}
    plans = {label: plan(projector, options.tokens) for label, projector in named.items()}
    runs = [
        Run(
            label=label,
            projector=projector,
            seed=seed,
            tokens=options.tokens,
            steps=tuple(options.steps),
            questions=options.questions,
            unseen=options.unseen,
        )
        for seed in range(options.seeds)
        for label, projector in named.items()
    ]
    results = []
    for result in train_all(runs, options.workers):
        results.append(result)
        write(results, options.out / "sweep.json")  # a sweep that is stopped leaves what it has
    rows = summarise(plans, results)
    Console().print(make_table(rows))
    plot(rows, chance(make_questions(options.unseen, 2, training=False)), options.out / "sweep.png")
    print(f"sweep.png and sweep.json are in {options.out}")


if __name__ == "__main__":
    main()
