"""What a config says is believed: by file as by folder, and what contradicts is refused or said."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import WEIGHTS, equal, hf_mlp, mlp, refusal, same
from reference.case import plain
from reference.models import CLIP_TOWER, MODELS, PROJECTOR, Model, llama
from safetensors.torch import save_file
from torch import Tensor

import mobilevlm
from mobilevlm import CheckpointError, build_projector, inspect_checkpoint, load_projector
from mobilevlm.checkpoints.mapping import to_upstream
from mobilevlm.projectors.stack import Stack


def folder(path: Path, state: dict[str, Tensor], **config: Any) -> Path:
    save_file(state, path / WEIGHTS)
    (path / "config.json").write_text(json.dumps(config))
    return path


def follow(hint: str, **names: Any) -> Any:
    """Run the call that a hint names, with what it calls by names."""
    [call] = re.findall(r"load_projector\(.*\)", hint)
    return eval(call, {"load_projector": load_projector, **names})


# ---------------------------------------------------------------------- beside a file


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("act", ["relu", "gelu_fast", "gelu_python", "hardswish"])
def test_a_file_is_read_with_the_config_beside_it(act: str, tmp_path: Path) -> None:
    case = Model(
        *("Llava", PROJECTOR, plain, "mlp", 16, (3, 5)),
        vision_config=CLIP_TOWER,
        text_config=llama(),
        projector_hidden_act=act,
    )
    model = case.build()
    model.save_pretrained(tmp_path)
    upstream = model.get_submodule(PROJECTOR)
    for path in (tmp_path, tmp_path / WEIGHTS):
        equal(load_projector(path), plain, upstream, (3, 5))
        assert inspect_checkpoint(path).family == "mlp"


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_by_file_as_by_folder(name: str, tmp_path: Path) -> None:
    MODELS[name].build().save_pretrained(tmp_path)
    whole = load_projector(tmp_path)
    file = load_projector(tmp_path / WEIGHTS)
    assert file.spec == whole.spec
    assert same(file, whole)


# ---------------------------------------------------------------------- mm_projector_type


OTHERS = [
    *("sva", "tokenpacker", "resampler", "ldpnet", "ldpnetv2", "mlp2x_silu", "mlp3x_gelu"),
    *("identity", "mlp2x_gelu_deco", "mlp_depth2_frames4", "cabstract", 2, ["mlp2x_gelu"]),
]


@pytest.mark.parametrize("kind", OTHERS, ids=str)
def test_a_type_that_the_tensors_are_not_of_is_refused(kind: Any, tmp_path: Path) -> None:
    folder(tmp_path, mlp(), model_type="llava_llama", mm_projector_type=kind)
    assert refusal(tmp_path) == (
        f"X: config.json: mm_projector_type: {kind!r}, and the tensors are those of mlp2x_gelu; "
        "expected the same of both. If the tensors are right, ask for their family, family='mlp', "
        "and give the options that it means, such as act=."
    )
    # What the config says is not forgotten where the hint is followed.
    note = f"config.json says mm_projector_type {kind!r}, and the tensors are mlp2x_gelu's"
    assert inspect_checkpoint(tmp_path, family="mlp").notes == (note,)
    with pytest.warns(UserWarning, match="config.json says mm_projector_type"):
        loaded = load_projector(tmp_path, family="mlp", act="silu")
    assert loaded.spec == build_projector("mlp", 16, 24, act="silu").spec


@pytest.mark.parametrize(
    ("name", "layout", "kind"),
    [
        ("mlp2x-gelu", "mlp", "mlp2x_gelu"),
        ("mlp3x-gelu", "mlp", "mlp3x_gelu"),
        ("linear", "linear", "linear"),
        ("ldpnet", "ldpnet", "ldpnet"),
        ("ldpnetv2", "ldpnetv2", "ldpnetv2"),
        ("mlp2x-res2x-gelu", "mlp-res", "mlp2x_res2x_gelu"),
    ],
)
def test_types_that_agree_or_do_not(name: str, layout: str, kind: str, tmp_path: Path) -> None:
    projector = build_projector(name, 16, 24)
    state = {
        f"mm_projector.{key.removeprefix('.')}": tensor.clone()
        for key, tensor in to_upstream(projector, layout).items()
    }
    for stated in (kind, None):
        folder(tmp_path, state, model_type="llava_llama", mm_projector_type=stated)
        assert same(load_projector(tmp_path), projector)
        assert inspect_checkpoint(tmp_path).notes == ()
    # What LLaVA's configs say by default, and keep, is overridden by other tensors, and said.
    folder(tmp_path, state, model_type="llava_llama", mm_projector_type="linear")
    note = f"config.json says mm_projector_type 'linear', and the tensors are {kind}'s"
    found = inspect_checkpoint(tmp_path)
    assert found.notes == (() if kind == "linear" else (note,))
    assert found.to_dict()["notes"] == list(found.notes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert same(load_projector(tmp_path), projector)
    assert [str(each.message) for each in caught] == [
        f"{tmp_path}: {each}." for each in found.notes
    ]
    assert all(each.filename == __file__ for each in caught)
    other = "ldpnetv2" if kind == "ldpnet" else "ldpnet"
    folder(tmp_path, state, model_type="llava_llama", mm_projector_type=other)
    assert f"mm_projector_type: {other!r}, and the tensors are those of {kind}" in refusal(tmp_path)


# ---------------------------------------------------------------------- half a projector


def linear(prefix: str, out: int, in_: int) -> dict[str, Tensor]:
    return {f"{prefix}weight": torch.randn(out, in_), f"{prefix}bias": torch.randn(out)}


def merging() -> dict[str, Tensor]:
    """Of a family like MiniMax-M3's, but not known: one half looks like an MLP."""
    return {
        **linear("multi_modal_projector.linear_1.", 24, 16),
        **linear("multi_modal_projector.linear_2.", 24, 24),
        **linear("token_merge_mlp.linear_1.", 24, 96),
        **linear("token_merge_mlp.linear_2.", 24, 24),
    }


