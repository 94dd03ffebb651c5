"""Stage 0: what CLIP and a language model know before they meet a projector.

Nobody trains a projector between parts that know nothing: a frozen language model of random weights
cannot be told anything. So the tower learns to see digits, and the language model to answer
questions from soft tokens, each without the other, at the same time. The result is kept in the
user's cache, in a folder named by a hash of all that determines it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import data
import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPVisionModel, LlamaForCausalLM, LlavaConfig, LlavaProcessor

TOWER, LANGUAGE_MODEL = "tower", "language_model"
PACKAGES = ("numpy", "scikit-learn", "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class Settings:
    """How long stage 0 takes, and how it learns."""

    tower_steps: int = 900
    tower_batch: int = 32
    tower_lr: float = 4e-3
    lm_steps: int = 700
    lm_batch: int = 64
    lm_lr: float = 2e-3
    lm_noise: float = 1.0  # of soft tokens, as a multiple of their standard deviation


@dataclass(frozen=True)
class Stage0:
    """What is made, and from what."""

    config: LlavaConfig
    processor: LlavaProcessor
    settings: Settings

    def key(self) -> str:
        """Return a hash of all that determines the weights: code, sizes, words and versions."""
        facts = {
            "code": [Path(module.__file__).read_text("utf-8") for module in _modules()],
            "config": [self.config.vision_config.to_dict(), self.config.text_config.to_dict()],
            "settings": asdict(self.settings),
            "versions": [platform.machine(), *map(version, PACKAGES)],
            "words": self.processor.tokenizer.get_vocab(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _modules() -> list:
    return [data, sys.modules[__name__]]


def cache_folder() -> Path:
    """Return where stage 0 is kept: below ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobilevlm-examples"


def pretrained(
    config: LlavaConfig, processor: LlavaProcessor, settings: Settings | None = None
) -> Path:
    """Return the folder of the pretrained parts, in transformers' format; make it if need be."""
    stage = Stage0(config, processor, settings or Settings())
    folder = cache_folder() / f"stage0-{stage.key()}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix="unfinished-"))
    try:
        # Models this small gain little from a second thread; two processes use both cores.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, context) as pool:
            running = [
                pool.submit(pretrain_tower, stage, unfinished / TOWER),
                pool.submit(pretrain_language_model, stage, unfinished / LANGUAGE_MODEL),
            ]
            for each in running:
                each.result()
        if not folder.is_dir():  # another run may have been quicker
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


# The tower, as CLIP's: what it is asked in training is gone afterwards, only its tokens are used.


def pretrain_tower(stage: Stage0, folder: Path) -> None:
    """Teach the tower what stands on each quadrant: the mean of its tokens there is to say it."""
    _prepare()
    settings = stage.settings
    tower = CLIPVisionModel(stage.config.vision_config)
    head = QuadrantHead(stage.config.vision_config.hidden_size)
    rng = np.random.default_rng(0)

    def losses() -> Iterable[Tensor]:
        for _ in range(settings.tower_steps):
            scenes = data.draw_scenes(settings.tower_batch, rng)
            pixels = normalise(scenes.pixels, stage.processor)
            yield head.loss(tower(pixels).last_hidden_state[:, 1:], scenes)

    modules = nn.ModuleList([tower, head])
    fit(modules, losses(), settings.tower_steps, settings.tower_lr, "stage 0, CLIP ", position=0)
    tower.save_pretrained(folder)


class QuadrantHead(nn.Module):
    """Reads the colour and the number on each quadrant off the tower's tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.colour = nn.Linear(width, 1 + len(data.COLOURS))
        self.number = nn.Linear(width, 1 + len(data.NUMBERS))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Score tokens ``(b, n, c) -> (b, 4, colours), (b, 4, numbers)``; the first is nothing."""
        half = int(tokens.shape[1] ** 0.5) // 2
        mean = reduce(tokens, "b (r h q w) c -> b (r q) c", "mean", r=2, q=2, h=half, w=half)
        return self.colour(mean), self.number(mean)

    def loss(self, tokens: Tensor, scenes: data.Scenes) -> Tensor:
        """Return the cross-entropy of what the scenes show."""
        pairs = zip(self(tokens), (scenes.colours, scenes.numbers), strict=True)
        return sum(
            F.cross_entropy(
                rearrange(scores, "b q k -> (b q) k"), torch.tensor(truth).flatten() + 1
            )
            for scores, truth in pairs
        )


