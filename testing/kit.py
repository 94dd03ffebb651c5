"""The two entry points: check a block or a projector, and raise all findings together."""

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
from . import compilers, derivatives, modules, side_effects, state
from . import projector as on_projector
from . import upstream as on_upstream
from .cases import Subject
from .global_state import preserve_global_state
from .report import ConformanceError, Finding

__all__ = ["BLOCK_CHECKS", "PROJECTOR_CHECKS", "check_block", "check_projector"]

_FIRST = ("run", "input", "determinism", "flow")


def _checks(own: Any) -> dict[str, Callable[[Any], None]]:
    """Return the check of every property, in order; some are specific to blocks or projectors."""
    written = {"upstream": on_upstream.upstream} if own is on_projector else {}
    corners = {"large-grids": own.large_grids} if hasattr(own, "large_grids") else {}
    return {
        "run": modules.run,
        "input": modules.input_,
        "determinism": modules.determinism,
        "flow": own.flow,
        "meta": modules.meta,
        "parameters": modules.parameters,
        "gradients": modules.gradients,
        "gradcheck": derivatives.gradcheck,
        "no-grad": modules.no_grad,
        "state": state.state,
        "batch": modules.batch,
        "strides": modules.strides,
        "tokens": own.tokens,
        **corners,
        "extremes": modules.extremes,
        "document": own.document,
        "state-dict": modules.state_dict,
        "deepcopy": modules.deepcopy,
        "pickle": modules.pickle,
        **written,
        "bf16": modules.bf16,
        "fp64": derivatives.fp64,
        "globals": side_effects.globals_,
        "import": side_effects.import_,
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
    """Check that a block satisfies everything that the built-in blocks satisfy.

    It need not be registered; during the check it is. For a class without a file, as in a notebook,
    the properties that need the file are not checked. Whatever a block changes in the process is
    undone.

    For example::

        check_block(Gate)
        check_block(Gate(bias=False), features=[Feature(channels=8, grid=(3, 5), ends=(8, 8))])

    Args:
        block: The block, or its class if every field has a default.
        features: The features to try. Default: 48 channels between ends of 48 and 96 (and of 24
            and 96), on several grids and as a sequence; those that its `flow` accepts are used.
        skip: Names of properties to leave out; ``compile`` and ``export`` are the slow ones.

    Raises:
        ConformanceError: Some properties do not hold. It is an AssertionError.
        SpecError: `block` is not a block, or a class with required fields; or a property to skip
            does not exist.
    """
    __tracebackhide__ = True  # pytest then shows the report only
    spec = on_block.instance(block)
    checks = _chosen(BLOCK_CHECKS, skip, "check_block")
    with _registered([spec]):
        _review(repr(spec), lambda: on_block.examine_block(spec, features), checks)


def check_projector(
    spec: str | Mapping[str, Any] | Stack | Preset | type[Preset],
    in_: int | None = None,
    out: int | None = None,
    *,
    grids: Sequence[tuple[int, int]] | None = None,
    config: Mapping[str, Any] | None = None,
    skip: Collection[str] = (),
    **options: Any,
) -> None:
    """Check that a projector satisfies everything that the built-in projectors satisfy.

    For example::

        check_projector("gated-mlp", bias=False)
        check_projector(GatedMlp(bias=False), 64, 64, grids=[(6, 6)])

    Args:
        spec: A registered name, a preset or its class, a document or a stack.
        in_: The input width. Default: 48, or the document's.
        out: The output width. Default: 96, or the document's.
        grids: The grids to try. Default: several; those that its blocks accept are used.
        config: What the ``config.json`` of the models says whose checkpoints a preset's `upstream`
            reads, beside the model type: the settings of these options.
        skip: Names of properties to leave out; ``compile`` and ``export`` are the slow ones.
        **options: The options of a registered name or of a preset's class.

    Raises:
        ConformanceError: Some properties do not hold. It is an AssertionError.
        RegistryError: The name is not registered.
        SpecError: An option, a width or the document does not fit, or a property to skip does not
            exist.
    """
    __tracebackhide__ = True
    checks = _chosen(PROJECTOR_CHECKS, skip, "check_projector")
    thing, stack = on_projector.stack_of(spec, in_, out, options)
    title = spec if isinstance(spec, str) else repr(thing)
    with _registered(stack.blocks):
        _review(
            title, lambda: on_projector.examine_projector(thing, stack, grids, config or {}), checks
        )


def _chosen(
    checks: Mapping[str, Callable[[Any], None]], skip: Collection[str], where: str
) -> dict[str, Callable[[Any], None]]:
    skip = {skip} if isinstance(skip, str) else skip
    for name in skip:
        if name not in checks:
            raise SpecError(
                f"no property is named {quote(name)}",
                f"{where}(skip=...)",
                f"one of {', '.join(checks)}",
                did_you_mean(name, checks),
            )
    return {name: check for name, check in checks.items() if name not in skip}


def _review(
    title: str, examine: Callable[[], Subject], checks: Mapping[str, Callable[[Any], None]]
) -> None:
    """Run every check, and raise all findings together.

    All other checks rely on the first ones; if one of these fails, it is reported alone.
    """
    __tracebackhide__ = True
    findings: dict[str, Finding] = {}
    left = list(checks)
    with preserve_global_state():
        try:
            subject = examine()
        except Finding as finding:
            findings["flow"] = finding
            left = [name for name in left if name != "flow"]
        while left and not any(name in findings for name in _FIRST):
            name = left.pop(0)
            with preserve_global_state():
                try:
                    checks[name](subject)
                except Finding as finding:
                    findings[name] = finding
    if findings:  # each keeps its cause; their tracebacks would hide the report
        raise ConformanceError.of(title, findings, len(checks), len(left)) from None


@contextmanager
def _registered(blocks: Sequence[Block]) -> Iterator[None]:
    """Temporarily register the classes of these blocks, and of the blocks inside them."""
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
