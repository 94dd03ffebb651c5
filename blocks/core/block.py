"""The block: one piece of a projector as data, and chains of blocks walked on paper."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from ...registry import MobileVLMError, RegistryError, quote, told
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
    "count",
    "label",
    "mixes_tokens",
    "needs_grid",
    "one_pass",
    "walk",
]


_FACTS = ("needs_grid", "mixes_tokens")
_RESERVED = ("type", "flow", "build", "expand", "counts_as", *_FACTS)


class Block(Spec):
    """One piece of a projector: its fields, what it does to a feature on paper, and its module.

    A block is a frozen pydantic class. The module it builds is plain PyTorch: it takes a feature
    ``(b, h, w, c)``, returns one, and never changes its input in place.

        class Gate(Block):
            bias: bool = True

            def build(self, x: Feature) -> nn.Module:
                return GateModule(x.channels, bias=self.bias)

    Attributes:
        needs_grid: Whether the module reads the grid. A block that treats every token alike says
            False; a chain of such blocks takes any number of tokens.
        mixes_tokens: Whether the tokens of an image meet although the grid is not read, as in
            attention; then the module never sees the tokens of two images as one image's.
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
        """Say what this block makes of a feature; pure arithmetic. Default: nothing changes.

        A side of the grid that is not known yet is None: ``x.resize(lambda side: side // 2)``
        leaves it so. ``x.replace(channels=..., grid=...)`` makes the next feature. A block that
        reads the grid starts with ``x.raster()``, which refuses a sequence.

        Raises:
            SpecError: The feature does not fit.
            GridError: Its grid does not fit.
        """
        return x

    @abstractmethod
    def build(self, x: Feature) -> nn.Module:
        """Make the module that does it, for a feature like this one."""

    def expand(self, x: Feature) -> Sequence[Block]:
        """Return what stands in this block's place once a document is written out in full.

        Default: this block, with the blocks inside it expanded.
        """
        inner = {
            path: tuple(step.block for step in walk(body, x, _place(path), expand=True))
            for path, body in bodies(self).items()
        }
        return (with_bodies(self, inner),)

    @property
    def counts_as(self) -> int:
        """How many blocks it counts as towards the limit, those inside it left out. Default: 1.

        A block that builds layers by a number counts their parts, as if they were written out.
        """
        return 1

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle a plugin's block under its registered name, so that an error can say it."""
        name = label(self)
        if "/" in name:
            return _reopen, (name,), self.__getstate__()
        return super().__reduce_ex__(protocol)

    @property
    def _copies(self) -> int | None:
        """How many times the chains inside it are built, to run in a row; None: once."""
        return None


def _reopen(name: str) -> Block:
    """Make the empty block that a pickle goes on to fill."""
    cls = BLOCKS.get(name)
    return cls.__new__(cls)


def _parse(value: Any) -> Block:
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
        hint = partial(getattr, error, "hint")  # not searched for before it is shown
        refused = SpecError(error.found, where, error.expected, hint)
        refused.__cause__ = error
        raise Refused(refused) from None
    # The whole document was looked at before: straight to pydantic, which keeps the path.
    block: Block = cls.__pydantic_validator__.validate_python(fields)
    return block


def _dump(block: Block) -> dict[str, Any]:
    return {"type": BLOCKS.name_of(type(block)), **block.model_dump(mode="json")}


def _listed(blocks: Any) -> Any:
    """Refuse what is no list, and too long a one before its items cost anything."""
    if not isinstance(blocks, list | tuple):
        raise SpecError(shown(blocks), expected="a list of blocks")
    if not blocks:
        raise SpecError("there are no blocks", expected="at least one")
    if len(blocks) > MAX_BLOCKS:
        raise SpecError(f"{len(blocks):,} blocks", expected=f"at most {MAX_BLOCKS:,}")
    return blocks


if TYPE_CHECKING:
    Blocks: TypeAlias = tuple[Block, ...]
else:
    Blocks = Annotated[
        tuple[Annotated[Any, PlainValidator(_parse), WithJsonSchema({"$comment": "block"})], ...],
        Field(strict=False, json_schema_extra={"minItems": 1, "maxItems": MAX_BLOCKS}),
        BeforeValidator(_listed),
        PlainSerializer(lambda blocks: [_dump(block) for block in blocks]),
    ]
"""A chain of blocks, as a field of a block or of a stack."""


