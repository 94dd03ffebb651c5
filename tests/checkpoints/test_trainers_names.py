"""Projectors under the names that training code and models' own code give them."""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import equal
from reference.case import Grid, Run, plain, randomize
from reference.more_families import CASES, Molmo
from safetensors.torch import save_file
from torch import Tensor, nn

from mobilevlm import build_projector, inspect_checkpoint, load_projector, to_upstream
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.projectors.zoo.minigpt_v2 import EVA_G

IN, OUT, HIDDEN = 16, 24, 20


def layers(*widths: int, act: Callable[[], nn.Module] = nn.GELU) -> nn.Sequential:
    """Linear layers with an activation between each two."""
    found: list[nn.Module] = []
    for in_, out in itertools.pairwise(widths):
        found += [nn.Linear(in_, out), act()]
    return nn.Sequential(*found[:-1])


def run_nanovlm(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    h, w = grid
    x = x.view(len(x), h // 2, 2, w // 2, 2, -1).transpose(2, 3).flatten(3).flatten(1, 2)
    y: Tensor = module(x)
    return y


def run_minigpt(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x.reshape(len(x), -1, 4 * EVA_G))
    return y


def run_got(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x.transpose(1, 2).unflatten(2, grid))
    return y


class Got(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(IN, 2 * IN, 3, 2, 1, bias=False),
            nn.Conv2d(2 * IN, OUT, 3, 2, 1, bias=False),
            nn.Linear(OUT, OUT),
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self
        y: Tensor = last(second(first(x)).flatten(2).transpose(1, 2))
        return y


@dataclass
class Naming:
    """A naming: the family, an original, where its modules are, and the config beside.

    `names` gives for each of the original's modules with parameters its name in the file.
    """

    family: str
    build: Callable[[], nn.Module]
    names: dict[str, str]
    root: str
    options: dict[str, Any] = field(default_factory=dict)
    run: Run = plain
    config: dict[str, Any] | None = None
    others: tuple[str, ...] = ()
    in_: int = IN
    out: int = OUT
    grids: tuple[Grid, ...] = ((4, 6), (8, 8))


def numbered(before: str, *steps: int) -> dict[str, str]:
    return {str(step): f"{before}{step}" for step in steps}


NAMINGS = {
    "TinyLLaVA": Naming(
        "mlp",
        lambda: layers(IN, OUT, OUT),
        numbered("connector._connector.", 0, 2),
        "connector._connector.",
        config={"model_type": "tinyllava", "connector_type": "mlp2x_gelu"},
        others=("language_model.model.norm.weight",),
    ),
    "TinyLLaVA, linear": Naming(
        "linear",
        lambda: nn.Linear(IN, OUT),
        {"": "connector._connector"},
        "connector._connector.",
        config={"model_type": "tinyllava", "connector_type": "linear"},
        others=("language_model.model.norm.weight",),
    ),
    "XTuner": Naming(
        "mlp",
        lambda: layers(IN, OUT, OUT, OUT, act=nn.SiLU),
        numbered("model.", 0, 2, 4),
        "model.",
        {"depth": 3, "act": "silu"},
        config={"model_type": "projector", "depth": 3, "hidden_act": "silu"},
    ),
    "VideoLLaMA 3": Naming(
        "mlp",
        lambda: layers(IN, OUT, OUT),
        numbered("model.mm_projector.readout.", 0, 2),
        "model.mm_projector.",
        config={"model_type": "videollama3_qwen2", "mm_projector_type": "mlp2x_gelu"},
        others=("model.norm.weight",),
    ),
    "nanoVLM": Naming(
        "idefics3",
        lambda: nn.Linear(4 * IN, OUT, bias=False),
        {"": "MP.proj"},
        "MP.",
        {"merge": 2},
        run_nanovlm,
        {"vit_hidden_dim": IN, "lm_hidden_dim": OUT, "mp_pixel_shuffle_factor": 2},
        ("decoder.norm.weight",),
    ),
    "MiniGPT-4": Naming(
        "linear",
        lambda: nn.Linear(IN, OUT),
        {"": "llama_proj"},
        "llama_proj.",
        grids=((1, 32),),
    ),
    "MiniGPT-v2": Naming(
        "minigpt-v2",
        lambda: nn.Linear(4 * EVA_G, OUT),
        {"": "llama_proj"},
        "llama_proj.",
        run=run_minigpt,
        in_=EVA_G,
        grids=((4, 8),),
    ),
    "Prismatic": Naming(
        "prismatic",
        lambda: layers(IN, OUT, OUT),
        {"0": "projector.fc1", "2": "projector.fc2"},
        "projector.",
        {"fused": False},
        config={"model_type": "prismatic"},
        others=("language_model.model.norm.weight",),
    ),
    "OpenVLA": Naming(
        "prismatic",
        lambda: layers(IN, 4 * IN, OUT, OUT),
        {"0": "projector.fc1", "2": "projector.fc2", "4": "projector.fc3"},
        "projector.",
        config={"model_type": "openvla"},
        others=("language_model.model.norm.weight",),
    ),
    "Megatron": Naming(
        "mlp",
        lambda: layers(IN, OUT, OUT),
        {
            "0": "vision_projection.encoder.linear_fc1",
            "2": "vision_projection.encoder.linear_fc2",
        },
        "vision_projection.encoder.",
        others=("language_model.decoder.final_layernorm.weight",),
    ),
    "GOT": Naming(
        "got-ocr2",
        Got,
        {
            "0": "model.vision_tower_high.net_2",
            "1": "model.vision_tower_high.net_3",
            "2": "model.mm_projector_vary",
        },
        "model.",
        run=run_got,
        config={"model_type": "GOT"},
        others=("model.vision_tower_high.neck.0.weight", "model.norm.weight"),
        grids=((8, 12), (16, 16)),
    ),
    "Moondream 2": Naming(
        "moondream2",
        lambda: layers(IN, HIDDEN, OUT, act=lambda: nn.GELU("tanh")),
        {"0": "model.vision.proj_mlp.fc1", "2": "model.vision.proj_mlp.fc2"},
        "model.vision.proj_mlp.",
        {"hidden": HIDDEN},
        config={"model_type": "moondream1"},
        others=("model.vision.post_ln.weight",),
    ),
    "Moondream 2 of 2024": Naming(
        "moondream2",
        lambda: layers(IN, HIDDEN, OUT, act=lambda: nn.GELU("tanh")),
        {
            "0": "vision_encoder.projection.mlp.fc1",
            "2": "vision_encoder.projection.mlp.fc2",
        },
        "vision_encoder.projection.mlp.",
        {"hidden": HIDDEN},
        config={"model_type": "moondream1"},
        others=("text_model.lm_head.ln.weight",),
    ),
}


def of_family(
    name: str, before: str, build: Callable[[], nn.Module] | None = None, **fields: Any
) -> Naming:
    """A naming whose modules are those of the family's original, below a path."""
    case = CASES[name]
    build = build or case.build
    names = {path: f"{before}{path}" for path, _ in build().named_modules()}
    return Naming(case.preset, build, names, before, dict(case.options), case.run, **fields)


MODELS = {
    "Phi-3.5 Vision": of_family(
        "phi-3-vision",
        "model.vision_embed_tokens.",
        config={"model_type": "phi3_v"},
        others=("model.vision_embed_tokens.glb_GN", "model.norm.weight"),
    ),
    "Molmo": of_family(
        "molmo",
        "model.vision_backbone.",
        lambda: Molmo(16),
        config={"model_type": "molmo"},
        others=("model.vision_backbone.pad_embed", "model.transformer.ln_f.weight"),
        in_=2 * IN,
    ),
    "GLM-4V-9B": of_family(
        "glm-4v-9b",
        "transformer.vision.",
        config={"model_type": "chatglm", "vision_config": {"scaling_factor": 8}},
        others=("transformer.vision.patch_embedding.cls_embedding", "lm_head.weight"),
    ),
    "DocOwl 1.5": of_family(
        "h-reducer",
        "model.vision2text.",
        config={"model_type": "mplug_docowl"},
        others=("model.norm.weight",),
        grids=((8, 8), (3, 12)),
    ),
    "Step-3": of_family(
        "step3",
        "model.",
        config={"model_type": "step3_vl"},
        others=("model.vision_model.embeddings.class_embedding", "model.norm.weight"),
    ),
}


@pytest.mark.parametrize("name", NAMINGS | MODELS)
def test_it_is_recognised_whatever_the_config_says(name: str, tmp_path: Path) -> None:
    naming = (NAMINGS | MODELS)[name]
    torch.manual_seed(0)
    original = naming.build().eval()
    randomize(original)
    state: dict[str, Tensor] = {}
    for path, module in original.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            before = naming.names[path]
            separator = "." if before and not before.endswith(".") else ""
            state[f"{before}{separator}{leaf}"] = parameter.detach()
    rest = {key: torch.full((3,), torch.nan) for key in naming.others}
    save_file({**state, **rest}, tmp_path / "model.safetensors")
    if naming.config is not None:
        (tmp_path / "config.json").write_text(json.dumps(naming.config))
    found = inspect_checkpoint(tmp_path)
    assert (found.family, found.root) == (naming.family, naming.root)
    ours = load_projector(tmp_path, check_values=True)
    if name in NAMINGS:
        expected = build_projector(naming.family, naming.in_, naming.out, **naming.options)
        assert ours.spec == expected.spec
    equal(ours, naming.run, original, *naming.grids)
    back = {found.root + key: value for key, value in to_upstream(ours, found.layout).items()}
    assert set(back) == set(found.used)
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.items())


def janus(root: str, *modules: str) -> dict[str, Tensor]:
    state = {}
    for path in modules:
        state[f"{root}.{path}.weight"] = torch.randn(24, 16 if path == "fc1" else 24)
        state[f"{root}.{path}.bias"] = torch.randn(24)
    return state


# Janus' tensors, what its config says, and the refusal.
JANUS: dict[str, tuple[dict[str, Tensor], dict[str, Any], str]] = {
    "another second layer": (
        janus("aligner", "fc1", "fc2"),
        {},
        "0 tensors missing and 2 left over for mlp\n"
        "  extra    aligner.fc2.bias (24,)\n"
        "  extra    aligner.fc2.weight (24, 24)",
    ),
    "a layer is missing": (
        janus("aligner", "fc1", "hidden_layers.0"),
        {"vision_config": {"depth": 3}},
        "2 tensors missing and 0 left over for mlp\n"
        "  missing  aligner.hidden_layers.1.weight (24, 24)\n"
        "  missing  aligner.hidden_layers.1.bias (24,)",
    ),
    "a layer of transformers' default is missing": (
        janus("aligner", "fc1"),
        {"vision_config": {"model_type": "janus_vision_model"}},
        "2 tensors missing and 0 left over for mlp\n"
        "  missing  aligner.hidden_layers.0.weight (24, 24)\n"
        "  missing  aligner.hidden_layers.0.bias (24,)",
    ),
    "a layer within is missing": (
        janus("aligner", "fc1", "hidden_layers.1"),
        {},
        "2 tensors missing and 0 left over for mlp\n"
        "  missing  aligner.hidden_layers.0.weight (24, 24)\n"
        "  missing  aligner.hidden_layers.0.bias (24,)",
    ),
    "a weight is missing": (
        {**janus("aligner", "fc1"), "aligner.hidden_layers.0.bias": torch.zeros(24)},
        {},
        "1 tensor missing and 0 left over for mlp\n"
        "  missing  aligner.hidden_layers.0.weight (24, 24)",
    ),
    "the aligner of generated tokens": (
        janus("generation_aligner", "fc1", "hidden_layers.0"),
        {"vq_config": {"num_hidden_layers": 3}},
        "2 tensors missing and 0 left over for mlp\n"
        "  missing  generation_aligner.hidden_layers.1.weight (24, 24)\n"
        "  missing  generation_aligner.hidden_layers.1.bias (24,)",
    ),
}


@pytest.mark.parametrize("name", JANUS)
def test_janus_is_refused_with_the_tensors_that_are_missing(name: str, tmp_path: Path) -> None:
    state, config, message = JANUS[name]
    save_file(state, tmp_path / "model.safetensors")
    if config:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "janus", **config}))
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, root=next(iter(state)).split(".")[0])
    assert caught.value.found == message


