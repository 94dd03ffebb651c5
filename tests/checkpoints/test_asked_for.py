"""A family or a document that the caller names, where the config names no model that is known."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import WEIGHTS, equal, hf_mlp, mlp, refusal, same
from reference.case import plain
from reference.models import MODELS
from safetensors.torch import save_file
from torch import Tensor, nn

from mobilevlm import (
    CheckpointError,
    Projector,
    RegistryError,
    SpecError,
    build_projector,
    convert_checkpoint,
    inspect_checkpoint,
    inspect_values,
    load_projector,
    to_upstream,
)
from mobilevlm.projectors.upstream import Axes, Fused, Name


def folder(path: Path, state: dict[str, Tensor], **config: Any) -> Path:
    path.mkdir(exist_ok=True)
    save_file(state, path / WEIGHTS)
    (path / "config.json").write_text(json.dumps(config))
    return path


def stored(projector: Projector, layout: str, root: str) -> dict[str, Tensor]:
    state = to_upstream(projector, layout)
    # A tower and a language model, whose tensors are nobody's projector.
    others = {
        "visual.blocks.0.attn.proj.weight": torch.zeros(2, 2),
        "model.layers.0.mlp.gate_proj.weight": torch.zeros(2, 2),
        "lm_head.weight": torch.zeros(2, 2),
    }
    return {**{root + key: tensor.clone() for key, tensor in state.items()}, **others}


# ---------------------------------------------------------------------- family=

# What is published, with its own model type: the projector, its layout and root, the family to ask.
FORKS = {
    "keye": ("paddleocr-vl", "paddleocr-vl", "mlp_AR.", "KeyeVL1_5", "paddleocr-vl"),
    "keye, by its family": ("paddleocr-vl", "paddleocr-vl", "mlp_AR.", "KeyeVL1_5", "qwen2-vl"),
    "onevision-1.5": (
        *("qwen2-vl", "qwen2-vl", "model.visual.merger."),
        *("llavaonevision1_5", "qwen2-vl"),
    ),
    "kimi-vl": ("kimi-k25", "paddleocr-vl", "multi_modal_projector.", "kimi_vl", "kimi-k25"),
    "a fork of llava": ("llava", "llava", "multi_modal_projector.", "my_llava", "mlp"),
    "nothing": ("paddleocr-vl", "paddleocr-vl", "connector.", None, "paddleocr-vl"),
}


@pytest.mark.parametrize("name", FORKS)
def test_forks_with_a_model_type_of_their_own(name: str, tmp_path: Path) -> None:
    preset, layout, root, model_type, family = FORKS[name]
    projector = build_projector(preset, 16, 24)
    config = {} if model_type is None else {"model_type": model_type}
    folder(tmp_path, stored(projector, layout, root), **config)
    message = refusal(tmp_path)
    assert "lm_head" not in message
    assert "model.layers" not in message
    if model_type is not None:
        [call] = re.findall(r"load_projector\('X', .*family='[\w-]+'\)", message)
        again = eval(call.replace("'X'", repr(str(tmp_path))), {"load_projector": load_projector})
        assert (again.spec.in_, again.spec.out) == (16, 24)
    for given in (family, family.replace("-", "_")):
        loaded = load_projector(tmp_path, family=given)
        assert loaded.spec == projector.spec
        assert same(loaded, projector)
    found = inspect_checkpoint(tmp_path / WEIGHTS, family=family)
    assert (found.root, found.layout, found.left) == (root, layout, 3)
    assert found.family == {"llava": "mlp"}.get(preset, preset)
    assert len(inspect_values(tmp_path, family=family)) == len(found.used)
    convert_checkpoint(tmp_path, tmp_path / "mine", family=family)
    assert same(load_projector(tmp_path / "mine"), projector)


def test_eagle_and_sail_vl(tmp_path: Path) -> None:
    """InternVL's own names; what their config does not say is an option."""
    projector = build_projector("internvl", 16, 24, hidden=24)
    state = stored(projector, "internvl-chat", "mlp1.")
    folder(tmp_path, state, model_type="sailvl", downsample_ratio=0.5, ps_version="v2")
    loaded = load_projector(tmp_path, family="internvl")
    assert loaded.spec == projector.spec
    assert same(loaded, projector)
    folder(tmp_path, state, model_type="eagle_2_5_vl", downsample_ratio=0.5)
    assert load_projector(tmp_path, family="internvl", transpose=False).spec == projector.spec
    # An option in place of what the config says, and of the width that follows from it.
    other = load_projector(tmp_path, family="internvl", merge=4, transpose=False)
    assert (other.spec.in_, other.spec.blocks[0].size) == (4, (4, 4))  # type: ignore[attr-defined]


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["llava", "qwen2_vl", "qwen3_vl", "internvl", "idefics3", "aya_vision", "mistral3"]
)
def test_a_real_model_under_another_type(name: str, tmp_path: Path) -> None:
    case = MODELS[name]
    case.build().save_pretrained(tmp_path)
    known = load_projector(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_type": "somebody_elses"}))
    assert f"{case.preset} (" in refusal(tmp_path)
    loaded = load_projector(tmp_path, family=case.preset)
    assert loaded.spec == known.spec
    assert same(loaded, known)
    # A family that the config itself names is read as without it.
    path.write_text(json.dumps(config))
    assert load_projector(tmp_path, family=case.preset).spec == known.spec


def test_llavas_own_names_in_a_model_type_that_transformers_has_too(tmp_path: Path) -> None:
    folder(tmp_path, mlp(), model_type="llava")
    assert load_projector(tmp_path, family="mlp", act="relu").spec.blocks[1].act == "relu"  # type: ignore[attr-defined]


def test_options_override_what_the_reader_found(tmp_path: Path) -> None:
    folder(tmp_path, hf_mlp(), model_type="llava", projector_hidden_act="relu")
    assert load_projector(tmp_path).spec == build_projector("mlp", 16, 24, act="relu").spec
    loaded = load_projector(tmp_path, family="mlp", act="silu", prefix_tokens=1)
    assert loaded.spec == build_projector("mlp", 16, 24, act="silu", prefix_tokens=1).spec
    folder(tmp_path, hf_mlp(), model_type="llava", projector_hidden_act="unheard-of")
    loaded = load_projector(tmp_path, family="mlp", act="silu")
    assert loaded.spec == build_projector("mlp", 16, 24, act="silu").spec


# What only a config says: the family, its layout and root, and the option in the config's place.
OPTIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "deepseek-vl2": ("deepseek-vl2", "projector.", {"merge": 3}),
    "kimi-k25": ("kimi-k25-original", "mm_projector.", {"merge": 3}),
    "llama4": ("llama4-model", "model.", {"merge": 3}),
    "moss-transcribe": ("moss-transcribe", "multi_modal_projector.", {"frames": 2}),
    "muse-glimmer": ("muse-glimmer", "model.", {"merge": 3}),
    "ovis2": ("ovis2", "model.", {"merge": 3}),
    "voxtral": ("llava", "multi_modal_projector.", {"frames": 2}),
}


