"""What the caller says of the projector that is meant, beyond the checkpoint itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Grid, check_grid
from ..projectors import PROJECTORS
from ..projectors.lookup import to_stack
from ..projectors.stack import Stack
from ..projectors.upstream import Names
from ..registry import did_you_mean, quote
from .errors import CheckpointError
from .mapping import names_of

if TYPE_CHECKING:
    from .weights import Weights

__all__ = ["ModuleNames", "Request", "Spec", "load_call"]

Spec: TypeAlias = Mapping[str, Any] | Stack
ModuleNames: TypeAlias = str | Names


@dataclass(frozen=True)
class Request:
    """What the caller says of the projector that is meant; see `load_projector`.

    Attributes:
        root: What stands before its keys: empty, or ends with a dot; None where it is not given.
        family: The family that it is of; empty where it is not given.
        spec: Its specification.
        names: The names of its modules in the checkpoint; None: those of the specification.
        layout: What the caller calls these names; empty if it is a list.
        grid: The default grid.
        fields: The fields of the specification that are given: its prefix tokens, their order.
        options: The options of the family.
        tokens: How many tokens are to come out, in place of one of these.
    """

    root: str | None = None
    family: str = ""
    spec: Stack | None = None
    names: Names | None = None
    layout: str = ""
    grid: Grid | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    tokens: int | None = None

    @classmethod
    def of(
        cls,
        *,
        root: str | None = None,
        family: str | None = None,
        spec: Spec | None = None,
        module_names: ModuleNames | None = None,
        grid: Sequence[int] | None = None,
        prefix_tokens: int | None = None,
        token_order: str | None = None,
        tokens: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Request:
        """Check arguments that are given together, and return them as one.

        Raises:
            CheckpointError: They do not go together, or there is no such layout.
            SpecError: One of them does not fit by itself.
            GridError: The grid is none.
        """
        if root is not None and not isinstance(root, str):
            expected = "what stands before the keys, such as 'model.connector'"
            raise SpecError(quote(root), "root", expected)
        if root:
            root = root.removesuffix(".") + "."
        if family is not None and spec is not None:
            hint = "A document says everything itself: leave out family=."
            raise CheckpointError("family= and spec=", expected="one of them", hint=hint)
        if module_names is not None and spec is None:
            hint = "Give the document that these modules are of: spec=load_spec('document.json')."
            raise CheckpointError("module_names= without spec=", hint=hint)
        options = options or {}
        stray = next(iter(options), "" if tokens is None else "tokens")
        if stray and family is None:
            raise _stray(stray)
        layout = module_names if isinstance(module_names, str) else ""
        given = {"prefix_tokens": prefix_tokens, "token_order": token_order}
        given = {name: value for name, value in given.items() if value is not None}
        if given:
            blank = Stack.parse({"in": 1, "out": 1, "blocks": ["pointwise"], **given})
            given = {name: getattr(blank, name) for name in given}
        return cls(
            root,
            family or "",
            None if spec is None else _stack(spec),
            None if module_names is None else names_of(module_names, "module_names"),
            layout,
            None if grid is None else check_grid(grid),
            given,
            options,
            tokens,
        )

    def applied(self, stack: Stack) -> Stack:
        """Return a specification with the prefix tokens and the order that are given."""
        return stack.model_copy(update=dict(self.fields)) if self.fields else stack


def _stack(spec: Spec) -> Stack:
    if isinstance(spec, str) and not spec.lstrip().startswith("{"):
        hint = f"Read a file with load_spec: spec=load_spec({quote(spec, 200)})."
        if spec in PROJECTORS:
            hint = f"Expand a name first: spec=spec_of({quote(spec)}, 1024, 2048)."
        raise SpecError(quote(spec), "spec", "a mapping or a Stack", hint)
    return to_stack(spec, None, None, {})


def _stray(name: str) -> SpecError:
    known = [*inspect.signature(Request.of).parameters, "device", "dtype", "check_values"]
    hint = "" if name in known else did_you_mean(name, known)
    hint = hint or f"Options belong to a family: say which, as family='mlp', {name}=..."
    return SpecError(f"option {quote(name)} without a family", hint=hint)


def load_call(weights: Weights, **arguments: object) -> str:
    """Return the call that reads some weights, for a message, without the arguments that are None.

    A pickle is only converted.
    """
    function, first = "load_projector", [quote(weights.where, 4096)]
    if weights.pickled:
        function, first = "convert_checkpoint", [*first, "'projector'", "from_pickle=True"]
    given = [f"{name}={value}" for name, value in arguments.items() if value is not None]
    return f"{function}({', '.join([*first, *given])})"
