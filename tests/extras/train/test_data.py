"""The task: the same each time, true, and without a digit that is both trained and tested with."""

import data
import numpy as np
import pytest
from data import Question, chance, draw_scenes, make_questions
from PIL import Image


def test_the_same_seed_asks_the_same() -> None:
    first, second, other = (make_questions(20, seed) for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_answers_are_what_the_image_shows() -> None:
    for each in make_questions(60, 0):
        place = data.PLACES.index(each.question.removesuffix(" ?"))
        pixels = np.asarray(each.image)  # (64, 64, 3)
        top, left = 32 * (place // 2), 32 * (place % 2)
        quadrant = pixels[top : top + 32, left : left + 32]
        colours = [data.COLOURS[c] for c in range(3) if quadrant[..., c].any()]
        assert each.answer.split()[:-1] == colours
        assert (each.answer == data.NOTHING) == (not colours)


def test_numbers_are_those_of_the_digits() -> None:
    pictures, targets = data.read_digits()
    scenes = draw_scenes(8, np.random.default_rng(0))
    for scene, place in np.argwhere(scenes.numbers >= 0):
        top, left = 32 * (place // 2), 32 * (place % 2)
        colour = scenes.colours[scene, place]
        small = scenes.pixels[scene, colour, top : top + 32 : 4, left : left + 32 : 4]
        same = (np.abs((255 * pictures).astype(np.uint8) - small) == 0).all((1, 2))
        assert scenes.numbers[scene, place] in targets[same]


def test_no_digit_is_both_trained_and_tested_with() -> None:
    def shown(training: bool) -> set[bytes]:
        scenes = draw_scenes(400, np.random.default_rng(0), training=training)
        small = scenes.pixels.max(1)[:, ::4, ::4].reshape(-1, 2, 8, 2, 8).transpose(0, 1, 3, 2, 4)
        return {digit.tobytes() for digit in small.reshape(-1, 8, 8) if digit.any()}

    trained, tested = shown(True), shown(False)
    assert len(trained) > 600
    assert len(tested) > 300
    assert not trained & tested


def test_chance_is_the_share_of_the_commonest_answer() -> None:
    image = Image.new("RGB", (1, 1))
    asked = [Question(image, "top left ?", said) for said in ("nothing", "red one", "nothing")]
    assert chance(asked) == pytest.approx(2 / 3)