def cambrian() -> dict[str, Tensor]:
    state = {f"model.{key}": tensor for key, tensor in mlp().items()}
    return {
        **state,
        **linear("model.mm_projector_aux_0.0.", 16, 16),
        **linear("model.vision_sampler_0.layers.0.proj.", 16, 16),
        "model.vision_query": torch.randn(4, 16),
    }


@pytest.mark.parametrize(
    ("state", "root", "halves"),
    [
        (merging(), "multi_modal_projector.", ["token_merge_mlp."]),
        (
            cambrian(),
            "model.mm_projector.",
            ["model.mm_projector_aux_0.", "model.vision_sampler_0."],
        ),
    ],
    ids=["merging", "cambrian"],
)
def test_half_a_projector_is_refused(
    state: dict[str, Tensor], root: str, halves: list[str], tmp_path: Path
) -> None:
    save_file(state, tmp_path / WEIGHTS)
    listed = ", ".join(map(repr, halves))
    message = refusal(tmp_path)
    assert message == (
        f"X: half a projector: {listed} beside {root!r} must be the other half; expected one "
        "module that is all of it. If it is not, say so: load_projector('X', family='mlp')."
    )
    note = f"{listed} beside it may be another part of the projector, and is not read"
    assert inspect_checkpoint(tmp_path, family="mlp").notes == (note,)
    assert inspect_checkpoint(tmp_path, root=root).notes == (note,)
    with pytest.warns(UserWarning, match="may be another part of the projector, and is not read"):
        half = follow(message.replace("'X'", repr(str(tmp_path))))
    assert half.spec == build_projector("mlp", 16, 24).spec


def test_many_halves_are_counted(tmp_path: Path) -> None:
    halves = [f"model.vision_sampler_{number}." for number in range(10)]
    state = {f"model.{key}": tensor for key, tensor in mlp().items()}
    for half in halves:
        state |= linear(f"{half}proj.", 16, 16)
    save_file(state, tmp_path / WEIGHTS)
    shown = ", ".join(map(repr, halves[:8])) + " and 2 more"
    assert refusal(tmp_path).startswith(f"X: half a projector: {shown} beside 'model.mm_projector.")
    [note] = inspect_checkpoint(tmp_path, family="mlp").notes
    assert note.startswith(f"{shown} beside it")


