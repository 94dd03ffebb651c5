"""Train the same model by transformers' Trainer, with its switches.

    python examples/train/trainer.py --projector ldp --bf16 --accumulate 2 --workers 2
    torchrun --nproc-per-node 2 examples/train/trainer.py --projector ldp --parallel fsdp

A run that was stopped goes on with --resume: both stages keep checkpoints in --out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from answers import answer, exact_match
from batches import encode
from data import Question, chance, make_questions
from distributed import WAYS, first_process_first, leave, processes, say, world_size
from options import parse_projector, parser
from torch import nn
from torch.distributed.fsdp import FSDPModule
from train import Stage, make_stages
from transformers import LlavaProcessor, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from vlm import make_vlm

from mobilevlm.models import (
    check_image_tokens,
    freeze_except_projector,
    parameter_groups,
    swap_projector,
)

UNITS = ["Projector", "CLIPEncoderLayer", "LlamaDecoderLayer"]  # gathered one at a time by FSDP


def training_arguments(
    options: argparse.Namespace, name: str, stage: Stage, *, sharded: bool = False
) -> TrainingArguments:
    """Turn a stage and the command line into what the Trainer takes.

    Args:
        options: The command line.
        name: The stage's name.
        stage: The stage.
        sharded: Whether an earlier stage has sharded the model; it stays so.
    """
    fsdp = options.parallel == "fsdp"
    wrap = {"auto_wrap_policy": "NO_WRAP"} if sharded else {"transformer_layer_cls_to_wrap": UNITS}
    return TrainingArguments(
        output_dir=str(options.out / name),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch // options.accumulate // world_size(),
        gradient_accumulation_steps=options.accumulate,
        activation_checkpointing=options.gradient_checkpointing,
        ddp_backend="gloo" if world_size() > 1 else None,
        ddp_find_unused_parameters=False,
        fsdp=fsdp,
        fsdp_config=wrap if fsdp else None,
        use_cpu=not torch.accelerator.is_available(),  # which it asks for before it takes bf16
        bf16=options.bf16,
        torch_compile=options.compile,
        dataloader_num_workers=options.workers,
        lr_scheduler_type="cosine",
        warmup_steps=stage.steps // 10,
        max_grad_norm=1.0,
        save_steps=options.save_steps,
        dataloader_pin_memory=torch.accelerator.is_available(),
        logging_steps=10,
        seed=options.seed,
        report_to="none",
        remove_unused_columns=False,  # questions have none
    )


def train_stage(
    model: nn.Module,
    processor: LlavaProcessor,
    questions: Sequence[Question],
    stage: Stage,
    arguments: TrainingArguments,
    *,
    resume: bool,
) -> None:
    """Train what requires gradients, from the last checkpoint on if asked."""
    groups = parameter_groups(
        model, lr=stage.lr, projector_lr=stage.projector_lr, weight_decay=stage.weight_decay
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=questions,
        data_collator=partial(encode, processor),
        optimizer_cls_and_kwargs=(torch.optim.AdamW, {"params": groups}),
    )
    if arguments.fsdp and not trainer.is_fsdp_enabled:  # it would be DDP, without a word
        raise SystemExit("accelerate shards on accelerators alone; train.py does on a CPU too")
    checkpoint = get_last_checkpoint(arguments.output_dir) if resume else None
    trainer.train(resume_from_checkpoint=checkpoint)


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__)
    add = options.add_argument
    add("--projector", type=parse_projector, default=("ldp", {}), help="such as ldp(kernel=5); ldp")
    add("--bf16", action="store_true", help="compute in bfloat16")
    add("--accumulate", type=int, default=1, metavar="N", help="parts of a batch of 32, one by one")
    add("--gradient-checkpointing", action="store_true", help="less memory, more work")
    add("--compile", action="store_true", help="by torch.compile")
    add("--workers", type=int, default=0, metavar="N", help="processes that load data")
    add("--resume", action="store_true", help="go on from the last checkpoints in --out")
    add("--save-steps", type=int, default=50, metavar="N", help="between checkpoints; %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--parallel", choices=WAYS[:2], default="ddp", help="of several processes; %(default)s")
    return options.parse_args(args)


def main(args: Sequence[str] | None = None) -> nn.Module:
    """Train in two stages and return the model."""
    options = arguments(args)
    torch.set_num_threads(1)  # a model this small gains nothing from a second one
    with first_process_first():
        model, processor = make_vlm(options.seed)
    name, settings = options.projector
    swap_projector(model, name, processor=processor, tokens=options.tokens, **settings)
    check_image_tokens(model, processor)
    questions = make_questions(options.questions, seed=1)
    unseen = make_questions(options.unseen, seed=2, training=False)

    for number, stage in enumerate(make_stages(options.steps, lora=False), 1):
        freeze_except_projector(model)
        if number == 2:
            model.model.language_model.requires_grad_(True)
            model.lm_head.requires_grad_(True)
        settings = training_arguments(
            options, f"stage-{number}", stage, sharded=isinstance(model, FSDPModule)
        )
        train_stage(model, processor, questions, stage, settings, resume=options.resume)
    accuracy = exact_match(answer(model, processor, unseen), unseen)
    blind = chance(unseen)
    say(f"exact match on {len(unseen)} unseen questions: {accuracy:.1%}; chance: {blind:.1%}")
    return model


if __name__ == "__main__":
    with processes():
        main()
    leave(0)