@pytest.mark.parametrize("config", [{}, {"model_type": "my_vlm"}])
@pytest.mark.parametrize("family", OPTIONS)
def test_an_option_in_place_of_a_setting_sets_the_input_width(
    family: str, config: dict[str, Any], tmp_path: Path
) -> None:
    layout, root, options = OPTIONS[family]
    inner = {"ovis2": {"words": 32}, "voxtral": {"hidden": 48}}.get(family, {})
    projector = build_projector(family, 16, 24, **inner, **options)
    folder(tmp_path, stored(projector, layout, root), **config)
    loaded = load_projector(tmp_path, family=family, **options)
    assert loaded.spec == projector.spec
    assert same(loaded, projector)


# What only a config says and has no default: the missing setting, and the option in its place.
NEEDED: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "c-abstractor": (
        *("abstractor.", "projector_config.num_query_tokens"),
        *({"hidden": 8, "depth": 1}, {"queries": 4}),
    ),
    "glm-4v-9b": (
        *("transformer.vision.", "vision_config.scaling_factor"),
        *({"hidden": 32}, {"scale": 0.25}),
    ),
}


@pytest.mark.parametrize("config", [{}, {"model_type": "my_vlm", "vision_config": {"depth": 2}}])
@pytest.mark.parametrize("family", NEEDED)
def test_the_hint_for_a_setting_that_is_missing_is_followed(
    family: str, config: dict[str, Any], tmp_path: Path
) -> None:
    root, path, inner, options = NEEDED[family]
    projector = build_projector(family, 16, 24, **inner, **options)
    folder(tmp_path, stored(projector, family, root), **config)
    [(name, value)] = options.items()
    message = refusal(tmp_path)
    assert message.startswith(f"X: config.json: {path}: missing; expected ")
    assert message.endswith(f", as family={family!r}, {name}=...")
    with pytest.raises(CheckpointError, match=rf", {name}=\.\.\.$"):
        load_projector(tmp_path, family=family, hidden=inner["hidden"])
    loaded = load_projector(tmp_path, family=family, **{name: value})
    assert loaded.spec == projector.spec
    assert same(loaded, projector)


