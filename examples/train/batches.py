"""From questions to what the model takes, with labels on the answers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat

import torch
from data import Question
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import LlavaProcessor

IGNORED = -100  # a label of which no loss is taken
ALL = slice(None)


def prompt(processor: LlavaProcessor, question: Question) -> str:
    """Return the text before the answer.

    The processor makes as many tokens of the one ``<image>`` as the projector does.
    """
    return f"{processor.image_token} {question.question}"


def encode(processor: LlavaProcessor, questions: Sequence[Question]) -> dict[str, Tensor]:
    """Encode questions with their answers, padded on the right to one length.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels`` ``(n, t)``; ``pixel_values``
        ``(n, 3, h, w)``.
    """
    tokenizer = processor.tokenizer
    answers = [question.answer + tokenizer.eos_token for question in questions]
    batch = processor(
        images=[question.image for question in questions],
        text=[f"{prompt(processor, q)} {a}" for q, a in zip(questions, answers, strict=True)],
        return_tensors="pt",
        padding=True,
        padding_side="right",
    )
    lengths = [len(ids) for ids in tokenizer(answers, add_special_tokens=False).input_ids]
    ends = batch["attention_mask"].sum(1, keepdim=True)
    at = torch.arange(batch["input_ids"].shape[1])
    answered = (at >= ends - torch.tensor(lengths)[:, None]) & (at < ends)
    return {**batch, "labels": batch["input_ids"].masked_fill(~answered, IGNORED)}


def make_batches(
    processor: LlavaProcessor,
    questions: Sequence[Question],
    size: int,
    steps: int,
    seed: int,
    *,
    start: int = 0,
    part: slice = ALL,
) -> Iterator[dict[str, Tensor]]:
    """Yield batches of ``size`` questions: all in a new order, before any comes again.

    Args:
        processor: The model's.
        questions: What is asked.
        size: Questions in a batch.
        steps: Where to end: batches from the first on.
        seed: Of the order.
        start: Where to begin: batches that were there in an earlier run.
        part: The questions of each batch that this process takes.
    """
    loader: DataLoader = DataLoader(
        questions,
        size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=list,
    )
    for batch in islice(chain.from_iterable(repeat(loader)), start, steps):
        yield encode(processor, batch[part])
