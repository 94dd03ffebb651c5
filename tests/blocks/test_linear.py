"""The linear layer: an ordinary one to everybody, and the right product on every processor."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.built_ins import OPTIONS
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mobilevlm import (
    BLOCKS,
    PROJECTORS,
    Feature,
    NonFiniteError,
    build_projector,
    build_vision_projector,
    fast_paths,
    find_nonfinite,
)
from mobilevlm.blocks.core import linear
from mobilevlm.blocks.core.activation import activation
from mobilevlm.blocks.core.linear import Linear, products, project

AVX512 = dict.fromkeys(("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq"), True)
X86 = {"architecture": "x86_64", "avx2": True}
PROCESSORS: dict[str, dict[str, Any]] = {
    "zen3": {**X86, "cpu_name": "AMD EPYC"},
    "zen4": {**X86, **AVX512, "cpu_name": "AMD EPYC", "avx512_bf16": True},
    "amd-without-bf16": {**X86, **AVX512, "cpu_name": "AMD EPYC"},
    "skylake": {**X86, **AVX512, "cpu_name": "Intel(R) Xeon(R)"},
    "haswell": {**X86, "cpu_name": "Intel(R) Xeon(R)"},
    "sapphire-rapids": {
        **X86,
        **AVX512,
        **dict.fromkeys(("avx512_bf16", "amx_bf16", "avx512_fp16"), True),
        "cpu_name": "Intel(R) Xeon(R)",
    },
    "lunar-lake": {**X86, "cpu_name": "Intel(R) Core(TM)", "avx_ne_convert": True},
    "graviton": {"architecture": "aarch64", "cpu_name": "Neoverse-V1"},
    "older-torch": {},
}
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
HALF = pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Take this processor for another one, whose instructions oneDNN may use or not."""

    def forget() -> None:
        linear._onednn.cache_clear()
        linear._lacks_units.cache_clear()

    def pretend(name: str, *, used: bool = True) -> None:
        found = PROCESSORS[name]
        has_bf16 = "avx512_f" in found or "avx_ne_convert" in found
        has_fp16 = "avx512_fp16" in found or "avx_ne_convert" in found
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
        primitives = {BF16: used and has_bf16, FP16: used and has_fp16}
        monkeypatch.setattr(linear, "_has_primitives", primitives.__getitem__)
        forget()

    yield pretend
    monkeypatch.undo()
    forget()


def layer(dtype: torch.dtype = FP32, in_: int = 128, out: int = 256) -> Linear:
    torch.manual_seed(0)
    return Linear(in_, out, dtype=dtype)


# ------------------------------------------------------------------ which product it is


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zen3", "torch, through fp32, through fp32"),
        ("zen4", "oneDNN, oneDNN, through fp32"),
        ("amd-without-bf16", "oneDNN, through fp32, through fp32"),
        ("skylake", "torch, through fp32, through fp32"),
        ("haswell", "torch, through fp32, through fp32"),
        ("sapphire-rapids", "torch, torch, torch"),
        ("lunar-lake", "torch, torch, torch"),
        ("graviton", "torch, torch, torch"),
        ("older-torch", "torch, torch, torch"),
    ],
)
def test_the_choice_on_each_processor(
    processor: Callable[..., None], name: str, expected: str
) -> None:
    processor(name)
    found = products()
    if found[BF16] == "torch" and name == "zen4":  # this machine's oneDNN has no such primitive
        assert runs_bf16_in_onednn() is False
        found[BF16] = "oneDNN"
    assert ", ".join(found[dtype] for dtype in (FP32, BF16, FP16)) == expected


def runs_bf16_in_onednn() -> bool:
    try:
        one = torch.ones(2, 2, dtype=BF16)
        torch.ops.mkldnn._linear_pointwise(one, one, None, "none", [], "")
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name", ["zen4", "sapphire-rapids", "lunar-lake"])
def test_onednn_may_be_told_to_use_fewer_instructions(
    processor: Callable[..., None], name: str
) -> None:
    processor(name, used=False)
    assert list(products().values()) == ["torch", "through fp32", "through fp32"]


