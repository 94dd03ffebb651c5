"""What is written in place: only what nobody else can have, whatever stands in a module's place."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.built_ins import BUILT_IN, FIELDS, VARIANTS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mobilevlm import BLOCKS, Feature, fast_paths


class Same(nn.Module):
    """Hand the input on."""

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return x


class View(nn.Module):
    """Hand a view of the input on."""

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return x.view(x.shape)


class Keep(nn.Module):
    """Keep what it gives, and a copy to compare."""

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        self.last = torch.tanh(x)
        self.copy = self.last.clone()
        return self.last


class KeepInput(nn.Module):
    """Keep what it takes, and a copy to compare."""

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        self.last, self.copy = x, x.clone()
        return x


class OwnNorm(nn.LayerNorm):
    """A norm of one's own that is switched off."""

    def forward(self, x: Tensor) -> Tensor:
        return x


SURGERIES: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.1),
    "flatten": lambda: nn.Flatten(-1),
    "identity": nn.Identity,
    "keep": Keep,
    "keep-input": KeepInput,
    "own-norm": lambda: OwnNorm(8),
    "same": Same,
    "stub": torch.ao.quantization.QuantStub,
    "view": View,
}
BODIES: list[dict[str, Any]] = [
    {"type": "norm-act", "act": "none"},
    {"type": "norm-act", "act": "gelu"},
    {"type": "norm-act", "norm": "rms", "act": "silu"},
    {"type": "norm-act", "norm": "rms", "weight": "none", "act": "hardswish"},
    {"type": "norm-act", "norm": "none", "act": "relu"},
    {"type": "norm-act", "norm": "none", "act": "none"},
    {"type": "depthwise"},
    {"type": "depthwise-residual"},
    {"type": "pointwise", "out": "same"},
    {"type": "squeeze-excite"},
    {"type": "residual", "body": [{"type": "norm-act", "act": "none"}]},
    {"type": "parallel", "branches": [["identity"], ["norm-act"]], "join": "mul"},
]
CASES = [(name, FIELDS.get(name, {}), torch.float32) for name in BUILT_IN]
CASES += [(*variant, torch.float32) for variant in VARIANTS]
for _dtype in (torch.float32, torch.bfloat16):
    CASES += [("residual", {"body": [body]}, _dtype) for body in BODIES]
    CASES += [("residual", {"body": ["depthwise", body]}, _dtype) for body in BODIES[:4]]
HEADS = ("attention-pool", "cross-attention", "qformer", "query-resampler", "resampler")


def build(name: str, fields: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    heads = {"heads": 2} if name in HEADS else {}
    x = Feature(channels=8, grid=(4, 4), ends=(8, 8))
    return BLOCKS.get(name)(**heads, **fields).build(x).eval()


def operations(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A module and everything inside it, one after the other replaced by each of `SURGERIES`."""
    yield "as built", copy.deepcopy(module)
    for path, _ in module.named_modules():
        parent, _, place = path.rpartition(".")
        if not path or isinstance(module.get_submodule(parent), nn.ModuleList):
            continue
        for surgery, make in SURGERIES.items():
            other = copy.deepcopy(module)
            other.get_submodule(parent)._modules[place] = make().eval()
            yield f"{path} -> {surgery}", other


def run(module: nn.Module, x: Tensor, *, fast: bool) -> Tensor | None:
    with torch.no_grad(), fast_paths(fast):
        try:
            y: Tensor = module(x)
        except Exception:  # what is left no longer fits together
            return None
    return y


@pytest.mark.parametrize(("name", "fields", "dtype"), CASES, ids=str)
def test_nothing_is_overwritten_that_somebody_has(
    name: str, fields: dict[str, Any], dtype: torch.dtype
) -> None:
    x = torch.randn(2, 4, 4, 8).to(dtype)
    before = x.clone()
    for what, module in operations(build(name, fields).to(dtype)):
        expected = run(copy.deepcopy(module), x, fast=False)
        assert torch.equal(x, before), f"{what}, plain"
        y = run(module, x, fast=True)
        assert torch.equal(x, before), what
        assert (y is None) == (expected is None), what
        for kept in module.modules():
            if isinstance(kept, Keep | KeepInput) and hasattr(kept, "last"):
                assert torch.equal(kept.last, kept.copy), what
        if y is not None:
            torch.testing.assert_close(y, expected, msg=lambda text, what=what: f"{what}: {text}")


def test_a_body_that_is_wrapped() -> None:
    module = build("residual", {"body": ["depthwise"]})
    x = torch.randn(1, 4, 4, 8)
    with torch.no_grad():
        expected = module(x)
        module.body = nn.Sequential(module.body)
        assert torch.equal(module(x), expected)
        module.body = nn.DataParallel(module.body[0])
        assert torch.equal(module(x), expected)


class Sums(TorchDispatchMode):
    """Count the sums in place."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.add_.Tensor
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"type": "norm-act", "act": "none"}, 1),
        ({"type": "norm-act", "norm": "rms", "act": "quick-gelu"}, 2),  # one is the eps
        ({"type": "norm-act", "norm": "none"}, 0),
        ({"type": "depthwise"}, 1),
        ({"type": "pointwise", "out": "same"}, 1),
        ({"type": "depthwise-residual"}, 1),  # its own
    ],
    ids=str,
)
def test_a_new_tensor_is_still_written_over(body: dict[str, Any], count: int) -> None:
    module = build("residual", {"body": [body]})
    with torch.no_grad(), Sums() as sums:
        module(torch.randn(1, 4, 4, 8))
    assert sums.count == count
