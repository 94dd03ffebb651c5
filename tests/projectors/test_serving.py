"""What serving engines ask of a projector: encoder tokens, linear layers and their rows."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.built_ins import FAMILIES, OPTIONS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mobilevlm import (
    PROJECTORS,
    Block,
    Feature,
    GridError,
    MobileVLMError,
    Projector,
    Stack,
    build_projector,
)
from mobilevlm.checkpoints.llava import build_vision_projector

# Of these the number of tokens does not depend on the grid.
CONSTANT = {
    *("blip2", "c-abstractor", "deco", "flamingo", "idefics2", "kosmos-2", "ldpnetv2"),
    *("minicpmv", "qwen-vl"),
}
ASKED = (1, 2, 5, 17, 30, 64, 101)
SIDE = 48  # of the largest grid that is tried one by one


def small(name: str, **kwargs: Any) -> Projector:
    """Return a small projector of a family."""
    cls = PROJECTORS.get(name)
    assert isinstance(cls, type)
    sizes = {key: value for key, value in OPTIONS.get(name, {}).items() if key in cls.model_fields}
    return build_projector(cls(**sizes).stack(48, 48), **kwargs)


def runs(projector: Projector, x: Tensor, **kwargs: Any) -> int:
    """Return how many tokens come out; 0 where the input is refused."""
    try:
        return projector(x, **kwargs).shape[1]
    except MobileVLMError:
        return 0


def first(tokens: Iterator[tuple[int, int]], asked: int) -> int | None:
    """Return the smallest n of pairs (n, tokens) with enough tokens."""
    return min((n for n, made in tokens if made >= asked), default=None)


@pytest.mark.quick("internvl", "ldp", "linear", "qwen2-vl")
@pytest.mark.parametrize("name", sorted({*FAMILIES} - CONSTANT))
def test_it_is_the_first_length_that_forward_takes_and_makes_enough_of(name: str) -> None:
    """Each length is given to the module, without a grid; some merge 4x4 tokens."""
    projector = small(name, device="meta")
    made = {n: runs(projector, torch.empty(1, n, 48, device="meta")) for n in range(1, 8**2 + 2)}
    found = {asked: first(iter(made.items()), asked) for asked in (1, 2)}
    assert None not in found.values()
    assert {asked: projector.encoder_tokens(asked) for asked in found} == found


@pytest.mark.quick("internvl", "ldp", "linear", "qwen2-vl")
@pytest.mark.parametrize("name", sorted({*FAMILIES} - CONSTANT))
def test_it_is_the_first_with_an_open_side(name: str) -> None:
    projector = small(name, device="meta")
    sides = range(1, SIDE + 1)

    def tokens(h: int, w: int) -> int:
        if h % projector.spec.token_block or w % projector.spec.token_block:
            return 0
        try:
            return projector.tokens(h, w)
        except MobileVLMError:
            return 0

    tried = 0
    for known, asked in itertools.product((1, 4, 12, 13), ASKED):
        for grid, pairs in (
            ((known, None), ((known * side, tokens(known, side)) for side in sides)),
            ((None, known), ((known * side, tokens(side, known)) for side in sides)),
        ):
            expected = first(pairs, asked)
            if expected is not None:
                assert projector.encoder_tokens(asked, grid) == expected, (grid, asked)
                tried += 1
    assert tried > 10


@pytest.mark.parametrize("name", ["ldp", "mlp", "internvl"])
def test_prefix_tokens_are_encoder_tokens(name: str) -> None:
    plain = build_projector(name, 8, 8, device="meta")
    prefixed = build_projector(name, 8, 8, prefix_tokens=5, device="meta")
    for asked in ASKED:
        n = prefixed.encoder_tokens(asked)
        assert n == plain.encoder_tokens(asked) + 5
        assert prefixed(torch.empty(1, n, 8, device="meta")).shape[1] >= asked


def test_a_grid_given_at_build_is_the_only_one() -> None:
    """As in forward without a grid."""
    projector = build_projector("ldp", 8, 8, grid=(24, 18), device="meta")
    assert projector.tokens(24, 18) == 108
    assert {projector.encoder_tokens(asked) for asked in (1, 100, 108)} == {24 * 18}
    assert projector.encoder_tokens(109, (24, None)) == 24 * 19
    with pytest.raises(GridError) as caught:
        projector.encoder_tokens(109)
    assert str(caught.value) == (
        "lm_tokens: no other grid than that given at build, 24x18, gives 109 tokens; expected at "
        "most 108. More come out of several images: 2 of them give enough."
    )


def test_block_major_tokens_fill_whole_blocks() -> None:
    document = {"in": 8, "out": 8, "token_order": "blocked", "blocks": [{"type": "depthwise"}]}
    projector = build_projector(document, device="meta")
    assert projector.encoder_tokens(26) == 36
    assert projector.encoder_tokens(26, (4, None)) == 32
    with pytest.raises(GridError) as caught:
        projector.encoder_tokens(26, (3, None))
    assert str(caught.value) == (
        "lm_tokens: no grid of 3x? gives 26 tokens; expected a grid that the blocks take. "
        "projector.plan(grid) says why a grid is refused."
    )


@pytest.mark.parametrize("name", sorted(CONSTANT))
def test_a_number_that_does_not_depend_on_the_grid(name: str) -> None:
    projector = small(name, device="meta")
    tokens = projector.tokens(24, 24)
    for grid in (None, (24, None)):
        with pytest.raises(GridError) as caught:
            projector.encoder_tokens(3 * tokens - 1, grid)
        assert str(caught.value) == (
            f"encoder_tokens: {tokens} tokens come out, whatever the grid; expected a number of "
            f"tokens that depends on the grid. Of 3 images {3 * tokens} come out, and each has "
            "the h * w encoder tokens of its grid."
        )
    with pytest.raises(GridError, match=rf"Of one image {tokens} come out, and each"):
        projector.encoder_tokens(tokens)


@pytest.mark.parametrize(
    ("name", "asked", "grid", "message"),
    [
        ("ldp", 0, None, "lm_tokens: 0; expected a number of tokens, at least 1"),
        ("ldp", True, None, "lm_tokens: True; expected a number of tokens, at least 1"),
        (
            "ldp",
            9,
            (None, None),
            "grid: (None, None) is not a grid with an open side; expected (h, None) or (None, w). "
            "Of all grids the smallest is a strip that no image has: give the side that is known.",
        ),
        (
            "gemma4-unified",
            4097,
            None,
            "lm_tokens: no square grid gives 4,097 tokens; expected at most 4,096. More come out "
            "of several images: 2 of them give enough.",
        ),
        (
            "internvl",
            9,
            (3, None),
            "blocks[0] (patch-merge): a grid of 3xNone does not divide into windows of 2x2. If it "
            "was trained so, say odd='pad' or odd='drop': an option of some names, and of the "
            "block in any document, which spec_of writes. It is given 3x? x 48 by the input.",
        ),
    ],
)
def test_what_is_refused(name: str, asked: Any, grid: Any, message: str) -> None:
    with pytest.raises(GridError) as caught:
        small(name, device="meta").encoder_tokens(asked, grid)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "grid", [(0, None), (None, 1 << 17), (3, 3), (True, None), 3, (1, None, 2)]
)
def test_what_is_no_grid_with_an_open_side(grid: Any) -> None:
    with pytest.raises(GridError, match="is not a grid with an open side"):
        small("ldp", device="meta").encoder_tokens(9, grid)


class Begin(Block):
    """Somebody's block, which adds tokens although it does not read the grid."""

    needs_grid: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = True
    count: int = 3

    def flow(self, x: Feature) -> Feature:
        n = x.tokens
        grid = (1, None if n is None else n + self.count)
        return x.replace(grid=grid, layout="sequence")

    def build(self, x: Feature) -> nn.Module:
        return nn.ZeroPad2d((0, 0, self.count, 0))


