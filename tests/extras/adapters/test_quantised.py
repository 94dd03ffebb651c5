"""Quantised linear layers in projectors: torchao's, and bitsandbytes' 8-bit ones."""

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from cases import CASES, GRID, D, Model, V, build, distance, tokens
from torch import Tensor, nn
from torchao.quantization import (
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    quantize_,
)

from mobilevlm import Projector

CLOSE = 0.05  # of the norm: 8 bits, through several layers


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("config", [Int8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig])
@pytest.mark.parametrize("case", CASES)
def test_torchao(case: str, config: type) -> None:
    model, x = Model(build(case)).eval(), tokens()
    layers = linear_layers(model.mm_projector)
    with torch.no_grad():
        expected = model.mm_projector(x)
        quantize_(model, config(version=2))
        assert all(type(layer.weight.data) is not Tensor for layer in layers)
        assert 0 < distance(model.mm_projector(x), expected) < CLOSE


def to_8_bit(module: nn.Module) -> None:
    """Put bitsandbytes' layer in every linear layer's place."""
    for name, child in list(module.named_children()):
        if not isinstance(child, nn.Linear):
            to_8_bit(child)
            continue
        bias = child.bias is not None
        layer = bnb.nn.Linear8bitLt(
            child.in_features, child.out_features, bias, has_fp16_weights=False, threshold=6.0
        )
        layer.weight = bnb.nn.Int8Params(
            child.weight.data, requires_grad=False, has_fp16_weights=False
        )
        layer.bias = child.bias
        setattr(module, name, layer.to("cpu").eval())  # in training it multiplies in fp32


@pytest.mark.parametrize("case", CASES)
def test_bitsandbytes_8_bit(case: str) -> None:
    """Its layer takes two or three axes."""
    model, x = Model(build(case)).eval(), tokens()
    calls: list[tuple[Tensor, Any]] = [(x, None)]
    if case != "drop-in linear":  # whose layer is the projector itself
        calls.append((x.transpose(1, 2).unflatten(2, GRID), None))
        calls.append((x.flatten(0, 1), [GRID, GRID]))
    with torch.no_grad():
        expected = [model.mm_projector(x, *([grid] if grid else [])) for x, grid in calls]
        to_8_bit(model)
        layers = linear_layers(model.mm_projector)
        assert all(type(layer) is bnb.nn.Linear8bitLt for layer in layers)
        for (x, grid), y in zip(calls, expected, strict=True):
            found = model.mm_projector(x, *([grid] if grid else []))
            assert 0 < distance(found, y) < CLOSE


# ---------------------------------------------------------------------- in a model of transformers


def llava(case: str) -> Any:
    """The class and the config of a small LLaVA that builds this projector."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    class Llava(LlavaForConditionalGeneration):
        def __init__(self, config: LlavaConfig) -> None:
            super().__init__(config)
            self.model.multi_modal_projector = build(case)
            self.post_init()

    side = 14 * GRID[0]
    vision = CLIPVisionConfig(
        hidden_size=V,
        intermediate_size=V,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=side,
        patch_size=14,
    )
    text = LlamaConfig(
        hidden_size=D,
        intermediate_size=D,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=100,
    )
    return Llava, LlavaConfig(vision_config=vision, text_config=text, image_token_index=99)


@pytest.mark.parametrize(
    "case", [*(case for case in CASES if case.startswith("drop-in")), "ldp", "c-abstractor", "mlp"]
)
def test_from_pretrained_in_8_bit(case: str, tmp_path: Path, quiet: None) -> None:
    from transformers import BitsAndBytesConfig

    cls, config = llava(case)
    model, x = cls(config).eval(), tokens()
    model.save_pretrained(tmp_path)
    projector = model.model.multi_modal_projector
    read = cls.from_pretrained(tmp_path, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    other = read.eval().model.multi_modal_projector
    # What is itself the projector is a Projector first, and is left as it is.
    left = [layer for layer in linear_layers(other) if type(layer) is not bnb.nn.Linear8bitLt]
    assert left == ([other] if case == "drop-in linear" else [])
    assert isinstance(other, Projector)
    dtype = next(p.dtype for p in other.parameters() if p.is_floating_point())
    image = torch.full((projector.tokens(*GRID),), 99)
    ids = torch.cat([torch.tensor([1, 2]), image, torch.tensor([3])])[None]
    with torch.no_grad():
        assert distance(other(x.to(dtype)).float(), projector(x)) < CLOSE
        pixels = torch.randn(1, 3, 14 * GRID[0], 14 * GRID[1])
        logits = read(input_ids=ids, pixel_values=pixels.to(dtype)).logits
    assert logits.shape == (1, len(image) + 3, 100)
    assert logits.isfinite().all()