def test_a_torch_that_tells_nothing_of_the_processor(
    processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor("zen4")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    for name in ("avx2", "avx512", "vnni"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: False)
    assert set(products().values()) == {"torch"}


@pytest.mark.parametrize("wrong", ["missing", "schema", "refuses", "other numbers"])
def test_without_the_private_operator(
    processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def operator(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
        if wrong == "schema":
            raise TypeError("takes 5 positional arguments but 6 were given")
        if wrong == "refuses":
            raise RuntimeError("could not create a primitive descriptor")
        return torch.zeros(*x.shape[:-1], len(weight), dtype=x.dtype)

    processor("zen4")
    fake = SimpleNamespace()
    if wrong != "missing":
        fake._linear_pointwise = SimpleNamespace(default=operator)
    monkeypatch.setattr(torch.ops, "mkldnn", fake)
    assert products()[FP32] == "torch"
    one, x = layer(), torch.randn(2, 576, 128)
    with torch.inference_mode():
        assert torch.equal(one(x), F.linear(x, one.weight, one.bias))


@pytest.mark.parametrize("grad", [True, False])
def test_an_operator_that_refuses_one_shape(
    processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch, grad: bool
) -> None:
    def refuses(*_: Any) -> Tensor:
        raise RuntimeError("could not create a primitive descriptor")

    monkeypatch.setattr(linear, "_onednn", lambda _: refuses)
    one, x = layer(), torch.randn(2, 576, 128)
    with torch.set_grad_enabled(grad):
        y = one(x)
        assert torch.equal(y, F.linear(x, one.weight, one.bias))
        if not grad:
            assert torch.equal(project(one, x, nn.GELU()), F.gelu(y))
    assert y.requires_grad is grad


def test_a_wrong_width_is_torchs_own_error(processor: Callable[..., None]) -> None:
    processor("zen4")
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        layer()(torch.randn(2, 576, 127))


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # by the switch itself
def test_onednn_switched_off_in_torch(
    processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError("called")

    monkeypatch.setattr(linear, "_onednn", lambda _: never)
    with torch.backends.mkldnn.flags(enabled=False):
        assert layer()(torch.randn(2, 576, 128)).shape == (2, 576, 256)


# ------------------------------------------------------------------------ half precision


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the rows that go through fp32."""
    rows: list[int] = []
    plain = linear._widened

    def counted(x: Tensor, *rest: Any) -> Any:
        wide = plain(x, *rest)
        if wide is not None:
            rows.append(x[..., 0].numel())
        return wide

    monkeypatch.setattr(linear, "_widened", counted)
    return rows


@HALF
def test_half_precision_goes_through_fp32_where_that_pays(
    processor: Callable[..., None], through: list[int], dtype: torch.dtype
) -> None:
    one = layer(dtype, 1024, 1024)
    with torch.inference_mode():
        processor("zen3")
        for rows in (1, 15, 16, 144):
            one(torch.randn(1, rows, 1024, dtype=dtype))
        assert through == [16, 144]
        processor("sapphire-rapids")
        one(torch.randn(1, 144, 1024, dtype=dtype))
    assert through == [16, 144]


@HALF
def test_gradients_of_half_precision_are_torchs_own(
    processor: Callable[..., None], through: list[int], dtype: torch.dtype
) -> None:
    processor("zen3")
    ours, x = layer(dtype), torch.randn(2, 576, 128, dtype=dtype)
    plain = nn.Linear(128, 256, dtype=dtype)
    plain.load_state_dict(ours.state_dict())

    def run(one: nn.Module) -> tuple[Tensor, ...]:
        given = x.clone().requires_grad_()
        y = one(given)
        return y, *torch.autograd.grad(y.sum(), [given, *one.parameters()])

    for a, b in zip(run(ours), run(plain), strict=True):
        assert torch.equal(a, b)
    assert not through


def distance(y: Tensor, truth: Tensor) -> float:
    return float((y.double() - truth).square().mean().sqrt())


@HALF
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("name", ["zen3", "amd-without-bf16"])
def test_half_precision_is_no_further_from_the_truth(
    processor: Callable[..., None], dtype: torch.dtype, bias: bool, scale: float, name: str
) -> None:
    processor(name)
    torch.manual_seed(0)
    one = Linear(1024, 512, bias=bias, dtype=dtype)
    x = (torch.randn(3, 100, 1024) * scale).to(dtype)
    with torch.inference_mode():
        double = None if one.bias is None else one.bias.double()
        truth = F.linear(x.double(), one.weight.double(), double)
        plain = F.linear(x, one.weight, one.bias)
        y = one(x)
    assert y.dtype == dtype
    assert distance(y, truth) <= 1.01 * distance(plain, truth)


@HALF
@pytest.mark.parametrize(
    "name",
    [
        *("mlp2x_gelu", "ldp", "ldpnetv2", "qwen2-vl"),
        pytest.param("c-abstractor", marks=pytest.mark.slow),
    ],
)
def test_projectors_in_half_precision_on_every_processor(
    processor: Callable[..., None], through: list[int], dtype: torch.dtype, name: str
) -> None:
    torch.manual_seed(0)
    half = build_projector(name, 256, 256, dtype=dtype).eval()
    truth = build_projector(name, 256, 256, dtype=torch.float64).eval()
    truth.load_state_dict(half.state_dict())
    x = torch.randn(1, 576, 256, dtype=dtype)
    with torch.inference_mode():
        expected = truth(x.double())
        with fast_paths(False):
            plain = half(x)
        for pretended in PROCESSORS:
            processor(pretended)
            y = half(x)
            if products()[dtype] != "torch" or name != "ldpnetv2":  # whose pool goes first there
                assert distance(y, expected) <= 1.01 * distance(plain, expected), pretended
    assert through


@HALF
@pytest.mark.parametrize("block", ["conv", "depthwise"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_in_half_precision(
    processor: Callable[..., None],
    through: list[int],
    dtype: torch.dtype,
    block: str,
    kernel: int,
) -> None:
    torch.manual_seed(0)
    fields = {"kernel": kernel, "stride": 2, **({"out": 32} if block == "conv" else {})}
    module = BLOCKS.get(block)(**fields).build(Feature(channels=32, ends=(32, 32))).to(dtype)
    x = torch.randn(2, 12, 12, 32).to(dtype)
    x[0, 0, 0, 0], x[0, 4, 4, 1] = float("nan"), float("inf")
    rows = 72 if kernel == 1 else 288  # a strided 1x1 is one of stride 1 on fewer tokens
    with torch.inference_mode():
        truth = copy.deepcopy(module).double()(x.double())
        with fast_paths(False):
            plain = module(x)
        processor("zen3")
        y = module(x)
        assert through == [rows]
        processor("sapphire-rapids")
        module(x)
        assert through == [rows]
    assert y.dtype == dtype
    assert torch.equal(y.isnan(), plain.isnan())
    assert torch.equal(y.isinf(), plain.isinf())
    finite = truth.isfinite() & plain.isfinite()
    assert distance(y[finite], truth[finite]) <= 1.01 * distance(plain[finite], truth[finite])
    x = torch.randn(2, 12, 12, 32).to(dtype).requires_grad_()
    processor("zen3")
    module(x).sum().backward()
    assert through == [rows]


@pytest.mark.parametrize("block", ["conv", "depthwise", "pointwise"])
def test_autocast_chooses_the_dtype_of_a_layer(processor: Callable[..., None], block: str) -> None:
    processor("zen3")
    module = BLOCKS.get(block)().build(Feature(channels=32, ends=(32, 32)))
    x = torch.randn(2, 12, 12, 32)
    with torch.inference_mode(), torch.autocast("cpu", dtype=BF16):
        assert module(x).dtype == BF16


@pytest.mark.parametrize("block", ["conv", "depthwise"])
def test_an_exported_convolution_is_one_operator(block: str) -> None:
    module = BLOCKS.get(block)().build(Feature(channels=32, ends=(32, 32)))
    program = torch.export.export(module, (torch.randn(1, 4, 4, 32),))
    calls = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.conv2d.default" in calls
    assert not any("aten.to" in call or "_to_copy" in call for call in calls), calls


def test_bf16_runs_with_fewer_instructions() -> None:
    """The crash of processors without AVX-512, on any that has oneDNN, in a process of its own."""
    code = """
        import torch
        from mobilevlm import build_projector
        from mobilevlm.blocks.core.linear import products
        for dtype in (torch.bfloat16, torch.float16):
            for name in ("mlp2x_gelu", "ldp", "qwen2-vl"):
                torch.manual_seed(0)
                half = build_projector(name, 128, 256, dtype=dtype).eval()
                truth = build_projector(name, 128, 256).eval()
                truth.load_state_dict(half.state_dict())
                x = torch.randn(1, 576, 128, dtype=dtype)
                with torch.inference_mode():
                    y, expected = half(x).float(), truth(x.float())
                assert (y - expected).abs().max() < 0.03 * expected.abs().max(), (name, dtype)
        assert products()[torch.bfloat16] in ("through fp32", "torch"), products()
        print("done")
    """
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **limits, "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == "done\n", found.stderr


# --------------------------------------------------------------------- special numbers


SPECIAL = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 20.0, -20.0]
SPECIAL += [88.0, -88.0, 104.0, -104.0, 6e4, -6e4, 1e18, -1e18, 3e38, -3e38]
SPECIAL += [1e-3, -1e-5, 1e-30, -1e-38, 5e-39, -1e-40, 1.4e-45]
ACTIVATIONS = (
    "none",
    "gelu",
    "gelu-tanh",
    "silu",
    "relu",
    "hardswish",
    "mish",
    "tanh",
    "leaky-relu",
)


def rows(dtype: torch.dtype, width: int) -> Tensor:
    """One special number a row, each in a column of its own; zeros but for those."""
    special = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    x = torch.zeros(64, width, dtype=dtype)
    x[range(len(special)), range(len(special))] = special
    return x


def plain(act: nn.Module, x: Tensor) -> Tensor:
    """Activate as torch does on the processors below: none of them computes fp16 by oneDNN.

    The one under the test may, and oneDNN's GELU makes NaN of plus infinity.
    """
    torch.backends.mkldnn.set_flags(x.dtype != FP16, None, None, None)
    try:
        y: Tensor = act(x)
    finally:
        torch.backends.mkldnn.set_flags(True, None, None, None)
    return y


def assert_same_kind(y: Tensor, expected: Tensor) -> None:
    """NaN where there is NaN, infinities where those are, and close numbers elsewhere."""
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())
    inf = expected.isinf()
    assert torch.equal(y[inf], expected[inf])
    finite = expected.isfinite()
    eps = 4 * torch.finfo(y.dtype).eps
    torch.testing.assert_close(y[finite].double(), expected[finite].double(), rtol=eps, atol=1e-36)


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["zen3", "zen4", "amd-without-bf16"])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_special_numbers_come_out_as_they_do_in_torch(
    processor: Callable[..., None], act: Any, name: str, dtype: torch.dtype
) -> None:
    processor(name)
    one, module = Linear(64, 1024, dtype=dtype), activation(act)
    with torch.no_grad():
        one.weight.copy_(torch.eye(64).repeat(16, 1))
        assert one.bias is not None
        one.bias.zero_()
        x = rows(dtype, 64)
        assert_same_kind(project(one, x, module), plain(module, F.linear(x, one.weight, one.bias)))
        assert_same_kind(one(x), F.linear(x, one.weight, one.bias))
        # As many in the weight.
        one.weight.copy_(rows(dtype, 64).repeat(16, 1))
        x = torch.eye(64, dtype=dtype)
        assert_same_kind(project(one, x, module), plain(module, F.linear(x, one.weight, one.bias)))


@pytest.mark.parametrize("where", ["x", "weight", "grad"])
def test_gradients_of_special_numbers(processor: Callable[..., None], where: str) -> None:
    processor("zen4")
    torch.manual_seed(0)
    ours, plain = Linear(64, 1024), nn.Linear(64, 1024)
    values = {
        "x": torch.randn(64, 64),
        "weight": torch.randn(1024, 64),
        "grad": torch.randn(64, 1024),
    }
    special = rows(FP32, values[where].shape[1])
    values[where] = torch.cat([special, values[where][64:]])
    found = []
    for one in (ours, plain):
        with torch.no_grad():
            one.weight.copy_(values["weight"])
            one.bias.zero_()
        x = values["x"].clone().requires_grad_()
        y = one(x)
        assert (type(y.grad_fn).__name__ == "_ProductBackward") is (one is ours)
        found.append((y, *torch.autograd.grad(y, [x, *one.parameters()], values["grad"])))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.isinf(), b.isinf())
        finite = b.isfinite()
        torch.testing.assert_close(a[finite], b[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("act", ["relu", "gelu"])
@pytest.mark.parametrize("name", ["zen3", "zen4"])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
def test_broken_weights_are_seen_in_the_output(
    processor: Callable[..., None], dtype: torch.dtype, name: str, act: str
) -> None:
    processor(name)
    projector = build_projector("mlp", 128, 256, act=act, dtype=dtype).eval()
    projector.blocks[0].weight.data.fill_(float("nan"))
    x = torch.randn(1, 576, 128, dtype=dtype)
    with torch.no_grad():
        assert projector(x).isnan().all()
        with (
            pytest.raises(NonFiniteError, match=r"blocks\.0"),
            find_nonfinite(projector),
        ):
            projector(x)
    torch.nn.init.normal_(projector.blocks[0].weight)
    x[0, 7, 0] = float("nan")
    with torch.no_grad():
        bad = projector(x).isnan()
    assert bad[0, 7].all()
    assert bad.sum() == 256


# ------------------------------------------------------------------- an ordinary layer


def test_it_is_an_nn_linear() -> None:
    one, plain = layer(), nn.Linear(128, 256)
    assert isinstance(one, nn.Linear)
    assert repr(one) == repr(plain)
    assert one.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(one.state_dict())
    x = torch.randn(2, 576, 128)
    with torch.inference_mode(), fast_paths(False):
        assert torch.equal(one(x), plain(x))
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert type(other) is Linear
        assert torch.equal(other(x), one(x))
    weights = {name: tensor.detach() * 2 for name, tensor in one.named_parameters()}
    torch.testing.assert_close(functional_call(one, weights, x), 2 * one(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["zen3", "zen4"])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
def test_compilers_and_exporters_see_one_operator(
    processor: Callable[..., None], dtype: torch.dtype, name: str
) -> None:
    processor(name)
    one, x = layer(dtype), torch.randn(2, 576, 128, dtype=dtype)
    for strict in (False, True):
        program = torch.export.export(one, (x,), strict=strict)
        calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert calls == ["aten.linear.default"]
    graph = torch.fx.symbolic_trace(one).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [F.linear]
    torch._dynamo.reset()
    compiled = torch.compile(one, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), F.linear(x, one.weight, one.bias))


def test_the_linear_layers_of_the_zoo_are_plain_ones() -> None:
    """In a chain they are nn.Linear itself, which is all that some tools look for."""
    for name in PROJECTORS.names():
        widths = (16, 16) if name == "identity" else (16, 24)
        with torch.device("meta"):
            projector = build_projector(name, *widths)
        kinds = {type(module) for module in projector.modules() if isinstance(module, nn.Linear)}
        assert kinds <= {nn.Linear, Linear}, name
        chained = [module for module in projector.blocks if isinstance(module, nn.Linear)]
        assert all(type(module) is nn.Linear for module in chained), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantiz:UserWarning")
def test_dynamic_quantisation_takes_the_layers_of_a_chain() -> None:
    projector = build_projector("mlp2x_gelu", 32, 48).eval()
    x = torch.randn(2, 64, 32)
    with torch.inference_mode():
        expected = projector(x)
        quantised = torch.ao.quantization.quantize_dynamic(projector, {nn.Linear}, torch.qint8)
        y = quantised(x)
    assert not any(isinstance(module, nn.Linear) for module in quantised.modules())
    assert (y - expected).abs().max() < 0.05 * expected.abs().max()


# -------------------------------------------------------- what is put in a layer's place


class ThreeAxes(nn.Module):
    """A quantised layer or an adapter: no `nn.Linear`, and at most three axes."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim > 3:
            raise RuntimeError(f"expected at most 3 axes, got {tuple(x.shape)}")
        return F.linear(x, self.inner.weight, self.inner.bias)


class ThreeAxesLinear(nn.Linear):
    """A quantised layer that is an `nn.Linear`, and takes at most three axes."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim > 3:
            raise RuntimeError(f"expected at most 3 axes, got {tuple(x.shape)}")
        return F.linear(x, self.weight, self.bias)


def put_wrapped(parent: nn.Module, name: str, old: nn.Linear) -> None:
    setattr(parent, name, ThreeAxes(old))


def put_subclass(parent: nn.Module, name: str, old: nn.Linear) -> None:
    new = ThreeAxesLinear(old.in_features, old.out_features, old.bias is not None, dtype=FP32)
    new.load_state_dict(old.state_dict())
    setattr(parent, name, new)


def replace_all(module: nn.Module, put: Callable[[nn.Module, str, nn.Linear], None]) -> int:
    count = 0
    for name, child in list(module.named_children()):
        if type(child) in (nn.Linear, Linear):
            put(module, name, child)
            count += 1
        else:
            count += replace_all(child, put)
    return count


def drop_in(name: str) -> nn.Module:
    config = SimpleNamespace(mm_projector_type=name, mm_hidden_size=8, hidden_size=12)
    projector: nn.Module = build_vision_projector(config)
    return projector


DROP_INS = ["mlp2x_gelu", "mlp2x_res2x_gelu", "ldpnetv2"]
NATIVE = [name for name in PROJECTORS.names() if not name.startswith("mlp") or name == "mlp"]


@pytest.mark.parametrize("put", [put_wrapped, put_subclass])
@pytest.mark.parametrize("name", [*NATIVE, *(f"drop-in {name}" for name in DROP_INS)])
def test_a_layer_that_takes_three_axes(name: str, put: Any) -> None:
    torch.manual_seed(0)
    if name.startswith("drop-in"):
        projector = drop_in(name.split()[1]).eval()
    else:
        widths = (8, 8) if name == "identity" else (8, 12)
        options = {} if name == "identity" else OPTIONS.get(name, {})
        projector = build_projector(name, *widths, **options).eval()
    grids = [(12, 16), (16, 12), (12, 16)]
    tokens, packed = torch.randn(2, 192, 8), torch.randn(576, 8)
    image = torch.randn(2, 8, 12, 16)

    def run() -> list[Tensor]:
        with torch.inference_mode():
            found = [projector(tokens, grid=(12, 16)), projector(packed, grid=grids)]
            if not getattr(projector, "_blocked", False):  # which maps never are
                found.append(projector(image))
            return found

    expected = run()
    replaced = replace_all(projector, put)
    assert replaced or name in ("identity", "drop-in identity")
    for y, wanted in zip(run(), expected, strict=True):
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)


def test_a_chain_that_somebody_has_edited() -> None:
    projector = build_projector("ldp", 8, 12).eval()
    x = torch.randn(2, 64, 8)
    with torch.inference_mode():
        expected = projector(x)
        projector.blocks.insert(1, nn.Identity())
        torch.testing.assert_close(projector(x), expected)
        del projector.blocks[1]
        assert replace_all(projector, put_subclass)
        torch.testing.assert_close(projector(x), expected)
        projector.blocks.insert(0, nn.Identity())  # a stand-in then says itself what it is
        torch.testing.assert_close(projector(x), expected)
