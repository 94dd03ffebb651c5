"""`build_vision_projector` in the place of LLaVA's and MobileVLM's: their keys, their code."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.golden import GOLDEN, golden
from reference.case import SMALL, randomize
from reference.published import DeepseekVL2, Nvila, Pooler
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from mobilevlm import (
    CheckpointError,
    GridError,
    Projector,
    build_vision_projector,
    load_projector,
    save_projector,
    to_upstream,
)

NAMES = [
    *("linear", "mlp2x_gelu", "mlp2x_res2x_gelu", "ldpnet", "ldpnetv2"),
    *("mlp1x_res1x_gelu", "mlp2x_gelu_Norm", "pooler"),
    *("mlp_downsample", "mlp_downsample_3x3_fix", "downsample_mlp_gelu"),
]
LAYOUTS = {
    "mlp2x_gelu": "mlp",
    "mlp2x_res2x_gelu": "mlp-res",
    "mlp1x_res1x_gelu": "mlp-res",
    "mlp2x_gelu_Norm": "mlp-norm",
    "mlp_downsample": "nvila",
    "mlp_downsample_3x3_fix": "nvila-lite",
    "downsample_mlp_gelu": "deepseek-vl2",
}
GOLDENS = ["ldpnet", "ldpnetv2", "mlp2x_res2x_gelu", "mlp2x_gelu_Norm"]


def config(name: str, in_: int = 16, out: int = 24) -> SimpleNamespace:
    return SimpleNamespace(mm_projector_type=name, mm_hidden_size=in_, hidden_size=out)


def golden_weights(name: str) -> dict[str, Tensor]:
    weights = {k.removeprefix("w."): v for k, v in golden(name).items() if k.startswith("w.")}
    # Upstream's LDPNetProjector holds its block as `model`; the vectors are the block's.
    return {f"model.{k}": v for k, v in weights.items()} if name == "ldpnet" else weights


@pytest.mark.parametrize("name", GOLDENS)
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


UPSTREAM: dict[str, Callable[[], nn.Module]] = {
    "pooler": lambda: Pooler(SMALL),
    "mlp_downsample_2x2_fix": lambda: Nvila(SMALL, 2),
    "mlp_downsample_3x3_fix": lambda: Nvila(SMALL, 3),
    "downsample_mlp_gelu": lambda: DeepseekVL2(SMALL, 2, 1),
}


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstreams_weights_compute_the_same(name: str) -> None:
    upstream, projector = UPSTREAM[name](), build_vision_projector(config(name))
    randomize(upstream)
    assert projector.load_state_dict(upstream.state_dict(), strict=True) == ([], [])
    for grid in ((12, 12), (12, 18), (7, 9)):
        for scale in (1.0, 1e-3):
            x = scale * torch.randn(2, grid[0] * grid[1], 16)
            with torch.inference_mode():
                y, expected = projector(x, grid=grid), upstream(x, grid)
            assert y.shape == expected.shape
            assert (y - expected).abs().max() / expected.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("mlp3x_res1x_gelu", ["0", "2", "4", "5.pre_norm", "5.proj.0", "5.proj.2"]),
        ("mlp1x_res1x_gelu", ["0", "1.pre_norm", "1.proj.0", "1.proj.2"]),
        ("mlp9x_gelu", [str(2 * step) for step in range(9)]),
        ("mlp9x-gelu", [str(2 * step) for step in range(9)]),
        ("mlp2x_gelu_Norm", ["0", "1", "3", "4"]),
        ("pooler", ["conv_pool", "proj.1"]),
        ("mlp_downsample", ["layers.1", "layers.2", "layers.4"]),
        ("downsample_mlp_gelu", ["layers.0", "layers.2"]),
        ("ldpv2", ["mlp.mlp.0", "mlp.mlp.2", "peg.peg.0"]),
        ("LlavaMultiModalProjector", ["blocks.0", "blocks.2"]),  # its own keys are no builder's
    ],
)
def test_the_keys_are_upstreams(name: str, keys: list[str]) -> None:
    state = build_vision_projector(config(name)).state_dict()
    assert sorted({key.rpartition(".")[0] for key in state}) == sorted(keys)


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


def llava(name: str) -> Any:
    """A model of transformers' that builds its projector as LLaVA's does."""
    from transformers import PretrainedConfig, PreTrainedModel

    class Llava(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__(config)
            self.mm_projector = build_vision_projector(config)
            self.post_init()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.mm_projector(x)
            return y

    return Llava(PretrainedConfig(mm_projector_type=name, mm_hidden_size=16, hidden_size=24))


@pytest.mark.parametrize("name", NAMES)
def test_names_lead_to_the_weights(name: str, tmp_path: Path, quiet: None) -> None:
    model, x = llava(name).eval(), torch.randn(1, 144, 16)
    state = model.state_dict()
    with torch.inference_mode():
        expected = model(x)
    # What LLaVA's training saves of an adapter.
    assert {k: v.shape for k, v in model.named_parameters()} == {
        k: v.shape for k, v in state.items()
    }
    model.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        read = type(model).from_pretrained(tmp_path, dtype=dtype).eval()
        assert all(torch.equal(v, state[k].to(dtype)) for k, v in read.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(type(model).from_pretrained(tmp_path).eval()(x), expected)
        other = llava(name).eval()
        assert torch.equal(functional_call(other, state, (x,)), expected)
        assert not torch.equal(other(x), expected)
        assert get_model_state_dict(model).keys() == state.keys()
        set_model_state_dict(other, get_model_state_dict(model))
        assert torch.equal(other(x), expected)
    part = {k: v for k, v in state.items() if not k.endswith("bias")}
    left = [k for k in state if k.endswith("bias")]
    assert sorted(model.load_state_dict(part, strict=False).missing_keys) == sorted(left)


@pytest.mark.parametrize("name", NAMES)
def test_it_lives_as_a_projector_does(name: str, tmp_path: Path) -> None:
    projector, x = build_vision_projector(config(name)).eval(), torch.randn(1, 144, 16)
    expected = projector(x)
    expected.sum().backward()
    assert all(parameter.grad is not None for parameter in projector.parameters())
    with torch.device("meta"):
        meta = build_vision_projector(config(name))
    meta.load_state_dict(projector.state_dict(), assign=True)
    empty = copy.deepcopy(projector).to("meta").to_empty(device="cpu")
    empty.load_state_dict(projector.state_dict())
    with torch.no_grad():
        assert torch.equal(meta(x), expected)
        assert torch.equal(empty(x), expected)
        torch.compiler.reset()
        compiled = torch.compile(projector, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected)
        program = torch.export.export(projector, (x,))
        torch.testing.assert_close(program.module()(x), expected)
    save_projector(projector, tmp_path)
    ours = load_projector(tmp_path)
    assert next(iter(ours.state_dict())).startswith("blocks.")
    assert type(ours) is Projector
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-6)
    for mode in (True, False):
        assert all(module.training == mode for module in projector.train(mode).modules())
        assert projector.native().training == mode
    assert projector.double()(x.double()).dtype == torch.float64


def test_modules_are_of_upstreams_classes() -> None:
    """What looks for modules by class, such as PEFT, meets upstream's."""
    convolutions = {}
    for name in NAMES:
        projector = build_vision_projector(config(name))
        for path, module in projector.named_modules():
            weight = module._parameters.get("weight")
            if weight is not None:
                kinds = {1: nn.LayerNorm, 2: nn.Linear, 4: nn.Conv2d}
                assert isinstance(module, kinds[weight.ndim]), path
            if isinstance(module, nn.Conv2d):
                convolutions[f"{name}.{path}"] = (module.kernel_size[0], module.groups)
    block = "ldpnet.model.mb_block"
    assert convolutions == {
        **{f"{block}.{step}.block.0.0": (3, 24) for step in (1, 2)},
        **{f"{block}.{step}.block.1.fc{fc}": (1, 1) for step in (1, 2) for fc in (1, 2)},
        **{f"{block}.{step}.block.2.0": (1, 1) for step in (1, 2)},
        "ldpnetv2.peg.peg.0": (3, 24),
        "pooler.conv_pool": (2, 1),
    }
    assert isinstance(build_vision_projector(config("linear")), nn.Linear)


