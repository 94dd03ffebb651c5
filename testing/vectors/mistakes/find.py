"""What typical wrong implementations compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

from ....blocks.core.block import mixes_tokens
from ....blocks.core.feature import Grid
from ..cases import Case
from ..trace import Images, Step, enter, trace
from .attention import ATTENTION
from .edit import Change
from .layers import LAYERS
from .norms import NORMS, activations, eps
from .order import ORDER
from .tokens import TOKENS
from .windows import RASTER_WINDOWS, WINDOWS

__all__ = ["Mistake", "Wrong", "find_mistakes"]

_EDITS: tuple[Change, ...] = (*NORMS, *LAYERS, *WINDOWS, *TOKENS, *ATTENTION, *ORDER)
_BLOCK_MAJOR = 2  # the side of the blocks in which tokens are taken to come


@dataclass(frozen=True)
class Mistake:
    """What a wrong implementation does.

    Attributes:
        name: Its name, unique in a case.
        kind: The kind of mistake, which several names share.
        cause: What went wrong, in a sentence without a full stop.
        run: Computes what it leads to, as `trace` returns it.
    """

    name: str
    kind: str
    cause: str
    run: Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Wrong:
    """What a mistake leads to.

    Attributes:
        mistake: The mistake.
        block: The path of the block where it first shows.
        at_block: What leaves that block.
        at_output: What leaves the last block.
    """

    mistake: Mistake
    block: str
    at_block: Tensor
    at_output: Tensor


def find_mistakes(
    modules: Sequence[nn.Module], case: Case, right: Mapping[str, Tensor]
) -> tuple[list[Wrong], list[str]]:
    """Return what the mistakes of a case lead to, and the names of those that change nothing.

    Args:
        modules: The blocks' modules, in fp64.
        case: The case.
        right: What they compute.
    """
    found: list[Wrong] = []
    without_effect: list[str] = []
    *_, last = right
    for mistake in _mistakes(modules, case):
        try:
            wrong = mistake.run()
        except Exception:  # a later block, perhaps a plugin's, does not take such a feature
            continue
        shows = [path for path, y in right.items() if not case.tolerance.admits(wrong[path], y)]
        if last not in shows:
            without_effect.append(mistake.name)
        elif all(wrong[path].float().isfinite().all() for path in (shows[0], last)):
            found.append(Wrong(mistake, shows[0], wrong[shows[0]], wrong[last]))
    return found, without_effect


def _mistakes(modules: Sequence[nn.Module], case: Case) -> Iterator[Mistake]:
    """Yield the mistakes that can be made in a case.

    A mistake that can be made in several blocks is made in all of them, and in each by itself.
    """
    images = case.images
    yield from _entering(modules, images)
    if images.packed and mixes_tokens(case.stack.blocks) and not case.stack.needs_grid:
        cause = "the packed images are taken for one image"
        yield Mistake("images-joined", "images-joined", cause, lambda: _joined(modules, images))
    raster = RASTER_WINDOWS if images.side == 1 else ()
    for edit in (*eps(modules), *activations(), *_EDITS, *raster):
        found = {place: edit.apply(modules, place) for place in range(len(modules))}
        changes = {place: change for place, change in found.items() if change}
        everywhere = {at: step for change in changes.values() for at, step in change.items()}
        if changes:
            yield _made(edit, edit.name, edit.cause, _runs(modules, everywhere, images))
        if len(changes) > 1:
            for place, change in changes.items():
                cause = f"{edit.cause} in blocks.{place}"
                yield _made(edit, f"{edit.name}-{place}", cause, _runs(modules, change, images))


def _made(edit: Change, name: str, cause: str, run: Callable[[], Mapping[str, Tensor]]) -> Mistake:
    return Mistake(name, edit.kind or edit.name, cause, run)


def _runs(
    modules: Sequence[nn.Module], change: Mapping[int, Step], images: Images
) -> Callable[[], Mapping[str, Tensor]]:
    steps = [change.get(place, module) for place, module in enumerate(modules)]
    return lambda: trace(steps, images)


def _into_blocks(x: Tensor, grid: Grid, side: int) -> Tensor:
    """Put tokens that are taken to come row by row into blocks."""
    order = "b (h p w q) c -> b (h w p q) c"
    return enter(rearrange(x, order, h=grid[0] // side, p=side, q=side), grid)


def _joined(modules: Sequence[nn.Module], images: Images) -> Mapping[str, Tensor]:
    """Compute packed images as one of a single row."""
    one = Images(images.x[None], [(1, len(images.x))])
    return {path: y.flatten(0, 2) for path, y in trace(modules, one).items()}


def _entering(modules: Sequence[nn.Module], images: Images) -> Iterator[Mistake]:
    """Yield the mistakes in how tokens enter."""

    def mistake(
        kind: str, cause: str, entering: Callable[[Tensor, Grid], Tensor], name: str = ""
    ) -> Mistake:
        return Mistake(name or kind, kind, cause, lambda: trace(modules, images, entering))

    prefix, side = images.prefix_tokens, images.side

    def as_it_should(x: Tensor, grid: Grid) -> Tensor:
        return enter(x, grid, prefix, side)

    if prefix:
        yield mistake(
            "class-token-last",
            "the last token is dropped in place of the class token, which is the first",
            lambda x, grid: enter(x[:, :-prefix], grid, 0, side),
        )
        yield mistake(
            "class-token-left-in",
            "the class token is not dropped",
            lambda x, grid: x[:, None],
        )
    if side > 1:
        yield mistake(
            "raster-for-block-major",
            "the tokens come block by block and are read row by row",
            lambda x, grid: enter(x, grid, prefix),
        )
        yield mistake(
            "raster-for-block-major",
            "the tokens are put into blocks once more, not out of them",
            lambda x, grid: _into_blocks(x[:, prefix:], grid, side),
            "blocks-made-again",
        )
    elif all(h % _BLOCK_MAJOR == w % _BLOCK_MAJOR == 0 for h, w in images.grids):
        yield mistake(
            "block-major-for-raster",
            "the tokens come row by row and are read block by block",
            lambda x, grid: enter(x, grid, prefix, _BLOCK_MAJOR),
        )
    yield mistake(
        "layout",
        "the tokens are channels first in memory (b, c, n), and are read as (b, n, c)",
        lambda x, grid: enter(x.transpose(1, 2).reshape(x.shape), grid, prefix, side),
    )
    yield mistake(
        "flipped",
        "the rows come in reverse order",
        lambda x, grid: as_it_should(x, grid).flip(1),
        "rows-flipped",
    )
    yield mistake(
        "flipped",
        "the columns come in reverse order",
        lambda x, grid: as_it_should(x, grid).flip(2),
        "columns-flipped",
    )
    yield mistake(
        "transposed",
        "rows and columns of the grid are swapped",
        lambda x, grid: as_it_should(x, grid).transpose(1, 2),
    )
    if any(h != w for h, w in images.grids):
        yield mistake(
            "transposed",
            "height and width of the grid are taken for each other",
            lambda x, grid: as_it_should(x, grid).reshape(x.shape[0], *grid[::-1], x.shape[2]),
            "sides-swapped",
        )