BARE = (
    {"fc1": (24, 16), "fc2": (24, 24)},
    {"linear_fc1": (24, 16), "linear_fc2": (24, 24)},
    {"embedding_projection": (24, 16)},
    {"proj": (24, 64)},
)


@pytest.mark.parametrize("modules", BARE, ids=lambda modules: next(iter(modules)))
def test_names_that_say_too_little_without_their_path(
    modules: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    state = {f"{path}.weight": torch.zeros(shape) for path, shape in modules.items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no projector that is known|1 left over for mlp"):
        load_projector(tmp_path)


@pytest.mark.parametrize("wide", [16, 4 * EVA_G])
def test_a_bare_layer_is_linear(wide: int, tmp_path: Path) -> None:
    save_file(
        {"weight": torch.zeros(24, wide), "bias": torch.zeros(24)}, tmp_path / "a.safetensors"
    )
    found = inspect_checkpoint(tmp_path / "a.safetensors")
    assert (found.family, found.spec.in_) == ("linear", wide)


REFUSED = {
    "a C-Abstractor's end is no MLP": (
        {"mm_projector.readout.0": (24, 16), "mm_projector.readout.2": (24, 24)},
        {"mm_projector.pos_emb.x": (1, 4)},
        "left over",
    ),
    "a merger in Megatron's names": (
        {
            "vision_projection.encoder.linear_fc1": (64, 64),
            "vision_projection.encoder.linear_fc2": (24, 64),
        },
        {},
        "layers 64 -> 64 -> 24; expected those of LLaVA's MLP",
    ),
    "nanoVLM's without its config": (
        {"MP.proj": (24, 64)},
        {},
        "cannot be read as nanovlm: .*mp_pixel_shuffle_factor",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_names_alone_do_not_say(name: str, tmp_path: Path) -> None:
    modules, others, message = REFUSED[name]
    state = {f"{path}.weight": torch.zeros(shape) for path, shape in modules.items()}
    if "MP.proj" not in modules:
        state |= {f"{path}.bias": torch.zeros(shape[0]) for path, shape in modules.items()}
    state |= {f"{path}.weight": torch.zeros(shape) for path, shape in others.items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_projector(tmp_path)
