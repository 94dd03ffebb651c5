"""Pictures of a training: its loss, and questions with what was answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from data import Question


def plot_loss(losses: Mapping[str, Sequence[float]], path: Path, window: int = 10) -> None:
    """Plot the loss of stages, one after the other: every step, and the mean over some steps."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    start = 0
    for stage, values in losses.items():
        steps = start + np.arange(len(values))
        [line] = axes.plot(steps, values, alpha=0.3)
        if len(values) >= window:
            means = np.convolve(values, np.ones(window) / window, "valid")
            axes.plot(steps[window - 1 :], means, color=line.get_color())
        line.set_label(stage)
        start += len(values)
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None), title="Loss on the answers' tokens")
    axes.legend()
    save(figure, path)


def show_answers(
    questions: Sequence[Question], answers: Sequence[str], path: Path, columns: int = 4
) -> None:
    """Show images with their questions, the true answers, and the model's, red where wrong."""
    rows = -(-len(questions) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.4 * columns, 2.9 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, question, said in zip(grid.flat, questions, answers, strict=False):
        axes.imshow(question.image)
        title = f"{question.question}\n{question.answer}"
        axes.set_title(f"{title}\nmodel: {said}", color="C2" if said == question.answer else "C3")
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """Write a figure to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
