"""Checkpoints of wrapped, adapted and quantised models: found, or named for what they are."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import hf_mlp, mlp, same
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mobilevlm import Block, Feature, build_projector
from mobilevlm.checkpoints.convert import convert_checkpoint
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.inspection import inspect_checkpoint
from mobilevlm.checkpoints.load import load_projector
from mobilevlm.checkpoints.mapping import to_upstream
from mobilevlm.checkpoints.save import save_projector
from mobilevlm.projectors.unwrap import without_wrappers

State = dict[str, Tensor]


def saved(state: State, folder: Path, config: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def refusal(path: Path, **arguments: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_projector(path, **arguments)
    return str(caught.value).replace(str(path), "X")


def within(prefix: str, infix: str = "", layer: str = "") -> State:
    """The MLP under other keys: before the projector's name, after it, and after each layer's."""
    renamed = {}
    for key, tensor in mlp().items():
        name, index, leaf = key.split(".")
        renamed[f"{prefix}{name}.{infix}{index}.{layer}{leaf}"] = tensor
    return renamed


WRAPPED = {
    "torch.compile": within("model.", "_orig_mod."),
    "torch.compile of each layer": within("model.", "", "_orig_mod."),
    "DataParallel": within("model.", "module."),
    "FSDP": within("_fsdp_wrapped_module.model.", "_fsdp_wrapped_module."),
    "FSDP and activation checkpointing": within(
        "_fsdp_wrapped_module.", "_fsdp_wrapped_module._checkpoint_wrapped_module."
    ),
    "activation checkpointing of each layer": within("", "", "_checkpoint_wrapped_module."),
    "Fabric": within("", "_forward_module."),
    "a PEFT model of the projector": within("model.", "base_model.model."),
    "an adapter's copy": within("base_model.model.model.", "modules_to_save.default."),
    "an adapter's copy, of another name": within("", "modules_to_save.ocr-2."),
    "an adapter's copy, compiled": within("_orig_mod.", "modules_to_save.a.module."),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_names_are_taken_out_wherever_they_stand(name: str, tmp_path: Path) -> None:
    plain = load_projector(saved(mlp(), tmp_path / "plain"))
    others = {"model.layers.0._orig_mod.weight": torch.ones(2)}
    folder = saved({**others, **WRAPPED[name]}, tmp_path / "wrapped")
    assert same(load_projector(folder), plain)
    found = inspect_checkpoint(folder)
    assert (found.family, found.left) == ("mlp", 1)
    assert set(found.used) == WRAPPED[name].keys()  # by the file's own keys
    assert same(load_projector(folder, root=found.root), plain)
    convert_checkpoint(folder, tmp_path / "out")
    assert same(load_projector(tmp_path / "out"), plain)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(torch.compile, marks=pytest.mark.slow),
        nn.DataParallel,
        AveragedModel,
        lambda module: nn.DataParallel(AveragedModel(module)),
    ],
)
def test_what_torch_itself_wraps_is_found(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    plain = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 24))
    model = nn.Module()
    model.mm_projector = wrap(plain)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert not any(key.startswith("mm_projector.0") for key in state)
    projector = load_projector(saved(state, tmp_path / "x"))
    x = torch.randn(1, 9, 16)
    with torch.no_grad():
        torch.testing.assert_close(projector(x), plain(x), rtol=0, atol=1e-6)


def test_the_stale_copy_of_peft_never_wins(tmp_path: Path) -> None:
    old = {key: torch.zeros_like(tensor) for key, tensor in mlp().items()}
    trained = within("base_model.model.model.", "modules_to_save.default.")
    stale = {
        key.replace("mm_projector.", "base_model.model.model.mm_projector.original_module."): t
        for key, t in old.items()
    }
    plain = load_projector(saved(mlp(), tmp_path / "plain"))
    for state in ({**stale, **trained}, {**trained, **stale}):
        folder = saved(state, tmp_path / "x")
        assert same(load_projector(folder), plain)
        assert inspect_checkpoint(folder).left == 0
    assert "no projector that is known" in refusal(saved(stale, tmp_path / "stale"))


def test_of_two_trained_copies_none_is_chosen(tmp_path: Path) -> None:
    both = {**within("", "modules_to_save.a."), **within("", "modules_to_save.b.")}
    assert refusal(saved(both, tmp_path / "x")) == (
        "X: 'mm_projector.modules_to_save.a.0.weight' and "
        "'mm_projector.modules_to_save.b.0.weight', of which either may be "
        "'mm_projector.0.weight'; expected one of them. Save the one that is meant in a file of "
        "its own."
    )
    # Elsewhere in the model two keys may become one.
    twins = {"lm.module.weight": torch.ones(1), "lm.weight": torch.zeros(1)}
    folder = saved({**within("", "_orig_mod."), **twins}, tmp_path / "y")
    assert inspect_checkpoint(folder).family == "mlp"


def test_what_is_not_wrapped_does_not_win_over_what_is(tmp_path: Path) -> None:
    """A main projector inside wrappers, beside a plain one that is not."""
    torch.manual_seed(0)
    main, deep = (
        to_upstream(build_projector(name, 8, 12), "qwen3-vl")
        for name in ("qwen3-vl", "qwen3-vl-deepstack")
    )
    beside = {f"model.visual.deepstack_merger_list.0.{key}": t for key, t in deep.items()}
    config = {"model_type": "qwen3_vl"}
    plain = {f"model.visual.merger.{key}": tensor for key, tensor in main.items()}
    expected = load_projector(saved({**plain, **beside}, tmp_path / "plain", config))
    for infix in ("_orig_mod.", "module."):
        wrapped = {f"model.visual.merger.{infix}{key}": t for key, t in main.items()}
        folder = saved({**wrapped, **beside}, tmp_path / "wrapped", config)
        assert same(load_projector(folder), expected)
        assert inspect_checkpoint(folder).others == ("model.visual.deepstack_merger_list.0.",)


class Wrapping(Block):
    """A block whose module has parts with the names of wrappers."""

    def build(self, x: Feature) -> nn.Module:
        outer = nn.Module()
        outer.module = nn.Linear(x.channels, x.channels)
        outer.forward = lambda y: outer.module(y)  # type: ignore[method-assign]
        return outer


def test_a_part_that_is_called_module_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobilevlm import BLOCKS

    BLOCKS.register("wrapping", Wrapping)
    try:
        projector = build_projector({"in": 4, "out": 4, "blocks": ["wrapping"]})
        save_projector(projector, tmp_path / "own")
        assert list(load_projector(tmp_path / "own").state_dict()) == [
            "blocks.0.module.weight",
            "blocks.0.module.bias",
        ]
    finally:
        BLOCKS.unregister("wrapping")


def test_the_names_that_are_taken_out() -> None:
    kept = ("x.module", "modules.0.weight", "a.orig_module.b", "submodule.weight", "base_model.x")
    assert [without_wrappers(key) for key in kept] == [*kept]
    assert without_wrappers("module.module.a.modules_to_save.x.module.b") == "a.b"


# ------------------------------------------------------------------------------ adapters


MERGE = (
    "a layer with an adapter beside it; expected plain floating-point weights. Merge it: load the "
    "model and its adapter with PEFT, call merge_and_unload() and save what that returns."
)


def adapted(*own: str, base: bool = True, prefix: str = "base_model.model.model.") -> State:
    """The MLP with tensors of an adapter beside each of its layers."""
    state = within(prefix, "", "base_layer.") if base else {}
    for key in within(prefix):
        if key.endswith(".weight"):
            state |= {f"{key.removesuffix('weight')}{name}": torch.zeros(2, 2) for name in own}
    return state


@pytest.mark.parametrize(
    "state",
    [
        adapted("lora_A.default.weight", "lora_B.default.weight"),
        adapted("lora_A.weight", "lora_B.weight", "lora_magnitude_vector"),
        adapted("lora_A.weight", "lora_B.weight", base=False),
        adapted("lora_A.default.weight", "lora_magnitude_vector.default.weight", prefix=""),
        adapted("oft_R.default.weight"),
        adapted("hada_w1_a.default", "hada_w1_b.default", base=False),
        adapted("ia3_l.default"),
        adapted("lokr_w1.default"),
        adapted("something_new.default"),  # a method of which only the layer inside is known
    ],
)
def test_an_adapter_that_is_not_merged_is_named(state: State, tmp_path: Path) -> None:
    said = refusal(saved(state, tmp_path / "x"))
    assert said.startswith("X['")
    assert said.endswith(MERGE)
    assert "mm_projector.0." in said


PEFT = "base_model.model."


def lora(*layers: str) -> State:
    names = [f"{PEFT}{layer}.lora_{which}.weight" for layer in layers for which in "AB"]
    return {name: torch.zeros(2, 2) for name in names}


@pytest.mark.parametrize(
    ("state", "first"),
    [
        (lora("multi_modal_projector.linear_1", "lm.layers.0.q_proj"), "multi_modal_projector."),
        (lora("lm.layers.0.q_proj", "multi_modal_projector.linear_1"), "multi_modal_projector."),
        (lora("lm.layers.0.q_proj", "lm.layers.1.q_proj"), "lm.layers.0."),
        ({**lora("vision_connector.up"), f"{PEFT}lm.head.weight": torch.ones(2)}, "vision_conn"),
    ],
)
@pytest.mark.parametrize("arguments", [{}, {"family": "linear"}])
def test_a_file_of_an_adapter_alone_is_named(
    state: State, first: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    folder = saved(state, tmp_path / "x")
    for path in (folder, folder / "model.safetensors"):
        said = refusal(path, **arguments)
        assert said.startswith(f"X['{PEFT}{first}")
        assert said.endswith(MERGE)


@pytest.mark.parametrize(
    "more",
    [{f"{PEFT}vision_connector.up.weight": torch.ones(2, 2)}, {"bridge.weight": torch.ones(2, 2)}],
)
def test_beside_an_unknown_projector_an_adapter_is_nobodys_business(
    more: State, tmp_path: Path
) -> None:
    state = {**lora("lm.layers.0.q_proj"), **more}
    assert "no projector that is known" in refusal(saved(state, tmp_path / "x"))


def test_an_adapter_of_the_language_model_is_nobodys_business(tmp_path: Path) -> None:
    state = {
        **within("base_model.model.model.", "modules_to_save.default."),
        "base_model.model.model.layers.0.q_proj.lora_A.default.weight": torch.zeros(2, 2),
        "base_model.model.model.layers.0.q_proj.base_layer.weight": torch.zeros(2, 2),
    }
    assert inspect_checkpoint(saved(state, tmp_path / "x")).left == 2
    del state["base_model.model.model.mm_projector.modules_to_save.default.2.bias"]
    assert "1 tensor missing and 0 left over" in refusal(saved(state, tmp_path / "x"))


def test_unmerged_adapters_in_a_state_dict_are_named_as_such(tmp_path: Path) -> None:
    projector = build_projector("linear", 16, 24)
    state = {
        "blocks.0.base_layer.weight": torch.zeros(24, 16),
        "blocks.0.base_layer.bias": torch.zeros(24),
        "blocks.0.lora_A.default.weight": torch.zeros(2, 16),
    }
    with pytest.raises(CheckpointError) as caught:
        save_projector(projector, tmp_path / "new", state_dict=state)
    assert str(caught.value).endswith(
        ". Undo what wraps its layers first: merge adapters, remove parametrizations."
    )
    trained = {key: torch.ones_like(t) for key, t in projector.state_dict().items()}
    copies = {f"modules_to_save.default.{key}": t for key, t in trained.items()}
    stale = {f"original_module.{key}": t for key, t in projector.state_dict().items()}
    save_projector(projector, tmp_path / "new", state_dict={**stale, **copies})
    assert all(t.eq(1).all() for t in load_projector(tmp_path / "new").state_dict().values())


def test_keys_without_end_take_no_time(tmp_path: Path) -> None:
    """Names that could match in many ways, in many places: time is in proportion to the file."""
    words = "lora_" * 20_000
    state = {f"a.{words}-": torch.zeros(1), f"b.{'modules_to_save.' * 20_000}c": torch.zeros(1)}
    state |= {f"{n}.mm_projector.0.base_layer.weight": torch.zeros(1) for n in range(3_000)}
    state |= {f"{n}.mm_projector.2.base_layer.weight": torch.zeros(1) for n in range(3_000)}
    folder = saved(state, tmp_path / "x")
    start = time.process_time()
    refusal(folder)
    assert time.process_time() - start < 10


@pytest.mark.quick("a connector")
@pytest.mark.parametrize(
    ("name", "others"),
    [("merger" * 8_000, {}), ("merge" * 9_000, mlp()), ("blocks.0.a." * 5_000, {})],
    ids=["a connector", "half of a projector", "our own keys"],
)
def test_keys_with_a_line_break_take_no_time(name: str, others: State, tmp_path: Path) -> None:
    """It is where `.` stops: a pattern that tries again from each letter takes minutes here."""
    state = {f"{name}{n}\n.w": torch.zeros(1) for n in range(400)}
    folder = saved({**state, **others}, tmp_path / "x")
    start = time.process_time()
    refusal(folder)
    assert time.process_time() - start < 20


# -------------------------------------------------------------------------- quantisation

V, D = 32, 48
P = "model.multi_modal_projector."
Layer = Callable[[int], dict[str, Tensor]]
u8, i8, i32, u32, f8 = torch.uint8, torch.int8, torch.int32, torch.uint32, torch.float8_e4m3fn


def nf4(dtype: torch.dtype, numbers: int) -> Layer:
    return lambda n: {
        "weight": torch.zeros(D * n // numbers, 1, dtype=dtype),
        "weight.absmax": torch.ones(4),
        "weight.quant_map": torch.ones(16),
        "weight.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=u8),
    }


TRANSFORMERS = "Load the model with transformers, call model.dequantize() and save it. "
CONFIG = (
    "Load the model with transformers and quantization_config={}(dequantize=True), and save it. "
)
OR_TAKE = "Or take the unquantised checkpoint."
TAKE = "Take the unquantised checkpoint."
MLX = f"Run mlx_vlm.convert with --dequantize. {OR_TAKE}"
FORMATS: dict[str, tuple[Layer, str, str, str]] = {
    "bitsandbytes nf4": (
        nf4(u8, 2),
        "weight.quant_map",
        "bitsandbytes' nf4 or fp4",
        TRANSFORMERS + OR_TAKE,
    ),
    "bitsandbytes nf4 in bf16": (
        nf4(torch.bfloat16, 4),
        "weight.quant_map",
        "bitsandbytes' nf4 or fp4",
        TRANSFORMERS + OR_TAKE,
    ),
    "bitsandbytes int8": (
        lambda n: {
            "weight": torch.zeros(D, n, dtype=i8),
            "SCB": torch.ones(D),
            "weight_format": torch.zeros((), dtype=u8),
        },
        "SCB",
        "bitsandbytes' int8",
        TRANSFORMERS + OR_TAKE,
    ),
    "fp8": (
        lambda n: {"weight": torch.zeros(D, n).to(f8), "weight_scale": torch.ones(1)},
        "weight_scale",
        "fp8 or int8 with scales",
        TAKE,
    ),
    "fp8 in blocks": (
        lambda n: {"weight": torch.zeros(D, n).to(f8), "weight_scale_inv": torch.ones(1, 1)},
        "weight_scale_inv",
        "fp8 with a scale for each block",
        CONFIG.format("FineGrainedFP8Config") + OR_TAKE,
    ),
    "compressed-tensors": (
        lambda n: {
            "weight_packed": torch.zeros(D, n // 8, dtype=i32),
            "weight_scale": torch.ones(D, 1),
            "weight_shape": torch.tensor([D, n]),
        },
        "weight_packed",
        "compressed-tensors",
        CONFIG.format("CompressedTensorsConfig") + OR_TAKE,
    ),
    "GPTQ": (
        lambda n: {
            "qweight": torch.zeros(n // 8, D, dtype=i32),
            "qzeros": torch.zeros(1, D // 8, dtype=i32),
            "scales": torch.ones(1, D).half(),
            "g_idx": torch.zeros(n, dtype=i32),
        },
        "qweight",
        "GPTQ or AWQ",
        TAKE,
    ),
    "MLX, affine": (
        lambda n: {
            "weight": torch.zeros(D, n // 4, dtype=u32),
            "scales": torch.ones(D, 1),
            "biases": torch.ones(D, 1),
        },
        "scales",
        "MLX, affine",
        MLX,
    ),
    "MLX, mxfp8": (
        lambda n: {
            "weight": torch.zeros(D, n // 4, dtype=u32),
            "scales": torch.ones(D, 1, dtype=u8),
        },
        "scales",
        "MLX's mxfp4, mxfp8 or nvfp4",
        MLX,
    ),
    "NVFP4": (
        lambda n: {
            "weight": torch.zeros(D, n // 2, dtype=u8),
            "weight_scale": torch.ones(D, 2).to(f8),
            "weight_scale_2": torch.ones(()),
            "input_scale": torch.ones(()),
        },
        "weight_scale_2",
        "ModelOpt's NVFP4",
        TAKE,
    ),
    "torchao": (
        lambda n: {"_weight_qdata": torch.zeros(D, n, dtype=i8), "_weight_scale": torch.ones(D, 1)},
        "_weight_qdata",
        "torchao",
        f"Call .dequantize() on the model's weights. {OR_TAKE}",
    ),
    "AQLM": (
        lambda n: {
            "codes": torch.zeros(D, n // 8, 1, dtype=i8),
            "codebooks": torch.ones(1, 256, 1, 8),
            "scales": torch.ones(D, 1, 1, 1),
        },
        "codebooks",
        "AQLM",
        TAKE,
    ),
    "EETQ": (
        lambda n: {"weight": torch.zeros(n, D, dtype=i8), "weight_scales": torch.ones(D)},
        "weight_scales",
        "EETQ",
        TAKE,
    ),
    "HQQ": (
        lambda n: {"W_q": torch.zeros(D // 2, n, dtype=u8)},
        "W_q",
        "HQQ",
        f"Call .dequantize() on the model's HQQLinear layers. {OR_TAKE}",
    ),
    "quanto": (
        lambda n: {
            "weight._data": torch.zeros(D, n, dtype=i8),
            "weight._scale": torch.ones(D, 1),
            "input_scale": torch.ones(()),
            "output_scale": torch.ones(()),
        },
        "weight._data",
        "quanto",
        TAKE,
    ),
}


def quantised(layer: Layer) -> State:
    state: State = {}
    for index, n in ((1, V), (2, D)):
        tensors = {"bias": torch.ones(D), **layer(n)}
        state |= {f"{P}linear_{index}.{name}": tensor for name, tensor in tensors.items()}
    return state


@pytest.mark.parametrize("name", FORMATS)
def test_quantised_projectors_are_named_with_their_format(name: str, tmp_path: Path) -> None:
    layer, key, what, hint = FORMATS[name]
    folder = saved(quantised(layer), tmp_path / "x", {"model_type": "llava"})
    message = f"quantised: {what}; expected plain floating-point weights. {hint}"
    assert refusal(folder) == f"X['{P}linear_1.{key}']: {message}"
    assert refusal(folder, root=P) == f"X['{P}linear_1.{key}']: {message}"
    # So is one inside wrappers, by the key in the file.
    inside = {key.replace(P, f"{P}_orig_mod."): t for key, t in quantised(layer).items()}
    saved(inside, tmp_path / "x", {"model_type": "llava"})
    assert refusal(folder) == f"X['{P}_orig_mod.linear_1.{key}']: {message}"


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_quantised_elsewhere_does_not_matter(name: str, tmp_path: Path) -> None:
    layer = FORMATS[name][0]
    others = {key.replace(P, "model.language_model."): t for key, t in quantised(layer).items()}
    state = {f"model.{key}": t for key, t in hf_mlp().items()}
    folder = saved({**others, **state}, tmp_path / "x", {"model_type": "llava"})
    assert inspect_checkpoint(folder).left == len(others)
    del state[f"{P}linear_2.bias"]
    saved({**others, **state}, folder)
    assert "1 tensor missing and 0 left over" in refusal(folder)


def test_a_quantised_layer_with_an_adapter_asks_for_merging(tmp_path: Path) -> None:
    state = adapted("lora_A.default.weight", "lora_B.default.weight")
    for key in list(state):
        if key.endswith("base_layer.weight"):
            state[f"{key}.absmax"] = state[f"{key}.quant_map"] = torch.ones(4)
            state[f"{key}.quant_map"] = torch.ones(16)
    assert refusal(saved(state, tmp_path / "x")).endswith(MERGE)