def normalise(pixels: np.ndarray, processor: LlavaProcessor) -> Tensor:
    """Do to pixels ``(b, 3, h, w)`` what the processor does to images of the right size."""
    image_processor = processor.image_processor
    mean, std = torch.tensor([image_processor.image_mean, image_processor.image_std])[
        ..., None, None
    ]
    return (torch.from_numpy(pixels) / 255 - mean) / std


# The language model. It sees no image: what will be image tokens later are here mixed words.


def pretrain_language_model(stage: Stage0, folder: Path) -> None:
    """Teach the language model to answer from soft tokens, the means of words' embeddings."""
    _prepare()
    settings = stage.settings
    model = LlamaForCausalLM(stage.config.text_config)
    embed = model.get_input_embeddings()
    rng = np.random.default_rng(0)
    describe = Descriptions(stage.processor.tokenizer)

    def losses() -> Iterable[Tensor]:
        for step in range(settings.lm_steps):
            # Two sizes, with the places told by the order or in words: the skill, not one layout.
            side, named = ((2, False), (4, False), (2, True), (4, True))[step % 4]
            soft, text, labels = describe(settings.lm_batch, rng, side=side, named=named)
            start = embed(text.new_full((len(text), 1), stage.config.text_config.bos_token_id))
            cells = add_noise(embed(soft).mean(2), settings.lm_noise)
            inputs = torch.cat([start, cells, embed(text)], 1)
            scores = model(inputs_embeds=inputs).logits[:, -text.shape[1] - 1 : -1]
            yield F.cross_entropy(scores.flatten(0, 1), labels.flatten())

    fit(model, losses(), settings.lm_steps, settings.lm_lr, "stage 0, Llama", position=1)
    model.save_pretrained(folder)


def add_noise(cells: Tensor, ratio: float) -> Tensor:
    """Blur soft tokens, so that the language model learns to gather what several of them say.

    That is what image tokens will ask of it: each of them shows a part of a digit.
    """
    return cells + ratio * cells.detach().std() * torch.randn_like(cells)


class Descriptions:
    """Scenes in words: soft tokens, a question and its answer."""

    def __init__(self, tokenizer) -> None:
        def ids(words: str) -> list[int]:
            return tokenizer(words, add_special_tokens=False).input_ids

        pairs = [ids(data.answer_of(c, n)) for c in range(3) for n in range(10)]
        [nothing] = ids(data.NOTHING)
        self.contents = torch.tensor([*pairs, [nothing, nothing]])
        end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        self.answers = torch.tensor([*([*pair, end] for pair in pairs), [nothing, end, pad]])
        self.places = torch.tensor([ids(place) for place in data.PLACES])
        self.questions = torch.tensor([ids(f"{place} ?") for place in data.PLACES])
        self.pad = pad

    def __call__(
        self, n: int, rng: np.random.Generator, *, side: int, named: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Describe scenes by ``side * side`` soft tokens, of 2 words each or, with places, of 4.

        Returns:
            The words of the soft tokens ``(n, side * side, words)``, the text ``(n, t)`` and its
            labels ``(n, t)``, -100 where there is nothing to predict.
        """
        pairs = len(self.contents) - 1
        empty = rng.random((n, 4)) < data.EMPTY
        scene = torch.tensor(np.where(empty, pairs, rng.integers(pairs, size=(n, 4))))
        row = torch.arange(side) // (side // 2)
        quadrants = (2 * row[:, None] + row).flatten().expand(n, -1)
        if named:  # then in any order
            quadrants = torch.tensor(rng.permuted(quadrants.numpy(), axis=1))
        soft = self.contents[scene.gather(1, quadrants)]
        if named:
            soft = torch.cat([soft, self.places[quadrants]], -1)
        place = torch.tensor(rng.integers(4, size=n))
        question = self.questions[place]
        answer = self.answers[scene.gather(1, place[:, None]).squeeze(1)]
        labels = torch.cat([torch.full_like(question, -100), answer], 1)
        return soft, torch.cat([question, answer], 1), labels.masked_fill(labels == self.pad, -100)


def _prepare() -> None:
    """Make what is random the same each time, and leave the other core to the other process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


def fit(
    model: nn.Module, losses: Iterable[Tensor], steps: int, lr: float, name: str, position: int
) -> None:
    """Train by AdamW with one cycle of the learning rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.15)
    bar = tqdm(losses, name, steps, position=position, mininterval=1)
    for loss in bar:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
