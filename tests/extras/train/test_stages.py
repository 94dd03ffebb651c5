"""Labels, stages, verdict and the program as a whole."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
import train
from answers import answer, exact_match
from batches import IGNORED, encode, make_batches
from data import make_questions
from options import parse_projector
from pretrain import Settings
from torch import Tensor
from train import Stage, faults, freeze_except_projector, train_both, train_stage
from vlm import make_processor, make_vlm

from mobilevlm.models import swap_projector


def test_labels_are_the_answer_and_its_end() -> None:
    processor = make_processor()
    questions = make_questions(30, 0)
    rows = encode(processor, questions)
    assert {len(question.answer.split()) for question in questions} == {1, 2}  # both lengths
    for ids, labels, question in zip(rows["input_ids"], rows["labels"], questions, strict=True):
        kept = labels != IGNORED
        assert processor.tokenizer.decode(labels[kept]) == f"{question.answer} <eos>"
        torch.testing.assert_close(ids[kept], labels[kept])
        assert processor.tokenizer.decode(ids[~kept], skip_special_tokens=True) == question.question


def test_batches_use_every_question_before_any_again() -> None:
    processor = make_processor()
    questions = make_questions(10, 0)
    batches = list(make_batches(processor, questions, 5, 4, seed=0))
    assert [len(batch["input_ids"]) for batch in batches] == [5] * 4
    images = torch.cat([batch["pixel_values"] for batch in batches])
    expected = encode(processor, questions)["pixel_values"]
    for half in images.split(10):
        at = [[torch.equal(one, other) for other in expected].index(True) for one in half]
        assert sorted(at) == list(range(10))
    again = torch.cat([b["pixel_values"] for b in make_batches(processor, questions, 5, 4, 0)])
    torch.testing.assert_close(again, images, rtol=0, atol=0)


PARTS = {"vision_tower", "multi_modal_projector", "language_model", "lm_head"}


def changed_parts(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert after.keys() == before.keys()
    names = [name for name in before if not torch.equal(before[name], after[name])]
    return {part for part in PARTS for name in names if part in name}


def test_stage_1_trains_the_projector_alone(stage0: Settings) -> None:
    model, processor = make_vlm(settings=stage0)
    swap_projector(model, "ldp", processor=processor)
    freeze_except_projector(model)
    before = copy.deepcopy(model.state_dict())
    questions = make_questions(8, 0)
    losses = train_stage(model, processor, questions, Stage(2, 1e-2, 1e-2, batch=4), quiet=True)
    assert changed_parts(before, model.state_dict()) == {"multi_modal_projector"}
    assert len(losses) == 2


# peft reads it under the name that it had before transformers 5.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("lora", [False, True])
def test_stage_2_trains_the_language_model_too(stage0: Settings, lora: bool) -> None:
    model, processor = make_vlm(settings=stage0)
    projector = swap_projector(model, "ldp", processor=processor)
    before = copy.deepcopy(model.state_dict())
    questions = make_questions(8, 0)
    second = Stage(2, 1e-2, 1e-2, batch=4)
    # A first stage that changes nothing, so that what changes does so in the second.
    train_both(
        model, processor, questions, (Stage(2, 0.0, 0.0, batch=4), second), lora=lora, quiet=True
    )
    trained = PARTS - {"vision_tower"} - ({"lm_head"} if lora else set())
    assert changed_parts(before, model.state_dict()) == trained  # adapters are merged
    assert model.model.multi_modal_projector is projector


def test_answers_do_not_depend_on_the_batch(stage0: Settings) -> None:
    model, processor = make_vlm(settings=stage0)
    questions = make_questions(6, 0)
    together = answer(model, processor, questions)
    assert answer(model, processor, questions, batch=1) == together
    truth = [question.answer for question in questions]
    assert exact_match(truth, questions) == 1
    assert exact_match(["?", *truth[1:]], questions) == pytest.approx(5 / 6)


def test_the_verdict() -> None:
    assert faults([[2.0], [0.9] * 20], 0.4, 0.125) == []
    assert faults([[2.0], [1.1] * 20], 0.4, 0.125) == [
        "the last loss, 1.100, is not below half of the first, 2.000"
    ]
    assert faults([[2.0], [0.9] * 20], 0.375, 0.125) == [
        "exact match, 37.5%, is not above 3 times chance, 12.5%"
    ]
    assert len(faults([[float("nan")]], float("nan"), 0.125)) == 2


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("switches", [[], ["--lora"]], ids=["whole", "lora"])
def test_a_model_that_does_not_learn_is_a_failure(
    switches: list[str],
    stage0: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train, "make_vlm", partial(make_vlm, settings=stage0))
    words = [
        "--projector",
        "internvl",
        "--steps",
        "1",
        "1",
        "--questions",
        "40",
        "--unseen",
        "20",
        "--out",
    ]
    assert train.main([*words, str(tmp_path), *switches]) == 1
    errors = capsys.readouterr().err
    assert "failed: the last loss" in errors
    assert "failed: exact match" in errors
    assert "answers otherwise" not in errors  # saved and loaded, it is the same model
    assert {path.name for path in tmp_path.iterdir()} == {"answers.png", "loss.png", "model"}


def test_projectors_on_the_command_line() -> None:
    assert parse_projector("ldp") == ("ldp", {})
    assert parse_projector("mlp2x_gelu") == ("mlp2x_gelu", {})
    text = "c-abstractor(queries=16, norm=none,act=gelu,bias=true)"
    options = {"queries": 16, "norm": None, "act": "gelu", "bias": True}
    assert parse_projector(text) == ("c-abstractor", options)


@pytest.mark.parametrize("text", ["ldp(", "ldp(5)", "ldp kernel=5"])
def test_projectors_written_wrongly(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.arguments(["--projector", text])
    assert "expected" in capsys.readouterr().err
