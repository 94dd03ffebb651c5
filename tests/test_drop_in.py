"""`build_vision_projector` in the place of LLaVA's and MobileVLM's: their keys, their code."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from test_parity import GOLDEN, golden
from torch import Tensor, nn

from mobilevlm import CheckpointError, build_vision_projector, to_upstream


def config(name: str, in_: int = 16, out: int = 24) -> SimpleNamespace:
    return SimpleNamespace(mm_projector_type=name, mm_hidden_size=in_, hidden_size=out)


def golden_weights(name: str) -> dict[str, Tensor]:
    weights = {k.removeprefix("w."): v for k, v in golden(name).items() if k.startswith("w.")}
    # Upstream's LDPNetProjector holds its block as `model`; the vectors are the block's.
    return {f"model.{k}": v for k, v in weights.items()} if name == "ldpnet" else weights


@pytest.mark.parametrize("name", ["ldpnet", "ldpnetv2", "mlp2x_res2x_gelu"])
def test_upstreams_state_dict_loads_as_it_is(name: str) -> None:
    assert (GOLDEN / f"{name}.safetensors").is_file()
    vectors, weights = golden(name), golden_weights(name)
    projector = build_vision_projector(config(name))
    assert projector.load_state_dict(weights, strict=True) == ([], [])
    with torch.inference_mode():
        y = projector(vectors["x"])
    assert (y - vectors["y"]).abs().max() / vectors["y"].abs().max() < 1e-6
    state = projector.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], weights[key]) for key in weights)


class Model(nn.Module):
    """A model that holds its projector as LLaVA's does."""

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.before = nn.Linear(2, 2)
        self.mm_projector = projector


@pytest.mark.parametrize("name", ["linear", "mlp2x_gelu", "mlp3x_gelu", "ldpnet", "ldpnetv2"])
def test_llavas_own_code_works_unchanged(name: str) -> None:
    """LLaVA's initialize_vision_modules and its saving of the adapter, in their own words."""
    source = Model(build_vision_projector(config(name)))
    saved = {k: v.clone() for k, v in source.state_dict().items() if "mm_projector" in k}
    first = {"linear": "weight", "ldpnet": "model.mlp.1.weight", "ldpnetv2": "mlp.mlp.0.weight"}
    assert f"mm_projector.{first.get(name, '0.weight')}" in saved

    def get_w(weights: dict[str, Tensor], keyword: str) -> dict[str, Tensor]:
        return {k.split(keyword + ".")[1]: v for k, v in weights.items() if keyword in k}

    target = Model(build_vision_projector(config(name)))
    target.mm_projector.load_state_dict(get_w(saved, "mm_projector"))
    x = torch.randn(1, 144, 16)
    with torch.inference_mode():
        expected = source.mm_projector(x)
        assert torch.equal(target.mm_projector(x), expected)
        whole = Model(build_vision_projector(config(name)))
        assert whole.load_state_dict(source.state_dict(), strict=True) == ([], [])
        assert torch.equal(whole.mm_projector(x), expected)
        for other in (copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))):
            assert torch.equal(other.mm_projector(x), expected)
            assert other.state_dict().keys() == source.state_dict().keys()


def test_missing_extra_and_misshapen_tensors_are_torchs_errors() -> None:
    projector = build_vision_projector(config("mlp2x_gelu"))
    state = dict(projector.state_dict())
    state["4.weight"] = state.pop("2.weight")
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*Unexpected key"):
        projector.load_state_dict(state)
    state = dict(projector.state_dict())
    state["0.weight"] = torch.zeros(3, 3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        projector.load_state_dict(state)


def test_other_names_keep_our_keys() -> None:
    assert "blocks.0.weight" in build_vision_projector(config("ldp")).state_dict()
    assert list(build_vision_projector(config("identity", 16, 16)).state_dict()) == []


@pytest.mark.parametrize("name", ["linear", "mlp2x_gelu", "ldpnet", "ldpnetv2", "mlp2x_res2x_gelu"])
def test_to_upstream_speaks_the_same_keys(name: str) -> None:
    drop_in = build_vision_projector(config(name))
    layout = {"mlp2x_gelu": "mlp", "mlp2x_res2x_gelu": "mlp-res"}.get(name, name)
    state = {k.removeprefix("model."): v for k, v in drop_in.state_dict().items()}
    found = to_upstream(drop_in, layout)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_to_upstream_of_an_unknown_or_other_family() -> None:
    projector = build_vision_projector(config("mlp3x_gelu"))
    for family, message in {
        "qwen2vl": "unknown layout 'qwen2vl'. Did you mean 'qwen-vl' or 'qwen2-vl'?",
        "llava": "the layout names 2 modules, the projector has 3. It belongs to another family.",
    }.items():
        with pytest.raises(CheckpointError) as caught:
            to_upstream(projector, family)
        assert str(caught.value) == message
    with pytest.raises(CheckpointError, match="the layout names 2 modules, the projector has 1"):
        to_upstream(build_vision_projector(config("linear")), "llava")