def test_both_halves_of_minimax_m3_are_one_projector_without_its_config(tmp_path: Path) -> None:
    """Whose released widths make one half look like an MLP."""
    state = {key.replace("token_merge", "patch_merge"): each for key, each in merging().items()}
    save_file(state, tmp_path / WEIGHTS)
    loaded = load_projector(tmp_path)
    assert loaded.spec == build_projector("minimax-m3-vl", 16, 24).spec
    assert loaded(torch.randn(1, 64, 16)).shape == (1, 16, 24)


def test_a_config_of_another_model_is_not_doubted(tmp_path: Path) -> None:
    """Nor of one that is not known, where the tensors are half of a projector."""
    folder(tmp_path, merging(), model_type="max_vl")
    message = refusal(tmp_path)
    assert message.startswith("X: no projector that is known of model type 'max_vl'")
    assert "family=" not in message
    assert "another model" not in message
    for model_type in ("voxtral", "aya_vision", "vipllava", "mistral3"):
        folder(tmp_path, hf_mlp(), model_type=model_type)
        assert "family=" not in refusal(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["mm_projector_a", "audio_mm_projector", "audio_resampler", "vision_tower", "image_newline"],
)
def test_what_is_no_other_half(name: str, tmp_path: Path) -> None:
    """The connectors of sound of VideoLLaMA2 and VITA, towers, and single parameters."""
    save_file({**mlp(), **linear(f"{name}.0.", 16, 16)}, tmp_path / WEIGHTS)
    assert load_projector(tmp_path).spec == build_projector("mlp", 16, 24).spec


# ---------------------------------------------------------------------- hints


def test_an_activation_that_no_block_has_is_a_block_of_ones_own(tmp_path: Path) -> None:
    """The hint is followed, with the document that it asks for."""
    stored = hf_mlp()
    folder(tmp_path, stored, model_type="llava", projector_hidden_act="elu")
    message = refusal(tmp_path)
    assert message.endswith(
        "relu, relu2, sigmoid, silu, swish, tanh. Describe the projector as a document, with a "
        "block of your own if need be: load_projector('X', root='multi_modal_projector.', "
        "spec=document, module_names='llava')."
    )

    @mobilevlm.BLOCKS.register("elu")
    class Elu(mobilevlm.Block):
        needs_grid = False

        def build(self, x: mobilevlm.Feature) -> torch.nn.Module:
            return torch.nn.ELU()

    try:
        document = {"in": 16, "out": 24, "blocks": ["pointwise", "elu", "pointwise"]}
        ours = follow(message.replace("'X'", repr(str(tmp_path))), document=document)
    finally:
        mobilevlm.BLOCKS.unregister("elu")
    state = {key.removeprefix("multi_modal_projector."): each for key, each in stored.items()}
    x = torch.randn(2, 9, 16)
    y = torch.nn.functional.elu(x @ state["linear_1.weight"].T + state["linear_1.bias"])
    expected = y @ state["linear_2.weight"].T + state["linear_2.bias"]
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), expected)
    # An activation that a block has is an option of the family.
    ours = load_projector(tmp_path, family="mlp", act="relu")
    assert ours.spec == build_projector("mlp", 16, 24, act="relu").spec


def test_a_damaged_config_beside_a_file_is_named(tmp_path: Path) -> None:
    save_file(mlp(), tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text("{,}")
    for path in (tmp_path, tmp_path / WEIGHTS):
        with pytest.raises(CheckpointError) as caught:
            load_projector(path)
        assert str(caught.value).startswith(f"{tmp_path}/config.json: not JSON")


def test_a_document_beside_other_weights_is_no_config(tmp_path: Path) -> None:
    """A folder of ours into which somebody has put LLaVA's own file."""
    save_file(mlp(), tmp_path / "mm_projector.safetensors")
    mobilevlm.dump_spec(build_projector("ldp", 8, 8).spec, tmp_path / "config.json")
    spec: Stack = load_projector(tmp_path / "mm_projector.safetensors").spec
    assert spec == build_projector("mlp", 16, 24).spec