@pytest.mark.parametrize(
    ("options", "message", "tensors"),
    [
        ({"depth": 3}, "X: the layout names 2 modules, the projector has 3. Does depth=3", True),
        ({"bias": False}, "X: 0 tensors missing and 2 left over for mlp\n", True),
        ({"act": "no-such"}, "X: mlp.act: \"no-such\"; expected 'gelu', ", False),
        ({"no_such": 1}, "X: mlp: unknown key 'no_such'; expected one of prefix_tokens", False),
    ],
)
def test_options_that_contradict_are_refused(
    options: dict[str, Any], message: str, tensors: bool, tmp_path: Path
) -> None:
    folder(tmp_path, hf_mlp(), model_type="llava")
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, family="mlp", **options)
    text = str(caught.value).replace(str(tmp_path), "X")
    assert text.startswith(message)
    [(name, value)] = options.items()
    hint = f"Does {name}={value!r} contradict the tensors? Without it, they say what they can."
    assert text.endswith(hint) is tensors


# What is done to the tensors of an MLP, and the end of the hint.
REASONS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "turned": (
        lambda each: each.mT.contiguous() if each.ndim == 2 else each,
        "It looks transposed or flattened. Save it as upstream does.",
    ),
    "empty": (lambda each: each[:0], "or run zero_to_fp32.py first."),
    "packed": (
        lambda each: each.reshape(-1, 1).to(torch.uint8),
        "Load the model without 4-bit quantisation and save it again.",
    ),
    "whole numbers": (
        lambda each: each.to(torch.int32),
        "Load the model without quantisation and save it again.",
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_of_its_own_is_not_blamed_on_the_options(reason: str, tmp_path: Path) -> None:
    change, hint = REASONS[reason]
    folder(tmp_path, {key: change(each) for key, each in hf_mlp().items()})
    for options in ({}, {"act": "relu"}):
        with pytest.raises(CheckpointError) as caught:
            load_projector(tmp_path, family="mlp", **options)
        assert caught.value.hint.endswith(hint)


def test_a_number_of_tokens_sets_the_familys_option(tmp_path: Path) -> None:
    projector = build_projector("qwen2-vl", 16, 24, merge=3)
    folder(tmp_path, stored(projector, "qwen2-vl", "visual.merger."), model_type="my_qwen")
    loaded = load_projector(tmp_path, family="qwen2-vl", tokens=64, grid=(24, 24))
    assert same(loaded, projector)
    for call in (inspect_checkpoint, load_projector):
        assert call(tmp_path, family="qwen2-vl", tokens=64, grid=(24, 24)).spec == projector.spec
    with pytest.raises(CheckpointError, match=r": tokens: 65 tokens of 24x24; expected one of 5"):
        load_projector(tmp_path, family="qwen2-vl", tokens=65, grid=(24, 24))
    with pytest.raises(SpecError, match=r"^option 'tokens' without a family\. Options belong to "):
        load_projector(tmp_path, tokens=64, grid=(24, 24))
    # What else counts is as the checkpoint has it.
    abstractor = build_projector("c-abstractor", 16, 24, queries=16, end=2, hidden=32, depth=1)
    folder(tmp_path / "c", stored(abstractor, "c-abstractor", "abstractor."))
    options = {"family": "c-abstractor", "grid": (6, 6)}
    assert load_projector(tmp_path / "c", tokens=18, **options).spec == abstractor.spec
    with pytest.raises(
        CheckpointError, match=r": tokens: 16 tokens; expected a square number plus "
    ):
        load_projector(tmp_path / "c", tokens=16, **options)
    with pytest.raises(CheckpointError, match=r"Does tokens=144 contradict the tensors\?"):
        load_projector(tmp_path, family="qwen2-vl", tokens=144, grid=(24, 24))


def test_arguments_that_do_not_go_together(tmp_path: Path) -> None:
    folder(tmp_path, hf_mlp(), model_type="llava")
    spec = build_projector("mlp", 16, 24).spec
    with pytest.raises(SpecError) as stray:
        load_projector(tmp_path, act="relu")
    assert str(stray.value) == (
        "option 'act' without a family. Options belong to a family: say which, as family='mlp', "
        "act=..."
    )
    with pytest.raises(SpecError, match=r"^option 'rot' without a family\. Did you mean 'root'\?"):
        load_projector(tmp_path, rot="x")
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, family="mlp", spec=spec)
    assert str(caught.value) == (
        "family= and spec=; expected one of them. A document says everything itself: leave out "
        "family=."
    )
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, module_names=["linear_1", "linear_2"])
    assert str(caught.value) == (
        "module_names= without spec=. Give the document that these modules are of: "
        "spec=load_spec('document.json')."
    )
    with pytest.raises(RegistryError, match=r"^unknown projector 'mlpp'. Did you mean 'mlp'\?"):
        load_projector(tmp_path, family="mlpp")


