"""The two calls: examine a block or a projector, and raise what was found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from ..blocks import BLOCKS
from ..blocks.core.block import Block, bodies
from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Feature
from ..projectors.preset import Preset
from ..projectors.stack import Stack
from ..registry import RegistryError, did_you_mean, quote
from . import block as on_block
from . import compilers, derivatives, effects, modules, state
from . import projector as on_projector
from .report import ConformanceError, Finding
from .subject import Subject
from .world import kept

__all__ = ["BLOCK_CHECKS", "PROJECTOR_CHECKS", "check_block", "check_projector"]

_FIRST = ("run", "input", "determinism", "flow")


def _checks(paper: Any) -> dict[str, Callable[[Any], None]]:
    """Return every property's check, in order; some are a block's or a projector's own."""
    corners = {"large-grids": paper.large_grids} if hasattr(paper, "large_grids") else {}
    return {
        "run": modules.run,
        "input": modules.input_,
        "determinism": modules.determinism,
        "flow": paper.flow,
        "meta": modules.meta,
        "parameters": modules.parameters,
        "gradients": modules.gradients,
        "gradcheck": derivatives.gradcheck,
        "no-grad": modules.no_grad,
        "state": state.state,
        "batch": modules.batch,
        "strides": modules.strides,
        "tokens": paper.tokens,
        **corners,
        "extremes": modules.extremes,
        "document": paper.document,
        "state-dict": modules.state_dict,
        "deepcopy": modules.deepcopy,
        "pickle": modules.pickle,
        "bf16": modules.bf16,
        "fp64": derivatives.fp64,
        "globals": effects.globals_,
        "import": effects.import_,
        "compile": compilers.compile_,
        "export": compilers.export,
        "training-batch": modules.training_batch,
    }


BLOCK_CHECKS = _checks(on_block)
PROJECTOR_CHECKS = _checks(on_projector)


def check_block(
    block: Block | type[Block],
    *,
    features: Sequence[Feature] | None = None,
    skip: Collection[str] = (),
) -> None:
    """Check that a block does what every built-in does.

    It need not be registered: where it is not, it is for the time being. Properties that need the
    file its class comes from hold by default for a class that has none, as in a notebook. Whatever
    a block does to the process is undone.

        check_block(Gate)
        check_block(Gate(bias=False), features=[Feature(channels=8, grid=(3, 5), ends=(8, 8))])

    Args:
        block: The block, or its class if every field has a default.
        features: What to give it. Default: 48 channels between ends of 48 and 96 (and of 24 and
            96), on several grids and as a sequence, as far as its `flow` takes them.
        skip: Names of properties to leave out; ``compile`` and ``export`` are the slow ones.

    Raises:
        ConformanceError: Some properties do not hold; it is an AssertionError.
        SpecError: It is no block, a class with fields to fill in, or there is no such property.
    """
    __tracebackhide__ = True  # in pytest: the report says it all
    spec = on_block.instance(block)
    checks = _chosen(BLOCK_CHECKS, skip, "check_block")
    with _registered([spec]):
        _review(repr(spec), lambda: on_block.examine(spec, features), checks)


def check_projector(
    spec: str | Mapping[str, Any] | Stack | Preset | type[Preset],
    in_: int | None = None,
    out: int | None = None,
    *,
    grids: Sequence[tuple[int, int]] | None = None,
    skip: Collection[str] = (),
    **options: Any,
) -> None:
    """Check that a projector does what every built-in does.

        check_projector("gated-mlp", bias=False)
        check_projector(GatedMlp(bias=False), 64, 64, grids=[(6, 6)])

    Args:
        spec: A registered name, a preset or its class, a document or a stack.
        in_: The input width. Default: 48, or the document's.
        out: The output width. Default: 96, or the document's.
        grids: What to give it. Default: several, as far as its blocks take them.
        skip: Names of properties to leave out; ``compile`` and ``export`` are the slow ones.
        **options: The options of a registered name or of a preset's class.

    Raises:
        ConformanceError: Some properties do not hold; it is an AssertionError.
        RegistryError: There is no such name.
        SpecError: An option, a width or the document does not fit, or there is no such property.
    """
    __tracebackhide__ = True
    checks = _chosen(PROJECTOR_CHECKS, skip, "check_projector")
    thing, stack = on_projector.stack_of(spec, in_, out, options)
    title = spec if isinstance(spec, str) else repr(thing)
    with _registered(stack.blocks):
        _review(title, lambda: on_projector.examine(thing, stack, grids), checks)


def _chosen(
    checks: Mapping[str, Callable[[Any], None]], skip: Collection[str], where: str
) -> dict[str, Callable[[Any], None]]:
    skip = {skip} if isinstance(skip, str) else skip
    for name in skip:
        if name not in checks:
            raise SpecError(
                f"no property is called {quote(name)}",
                f"{where}(skip=...)",
                f"some of {', '.join(checks)}",
                did_you_mean(name, checks),
            )
    return {name: check for name, check in checks.items() if name not in skip}


def _review(
    title: str, examine: Callable[[], Subject], checks: Mapping[str, Callable[[Any], None]]
) -> None:
    """Run every check, and raise what they found together.

    The first ones are what the others rely on: where one of them fails, it is told alone.
    """
    __tracebackhide__ = True
    findings: dict[str, Finding] = {}
    left = list(checks)
    with kept():
        try:
            subject = examine()
        except Finding as finding:
            findings["flow"] = finding
            left = [name for name in left if name != "flow"]
        while left and not any(name in findings for name in _FIRST):
            name = left.pop(0)
            with kept():
                try:
                    checks[name](subject)
                except Finding as finding:
                    findings[name] = finding
    if findings:  # each keeps its cause; their tracebacks would bury the review
        raise ConformanceError.of(title, findings, len(checks), len(left)) from None


@contextmanager
def _registered(blocks: Sequence[Block]) -> Iterator[None]:
    """Give the classes of these blocks, and of those inside them, names for the time being."""
    with ExitStack() as stack:
        for number, cls in enumerate(dict.fromkeys(_classes(blocks))):
            try:
                BLOCKS.name_of(cls)
            except RegistryError:
                name = f"under-test-{number}"
                BLOCKS.register(name, cls)
                stack.callback(BLOCKS.unregister, name)
        yield


def _classes(blocks: Sequence[Block]) -> Iterator[type[Block]]:
    for block in blocks:
        yield type(block)
        for body in bodies(block).values():
            yield from _classes(body)