GRIDS = [(12, 13), (14, 12), (12, 13)]


@pytest.mark.parametrize("name", [*NAMES, "mlp1x_gelu", "identity"])
@pytest.mark.parametrize("kind", ["tokens", "map", "packed"])
def test_it_takes_all_that_a_projector_takes(name: str, kind: str) -> None:
    projector = build_vision_projector(config(name, 16, 16))
    native, calls = projector.native(), dict.fromkeys(projector.modules(), 0)
    assert type(native) is Projector
    x, grid, times = torch.randn(2, 156, 16), (12, 13), 1
    if kind == "map":
        x, grid = x.transpose(1, 2).unflatten(2, grid), None
    elif kind == "packed":
        x, grid = torch.randn(480, 16), GRIDS
        times = 2 if projector.spec.needs_grid else 1

    def count(module: nn.Module, *_: Any) -> None:
        calls[module] += 1

    with torch.inference_mode():
        expected = native(x, grid=grid)
        torch.testing.assert_close(projector(x, grid=grid), expected, rtol=0, atol=1e-6)
        for module in calls:
            module.register_forward_hook(count)
        y = projector(x, grid=grid)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    # Whoever stands in a module's place is called, and as often as the sizes ask for.
    assert calls.pop(projector) == 1
    assert set(calls.values()) <= {times}


