"""The task: coloured handwritten digits on the quadrants of an image, and questions about them.

"top left ?" is answered by "red seven", or by "nothing" where the quadrant is empty. An answer
needs both *what* is seen and *where*, so a projector that loses either of them fails. The digits
are those of scikit-learn; none of those that the test questions show is ever trained with.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange, repeat
from PIL import Image
from sklearn.datasets import load_digits

COLOURS = ("red", "green", "blue")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACES = ("top left", "top right", "bottom left", "bottom right")
NOTHING = "nothing"

SCALE = 4  # a digit of 8x8 becomes 32x32 pixels, as large as a quadrant
SIDE = 2 * 8 * SCALE  # pixels of an image's side
EMPTY = 1 / 8  # the share of quadrants where there is nothing
TRAINING_DIGITS = 1400  # of 1797


@dataclass(frozen=True)
class Scenes:
    """Images, and what is on their quadrants, in the order of `PLACES`."""

    pixels: np.ndarray  # (b, 3, 64, 64) uint8
    colours: np.ndarray  # (b, 4): index in COLOURS, -1 where there is nothing
    numbers: np.ndarray  # (b, 4): index in NUMBERS, -1 where there is nothing


@dataclass(frozen=True)
class Question:
    """An image, a question about it and the true answer."""

    image: Image.Image
    question: str
    answer: str


@functools.cache
def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Read all digits, shuffled: pictures ``(n, 8, 8)`` from 0 to 1, and numbers ``(n,)``."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return digits.images[order].astype(np.float32) / 16, digits.target[order]


def draw_scenes(n: int, rng: np.random.Generator, *, training: bool = True) -> Scenes:
    """Draw scenes with the digits for training, or with those for tests."""
    part = slice(TRAINING_DIGITS) if training else slice(TRAINING_DIGITS, None)
    pictures, targets = (array[part] for array in read_digits())
    which = rng.integers(len(targets), size=(n, 4))
    colours = rng.integers(len(COLOURS), size=(n, 4))
    empty = rng.random((n, 4)) < EMPTY

    # An empty quadrant has no colour, so its one-hot row, and with it the quadrant, is black.
    channels = np.eye(len(COLOURS), dtype=np.float32)[colours] * ~empty[..., None]
    quadrants = np.einsum("bqc,bqyx->bqcyx", channels, pictures[which])
    small = rearrange(quadrants, "b (h w) c y x -> b c (h y) (w x)", h=2)
    pixels = repeat(small, "b c h w -> b c (h i) (w j)", i=SCALE, j=SCALE)
    return Scenes(
        pixels=(255 * pixels).astype(np.uint8),
        colours=np.where(empty, -1, colours),
        numbers=np.where(empty, -1, targets[which]),
    )


def answer_of(colour: int, number: int) -> str:
    """Put what is on a quadrant into words."""
    return NOTHING if number < 0 else f"{COLOURS[colour]} {NUMBERS[number]}"


def make_questions(n: int, seed: int, *, training: bool = True) -> list[Question]:
    """Draw scenes, and ask about one quadrant of each; the same seed asks the same."""
    rng = np.random.default_rng(seed)
    scenes = draw_scenes(n, rng, training=training)
    return [
        Question(
            image=Image.fromarray(rearrange(scenes.pixels[i], "c h w -> h w c")),
            question=f"{PLACES[place]} ?",
            answer=answer_of(scenes.colours[i, place], scenes.numbers[i, place]),
        )
        for i, place in enumerate(rng.integers(len(PLACES), size=n))
    ]


def chance(questions: Sequence[Question]) -> float:
    """Return what the best answer that ignores the images gets: the share of the commonest one."""
    [(_, count)] = Counter(question.answer for question in questions).most_common(1)
    return count / len(questions)
