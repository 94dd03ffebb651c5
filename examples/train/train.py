"""Train a small vision-language model with a projector of your choice, in minutes, on a CPU.

Stage 1 trains the projector alone, between a frozen tower and a frozen language model; stage 2
trains it together with the language model, whole or by LoRA. Then the model is saved, loaded again
and asked once more. Several processes learn what one does:

    torchrun --nproc-per-node 2 examples/train/train.py --parallel fsdp --save-every 50
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from answers import answer, exact_match
from batches import IGNORED, make_batches
from data import Question, chance, make_questions
from distributed import (
    DDP,
    WAYS,
    Parallel,
    first_process_first,
    leave,
    processes,
    rank,
    say,
    whole_state_dict,
)
from options import parse_projector, parser
from pictures import plot_loss, show_answers
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor.experimental import implicit_replication
from tqdm import tqdm
from training_checkpoints import NOWHERE, Checkpoints, Training
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from vlm import make_vlm

from mobilevlm.models import (
    check_image_tokens,
    freeze_except_projector,
    load_model,
    parameter_groups,
    swap_projector,
    trainable_summary,
)

LORA_TARGETS = r".*language_model.*_proj"  # all linear layers of the language model
CHECKPOINTS = "checkpoints"  # in --out
LAST = 20  # steps whose mean is the last loss
MINIMUM = 3  # exact match, as a multiple of chance


@dataclass(frozen=True)
class Stage:
    """How long a stage trains, and how fast."""

    steps: int
    projector_lr: float
    lr: float  # of the language model
    batch: int = 32
    weight_decay: float = 0.01


def train_stage(
    model: nn.Module,
    processor: LlavaProcessor,
    questions: Sequence[Question],
    stage: Stage,
    *,
    seed: int = 0,
    quiet: bool = False,
    parallel: Parallel = DDP,
    checkpoints: Checkpoints = NOWHERE,
) -> list[float]:
    """Train what requires gradients, and return the loss of every step."""
    quiet = quiet or rank() > 0
    if not quiet:
        print(trainable_summary(model))
    parallel_model = parallel(model)
    groups = parameter_groups(
        model, lr=stage.lr, projector_lr=stage.projector_lr, weight_decay=stage.weight_decay
    )
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=stage.steps, pct_start=0.1
    )
    parameters = [parameter for group in groups for parameter in group["params"]]
    training = Training(model, optimizer, schedule)
    checkpoints.restore(training)
    start = len(training.losses)
    batches = make_batches(
        processor, questions, stage.batch, stage.steps, seed, start=start, part=parallel.part()
    )
    bar = tqdm(batches, "training", stage.steps, initial=start, mininterval=1, disable=quiet)
    for batch in bar:
        # A part of the mean over the answers of all processes.
        answered = parallel.total((batch["labels"] != IGNORED).sum())
        loss = parallel_model(**batch, num_items_in_batch=answered).loss
        (loss * parallel.shares).backward()  # gradients are averaged, not added up
        with implicit_replication():  # of some parameters each process may have a part
            nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        training.losses.append(parallel.total(loss).item())
        checkpoints.save(training, stage.steps)
        bar.set_postfix(loss=f"{training.losses[-1]:.3f}", refresh=False)
    return training.losses


def train_both(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    questions: Sequence[Question],
    stages: tuple[Stage, Stage],
    *,
    lora: bool = False,
    seed: int = 0,
    quiet: bool = False,
    parallel: Parallel = DDP,
    checkpoints: Checkpoints = NOWHERE,
) -> dict[str, list[float]]:
    """Train in two stages, in place, and return the losses of each."""
    train = partial(train_stage, seed=seed, quiet=quiet, parallel=parallel)
    one, two = (
        partial(
            train,
            processor=processor,
            questions=questions,
            stage=stage,
            checkpoints=checkpoints.of(f"stage-{number}"),
        )
        for number, stage in enumerate(stages, 1)
    )
    projector = freeze_except_projector(model)
    losses = {"1: projector": one(model)}
    if lora:
        adapted = add_lora(model, projector)
        losses["2: projector and LoRA"] = two(adapted)
        adapted.merge_and_unload()
    else:
        model.model.language_model.requires_grad_(True)
        model.lm_head.requires_grad_(True)
        losses["2: projector and language model"] = two(model)
    return losses


def add_lora(model: LlavaForConditionalGeneration, projector: nn.Module) -> nn.Module:
    """Put adapters on the language model. Its own weights are frozen, the projector is not."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=LORA_TARGETS))
    projector.requires_grad_(True)  # which peft froze with the rest
    return adapted