def test_packed_images_that_do_not_fit_are_refused() -> None:
    projector = build_vision_projector(config("ldpnetv2"))
    for grids in ([(12, 13), (11, 12)], [(12, 13)]):
        with pytest.raises(GridError):
            projector(torch.randn(156 + 132, 16), grid=grids)


@pytest.mark.parametrize("name", NAMES)
def test_the_native_one_shares_the_weights(name: str) -> None:
    projector, x = build_vision_projector(config(name)), torch.randn(1, 144, 16)
    native = projector.native()
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.mul_(0.5)
        torch.testing.assert_close(native(x), projector(x), rtol=0, atol=1e-6)
    projector.add_module("adapter", nn.Linear(2, 2))
    with pytest.raises(CheckpointError) as caught:
        projector.native()
    assert str(caught.value) == (
        "projector: other tensors than its specification builds: tensors left over: "
        "adapter.weight, adapter.bias. "
        "Undo what wraps its layers first: merge adapters, remove parametrizations."
    )


@pytest.mark.parametrize("name", NAMES[1:])
def test_an_adapter_takes_a_modules_place(name: str, tmp_path: Path) -> None:
    class Adapter(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.base(x) * self.scale
            return y

    for path in [
        k.removesuffix(".weight")
        for k in build_vision_projector(config(name)).state_dict()
        if k.endswith("weight")
    ]:
        projector = build_vision_projector(config(name))
        projector.set_submodule(path, Adapter(projector.get_submodule(path)))
        projector(torch.randn(1, 144, 16)).sum().backward()
        assert projector.get_submodule(path).scale.grad is not None
        with pytest.raises(CheckpointError):
            save_projector(projector, tmp_path)
        assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("name", NAMES)
def test_to_upstream_speaks_the_same_keys(name: str) -> None:
    drop_in = build_vision_projector(config(name))
    layout = LAYOUTS.get(name, name)
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


def test_the_pool_of_ldpnetv2_goes_before_the_last_linear_layer() -> None:
    class Rows(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.addmm.default:
                rows.append(args[1].shape[0])
            return func(*args, **(kwargs or {}))

    projector = build_vision_projector(config("ldpnetv2"))
    for watched, expected in ((False, [576, 144]), (True, [576, 576])):
        rows: list[int] = []
        if watched:  # what it gives is then that of the module, in upstream's order
            projector.mlp.register_forward_hook(lambda *_: None)
        with torch.no_grad(), Rows():
            projector(torch.randn(1, 576, 16))
        assert rows == expected
