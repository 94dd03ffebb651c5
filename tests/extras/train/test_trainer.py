"""transformers' Trainer on a swapped model: its switches do not change the result."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import trainer
from pretrain import Settings
from torch import Tensor
from vlm import make_vlm

WORDS = [
    "--tokens",
    "16",
    "--steps",
    "2",
    "2",
    "--save-steps",
    "1",
    "--questions",
    "64",
    "--unseen",
    "8",
    "--out",
]


def weights(folder: Path, *switches: str) -> dict[str, Tensor]:
    return trainer.main([*WORDS, str(folder), *switches]).state_dict()


@pytest.fixture
def plain(
    stage0: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, Tensor]]:
    monkeypatch.setattr(trainer, "make_vlm", partial(make_vlm, settings=stage0))
    return tmp_path / "plain", weights(tmp_path / "plain")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's
def test_switches_do_not_change_what_is_learnt(
    plain: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    _, expected = plain
    start, _ = trainer.make_vlm()
    for key in ("model.language_model.layers.0.mlp.up_proj.weight", "lm_head.weight"):
        assert not torch.equal(start.state_dict()[key], expected[key])
    for switches, tolerance in (
        (["--workers", "1"], 0.0),
        (["--gradient-checkpointing"], 1e-6),
        (["--accumulate", "2"], 1e-4),
        *([(["--compile"], 1e-4)] if shutil.which("g++") else []),
        (["--bf16"], 2e-2),
    ):
        found = weights(tmp_path / switches[0], *switches)
        for key, weight in expected.items():
            difference = (found[key] - weight).abs().max().item()
            assert difference <= tolerance, (switches, key)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    plain: tuple[Path, dict[str, Tensor]],
) -> None:
    folder, expected = plain
    shutil.rmtree(folder / "stage-1" / "checkpoint-2")
    shutil.rmtree(folder / "stage-2")
    found = weights(folder, "--resume")
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=0, atol=0)