@pytest.mark.parametrize(
    ("family", "found"),
    [
        ("flamingo", "no tensors of flamingo's, among 4; expected keys that end in 'latents'"),
        ("deco", "deco is not read from checkpoints"),
        ("ldp", "ldp is not read from checkpoints"),  # others have no names for it
    ],
)
@pytest.mark.parametrize("root", [None, "multi_modal_projector."])
def test_a_family_that_the_tensors_are_not_of(
    family: str, found: str, root: str | None, tmp_path: Path
) -> None:
    """Of a model that is known, too: the caller insists on another family."""
    folder(tmp_path, hf_mlp(), model_type="llava")
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, family=family, root=root)
    message = str(caught.value).replace(str(tmp_path), "X")
    place = "" if root is None else f"root={root!r}, "
    assert message == (
        f"X: {found}. The tensors fit mlp (16 -> 24), internvl (4 -> 24), perception-lm (16 -> 24);"
        f" ask for the one that the model computes: load_projector('X', {place}family='mlp')."
    )
    for fitting in ("mlp", "internvl", "perception-lm"):
        assert load_projector(tmp_path, family=fitting, root=root).spec.out == 24


def test_the_first_tensor_of_each_naming_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder(tmp_path, {"merger.ln_q.weight": torch.zeros(16)}, model_type="my_vlm")
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, family="qwen2-vl")
    start = f"{tmp_path}: no tensors of qwen2-vl's, among 1; expected keys that end in 'mlp.0."
    assert str(caught.value).startswith(start)
    assert "'merger.ln_q" not in caught.value.expected
    assert caught.value.hint.startswith("Describe it as a document, and name its modules")


