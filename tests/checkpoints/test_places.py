"""Paths that are no checkpoint: each is named for what it is, with what to do next."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import INDEX, WEIGHTS, hf_mlp, mlp, same
from helpers.command import run
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import checkpoint as dcp

from mobilevlm import build_projector, dump_spec, load_spec, save_projector, spec_of
from mobilevlm.checkpoints.convert import convert_checkpoint
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.inspection import inspect_checkpoint
from mobilevlm.checkpoints.load import load_projector


def refusal(path: Path, call: Callable[..., Any] = load_projector) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(path)
    return str(caught.value).replace(str(path), "X")


def convert(path: Path) -> Any:
    return convert_checkpoint(path, path.parent / "out", from_pickle=True)


def file(path: Path, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


NONE = f"X: no weights in this folder; expected {WEIGHTS}. "
NO_PICKLES = "It holds pickles, which can run code, so it is not loaded. Convert it: "


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {f"model.{key}": tensor for key, tensor in mlp().items()}


# -------------------------------------------------------------------------- DeepSpeed


def test_a_folder_of_deepspeed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    folder = tmp_path / "checkpoint-5"
    step = folder / "global_step5"
    step.mkdir(parents=True)
    file(step / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    file(step / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    found = "a checkpoint of DeepSpeed; expected model.safetensors. "
    alone = f"X: {found}Save it in one file, with DeepSpeed's zero_to_fp32.py."
    assert refusal(folder) == refusal(step) == alone
    torch.save({"module": state, "dp_world_size": 1}, step / "mp_rank_00_model_states.pt")
    path = step / "mp_rank_00_model_states.pt"
    hint = f"{NO_PICKLES}convert_checkpoint({str(path)!r}, 'projector', from_pickle=True)"
    with pytest.raises(CheckpointError) as caught:
        load_projector(folder)
    assert str(caught.value) == f"{folder}: {found}{hint}"
    with pytest.raises(CheckpointError) as caught:
        load_projector(step)
    assert str(caught.value) == f"{step}: {found}{hint}"
    assert convert(path).family == "mlp"  # the hint works
    file(folder / "zero_to_fp32.py")
    run = f"In {folder} run: python zero_to_fp32.py . fp32 --safe_serialization, then "
    run += f"load_projector({str(folder / 'fp32')!r})"
    for place in (folder, step):
        with pytest.raises(CheckpointError) as caught:
            load_projector(place)
        assert str(caught.value) == f"{place}: {found}{run}"
    save_file(state, folder / WEIGHTS)  # as transformers' Trainer saves it beside
    assert inspect_checkpoint(folder).family == "mlp"


# ---------------------------------------------------------------------- one level down


def test_the_projectors_own_folder_is_named(tmp_path: Path) -> None:
    for name in ("llm", "mm_projector", "vision_tower"):
        save_part = file(tmp_path / name / WEIGHTS)
        save_part.unlink()
        save_file(mlp(), save_part)
    assert refusal(tmp_path) == (
        f"{NONE}There are weights one level down (of mm_projector, llm, vision_tower): "
        "load_projector('X/mm_projector')"
    )
    assert inspect_checkpoint(tmp_path / "mm_projector").family == "mlp"


def test_the_last_checkpoint_is_named(tmp_path: Path) -> None:
    for name in ("checkpoint-500", "checkpoint-1000", "checkpoint-9", "runs"):
        file(tmp_path / name / ("mm_projector.bin" if name != "runs" else "events.txt"))
    assert refusal(tmp_path) == (
        f"{NONE}There are weights one level down (of checkpoint-1000, checkpoint-500, "
        "checkpoint-9): load_projector('X/checkpoint-1000')"
    )


def test_a_model_in_the_hubs_cache(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--name"
    for revision in ("aaa", "bbb", "ccc"):
        (folder / "snapshots" / revision).mkdir(parents=True)
        save_file(mlp(), folder / "snapshots" / revision / WEIGHTS)
    (folder / "blobs").mkdir()
    one = f"{NONE}There are weights one level down (of {{}}): load_projector('X/snapshots/{{}}')"
    assert refusal(folder) == one.format("aaa, bbb, ccc", "aaa")
    file(folder / "refs" / "main", b"bbb\n")
    assert refusal(folder) == one.format("bbb, aaa, ccc", "bbb")
    file(folder / "refs" / "main", b"\xff")
    assert refusal(folder) == one.format("aaa, bbb, ccc", "aaa")


def test_a_folder_of_many_others_is_not_searched_for_ever(tmp_path: Path) -> None:
    for number in range(1_200):
        (tmp_path / f"{number}").mkdir()
    assert refusal(tmp_path) == f"{NONE}Name the file or the folder that holds them."


# ---------------------------------------------------------------- pickles of any suffix


@pytest.mark.parametrize("suffix", [".bin", ".pth", ".pt", ".ckpt"])
def test_a_folder_with_only_a_pickle(suffix: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    torch.save(state, folder / f"mlp_projector{suffix}")
    for name in ("training_args.bin", "optimizer.pt", "rng_state_0.pth", "scheduler.pt"):
        torch.save(state, folder / name)
    assert refusal(folder) == (
        f"{NONE}mlp_projector{suffix} is a pickle, which can run code, so it is not loaded. "
        "Convert it: convert_checkpoint('X', 'projector', from_pickle=True)"
    )
    assert convert(folder).family == "mlp"
    torch.save(state, folder / "a.bin")
    assert refusal(folder, convert).startswith("X: 2 ")


# ------------------------------------------------------------------------- an index


def test_the_path_of_an_index_loads_its_shards(tmp_path: Path, state: dict[str, Tensor]) -> None:
    homes = {key: f"model-{index % 2}.safetensors" for index, key in enumerate(state)}
    for name in set(homes.values()):
        save_file({key: state[key] for key in state if homes[key] == name}, tmp_path / name)
    index = file(tmp_path / INDEX, json.dumps({"weight_map": homes}).encode())
    assert same(load_projector(index), load_projector(tmp_path))
    other = tmp_path / "diffusion_model.safetensors.index.json"
    index.rename(other)
    assert inspect_checkpoint(other).family == "mlp"
    assert refusal(other, convert) == (
        "X: an index of safetensors. Leave out from_pickle=True: its shards are not pickles."
    )
    (tmp_path / "model-0.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-0\.safetensors: cannot be read"):
        load_projector(other)


def test_an_index_has_the_config_of_its_folder(tmp_path: Path) -> None:
    state = hf_mlp()
    save_file(state, tmp_path / "a.safetensors")
    homes = dict.fromkeys(state, "a.safetensors")
    index = file(tmp_path / INDEX, json.dumps({"weight_map": homes}).encode())
    config = {"model_type": "llava", "projector_hidden_act": "relu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_projector(index).spec == load_projector(tmp_path).spec
    assert "relu" in str(inspect_checkpoint(index).spec)


def test_the_path_of_an_index_of_pickles(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "pytorch_model-1.bin")
    homes = dict.fromkeys(state, "pytorch_model-1.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    file(index, json.dumps({"weight_map": homes}).encode())
    assert refusal(index) == (
        "X: an index of pickles. A pickle can run code, so it is not loaded. "
        "Convert it: convert_checkpoint('X', 'projector', from_pickle=True)"
    )
    assert convert(index).family == "mlp"


# ---------------------------------------------------------------- a file of a folder


@pytest.mark.parametrize("call", [load_projector, inspect_checkpoint, convert])
@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_file_of_a_distributed_checkpoint(
    name: str, call: Callable[..., Any], tmp_path: Path, state: dict[str, Tensor]
) -> None:
    folder = tmp_path / "dcp"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    found = "X: a file of a checkpoint of torch.distributed.checkpoint; expected its folder. "
    assert refusal(folder / name, call) == (
        f"{found}Convert it: convert_checkpoint({str(folder)!r}, 'projector', from_pickle=True)"
    )
    assert convert(folder).family == "mlp"  # the hint works
    (folder / ".metadata").unlink()
    assert refusal(folder / "__0_0.distcp", call) == (
        f"{found}The folder's file .metadata is missing: copy that too."
    )


JSON = "X: JSON, in which there are no weights; expected a checkpoint. "


@pytest.mark.parametrize("name", ["config.json", "tokenizer.JSON"])
def test_the_config_of_a_model(name: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / WEIGHTS)
    path = tmp_path / name
    for text in ('{"model_type": "llava"}', "[1]", "{"):
        path.write_text(text)
        for call in (load_projector, inspect_checkpoint):
            assert refusal(path, call) == (
                f"{JSON}Name the model's folder: load_projector({str(tmp_path)!r})"
            )
        assert refusal(path, convert) == (
            f"{JSON}Convert it: convert_checkpoint({str(tmp_path)!r}, 'projector', "
            "from_pickle=True)"
        )
    assert refusal(tmp_path / "missing.json").startswith("X: cannot be read: ")


def test_the_path_of_a_document(tmp_path: Path) -> None:
    document = tmp_path / "alone" / "config.json"
    document.parent.mkdir()
    dump_spec(spec_of("mlp", 64, 96), document)
    hint = f"It is a document: build_projector(load_spec({str(document)!r}))"
    for call in (load_projector, inspect_checkpoint, convert):
        assert refusal(document, call) == JSON + hint.replace(str(document), "X")
    assert build_projector(load_spec(document)).spec.out == 96  # the hint works
    said = run("inspect", str(document))[2]
    assert said.rstrip().endswith(f"It is a document: mobilevlm show {document}")
    document.write_text('{"in": 64, "out": 96, "blocks": []}')  # as written by hand
    assert refusal(document) == JSON + hint.replace(str(document), "X")
    save_projector(build_projector("linear", 4, 6), tmp_path / "own")
    assert refusal(tmp_path / "own" / "config.json") == (
        f"{JSON}Name the model's folder: load_projector({str(tmp_path / 'own')!r})"
    )


# --------------------------------------------------------------------- other formats


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("x.onnx", b"\x08\x0a\x12\x07pytorch", "an ONNX model"),
        ("x.ONNX", b"\x08\x0a\x12\x07pytorch", "an ONNX model"),
        ("x.pt2", b"PK\x03\x04", "a program of torch.export"),
        ("x.pte", b"\0\0\0\0ET12", "a program of ExecuTorch"),
        ("x.npz", b"PK\x03\x04", "an archive of NumPy"),
    ],
)
def test_files_of_other_formats(name: str, data: bytes, what: str, tmp_path: Path) -> None:
    path = file(tmp_path / name, data)
    hint = "Use the checkpoint that it was made of."
    if what == "an ONNX model":  # its metadata are looked at first
        path.write_bytes(b"\x08\x0a")
    assert refusal(path) == f"X: {what}; expected a safetensors file. {hint}"
    assert refusal(path, convert) == f"X: {what}; expected an archive of torch.save. {hint}"