def test_tokens_added_without_a_grid() -> None:
    projector = Projector(Stack(in_=8, out=8, blocks=(Begin(),)))
    assert projector(torch.zeros(1, 7, 8)).shape[1] == 10
    assert [projector.encoder_tokens(asked) for asked in (1, 3, 4, 10, 100_000)] == [
        *(1, 1, 1, 7, 99_997)
    ]


# ------------------------------------------------------------------------- linear layers


class Rows(TorchDispatchMode):
    """The rows of each matrix product with a weight, by where the weight's memory begins."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        if name in ("mm", "addmm", "linear", "_linear_pointwise"):
            x, weight = args[1:3] if name == "addmm" else args[:2]
            key = weight.data_ptr()
            self.found[key] = self.found.get(key, 0) + x.numel() // x.shape[-1]
        return func(*args, **(kwargs or {}))


def counted(projector: Projector, x: Tensor, **kwargs: Any) -> dict[str, int]:
    """Return the rows of the linear layers, from the products that torch computes."""
    with torch.no_grad(), Rows() as rows:
        projector(x, **kwargs)
    layers = {n: m for n, m in projector.named_modules() if isinstance(m, nn.Linear)}
    return {name: rows.found[layer.weight.data_ptr()] for name, layer in layers.items()}


@pytest.mark.quick("blip2", "internvl", "ldpnet", "perception-lm", "qwen2-vl")
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_those_of_the_products_that_run(name: str) -> None:
    projector = small(name)
    grid = (12, 24)
    x = torch.randn(1, 12 * 24, 48)
    assert projector.linear_rows(12, 24) == counted(projector, x, grid=grid)
    grids = [(12, 24), (24, 12), (12, 24)]
    packed = torch.randn(sum(h * w for h, w in grids), 48)
    assert projector.linear_rows(grids) == counted(projector, packed, grid=grids)
    assert projector.linear_names() == [*projector.linear_rows(12, 24)]


@pytest.mark.quick("blip2", "internvl", "ldpnet", "perception-lm", "qwen2-vl")
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_as_written_are_those_of_replaced_layers(name: str) -> None:
    """Adapters, and engines with layers of their own, put another class in a layer's place."""
    projector = small(name)
    found = projector.linear_rows(12, 24, as_written=True)
    for path in projector.linear_names():
        parent = projector.get_submodule(path.rpartition(".")[0])
        setattr(parent, path.rpartition(".")[2], Replaced(projector.get_submodule(path)))
    with torch.no_grad():
        projector(torch.randn(1, 12 * 24, 48), grid=(12, 24))
    replaced = {n: m.rows for n, m in projector.named_modules() if isinstance(m, Replaced)}
    assert found == replaced


