"""Checkpoints of torch.distributed.checkpoint: any number of ranks goes on, however a run ended."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from example import BETWEEN, EXAMPLES, KILL, MOST, WRITING, difference, run, weights
from processes import ranks
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from mobilevlm import Projector, build_projector, convert_checkpoint, load_projector

SMALL: dict[str, dict[str, Any]] = {
    "ldp": {},
    "c-abstractor": {"hidden": 40, "depth": 1},
    "idefics2": {"depth": 1},
    "qwen2-vl": {},
}
Way = Callable[[Projector], nn.Module]


# ------------------------------------------------------------------------------ bare projectors


def build(name: str, device: str = "cpu") -> Projector:
    torch.manual_seed(0)
    return build_projector(name, 48, 64, grid=(12, 12), device=device, **SMALL[name])


def replicated(projector: Projector) -> nn.Module:
    return DistributedDataParallel(projector)


def sharded(projector: Projector) -> nn.Module:
    for block in projector.blocks:
        fully_shard(block)
    return fully_shard(projector)


def sharded_from_meta(projector: Projector) -> nn.Module:
    """Shard what has no memory yet; the checkpoint brings its values."""
    return sharded(projector.to("meta")).to_empty(device="cpu")


def step_twice(module: nn.Module, optimizer: torch.optim.Optimizer, rank: int, size: int) -> None:
    """Take two steps with a part of six images."""
    x = torch.randn(6, 144, 48, generator=torch.Generator().manual_seed(1))[rank::size]
    for _ in range(2):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)


def begin(way: Way, folder: Path) -> None:
    """Train two steps and save."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    for name in SMALL:
        module = way(build(name))
        optimizer = sgd(module)
        step_twice(module, optimizer, rank, size)
        model, state = get_state_dict(module, optimizer)
        dcp.save({"model": model, "optimizer": state}, checkpoint_id=folder / name)


