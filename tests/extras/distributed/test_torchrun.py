"""The programs of examples/train learn under torchrun what they learn in one process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from example import AS_IT_IS, MOST, SGD, difference, run, weights
from torch.distributed import checkpoint as dcp

Run = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def train(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the loop; return its folder. What was run before is not run again."""
    done: dict[tuple[object, ...], Path] = {}

    def train(processes: int, *words: str, **environment: str) -> Path:
        key = processes, *words, *environment
        if key not in done:
            out = tmp_path_factory.mktemp("train")
            steps = "--steps", "4", "4", "--save-every", "4", "--out", str(out)
            printed = run(processes, "train", cache, *steps, *words, **environment)
            assert "answers otherwise" not in printed
            assert printed.count("exact match on") == 1  # one process speaks
            done[key] = out
        return done[key]

    return train


def losses(folder: Path) -> list[float]:
    """Return the losses of both stages."""
    both: list[float] = []
    for stage in ("stage-1", "stage-2"):
        state: dict[str, list[float]] = {"losses": []}
        dcp.load(state, checkpoint_id=folder / "checkpoints" / stage / "step-000004", no_dist=True)
        both += state["losses"]
    assert len(both) == 8
    return both


@pytest.mark.parametrize("way", ["ddp", "fsdp", "tp"])
def test_two_processes_learn_what_one_does(way: str, train: Run) -> None:
    alone, together = train(1), train(2, "--parallel", way)
    assert losses(together) == pytest.approx(losses(alone), rel=1e-5)
    assert difference(together / "model", alone / "model") < MOST


def test_without_adam_each_weight_is_the_same(train: Run) -> None:
    """Adam divides gradients by their size: it makes much of what rounding does to small ones."""
    alone, together = (
        weights(train(n, *words, **{SGD: "1"}) / "model")
        for n, words in ((1, ()), (2, ("--parallel", "fsdp")))
    )
    for key, weight in alone.items():
        torch.testing.assert_close(together[key], weight, rtol=0, atol=1e-7)


@pytest.fixture(scope="module")
def train_by_trainer(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the Trainer; return its folder."""

    def train(processes: int, *words: str) -> Path:
        out = tmp_path_factory.mktemp("trainer")
        steps = "--steps", "10", "2", "--out", str(out)
        printed = run(processes, "trainer", cache, *steps, *words)
        assert printed.count("exact match on") == 1
        return out

    return train


@pytest.fixture(scope="module")
def by_trainer(train_by_trainer: Run) -> Path:
    return train_by_trainer(1)


def logged(folder: Path) -> list[float]:
    """Return the losses that a Trainer has logged."""
    state = json.loads((folder / "stage-1" / "checkpoint-10" / "trainer_state.json").read_text())
    return [each["loss"] for each in state["log_history"]]


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_trainer_learns_in_two_processes_what_it_does_in_one(
    way: str, train_by_trainer: Run, by_trainer: Path
) -> None:
    together = train_by_trainer(2, "--parallel", way)
    assert len(logged(together)) == 1
    assert logged(together) == pytest.approx(logged(by_trainer), rel=1e-5)
    end = Path("stage-2", "checkpoint-2")
    assert difference(together / end, by_trainer / end) < MOST
    # Written by accelerate where it shards, and only there.
    assert (together / end / "pytorch_model_fsdp.bin").exists() == (way == "fsdp")


def test_fsdp_that_would_be_ddp_is_refused(cache: Path, tmp_path: Path) -> None:
    words = "--steps", "1", "1", "--parallel", "fsdp", "--out", str(tmp_path)
    with pytest.raises(AssertionError, match="accelerate shards on accelerators alone"):
        run(2, "trainer", cache, *words, **{AS_IT_IS: "1"})


def test_bfloat16_of_two_processes_is_that_of_one(train: Run) -> None:
    words = "--projector", "internvl"  # convolutions take long where bfloat16 has no units
    alone, one, two = (
        train(n, *words, *more) / "model"
        for n, more in ((1, ()), *((n, ("--parallel", "fsdp", "--bf16")) for n in (1, 2)))
    )
    assert difference(two, one) < 2e-3
    assert difference(one, alone) > 1e-4  # it was bfloat16
    assert {weight.dtype for weight in weights(one).values()} == {torch.float32}