def bodies(block: Block) -> dict[str, tuple[Block, ...]]:
    """Return the chains of blocks among a block's fields, by path.

    A field that is a chain has its name for a path; one that holds several, ``branches.0`` etc.
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


def _place(path: str) -> str:
    """Write a chain's path as messages do: ``.body``, ``.branches[0]``."""
    name, _, index = path.partition(".")
    return f".{name}[{index}]" if index else f".{name}"


def with_bodies(block: Block, inner: Mapping[str, tuple[Block, ...]]) -> Block:
    """Return a block with all its chains replaced, given as `bodies` gives them.

    It is the same block where they hold the same ones already.
    """
    own = bodies(block)
    if all(list(map(id, own[path])) == list(map(id, body)) for path, body in inner.items()):
        return block
    fields: dict[str, tuple[Any, ...]] = {}
    for path, body in inner.items():
        name, _, index = path.partition(".")
        fields[name] = (*fields.get(name, ()), body) if index else body
    return block.model_copy(update=fields) if fields else block


class _Pass:
    """What was found out about blocks so far, so that no block is asked the same thing twice.

    By identity: to compare blocks, or hash them, is to look at all that is inside them.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._flows: dict[tuple[int, Feature], Feature] = {}
        self._blocks: dict[int, Block] = {}  # keeps them alive, and so their ids their own

    def count(self, block: Block) -> int:
        found = self._counts.get(id(block))
        if found is None:
            inner = sum(self.count(each) for body in bodies(block).values() for each in body)
            found = self._counts[id(block)] = block.counts_as + (block._copies or 1) * inner
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


_PASS: ContextVar[_Pass | None] = ContextVar("_PASS", default=None)


@contextmanager
def one_pass() -> Iterator[_Pass]:
    """Have all walks inside it know what the others found out, in this thread.

    A block's `flow` walks the chains inside the block, whose blocks' `flow` do the same. In one
    pass each block's is called once for each feature, so that depth costs nothing.
    """
    outer = _PASS.get()
    if outer is not None:
        yield outer
        return
    found = _Pass()
    token = _PASS.set(found)
    try:
        yield found
    finally:
        _PASS.reset(token)


def count(blocks: Sequence[Block]) -> int:
    """Return how many blocks there are to build, those inside others included."""
    with one_pass() as found:
        return sum(map(found.count, blocks))


def needs_grid(blocks: Sequence[Block]) -> bool:
    """Return whether any of the blocks, or of those inside them, reads the grid."""
    return any(block.needs_grid or any(map(needs_grid, bodies(block).values())) for block in blocks)


def mixes_tokens(blocks: Sequence[Block]) -> bool:
    """Return whether tokens meet in any of the blocks, or of those inside them."""
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


def _named(fault: Exception) -> MobileVLMError:
    """Return an error of ours for whatever other people's code raised."""
    if isinstance(fault, MobileVLMError):
        return fault
    error = SpecError(f"walking failed: {told(fault)}")
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
    """Walk a chain on paper, from the feature that enters it to the one that leaves it.

    Args:
        blocks: The chain.
        x: The feature that enters it.
        where: The chain's path in the document, for messages.
        expand: Put what each block expands to in its place.

    Raises:
        SpecError: A block does not take what it is given; the message names both neighbours.
        GridError: A block does not take the grid.
    """
    with one_pass() as found:
        return _walk(blocks, x, where, expand, found)


def _walk(
    blocks: Sequence[Block], x: Feature, where: str, expand: bool, found: _Pass
) -> list[Step]:
    steps: list[Step] = []
    total = 0
    for index, block in enumerate(blocks):
        given = x
        try:
            _check_total(total + found.count(block))  # before anything is expanded
            for each in block.expand(x) if expand else (block,):
                total += found.count(each)
                _check_total(total)
                y = found.flow(each, x)
                steps.append(Step(each, x, y))
                x = y
        except Exception as fault:
            error = _named(fault)
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
    """Walk the chains built inside a block that is given a feature.

    Yields:
        The path of the chain's modules within the block's (``body``, ``branches.0``; ``0.body``
        for the first copy of a repeated one), and the chain's steps.
    """
    for path, body in bodies(block).items():
        y = x
        for copy in range(block._copies or 1):
            steps = walk(body, y, _place(path))
            yield path if block._copies is None else f"{copy}.{path}", steps
            y = steps[-1].y
