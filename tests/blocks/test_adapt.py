"""Existing modules in blocks: their own keys, any layout, and all that a module lives through."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from mobilevlm import Block, Feature, SpecError, adapt, build_projector


def attend(forward: Callable[..., Any], x: Tensor) -> Tensor:
    y: Tensor = forward(x, x, x, need_weights=False)[0]
    return y


class Reshaping(nn.Module):
    """Somebody's module that reads its input's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(35, 35)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.view(-1, 35)).view(x.shape)


class ToTokens(nn.Module):
    """Half the grid as tokens, ``(b, c, h, w) -> (b, n / 4, d)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 24, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(2).transpose(1, 2)


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)


def attention() -> nn.Module:
    return nn.MultiheadAttention(16, 4, batch_first=True)


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(16, 8, 3, 2, 1), nn.BatchNorm2d(8))


def nhwc(y: Tensor) -> Tensor:
    return y.permute(0, 2, 3, 1)


# How it is made and adapted, and the same by hand on the module as it was.
CASES: dict[
    str, tuple[Callable[[], nn.Module], dict[str, Any], Callable[[Any, Tensor], Tensor]]
] = {
    "tokens": (
        encoder,
        {"takes": "tokens"},
        lambda m, x: m(x.reshape(-1, 35, 16)).view(x.shape),
    ),
    "map": (convolution, {"takes": "map"}, lambda m, x: nhwc(m(x.permute(0, 3, 1, 2)))),
    "map, viewed": (
        Reshaping,
        {"takes": "map"},
        lambda m, x: nhwc(m(x.permute(0, 3, 1, 2).contiguous())),
    ),
    "feature": (lambda: nn.LayerNorm(16), {"takes": "feature"}, lambda m, x: m(x)),
    "a leaf": (
        lambda: nn.Conv2d(16, 4, 1),
        {"takes": "map"},
        lambda m, x: nhwc(m(x.permute(0, 3, 1, 2))),
    ),
    "call": (
        attention,
        {"takes": "tokens", "call": attend},
        lambda m, x: m(*[x.reshape(-1, 35, 16)] * 3)[0].view(x.shape),
    ),
    "sequence": (
        ToTokens,
        {"takes": "map", "gives": "sequence"},
        lambda m, x: m(x.permute(0, 3, 1, 2))[:, None],
    ),
    "map to tokens": (
        lambda: nn.Flatten(2),
        {"takes": "feature", "gives": "sequence"},
        lambda m, x: x.flatten(2)[:, None],
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Return a module as it was, the same adapted, an input, and what must come out."""
    make, keywords, by_hand = CASES[request.param]
    torch.manual_seed(0)
    plain = make().eval()
    module = adapt(copy.deepcopy(plain), **keywords)
    x = torch.randn(2, 5, 7, 16)
    with torch.inference_mode():
        return plain, module, x, by_hand(plain, x)


def test_it_computes_what_the_module_computes(
    case: tuple[nn.Module, nn.Module, Tensor, Tensor],
) -> None:
    plain, module, x, expected = case
    with torch.inference_mode():
        torch.testing.assert_close(module(x), expected)
        strided = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        torch.testing.assert_close(module(strided), expected)
    assert isinstance(module, type(plain))


def test_its_keys_are_the_module_s_own(case: tuple[nn.Module, nn.Module, Tensor, Tensor]) -> None:
    plain, module, _, _ = case
    for keys in (
        lambda m: list(m.state_dict()),
        lambda m: [name for name, _ in m.named_parameters()],
        lambda m: [name for name, _ in m.named_modules()],
    ):
        assert keys(module) == keys(plain)
    module.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(module.state_dict(), strict=True)


def test_copies_and_pickles(case: tuple[nn.Module, nn.Module, Tensor, Tensor]) -> None:
    _, module, x, expected = case
    for other in (
        copy.copy(module),
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        copy.deepcopy(pickle.loads(pickle.dumps(module))),
    ):
        assert type(other) is type(module)
        assert repr(other) == repr(module)
        with torch.inference_mode():
            torch.testing.assert_close(other(x), expected)


