"""Stage 0 is kept by all that determines it, and made anew where any of it differs."""

from dataclasses import replace
from pathlib import Path

import data
import numpy as np
import pretrain
import pytest
import torch
from PIL import Image
from pretrain import Descriptions, QuadrantHead, Settings, Stage0, normalise, pretrained
from vlm import make_config, make_processor, make_vlm


def stage() -> Stage0:
    processor = make_processor()
    return Stage0(make_config(processor.tokenizer), processor, Settings())


def test_the_key_is_the_same_each_time() -> None:
    assert stage().key() == stage().key()


@pytest.mark.parametrize("part", ["vision_config", "text_config"])
def test_the_key_changes_with_the_config(part: str) -> None:
    changed = stage()
    getattr(changed.config, part).hidden_size += 8
    assert changed.key() != stage().key()


def test_the_key_changes_with_settings_words_versions_and_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = {stage().key(), replace(stage(), settings=Settings(lm_steps=1)).key()}
    worded = stage()
    worded.processor.tokenizer.add_tokens("word")
    keys.add(worded.key())
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "version", lambda name: "0")
        keys.add(stage().key())
    changed = tmp_path / "data.py"
    changed.write_text(Path(data.__file__).read_text("utf-8") + "\n", "utf-8")
    monkeypatch.setattr(data, "__file__", str(changed))
    keys.add(stage().key())
    assert len(keys) == 5


def test_it_is_made_once(stage0: Settings, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = make_vlm(settings=stage0)
    monkeypatch.setattr(pretrain, "ProcessPoolExecutor", None)  # whatever runs again, fails
    again, _ = make_vlm(settings=stage0)
    assert [path.name[:7] for path in (cache / "mobilevlm-examples").iterdir()] == ["stage0-"]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, rtol=0, atol=0)
    with pytest.raises(TypeError):
        pretrained(model.config, processor, replace(stage0, lm_steps=5))


def test_what_is_unfinished_is_removed(
    stage0: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    processor = make_processor()
    with pytest.raises(ValueError, match="total_steps"):
        pretrained(make_config(processor.tokenizer), processor, replace(stage0, lm_steps=-1))
    assert list((tmp_path / "mobilevlm-examples").iterdir()) == []


def test_the_tower_sees_what_the_processor_makes() -> None:
    processor = make_processor()
    pixels = data.draw_scenes(3, np.random.default_rng(0)).pixels
    images = [Image.fromarray(each.transpose(1, 2, 0)) for each in pixels]
    expected = processor.image_processor(images, return_tensors="pt").pixel_values
    torch.testing.assert_close(normalise(pixels, processor), expected)


def test_each_quadrant_is_read_from_its_own_tokens() -> None:
    head = QuadrantHead(5)
    tokens = torch.randn(1, 8 * 8, 5)
    before, _ = head(tokens)
    tokens.view(1, 8, 8, 5)[:, 4:, :4] += 1  # bottom left
    after, _ = head(tokens)
    assert (before != after).any(-1).tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("named", [False, True])
def test_descriptions_answer_their_question(named: bool) -> None:
    tokenizer = make_processor().tokenizer
    soft, text, labels = Descriptions(tokenizer)(50, np.random.default_rng(0), side=4, named=named)
    assert soft.shape == (50, 16, 4 if named else 2)
    for cells, ids, wanted in zip(soft, text, labels, strict=True):
        words = tokenizer.decode(ids, skip_special_tokens=True)
        question, answer = words.split(" ? ")
        place = data.PLACES.index(question)
        told = tokenizer.batch_decode(cells)
        if named:
            [seen] = {each for each in told if each.endswith(question)}
            seen = seen.removesuffix(question).strip()
        else:
            seen = told[(0, 3, 12, 15)[place]]
        assert seen == (f"{data.NOTHING} {data.NOTHING}" if answer == data.NOTHING else answer)
        kept = wanted[wanted >= 0]
        assert tokenizer.decode(kept) == f"{answer} <eos>"