def test_a_family_elsewhere_than_at_the_root_that_is_given(tmp_path: Path) -> None:
    folder(tmp_path, hf_mlp(), model_type="llava")
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, family="mlp", root="visual")
    assert str(caught.value) == (
        f"{tmp_path}: no projector at root='visual.'; expected one of 'multi_modal_projector.'"
    )


@pytest.mark.parametrize("more", [{}, {"tokens": 64}])
def test_a_models_name_for_a_family(more: dict[str, Any], tmp_path: Path) -> None:
    folder(tmp_path, hf_mlp(), model_type="llava")
    for name, hint in {
        "SmolVLM": "SmolVLM uses idefics3: write family='idefics3', merge=3.",
        "qwen2vl": "Qwen2-VL uses qwen2-vl: write family='qwen2-vl'.",
        "idefics33": "Did you mean 'idefics3' or 'idefics'?",
    }.items():
        with pytest.raises(RegistryError) as caught:
            load_projector(tmp_path, family=name, **more)
        assert str(caught.value) == f"unknown projector {name!r}. {hint}"


def test_a_path_or_a_name_is_no_specification(tmp_path: Path) -> None:
    folder(tmp_path, hf_mlp(), model_type="llava")
    for spec, hint in {
        "doc.json": "Read a file with load_spec: spec=load_spec('doc.json').",
        "mlp": "Expand a name first: spec=spec_of('mlp', 1024, 2048).",
    }.items():
        with pytest.raises(SpecError) as caught:
            load_projector(tmp_path, spec=spec)  # type: ignore[arg-type]
        assert str(caught.value) == f"spec: {spec!r}; expected a mapping or a Stack. {hint}"


@pytest.mark.parametrize("root", [Path("foo"), 5, 0])
def test_a_root_that_is_no_text(root: Any, tmp_path: Path) -> None:
    folder(tmp_path, hf_mlp(), model_type="llava")
    for call in (load_projector, inspect_checkpoint, inspect_values):
        with pytest.raises(SpecError) as caught:
            call(tmp_path, root=root)
        assert str(caught.value) == (
            f"root: {root!r}; expected what stands before the keys, such as 'model.connector'"
        )


_A_NAME = "expected a module's name, a Name, a Fused or an Axes"
_NAMES = "expected a layout's name, or a list of module names in order of use"
NO_NAMES: list[tuple[Any, str]] = [
    ([1], f"[0]: 1; {_A_NAME}"),
    ([None, "y"], f"[0]: None; {_A_NAME}"),
    (["x", ("y",)], f"[1]: ('y',); {_A_NAME}"),
    ([Fused("x", (0, 5))], "[0]: order=(0, 5); expected each of 0, 1 once"),
    ([Fused("x", (0, 0))], "[0]: order=(0, 0); expected each of 0, 1 once"),
    (5, f": 5; {_NAMES}"),
    ({"x": "y"}, f": {{'x': 'y'}}; {_NAMES}"),
]


@pytest.mark.parametrize(("names", "message"), NO_NAMES)
def test_what_are_no_names_of_modules(names: Any, message: str, tmp_path: Path) -> None:
    folder(tmp_path, hf_mlp(), model_type="llava")
    projector = build_projector("mlp", 16, 24)
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, spec=projector.spec, module_names=names)
    assert str(caught.value) == f"module_names{message}"
    with pytest.raises(CheckpointError) as caught:
        to_upstream(projector, names)
    assert str(caught.value) == f"family{message}"


def test_a_function_that_returns_the_names(tmp_path: Path) -> None:
    folder(tmp_path, hf_mlp(), model_type="llava")
    projector = build_projector("mlp", 16, 24)
    names = ["linear_1", "linear_2"]
    loaded = load_projector(tmp_path, spec=projector.spec, module_names=lambda stack: names)
    assert same(loaded, load_projector(tmp_path, spec=projector.spec, module_names=names))
    with pytest.raises(CheckpointError, match=r"^names\[0\]: 1; expected .* or an Axes$"):
        load_projector(tmp_path, spec=projector.spec, module_names=lambda stack: [1])  # type: ignore[list-item, return-value]