def reload_answers(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    questions: Sequence[Question],
    folder: Path,
    weights: dict[str, Tensor] | None = None,
) -> list[str]:
    """Save the model with its processor, load both again, and return what they answer now."""
    model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    return answer(*load_model(folder), questions)


def faults(losses: Iterable[Sequence[float]], accuracy: float, chance: float) -> list[str]:
    """Say why a training did not succeed; nothing if it did."""
    every = [loss for stage in losses for loss in stage]
    first, last = every[0], sum(every[-LAST:]) / len(every[-LAST:])
    found = []
    if not last < first / 2:
        found.append(f"the last loss, {last:.3f}, is not below half of the first, {first:.3f}")
    if not accuracy > MINIMUM * chance:
        found.append(
            f"exact match, {accuracy:.1%}, is not above {MINIMUM} times chance, {chance:.1%}"
        )
    return found


def make_stages(steps: Sequence[int], *, lora: bool) -> tuple[Stage, Stage]:
    """Return both stages with learning rates that suit this model."""
    return (
        Stage(steps[0], projector_lr=6e-3, lr=0.0),
        Stage(steps[1], projector_lr=2e-3, lr=2e-3 if lora else 1e-3),
    )


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__)
    add = options.add_argument
    add("--projector", type=parse_projector, default=("ldp", {}), help="such as ldp(kernel=5); ldp")
    add("--lora", action="store_true", help="train the language model by LoRA, not whole")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--parallel", choices=WAYS, default="ddp", help="of several processes; %(default)s")
    add("--bf16", action="store_true", help="compute in bfloat16, with --parallel fsdp")
    add("--save-every", type=int, metavar="N", help="steps between checkpoints in --out; none")
    add("--resume", type=Path, metavar="FOLDER", help="go on from its last checkpoint, if any")
    found = options.parse_args(args)
    if found.parallel != "ddp" and not dist.is_torchelastic_launched():
        options.error(f"--parallel {found.parallel} needs processes: torchrun --nproc-per-node 2")
    if found.parallel != "ddp" and found.lora:
        options.error("--lora puts adapters on a whole model: train it with --parallel ddp")
    if found.bf16 and found.parallel != "fsdp":
        options.error("--bf16 is a policy of FSDP: train with --parallel fsdp")
    mine = found.out / CHECKPOINTS
    if found.save_every and found.resume != mine and mine.exists():
        options.error(f"{mine} is of another run: go on with it by --resume {mine}, or move it")
    return found


def checkpoints_of(options: argparse.Namespace) -> Checkpoints:
    """Return where the run keeps checkpoints, and where it looks for one."""
    if not options.save_every:
        return Checkpoints(resume=options.resume)
    return Checkpoints(options.out / CHECKPOINTS, options.save_every, options.resume)


def main(args: Sequence[str] | None = None) -> int:
    """Train, show, save, load and ask again; return the exit status."""
    options = arguments(args)
    torch.set_num_threads(1)  # a model this small gains nothing from a second one
    start = time.monotonic()
    with first_process_first():
        model, processor = make_vlm(options.seed)
    name, settings = options.projector
    projector = swap_projector(model, name, processor=processor, tokens=options.tokens, **settings)
    check_image_tokens(model, processor)
    say(str(projector.plan()))

    questions = make_questions(options.questions, seed=1)
    unseen = make_questions(options.unseen, seed=2, training=False)
    losses = train_both(
        model,
        processor,
        questions,
        make_stages(options.steps, lora=options.lora),
        lora=options.lora,
        seed=options.seed,
        parallel=Parallel(options.parallel, options.bf16),
        checkpoints=checkpoints_of(options),
    )
    answers, weights = answer(model, processor, unseen), whole_state_dict(model)
    if rank() > 0:
        return 0
    plot_loss(losses, options.out / "loss.png")
    show_answers(unseen[:12], answers, options.out / "answers.png")

    blind, accuracy = chance(unseen), exact_match(answers, unseen)
    print(f"exact match on {len(unseen)} unseen questions: {accuracy:.1%}; chance: {blind:.1%}")
    wrong = faults(losses.values(), accuracy, blind)
    again = reload_answers(model, processor, unseen[:12], options.out / "model", weights)
    if again != answers[:12]:
        wrong.append("the model that was saved and loaded again answers otherwise")
    print(f"{time.monotonic() - start:.0f} s in all; model and pictures are in {options.out}")
    for fault in wrong:
        print(f"failed: {fault}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    with processes():
        status = main()
    leave(status)
