"""PEFT on projectors: LoRA merges, DoRA wraps, what is saved comes back."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from cases import CASES, DROP_INS, D, Model, V, build, distance, tokens
from peft import (
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from torch import nn

from mobilevlm import CheckpointError, load_projector

R = 4


def adaptable(projector: nn.Module) -> list[str]:
    """The layers that PEFT can adapt and merge: no convolution in groups, such as a depthwise."""
    return [
        f"mm_projector.{path}".removesuffix(".")
        for path, module in projector.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]


def disturb(model: nn.Module) -> None:
    """Give every adapter something to say: a new one adds nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("case", CASES)
def test_adapters_act_merge_and_come_back(case: str, dora: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    projector, x = build(case), tokens()
    targets = adaptable(projector)
    assert targets
    base = Model(projector).eval()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    config = LoraConfig(target_modules=targets, r=R, use_dora=dora)
    with torch.no_grad():
        plain = base(x)
        model = get_peft_model(base, config).eval()
        disturb(model)
        assert {f"base_model.model.{path}.lora_A.default.weight" for path in targets} <= dict(
            model.named_parameters()
        ).keys()
        expected = model(x)
        assert distance(expected, plain) > 1e-3
        model.save_pretrained(tmp_path)
        merged = model.merge_and_unload()
        assert distance(merged(x), expected) < 1e-5
        assert merged.state_dict().keys() == before.keys()
        assert type(merged.mm_projector) is type(projector)
        merged.load_state_dict(before)
        again = PeftModel.from_pretrained(merged, tmp_path).eval()
        assert distance(again(x), expected) < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_all_linear_finds_every_linear_layer(case: str) -> None:
    projector = build(case)
    linear = [path for path, module in projector.named_modules() if isinstance(module, nn.Linear)]
    model = get_peft_model(Model(projector), LoraConfig(target_modules="all-linear", r=R))
    names = dict(model.named_parameters())
    for path in linear:
        whole = f"mm_projector.{path}".removesuffix(".")
        assert f"base_model.model.{whole}.lora_A.default.weight" in names


def test_adapters_have_upstreams_shapes(tmp_path: Path) -> None:
    """The shapes that PEFT gives upstream's own modules: nn.Linear and nn.Conv2d."""
    linear = {"0": (V, D), "2": (D, D)}
    ldpnet: dict[str, tuple[int, ...]] = {"model.mlp.1": (V, D), "model.mlp.3": (D, D)}
    for step in (1, 2):
        block = f"model.mb_block.{step}.block"
        ldpnet |= {
            f"{block}.1.fc1": (D, 16, 1),
            f"{block}.1.fc2": (16, D, 1),
            f"{block}.2.0": (D, D, 1),
        }
    blocks = {f"{step}.proj.{part}": (D, D) for step in (3, 4) for part in (0, 2)}
    expected: dict[str, Mapping[str, tuple[int, ...]]] = {
        "drop-in linear": {"": (V, D)},
        "drop-in mlp2x_gelu": linear,
        "drop-in mlp2x_res2x_gelu": {**linear, **blocks},
        "drop-in ldpnet": ldpnet,
        "drop-in ldpnetv2": {"mlp.mlp.0": (V, D), "mlp.mlp.2": (D, D)},
    }
    for case, layers in expected.items():
        projector = build(case)
        config = LoraConfig(target_modules=adaptable(projector), r=R)
        get_peft_model(Model(projector), config).save_pretrained(tmp_path)
        shapes: dict[str, tuple[int, ...]] = {}
        for path, (in_, out, *kernel) in layers.items():
            whole = f"base_model.model.mm_projector.{path}".removesuffix(".")
            shapes[f"{whole}.lora_A.weight"] = (R, in_, *kernel, *kernel)
            shapes[f"{whole}.lora_B.weight"] = (out, R, *kernel, *kernel)
        saved = load_file(tmp_path / "adapter_model.safetensors")
        assert {key: tuple(value.shape) for key, value in saved.items()} == shapes, case


@pytest.mark.parametrize("case", [*(f"drop-in {name}" for name in DROP_INS), "ldp", "c-abstractor"])
def test_a_whole_projector_is_trained_and_saved(case: str, tmp_path: Path) -> None:
    """LLaVA's recipe: LoRA on the language model, the projector itself in `modules_to_save`."""
    base = Model(build(case))
    before = {key: value.clone() for key, value in base.state_dict().items()}
    config = LoraConfig(target_modules=["lm"], r=R, modules_to_save=["mm_projector"])
    model, x = get_peft_model(base, config), tokens()
    trained = [(k, p) for k, p in model.named_parameters() if "mm_projector" in k]
    optimizer = torch.optim.SGD([p for _, p in trained if p.requires_grad], lr=0.1)
    model.train()(x).square().mean().backward()
    optimizer.step()
    model.eval().save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(x)
        other = Model(build(case))
        other.load_state_dict(before)
        assert distance(expected, other.eval()(x)) > 1e-3
        again = PeftModel.from_pretrained(other, tmp_path).eval()
        assert torch.equal(again(x), expected)
    own = {f"base_model.model.{key}" for key in before if key.startswith("mm_projector")}
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert own == {key for key in saved if "mm_projector" in key}


def whole(model: nn.Module, folder: Path) -> Path:
    """Save the whole state dict, wrappers' names and all, as a trainer does."""
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("case", [f"drop-in {name}" for name in ("linear", "mlp2x_gelu", "ldpnet")])
def test_a_whole_state_dict_is_read(case: str, tmp_path: Path) -> None:
    """The trained copy, though the stale one and the wrappers' names stand there too."""
    model = get_peft_model(
        Model(build(case)), LoraConfig(target_modules=["lm"], modules_to_save=["mm_projector"])
    )
    trained = model.base_model.model.mm_projector.modules_to_save["default"]
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(2)
        found = load_projector(whole(model, tmp_path))
        x = tokens()
        assert distance(found.eval()(x), trained(x)) < 1e-6


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules=["0", "2"]),
        LoraConfig(target_modules=["0", "2"], use_dora=True),
        IA3Config(target_modules=["0", "2"], feedforward_modules=[]),
        LoHaConfig(target_modules=["0", "2"]),
        LoKrConfig(target_modules=["0", "2"]),
        OFTConfig(target_modules=["0", "2"], oft_block_size=8, r=0),
        VeraConfig(target_modules=["0", "2"]),
    ],
    ids=lambda config: f"{config.peft_type.value}",
)
def test_adapters_that_are_not_merged_are_named(config: PeftConfig, tmp_path: Path) -> None:
    model = get_peft_model(Model(build("drop-in mlp2x_gelu")), config)
    told = "an adapter beside it.*Merge it: .* merge_and_unload"
    with pytest.raises(CheckpointError, match=told):
        load_projector(whole(model, tmp_path))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=told):
        load_projector(tmp_path / "adapter")