def go_on(way: Way, folder: Path) -> dict[str, dict[str, Tensor]]:
    """Load and train two steps more; return all weights."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    found = {}
    for name in SMALL:
        module = way(build(name))
        optimizer = sgd(module)
        model, state = get_state_dict(module, optimizer)
        for weight in model.values():
            weight.zero_()  # all comes from the checkpoint
        both = {"model": model, "optimizer": state}
        dcp.load(both, checkpoint_id=folder / name)
        set_state_dict(
            module, optimizer, model_state_dict=both["model"], optim_state_dict=both["optimizer"]
        )
        step_twice(module, optimizer, rank, size)
        options = StateDictOptions(full_state_dict=True)
        found[name] = dict(get_model_state_dict(module, options=options))
    return found


def alone(name: str, steps: int) -> dict[str, Tensor]:
    projector = build(name)
    optimizer = sgd(projector)
    for _ in range(steps // 2):
        step_twice(projector, optimizer, 0, 1)
    return projector.state_dict()


@pytest.mark.parametrize("way", [replicated, sharded], ids=["ddp", "fsdp"])
def test_what_two_ranks_saved_is_what_one_and_three_go_on_from(way: Way, tmp_path: Path) -> None:
    ranks(2, begin, way, tmp_path)
    again = sharded_from_meta if way is sharded else way
    for found in (ranks(1, go_on, again, tmp_path)[0], *ranks(3, go_on, again, tmp_path)):
        for name in SMALL:
            before, expected = alone(name, 2), alone(name, 4)
            assert found[name].keys() == expected.keys()
            moved = max(float((expected[key] - before[key]).abs().max()) for key in expected)
            assert moved > 1e-4, name
            for key, weight in expected.items():
                torch.testing.assert_close(found[name][key], weight, rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize("way", [replicated, sharded], ids=["ddp", "fsdp"])
def test_our_own_reader_reads_what_two_ranks_saved(way: Way, tmp_path: Path) -> None:
    ranks(2, begin, way, tmp_path)
    for name in SMALL:
        out = tmp_path / f"own-{name}"
        convert_checkpoint(
            tmp_path / name, out, from_pickle=True, root="model.", spec=build(name).spec
        )
        found, expected = load_projector(out).state_dict(), alone(name, 2)
        assert found.keys() == expected.keys()
        for key, weight in expected.items():
            torch.testing.assert_close(found[key], weight, rtol=0, atol=1e-6, msg=key)


# --------------------------------------------------------------------------------- the example

WORDS = "--steps", "4", "4", "--save-every", "2"
STAGES = Path("checkpoints", "stage-1"), Path("checkpoints", "stage-2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two sharded processes that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    run(2, "train", cache, *WORDS, "--parallel", "fsdp", "--out", str(out))
    return out


def test_a_run_whose_processes_were_killed_ends_as_one_whose_were_not(
    whole: Path, cache: Path, tmp_path: Path
) -> None:
    first, second = (tmp_path / stage for stage in STAGES)
    words = *WORDS, "--parallel", "fsdp", "--out", str(tmp_path)
    resume = "--resume", str(tmp_path / "checkpoints")
    killed = "exitcode *: -9"
    with pytest.raises(AssertionError, match=killed):
        run(2, "train", cache, *words, **{KILL: BETWEEN})
    assert [path.name for path in first.iterdir()] == ["step-000002"]
    with pytest.raises(AssertionError, match=killed) as caught:
        run(2, "train", cache, *words, *resume, **{KILL: WRITING})
    assert f"going on from {first / 'step-000002'}" in str(caught.value)
    assert [path.name for path in second.iterdir()] == ["unfinished"]
    printed = run(2, "train", cache, *words, *resume)
    assert f"going on from {first / 'step-000004'}" in printed
    assert f"no checkpoint in {second}: from the start" in printed
    for stage in (first, second):
        kept = sorted(path.name for path in stage.iterdir())
        assert kept == ["step-000002", "step-000004"]
    expected = weights(whole / "model")
    for key, weight in weights(tmp_path / "model").items():
        torch.testing.assert_close(weight, expected[key], rtol=0, atol=0)


@pytest.mark.parametrize(("number", "way"), [(1, "ddp"), (3, "fsdp")])
def test_another_number_of_processes_goes_on(
    number: int, way: str, whole: Path, cache: Path, tmp_path: Path
) -> None:
    start = Path("checkpoints", "stage-1", "step-000002")
    shutil.copytree(whole / start, tmp_path / start)
    resume = "--resume", str(tmp_path / "checkpoints"), "--out", str(tmp_path)
    printed = run(number, "train", cache, *WORDS, "--parallel", way, *resume)
    assert f"going on from {tmp_path / start}" in printed
    assert difference(tmp_path / "model", whole / "model") < MOST


def test_our_own_reader_reads_the_examples_checkpoints(whole: Path, tmp_path: Path) -> None:
    """The config beside the tensors describes the projector."""
    convert_checkpoint(whole / STAGES[1] / "step-000004", tmp_path / "own", from_pickle=True)
    projector, saved = load_projector(tmp_path / "own"), load_projector(whole / "model")
    assert projector.spec == saved.spec
    for key, weight in saved.state_dict().items():
        torch.testing.assert_close(projector.state_dict()[key], weight, rtol=0, atol=0)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("MPLBACKEND", "agg")
    import train

    return train


def test_checkpoints_of_another_run_are_not_mixed_with_new_ones(
    train: Any, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train.arguments(["--save-every", "2", "--out", str(whole)])
    folder = whole / "checkpoints"
    assert (
        f"{folder} is of another run: go on with it by --resume {folder}" in capsys.readouterr().err
    )
    again = train.arguments(["--save-every", "2", "--out", str(whole), "--resume", str(folder)])
    assert again.resume == folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parallel", "fsdp"], "--parallel fsdp needs processes: torchrun --nproc-per-node 2"),
        (["--bf16"], "--bf16 is a policy of FSDP: train with --parallel fsdp"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], message: str, train: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train.arguments(words)
    assert message in capsys.readouterr().err


def test_adapters_are_not_put_on_shards(
    train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # as torchrun does
    with pytest.raises(SystemExit):
        train.arguments(["--parallel", "fsdp", "--lora"])
    assert "--lora puts adapters on a whole model: train it with --parallel ddp" in (
        capsys.readouterr().err
    )
