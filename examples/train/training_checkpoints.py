"""Checkpoints of a stage, by torch.distributed.checkpoint: any number of processes reads them.

Each is a folder, ``step-000050``, of what is trained, the state of its optimizer and its schedule,
and the losses so far, as many as there were steps: that is where the data goes on. Nothing else
is random, as no part of this model has dropout.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import barrier, rank, say
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

UNFINISHED = "unfinished"  # no name of a checkpoint


@dataclass
class Training:
    """What a checkpoint is of."""

    model: PreTrainedModel
    optimizer: Optimizer
    schedule: LRScheduler
    losses: list[float] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """Return its state; tensors keep the shards that they are in."""
        model, optimizer = get_state_dict(
            self.model, self.optimizer, options=StateDictOptions(ignore_frozen_params=True)
        )
        return {
            "model": model,
            "optimizer": optimizer,
            "schedule": self.schedule.state_dict(),
            "losses": self.losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(strict=False),  # what is frozen is not in it
        )
        self.schedule.load_state_dict(state["schedule"])
        self.losses = state["losses"]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a stage.

    Attributes:
        folder: Where they are written; None: nowhere.
        every: After how many steps, besides the last.
        resume: Where to look for one to go on from; None: nowhere.
    """

    folder: Path | None = None
    every: int = 1
    resume: Path | None = None

    def of(self, stage: str) -> Checkpoints:
        """Return those of a stage, below these."""
        return Checkpoints(
            self.folder and self.folder / stage, self.every, self.resume and self.resume / stage
        )

    def restore(self, training: Training) -> None:
        """Go on from the last checkpoint, if there is one."""
        if not self.resume:
            return
        found = sorted(self.resume.glob("step-*"))
        if not found:
            say(f"no checkpoint in {self.resume}: from the start")
            return
        say(f"going on from {found[-1]}")
        state = training.state_dict()
        dcp.load(state, checkpoint_id=found[-1])
        training.load_state_dict(state)

    def save(self, training: Training, last: int) -> None:
        """Save a checkpoint, if it is time for one.

        It gets its name when all of it is there: what a process that was killed has left is never
        taken for one.
        """
        step = len(training.losses)
        if not self.folder or (step % self.every and step != last):
            return
        unfinished = self.folder / UNFINISHED
        if rank() == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            training.model.config.save_pretrained(unfinished)  # which describes the projector
        barrier()
        dcp.save(training.state_dict(), checkpoint_id=unfinished)
        if rank() == 0:
            unfinished.rename(self.folder / f"step-{step:06}")


NOWHERE = Checkpoints()