class Replaced(nn.Module):
    """A linear layer of somebody's own, which is no `nn.Linear`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, nn.Linear)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        assert x.ndim <= 3
        self.rows += x.numel() // x.shape[-1]
        return nn.functional.linear(x, self.weight, self.bias)


def test_a_pool_that_runs_first_leaves_fewer_rows() -> None:
    projector = build_projector("perception-lm", 8, 8, device="meta")
    assert projector.plan((24, 24)).runs_as
    assert projector.linear_rows(24, 24) == {"blocks.0": 576, "blocks.2": 144}
    assert projector.linear_rows(24, 24, as_written=True) == {"blocks.0": 576, "blocks.2": 576}


def test_prefix_tokens_are_dropped_before_the_layers() -> None:
    projector = build_projector("mlp", 8, 8, prefix_tokens=1, device="meta")
    assert projector.linear_rows(24, 24) == {"blocks.0": 576, "blocks.2": 576}


def test_no_images_have_no_rows() -> None:
    assert set(build_projector("ldp", 8, 8).linear_rows([]).values()) == {0}


def test_a_drop_in_has_upstreams_names() -> None:
    class Config:
        mm_projector_type = "mlp2x_gelu"
        mm_hidden_size, hidden_size = 8, 16

    projector = build_vision_projector(Config())
    assert projector.linear_names("model.mm_projector.") == (
        projector.linear_names("model.mm_projector")
    )
    assert projector.linear_names("model.mm_projector") == [
        *("model.mm_projector.0", "model.mm_projector.2")
    ]
    assert projector.linear_rows(4, 4) == {"0": 16, "2": 16}


def test_rows_of_tensors_and_videos() -> None:
    projector = build_projector("internvl", 8, 8)
    expected = projector.linear_rows([(4, 6), (4, 6), (2, 2)])
    grid_thw = torch.tensor([[2, 4, 6], [1, 2, 2]])
    assert projector.linear_rows(grid_thw) == expected == {"blocks.2": 13, "blocks.4": 13}
    assert projector.linear_rows(grid_thw.tolist()) == expected


def test_rows_of_a_grid_that_is_refused() -> None:
    projector = build_projector("internvl", 8, 8)
    with pytest.raises(GridError, match="does not divide into windows of 2x2"):
        projector.linear_rows(3, 4)
    with pytest.raises(GridError, match=r"^grid\[1\]: \(4,\) is not a grid"):
        projector.linear_rows([(4, 4), (4,)])


def test_hooks_of_the_projector_are_not_touched() -> None:
    projector = build_projector("perception-lm", 8, 8)
    projector.linear_rows(24, 24, as_written=True)
    assert not any(module._forward_hooks for module in projector.modules())


# ------------------------------------------------------ beside the models that vLLM has


@dataclass(frozen=True)
class Theirs:
    """The arithmetic of a model in vLLM, beside the projector that it has.

    Attributes:
        pull: The pull request in vllm-project/vllm that has it.
        name: Our name of the projector.
        grid: The grid of an image, or of a tile of it.
        encoder: Tokens of the language model -> tokens of the encoder, as it says.
        connector: Tokens of the encoder -> tokens of the connector, as it says.
        options: Options of our name.
    """

    pull: int
    name: str
    grid: tuple[int, int]
    encoder: Callable[[int], int]
    connector: Callable[[int], int]
    options: tuple[tuple[str, Any], ...] = ()


def same(n: int) -> int:
    return n


def times(merge: int) -> Callable[[int], int]:
    return lambda n: n * merge**2


def by(merge: int) -> Callable[[int], int]:
    return lambda n: n // merge**2


def images(from_: int, to: int) -> Callable[[int], int]:
    """Return what counts images of one size."""
    return lambda n: n // from_ * to


THEIRS = {
    "LLaVA 1.5": Theirs(31513, "mlp2x_gelu", (24, 24), same, same),
    "PaliGemma": Theirs(31656, "linear", (16, 16), same, same),
    "BLIP-2": Theirs(31620, "blip2", (1, 257), images(32, 257), images(257, 32)),
    "GLM-4.1V": Theirs(31652, "glm4v", (24, 34), times(2), by(2)),
    "Qwen2-VL": Theirs(26674, "qwen2-vl", (24, 34), times(2), by(2)),
    "LFM2-VL": Theirs(51498, "lfm2-vl", (16, 24), times(2), by(2)),
    "Llama 4": Theirs(35147, "llama4", (24, 24), images(144, 577), images(577, 144)),
    "Nemotron Nano VL": Theirs(52749, "internvl", (32, 32), images(256, 1024), images(1024, 256)),
    "Intern-S1": Theirs(48129, "internvl", (32, 32), images(256, 1025), images(1025, 256)),
    "H2OVL": Theirs(31696, "internvl", (32, 32), same, same),
    "Phi-4 Multimodal": Theirs(54832, "phi-4-multimodal", (32, 32), same, same),
}


def beside(theirs: Theirs) -> list[str]:
    """Return a row of the page's table: tokens, their two numbers, and our two."""
    projector = build_projector(theirs.name, 64, 64, device="meta", **dict(theirs.options))
    h, w = theirs.grid
    tokens = projector.tokens(h, w)
    encoder = theirs.encoder(tokens)
    try:
        ours = f"{projector.encoder_tokens(tokens, None if h == w else (h, None))}"
    except GridError:
        ours = "by images"
    rows = sorted({*projector.linear_rows(h, w).values()})
    numbers = [*map(str, (tokens, encoder, theirs.connector(encoder))), ours]
    return [f"{h}x{w}", *numbers, " and ".join(map(str, rows))]


def test_the_page_has_vllms_numbers_beside_ours() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    table = {}
    for line in page.splitlines():
        if "](https://github.com/vllm-project/vllm/pull/" in line and line.startswith("|"):
            model, pull, name, *numbers, _ = (cell.strip() for cell in line.strip("|").split("|"))
            table[model] = (int(pull[2:].partition("]")[0]), name.strip("`"), numbers)
    expected = {
        model: (theirs.pull, theirs.name, beside(theirs)) for model, theirs in THEIRS.items()
    }
    assert table == expected
