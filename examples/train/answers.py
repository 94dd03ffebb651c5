"""What the model answers, and how often it is right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from batches import prompt
from data import Question
from transformers import LlavaForConditionalGeneration, LlavaProcessor


@torch.inference_mode()
def answer(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    questions: Sequence[Question],
    batch: int = 100,
) -> list[str]:
    """Let the model answer questions, word by word, the likeliest each time."""
    training = model.training
    model.eval()
    answers = []
    for start in range(0, len(questions), batch):
        some = questions[start : start + batch]
        inputs = processor(
            images=[question.image for question in some],
            text=[prompt(processor, question) for question in some],
            return_tensors="pt",
            padding=True,
            padding_side="left",  # so that every answer begins at the same place
        ).to(model.device, model.dtype)
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        said = ids[:, inputs["input_ids"].shape[1] :]
        answers += processor.batch_decode(said, skip_special_tokens=True)
    model.train(training)
    return answers


def exact_match(answers: Sequence[str], questions: Sequence[Question]) -> float:
    """Return the share of answers that are the true ones, word for word."""
    right = [said == question.answer for said, question in zip(answers, questions, strict=True)]
    return sum(right) / len(right)