def test_too_few_names_are_told_with_the_modules_that_need_one(tmp_path: Path) -> None:
    folder(tmp_path, hf_mlp(), model_type="llava")
    projector = build_projector("mlp", 16, 24)
    found = (
        "the layout names 1 module, the projector has 2. The modules that hold parameters are, in "
        "order of use: blocks.0 (Linear), blocks.2 (Linear)."
    )
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, spec=projector.spec, module_names=["linear_1"])
    assert str(caught.value) == f"{tmp_path}: {found}"
    with pytest.raises(CheckpointError) as caught:
        to_upstream(projector, ["linear_1"])
    assert str(caught.value) == found
    with pytest.raises(CheckpointError) as caught:
        to_upstream(projector, [Axes("rows", "columns"), "linear_2"])
    modules = found.partition(". ")[2]
    assert str(caught.value) == f"the layout does not fit the projector's modules. {modules}"
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, spec=projector.spec, module_names="qwen2-vl")
    assert str(caught.value) == (
        f"{tmp_path}: the layout names 3 modules, the projector has 2. It belongs to another "
        "family."
    )


def test_a_reason_against_a_family_is_kept(tmp_path: Path) -> None:
    """A model that is known to be another is no fork: asked for, it says why not."""
    state = {
        "query_tokens": torch.zeros(1, 2, 4),
        "qformer.embeddings.layernorm.weight": torch.zeros(4),
    }
    folder(tmp_path, state, model_type="instructblip")
    with pytest.raises(CheckpointError, match="whose Q-Former reads the instruction too"):
        load_projector(tmp_path, family="blip2")


# ---------------------------------------------------------------------- spec= and module_names=


