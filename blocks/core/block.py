"""The block: one piece of a projector as data, and chains of blocks planned without tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from ...registry import MobileVLMError, RegistryError, describe_error, quote
from .. import BLOCKS
from .errors import SpecError
from .feature import Feature, hides_width
from .spec import MAX_BLOCKS, Refused, Spec, relocate, shown

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Block",
    "Blocks",
    "Step",
    "bodies",
    "label",
    "mixes_tokens",
    "needs_grid",
    "walk",
    "walk_cache",
]


_FACTS = ("needs_grid", "mixes_tokens")
_RESERVED = ("type", "flow", "build", "expand", "counts_as", "chain_copies", *_FACTS)


class Block(Spec):
    """One piece of a projector: its fields, the shapes it makes, and its module.

    A block is a frozen pydantic class. The module it builds is plain PyTorch: it takes a feature
    ``(b, h, w, c)``, returns one, and never changes its input in place.

    For example::

        class Gate(Block):
            bias: bool = True

            def build(self, x: Feature) -> nn.Module:
                return GateModule(x.channels, bias=self.bias)

    Attributes:
        needs_grid: Whether the module reads the grid. A block that treats every token alike says
            False; a chain of such blocks takes any number of tokens.
        mixes_tokens: Whether the module mixes an image's tokens although it does not read the
            grid, as attention does. Then it is never given two packed images as one.
    """

    needs_grid: ClassVar[bool] = True
    mixes_tokens: ClassVar[bool] = False

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            for spelling in (name, field.alias, field.validation_alias, field.serialization_alias):
                if spelling in _RESERVED:
                    hint = "Annotate it as ClassVar[bool]." if spelling in _FACTS else ""
                    raise SpecError(
                        f"a block cannot have a field called {spelling!r}", cls.__name__, "", hint
                    )
            if hides_width(field.annotation):
                raise SpecError(
                    "a Width stands inside another type",
                    f"{cls.__name__}.{name}",
                    "a field that is a Width, and nothing else",
                )

    def flow(self, x: Feature) -> Feature:
        """Return the feature that this block makes of `x`; pure arithmetic. Default: unchanged.

        A side of the grid that is not known yet is None, and ``x.resize(lambda side: side // 2)``
        keeps it None. ``x.replace(channels=..., grid=...)`` makes the next feature. A block that
        reads the grid starts with ``x.raster()``, which refuses a sequence.

        Raises:
            SpecError: The feature does not fit.
            GridError: Its grid does not fit.
        """
        return x

    @abstractmethod
    def build(self, x: Feature) -> nn.Module:
        """Build the module, for a feature with these channels and this grid."""

    def expand(self, x: Feature) -> Sequence[Block]:
        """Return the blocks that replace this one when a document is expanded.

        Default: this block, with the blocks inside it expanded.
        """
        inner = {
            path: tuple(step.block for step in walk(body, x, _chain_path(path), expand=True))
            for path, body in bodies(self).items()
        }
        return (with_bodies(self, inner),)

    @property
    def counts_as(self) -> int:
        """How many blocks this counts as towards the limit, without those inside it; 1 by default.

        A block that builds a number of layers counts their parts, as if they were written out.
        """
        return 1

    @property
    def chain_copies(self) -> int | None:
        """How many copies of the chains inside it are built, to run in a row; None by default.

        None is one copy, whose modules' path is that of the chain (``body``); with a number, each
        copy's index comes first (``0.body``).
        """
        return None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle a plugin's block by its registered name, so that an error can give the name."""
        name = label(self)
        if "/" in name:
            return _empty_block, (name,), self.__getstate__()
        return super().__reduce_ex__(protocol)


def _empty_block(name: str) -> Block:
    """Return a block without fields, which pickle fills."""
    cls = BLOCKS.get(name)
    return cls.__new__(cls)


def _parse_block(value: Any) -> Block:
    """Turn ``{"type": ...}``, a bare name or a block into a block."""
    if isinstance(value, Block):
        return value
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        raise SpecError(quote(value), expected='a block such as {"type": "pointwise"}')
    if "type" not in value:
        raise SpecError("key 'type' is missing", expected='a block such as {"type": "pointwise"}')
    fields = dict(value)
    name = fields.pop("type")
    try:
        cls = BLOCKS.get(name)
    except RegistryError as error:
        where = f".type ({error.where})" if error.where else ".type"
        hint = partial(getattr, error, "hint")  # computed when it is shown
        refused = SpecError(error.found, where, error.expected, hint)
        refused.__cause__ = error
        raise Refused(refused) from None
    # check_structure has seen the whole document: straight to pydantic, which keeps the path.
    block: Block = cls.__pydantic_validator__.validate_python(fields)
    return block


def _dump_block(block: Block) -> dict[str, Any]:
    return {"type": BLOCKS.name_of(type(block)), **block.model_dump(mode="json")}


def _check_block_list(blocks: Any) -> Any:
    """Refuse what is not a list, and a list that is too long before any block is parsed."""
    if not isinstance(blocks, list | tuple):
        raise SpecError(shown(blocks), expected="a list of blocks")
    if not blocks:
        raise SpecError("there are no blocks", expected="at least one")
    if len(blocks) > MAX_BLOCKS:
        raise SpecError(f"{len(blocks):,} blocks", expected=f"at most {MAX_BLOCKS:,}")
    return blocks


if TYPE_CHECKING:
    Blocks: TypeAlias = tuple[Block, ...]
    """A chain of blocks, as a field of a block or of a stack."""
else:
    _AnyBlock = Annotated[Any, PlainValidator(_parse_block), WithJsonSchema({"$comment": "block"})]
    Blocks = Annotated[
        tuple[_AnyBlock, ...],
        Field(strict=False, json_schema_extra={"minItems": 1, "maxItems": MAX_BLOCKS}),
        BeforeValidator(_check_block_list),
        PlainSerializer(lambda blocks: [_dump_block(block) for block in blocks]),
    ]


def bodies(block: Block) -> dict[str, tuple[Block, ...]]:
    """Return the chains of blocks among a block's fields, by path.

    The path of a field that is a chain is its name; of one that holds several, ``branches.0`` etc.
    """
    found: dict[str, tuple[Block, ...]] = {}
    for name, value in block.__dict__.items():
        if _is_chain(value):
            found[name] = value
        elif isinstance(value, tuple) and all(map(_is_chain, value)):
            found |= {f"{name}.{index}": chain for index, chain in enumerate(value)}
    return found


def _is_chain(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Block)


def _chain_path(path: str) -> str:
    """Write a chain's path as in messages: ``.body``, ``.branches[0]``."""
    name, _, index = path.partition(".")
    return f".{name}[{index}]" if index else f".{name}"


def with_bodies(block: Block, inner: Mapping[str, tuple[Block, ...]]) -> Block:
    """Return a block with all its chains replaced, given by path as `bodies` returns them.

    It is the same object if nothing changes.
    """
    own = bodies(block)
    if all(list(map(id, own[path])) == list(map(id, body)) for path, body in inner.items()):
        return block
    fields: dict[str, tuple[Any, ...]] = {}
    for path, body in inner.items():
        name, _, index = path.partition(".")
        fields[name] = (*fields.get(name, ()), body) if index else body
    return block.model_copy(update=fields) if fields else block


class _WalkCache:
    """Results of `counts_as` and `flow`, so that neither is computed twice for a block.

    Keyed by identity: to compare or hash a block takes a walk through all blocks inside it.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._flows: dict[tuple[int, Feature], Feature] = {}
        self._blocks: dict[int, Block] = {}  # keeps them alive, so that their ids stay unique

    def count(self, block: Block) -> int:
        found = self._counts.get(id(block))
        if found is None:
            inner = sum(self.count(each) for body in bodies(block).values() for each in body)
            found = self._counts[id(block)] = block.counts_as + (block.chain_copies or 1) * inner
            self._blocks[id(block)] = block
        return found

    def flow(self, block: Block, x: Feature) -> Feature:
        found = self._flows.get((id(block), x))
        if found is None:
            found = block.flow(x)
            if (
                not isinstance(found, Feature)
                or type(found.channels) is not int
                or found.channels < 1
            ):
                raise SpecError(f"its flow returned {quote(found)}", expected="a Feature")
            self._flows[id(block), x] = found
            self._blocks[id(block)] = block
        return found


_CACHE: ContextVar[_WalkCache | None] = ContextVar("_CACHE", default=None)


@contextmanager
def walk_cache() -> Iterator[_WalkCache]:
    """Share one cache among all walks within a ``with`` block, in this thread.

    A block's `flow` walks the chains inside it, whose blocks' `flow` do the same. With the cache,
    each block's `flow` is called once for each feature, however deep the blocks are nested.
    """
    outer = _CACHE.get()
    if outer is not None:
        yield outer
        return
    cache = _WalkCache()
    token = _CACHE.set(cache)
    try:
        yield cache
    finally:
        _CACHE.reset(token)


def needs_grid(blocks: Sequence[Block]) -> bool:
    """Return whether any of the blocks, or of those inside them, reads the grid."""
    return any(block.needs_grid or any(map(needs_grid, bodies(block).values())) for block in blocks)


def mixes_tokens(blocks: Sequence[Block]) -> bool:
    """Return whether any of the blocks, or of those inside them, mixes an image's tokens."""
    return any(
        block.needs_grid or block.mixes_tokens or any(map(mixes_tokens, bodies(block).values()))
        for block in blocks
    )


def label(block: Block) -> str:
    """Return a block's registered name, or its class's name if it has none."""
    try:
        return BLOCKS.name_of(type(block))
    except RegistryError:
        return type(block).__name__


def _as_our_error(fault: Exception) -> MobileVLMError:
    """Return an error of this package for what a plugin's block raised."""
    if isinstance(fault, MobileVLMError):
        return fault
    error = SpecError(f"walking failed: {describe_error(fault)}")
    error.__cause__ = fault
    return error


class Step(NamedTuple):
    """A block in a chain, with the feature that enters it and the one that leaves it."""

    block: Block
    x: Feature
    y: Feature


def walk(
    blocks: Sequence[Block], x: Feature, where: str = "blocks", *, expand: bool = False
) -> list[Step]:
    """Compute the features between the blocks of a chain, from the one that enters it on.

    Args:
        blocks: The chain.
        x: The feature that enters it.
        where: The chain's path in the document, for messages.
        expand: Put what each block expands to in its place.

    Raises:
        SpecError: A block does not take what it is given; the message names both neighbours.
        GridError: A block does not take the grid.
    """
    with walk_cache() as cache:
        return _walk(blocks, x, where, expand, cache)


def _walk(
    blocks: Sequence[Block], x: Feature, where: str, expand: bool, cache: _WalkCache
) -> list[Step]:
    steps: list[Step] = []
    total = 0
    for index, block in enumerate(blocks):
        given = x
        try:
            _check_total(total + cache.count(block))  # before anything is expanded
            for each in block.expand(x) if expand else (block,):
                total += cache.count(each)
                _check_total(total)
                y = cache.flow(each, x)
                steps.append(Step(each, x, y))
                x = y
        except Exception as fault:
            error = _as_our_error(fault)
            here = f"{where}[{index}]"
            if error.where:
                raise relocate(error, here) from error.__cause__
            giver = f"{where}[{index - 1}] ({label(blocks[index - 1])})" if index else "the input"
            error.hint = f"{error.hint} It is given {given} by {giver}.".strip()
            raise relocate(error, f"{here} ({label(block)})") from error.__cause__
    return steps


def _check_total(total: int) -> None:
    if total > MAX_BLOCKS:
        raise SpecError("too many blocks", expected=f"at most {MAX_BLOCKS:,} in all")


def chains(block: Block, x: Feature) -> Iterator[tuple[str, list[Step]]]:
    """Walk the chains inside a block to which a feature is given.

    Yields:
        The path of the chain's modules within the block's (``body``, ``branches.0``; ``0.body``
        for the first copy of a repeated one), and the chain's steps.
    """
    for path, body in bodies(block).items():
        y = x
        for copy in range(block.chain_copies or 1):
            steps = walk(body, y, _chain_path(path))
            yield path if block.chain_copies is None else f"{copy}.{path}", steps
            y = steps[-1].y