def test_it_compiles_and_exports(case: tuple[nn.Module, nn.Module, Tensor, Tensor]) -> None:
    _, module, x, _ = case
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    y = torch.randn(3, 5, 7, 16)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), module(x))
        torch.testing.assert_close(compiled(y), module(y))
    for strict in (False, True):
        program = export(module, (x,), dynamic_shapes=({0: Dim("b")},), strict=strict)
        torch.testing.assert_close(program.module()(y), module(y))


def test_training_reaches_it() -> None:
    module = adapt(convolution(), takes="map")
    module.train()(torch.randn(2, 5, 7, 16, requires_grad=True)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert module[1].num_batches_tracked == 1  # type: ignore[index]


class EncoderBlock(Block):
    needs_grid = False
    mixes_tokens = True
    heads: int = 2

    def build(self, x: Feature) -> nn.Module:
        layer = nn.TransformerEncoderLayer(x.channels, self.heads, 8, batch_first=True)
        return adapt(layer, takes="tokens")


def test_in_a_projector() -> None:
    torch.manual_seed(0)
    projector = build_projector(
        {"in": 6, "out": 10, "blocks": ["pointwise", EncoderBlock(), "newline"]}
    ).eval()
    assert "blocks.1.self_attn.in_proj_weight" in projector.state_dict()
    image = torch.randn(2, 6, 4, 3)
    with torch.inference_mode():
        assert projector(image).shape == (2, 10, 4, 4)
        packed = torch.randn(12 + 12 + 4, 6)
        grids = [(4, 3), (3, 4), (2, 2)]
        parts = zip(packed[None].split([12, 12, 4], 1), grids, strict=True)
        alone = [projector(part, grid) for part, grid in parts]
        torch.testing.assert_close(projector(packed, grids), torch.cat(alone, 1)[0])


@pytest.mark.parametrize(
    ("module", "keywords", "message"),
    [
        (
            lambda: nn.LSTM(16, 16, batch_first=True),
            {"takes": "tokens"},
            "adapt(LSTM, takes='tokens'): it gives a tuple; expected a Tensor. "
            "Say with call=... how to get it.",
        ),
        (
            lambda: nn.Flatten(1),
            {"takes": "map"},
            "adapt(Flatten, takes='map'): it gives (2, 560); expected map (b, c, h, w)",
        ),
        (
            lambda: nn.Conv1d(35, 8, 1),
            {"takes": "tokens"},
            "adapt(Conv1d, takes='tokens'): 35 tokens come in, 8 go out; expected as many. "
            "Say gives='sequence' if they have lost their grid.",
        ),
    ],
)
def test_what_it_gives_is_checked(
    module: Callable[[], nn.Module], keywords: dict[str, Any], message: str
) -> None:
    adapted = adapt(module(), **keywords)
    with pytest.raises(SpecError) as caught:
        adapted(torch.randn(2, 5, 7, 16))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("module", "keywords", "message"),
    [
        (
            lambda: nn.GELU,
            {"takes": "map"},
            "adapt: <class 'torch.nn.modules.activation.GELU'>; expected a torch.nn.Module",
        ),
        (
            nn.GELU,
            {"takes": "nchw"},
            "adapt(GELU, takes=...): 'nchw'; expected one of 'tokens', 'map', 'feature'",
        ),
        (
            nn.GELU,
            {"takes": "map", "gives": "grid"},
            "adapt(GELU, gives=...): 'grid'; "
            "expected one of 'tokens', 'map', 'feature', 'sequence'",
        ),
        (
            lambda: adapt(nn.GELU(), takes="map"),
            {"takes": "map"},
            "adapt(AdaptedGELU): it is adapted already",
        ),
        (
            lambda: torch.compile(nn.GELU()),
            {"takes": "map"},
            "adapt(OptimizedModule): its forward is its own, not its class's. "
            "Adapt it before it is compiled or wrapped.",
        ),
    ],
)
def test_what_cannot_be_adapted(
    module: Callable[[], Any], keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        adapt(module(), **keywords)
    assert str(caught.value) == message