class Own(nn.Module):
    """A connector that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.LayerNorm(16, eps=1e-3)
        self.gate_up = nn.Linear(16, 40)
        self.down = nn.Parameter(torch.randn(20, 24))

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_up(self.before(x)).chunk(2, -1)
        y: Tensor = (nn.functional.silu(gate) * value) @ self.down
        return y


DOCUMENT = {
    "in": 16,
    "out": 24,
    "blocks": [
        {"type": "norm-act", "eps": 1e-3, "act": "none"},
        {"type": "glu", "out": 20},
        {"type": "pointwise", "bias": False},
    ],
}
NAMES: list[str | Name | Fused] = ["before", Fused("gate_up", (0, 1)), Name("down", "matrix")]


@pytest.mark.parametrize("given", [None, "model.my_bridge", "model.my_bridge."])
def test_any_module_by_its_names(given: str | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    upstream = Own()
    state = {f"model.my_bridge.{key}": each for key, each in upstream.state_dict().items()}
    folder(tmp_path, {**state, "lm_head.weight": torch.zeros(2, 2)}, model_type="my_vlm")
    loaded = load_projector(tmp_path, spec=DOCUMENT, module_names=NAMES, root=given)
    equal(loaded, plain, upstream, (3, 5))
    found = inspect_checkpoint(tmp_path, spec=DOCUMENT, module_names=NAMES, root=given)
    assert (found.family, found.root, found.left) == ("document", "model.my_bridge.", 1)
    back = to_upstream(loaded, NAMES)
    assert all(torch.equal(back[key.removeprefix(found.root)], state[key]) for key in found.used)
    convert_checkpoint(tmp_path, tmp_path / "mine", spec=DOCUMENT, module_names=NAMES)
    assert same(load_projector(tmp_path / "mine"), loaded)
    # The full paths work too, whatever else there is.
    paths = [f"model.my_bridge.{each}" for each in ("before", "gate_up", "down")]
    whole = [paths[0], Fused(paths[1], (0, 1)), Name(paths[2], "matrix")]
    assert same(load_projector(tmp_path, spec=DOCUMENT, module_names=whole), loaded)


def test_nothing_is_left_over_below_a_root_that_is_given(tmp_path: Path) -> None:
    upstream = Own()
    state = {f"bridge.{key}": each.detach() for key, each in upstream.state_dict().items()}
    folder(tmp_path, {**state, "bridge.more.weight": torch.zeros(2)}, model_type="my_vlm")
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, spec=DOCUMENT, module_names=NAMES, root="bridge")
    assert "0 tensors missing and 1 left over for document\n  extra    bridge.more.weight" in str(
        caught.value
    )
    assert load_projector(tmp_path, spec=DOCUMENT, module_names=NAMES).spec.out == 24
    # A tensor of a module that is named is never left out.
    folder(tmp_path, {**state, "bridge.before.more": torch.zeros(2)}, model_type="my_vlm")
    with pytest.raises(CheckpointError, match=r"extra    bridge\.before\.more"):
        load_projector(tmp_path, spec=DOCUMENT, module_names=NAMES)


def test_the_name_of_a_layout_stands_for_its_names(tmp_path: Path) -> None:
    projector = build_projector("mlp", 16, 24, act="relu")
    root = "somewhere."
    folder(tmp_path, stored(projector, "llava", root), model_type="my_vlm")
    for layout in ("llava", ["linear_1", "linear_2"]):
        loaded = load_projector(tmp_path, spec=projector.spec, module_names=layout)
        assert same(loaded, projector)
        assert inspect_checkpoint(tmp_path, spec=projector.spec, module_names=layout).layout == (
            layout if isinstance(layout, str) else ""
        )
    with pytest.raises(CheckpointError, match=r"^unknown layout 'lava'. Did you mean 'llava' or"):
        load_projector(tmp_path, spec=projector.spec, module_names="lava")
    with pytest.raises(CheckpointError, match="the layout names 1 module, the projector has 2"):
        load_projector(tmp_path, spec=projector.spec, module_names=["linear_1"])


def test_the_hint_for_a_module_that_is_not_known_is_followed(tmp_path: Path) -> None:
    upstream = Own()
    state = {f"m.my_connector.{key}": each.detach() for key, each in upstream.state_dict().items()}
    folder(tmp_path, {**state, "lm_head.weight": torch.zeros(2, 2)}, model_type="my_vlm")
    message = refusal(tmp_path)
    assert message == (
        "X: no projector that is known of model type 'my_vlm', among 6 tensors; 'm.my_connector' "
        "looks like one. Describe it as a document, and name its modules in order of use: "
        "load_projector('X', root='m.my_connector.', spec=document, module_names=[...])."
    )
    [call] = re.findall(r"load_projector\(.*\)", message)
    call = call.replace("'X'", repr(str(tmp_path))).replace("[...]", "names")
    names = {"load_projector": load_projector, "document": DOCUMENT, "names": NAMES}
    equal(eval(call, names), plain, upstream, (3, 5))


def test_deepstack_mergers_of_a_model_that_is_not_known(tmp_path: Path) -> None:
    projector = build_projector("qwen3-vl", 16, 24)
    deep = build_projector("qwen3-vl-deepstack", 16, 24)
    state = stored(projector, "qwen3-vl", "visual.merger.")
    state |= {
        f"visual.deepstack_merger_list.0.{key}": tensor.clone()
        for key, tensor in to_upstream(deep, "qwen3-vl").items()
    }
    folder(tmp_path, state, model_type="my_vlm")
    assert same(load_projector(tmp_path, family="qwen2-vl"), projector)
    assert inspect_checkpoint(tmp_path, family="qwen2-vl").others == (
        "visual.deepstack_merger_list.0.",
    )
    root = "visual.deepstack_merger_list.0"
    loaded = load_projector(tmp_path, family="qwen3-vl-deepstack", root=root)
    assert loaded.spec == deep.spec
    assert same(loaded, deep)
