"""The fast forms: the same numbers as the plain ones, and out of the way of everybody else."""

import copy
import itertools
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from helpers.plugins import at_once
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mobilevlm import Projector, build_projector, fast_paths, plan_projector
from mobilevlm.blocks.core import fast, linear
from mobilevlm.blocks.core.chain import Chain, order
from mobilevlm.blocks.norm_act import NormActModule
from mobilevlm.blocks.pool import AdaptiveAvgPool, BilinearPool, WindowPool
from mobilevlm.blocks.residual import ResidualModule

NAMES = ("linear", "mlp2x_gelu", "ldp", "ldpnet", "ldpnetv2", "perception-lm")
NAMES += ("llava-onevision-video", "qwen2-vl", "qwen2-5-vl", "gemma3", "aya-vision", "idefics2")
SMALL: dict[str, dict[str, Any]] = {
    "aya-vision": {"hidden": 256},
    "idefics2": {"hidden": 256, "queries": 64, "heads": 4, "kv_heads": 2, "head_dim": 32},
}


AMD: dict[str, Any] = {"architecture": "x86_64", "cpu_name": "AMD EPYC"}
AMD["avx512_bf16"] = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # oneDNN may be limited
AMD |= dict.fromkeys(("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq"), True)


@pytest.fixture(autouse=True)
def product(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """Take any processor for an AMD one with AVX-512, and count the calls of oneDNN's product."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AMD)
    monkeypatch.setattr(linear, "_has_primitives", lambda dtype: dtype == torch.bfloat16)
    linear._onednn.cache_clear()
    linear._lacks_units.cache_clear()
    calls: list[tuple[Any, ...]] = []
    find = linear._onednn
    assert find(torch.float32) is not None

    def counted(dtype: torch.dtype) -> Any:
        operator = find(dtype)

        def call(*args: Any) -> Tensor:
            calls.append(args)
            y: Tensor = operator(*args)
            return y

        return None if operator is None else call

    monkeypatch.setattr(linear, "_onednn", counted)
    yield calls
    monkeypatch.undo()
    linear._onednn.cache_clear()
    linear._lacks_units.cache_clear()


def build(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_projector(name, 128, 256, **SMALL.get(name, {}), **arguments)


def relative(y: Tensor, expected: Tensor) -> float:
    assert y.shape == expected.shape
    assert y.dtype == expected.dtype
    return float(((y - expected).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("grid", [(24, 24), (16, 36)])
@pytest.mark.parametrize("name", NAMES)
def test_forward_equals_the_plain_one(
    name: str, grid: tuple[int, int], scale: float, product: list[Any]
) -> None:
    projector = build(name)
    x = torch.randn(2, grid[0] * grid[1], 128) * scale
    before = x.clone()
    with torch.inference_mode():
        with fast_paths(False):
            expected = projector(x, grid=grid)
        assert not product
        y = projector(x, grid=grid)
    assert product
    assert relative(y, expected) < 1e-5
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_the_plain_ones(name: str, product: list[Any]) -> None:
    projector = build(name)
    double = build(name, dtype=torch.float64)
    double.load_state_dict(projector.state_dict())
    tokens = torch.randn(2, 576, 128)

    def gradients(projector: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        x.requires_grad_()
        y = projector(x)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        return torch.autograd.grad((y * weight.to(y)).sum(), [x, *projector.parameters()])

    with fast_paths(False):
        truth = gradients(double, tokens.double())
        plain = gradients(projector, tokens.clone())
        assert not product
    fast = gradients(projector, tokens.clone())
    assert product
    for exact, one, other in zip(truth, plain, fast, strict=True):
        # Where terms cancel, as in a bias before a norm, rounding is all there is to compare.
        error, rounding = float((other - exact).abs().max()), float((one - exact).abs().max())
        assert error <= max(1e-5 * float(exact.abs().max()), 2 * rounding)


def test_frozen_parts_get_no_gradient() -> None:
    projector = build("linear")
    projector.blocks[0].weight.requires_grad_(False)
    y = projector(torch.randn(1, 576, 128))
    y.sum().backward()
    assert projector.blocks[0].weight.grad is None
    assert torch.equal(projector.blocks[0].bias.grad, torch.full((256,), 576.0))


def test_second_derivatives() -> None:
    projector = build("mlp2x_gelu")
    x = torch.randn(1, 576, 128, requires_grad=True)

    def penalty() -> Tensor:
        [gradient] = torch.autograd.grad(projector(x).square().sum(), [x], create_graph=True)
        [second] = torch.autograd.grad(gradient.square().sum(), [x])
        return second

    with fast_paths(False):
        expected = penalty()
    assert relative(penalty(), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", ["ldpnetv2", "perception-lm", "llava-onevision-video", "ldp"])
def test_half_precision_is_no_further_from_the_truth(name: str, dtype: torch.dtype) -> None:
    half = build(name, dtype=dtype)
    truth = build(name, dtype=torch.float64)
    truth.load_state_dict(half.state_dict())
    x = torch.randn(4, 576, 128, dtype=dtype)
    with torch.inference_mode():
        with fast_paths(False):
            expected, plain = truth(x.double()), half(x)
        fast = half(x)

    def error(y: Tensor) -> float:
        return float((y.double() - expected).square().mean().sqrt())

    assert error(fast) <= 1.01 * error(plain)


# ---------------------------------------------------------------------- pool and linear


def test_a_pool_goes_before_the_linear_layers_it_follows() -> None:
    gelu = NormActModule(nn.Identity(), nn.GELU())
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    for pool in (WindowPool("avg", 2, True), AdaptiveAvgPool((2, 2), None), BilinearPool(2)):
        assert order([gelu, first, second, pool]) == [0, 3, 1, 2]
        assert order([first, gelu, pool, second]) == [0, 1, 2, 3]
        assert order([first, pool, second, pool]) == [1, 3, 0, 2]
    assert order([first, WindowPool("max", 2, False)]) == [0, 1]


def test_it_stays_where_it_is_when_somebody_looks() -> None:
    class Lora(nn.Linear):
        pass

    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    pool = WindowPool("avg", 2, False)
    assert order([Lora(4, 4), pool]) == [0, 1]
    linear = nn.Linear(4, 4)
    parametrize.register_parametrization(linear, "weight", Double())
    assert order([linear, pool]) == [0, 1]
    linear = nn.Linear(4, 4)
    for module in (linear, pool):
        for register in ("register_forward_hook", "register_forward_pre_hook"):
            handle = getattr(module, register)(lambda *_: None)
            assert order([linear, pool]) == [0, 1]
            handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert order([linear, pool]) == [0, 1]
    handle.remove()
    with fast_paths(False):
        assert order([linear, pool]) == [0, 1]
    assert order([linear, pool]) == [1, 0]


def test_the_plan_says_how_it_runs() -> None:
    plan = plan_projector("ldpnetv2", 16, 24, grid=(24, 24))
    line = "blocks.3 runs before blocks.2"
    assert plan.runs_as == (line,)
    assert plan.to_dict()["runs_as"] == (line,)
    pointwise, depthwise = 16 * 24 + 24 * 24, 24 * 9 * 144
    assert plan.macs == 576 * pointwise + depthwise
    assert plan.macs_run == 576 * 16 * 24 + 144 * 24 * 24 + depthwise
    assert plan.to_dict()["macs_run"] == plan.macs_run
    assert str(plan).endswith(f"\nruns as: {line}\nMACs as run: 335 k")
    assert plan_projector("ldp", 16, 24).runs_as == ()
    assert plan_projector("ldp", 16, 24).macs_run is None  # without a grid
    plain = plan_projector("ldp", 16, 24, grid=(24, 24))
    assert plain.macs_run == plain.macs
    assert "as run" not in str(plain)
    with fast_paths(False):
        plan = plan_projector("ldpnetv2", 16, 24, grid=(24, 24))
        assert plan.macs_run == plan.macs
    nested = {
        "in": 8,
        "out": 8,
        "blocks": [{"type": "repeat", "times": 2, "body": ["pointwise", {"type": "pool"}]}],
    }
    nested["blocks"][0]["body"][1]["stride"] = 2  # type: ignore[index]
    assert plan_projector(nested).runs_as == (
        "blocks.0.0.body.1 runs before blocks.0.0.body.0",
        "blocks.0.1.body.1 runs before blocks.0.1.body.0",
    )


def test_it_does_less_work() -> None:
    class Rows(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.addmm.default:
                rows.append(args[1].shape[0])
            return func(*args, **(kwargs or {}))

    projector = build("ldpnetv2")
    for on, expected in ((False, [576, 576]), (True, [576, 144])):
        rows: list[int] = []
        with fast_paths(on), torch.no_grad(), Rows():
            projector(torch.randn(1, 576, 128))
        assert rows == expected


def test_packed_images_too(product: list[Any]) -> None:
    projector = build("perception-lm")
    grids = [(8, 8), (4, 6), (8, 8)]
    x = torch.randn(sum(h * w for h, w in grids), 128)
    with torch.inference_mode():
        with fast_paths(False):
            expected = projector(x, grid=grids)
        y = projector(x, grid=grids)
    assert product
    assert relative(y, expected) < 1e-5


# ---------------------------------------------------------------------- who must not notice


def test_compiled_and_exported_code_sees_plain_torch(product: list[Any]) -> None:
    projector = build("ldpnetv2").eval()
    x = torch.randn(2, 576, 128)
    for strict in (False, True):
        program = torch.export.export(projector, (x,), strict=strict)
        targets = [str(node.target) for node in program.graph.nodes]
        assert targets.count("aten.linear.default") == 2
        y = program.module()(x)
    torch._dynamo.reset()
    compiled = torch.compile(projector, backend="aot_eager", fullgraph=True)
    assert relative(compiled(x), y) < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about checks of shapes
        torch.jit.trace(projector, x, check_trace=False)
    assert not product
    assert relative(projector(x), y) < 1e-5


@pytest.mark.parametrize(
    "context",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: FlopCounterMode(display=False),
        lambda: fast_paths(False),
    ],
    ids=["autocast", "dispatch-mode", "switch"],
)
def test_modes_get_the_plain_product(context: Any, product: list[Any]) -> None:
    projector = build("mlp2x_gelu")
    with context():
        projector(torch.randn(1, 576, 128))
    assert not product
    projector(torch.randn(1, 576, 128))
    assert product


def test_function_transforms(product: list[Any]) -> None:
    projector = build("mlp2x_gelu")
    x = torch.randn(3, 576, 128)
    with torch.no_grad(), fast_paths(False):
        expected = projector(x)
    batched = torch.func.vmap(lambda each: projector(each[None])[0])(x)
    assert relative(batched, expected) < 1e-5
    _, tangent = torch.func.jvp(projector, (x,), (torch.ones_like(x),))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        other = torch.autograd.forward_ad.unpack_dual(projector(dual)).tangent
    assert relative(other, tangent) < 1e-5
    assert not product


def test_the_environment_switches_it_off() -> None:
    code = "from mobilevlm.blocks.core.fast import enabled; print(enabled())"
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"MOBILEVLM_FAST_PATHS": value},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for value in ("0", "1")
    ]
    assert found == ["False", "True"]


def test_blocks_that_overlap_end_in_the_state_before() -> None:
    """As those of threads do: they need not be left in the order they were entered in."""
    for wishes in itertools.product((False, True), repeat=3):
        for exits in itertools.permutations(range(3)):
            open_ = []
            for on in wishes:
                context = fast_paths(on)
                context.__enter__()
                open_.append((on, context))
                assert fast.enabled() is on
            for leaving in [open_[index] for index in exits]:
                leaving[1].__exit__(None, None, None)
                open_.remove(leaving)
                assert fast.enabled() is (open_[-1][0] if open_ else True)


def test_threads_that_switch_it_at_once() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def switch(on: bool) -> None:
        for _ in range(2000):
            with fast_paths(on):
                pass

    try:
        assert at_once(*(partial(switch, on) for on in (False, True, False, True))) == []
    finally:
        sys.setswitchinterval(interval)
    assert fast.enabled()


def test_compiled_code_may_switch_it() -> None:
    def call(x: Tensor) -> Tensor:
        with fast_paths(False):
            return x if fast.enabled() else -x

    x = torch.ones(1)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(call, backend="eager", fullgraph=True)(x), -x)
    assert fast.enabled()


# ---------------------------------------------------------------------- in place


def test_what_a_hook_has_seen_is_not_written_over() -> None:
    projector = build("ldpnet").eval()
    for name, module in projector.named_modules():
        seen: list[tuple[Tensor, Tensor]] = []
        handle = module.register_forward_hook(
            lambda _, __, y, seen=seen: seen.append((y, y.clone()))
        )
        with torch.no_grad():
            projector(torch.randn(1, 64, 128))
        handle.remove()
        assert all(torch.equal(y, copy) for y, copy in seen), name


def test_a_residual_around_what_hands_its_input_on() -> None:
    x = torch.randn(1, 2, 2, 4)
    before = x.clone()
    for body in (nn.Identity(), NormActModule(nn.Identity(), nn.Identity())):
        with torch.no_grad():
            assert torch.equal(ResidualModule(Chain(body))(x), 2 * before)
        assert torch.equal(x, before)


def test_a_chain_copies_and_keeps_its_keys() -> None:
    chain = Chain(nn.Linear(4, 4), WindowPool("avg", 2, False))
    assert list(copy.deepcopy(chain).state_dict()) == ["0.weight", "0.bias"]
    assert repr(chain).startswith("Chain(")


@pytest.mark.parametrize(
    ("name", "most"),
    [("mlp2x_gelu", 2), ("ldp", 8), ("ldpnetv2", 4), ("qwen2-vl", 3), ("gemma3", 3)],
)
def test_no_hidden_copies(name: str, most: int) -> None:
    """As many large allocations as there are results to hold, and no more."""
    projector = build(name).eval()
    x = torch.randn(1, 576, 128)
    least = 36 * 128 * 4 if name == "gemma3" else 140_000  # oneDNN's own buffers are smaller
    large = [size for size in allocated(projector, x) if size >= least]
    assert len(large) <= most, large


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_never_copies_its_weight(layout: torch.memory_format) -> None:
    conv = {"type": "conv", "kernel": 3, "stride": 2, "out": 256}
    projector = build_projector({"in": 128, "out": 256, "blocks": [conv]})
    projector.to(memory_format=layout)
    sizes = allocated(projector.eval(), torch.randn(1, 64, 128))
    assert max(sizes) < 256 * 128 * 9 * 4, sizes


def allocated(projector: Projector, x: Tensor) -> list[int]:
    """Return the sizes of what a forward asks for, in bytes."""
    with torch.inference_mode():
        projector(x)
        with torch.profiler.profile(profile_memory=True) as profile:
            projector(x)
    events = profile.profiler.kineto_results.events()
    return [event.nbytes() for event in events if event.name() == "[memory]"]
