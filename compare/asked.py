"""What is to be compared: its name, and its stack for images between a tower and a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Grid
from ..projectors import PROJECTORS
from ..projectors.build import resolve
from ..projectors.docstrings import paragraph
from ..projectors.index import aliases
from ..projectors.lookup import instantiate, refuse_path
from ..projectors.projector import Projector
from ..projectors.stack import Stack
from ..projectors.tokens import with_tokens
from ..registry import UnknownName, quote
from .around import Around

__all__ = ["Asked", "Fitted", "Spec", "asked"]

Spec: TypeAlias = (
    str
    | Stack
    | Projector
    | Mapping[str, Any]
    | tuple[str, Mapping[str, Any]]
    | tuple[str, Stack]
    | tuple[str, Projector]
)
"""A registered name, also with its options; a stack, a document or a built projector, also with a
name to call it by (a document with one is ``(name, load_spec(document))``)."""


class Fitted(NamedTuple):
    """A projector between its models.

    Attributes:
        name: What to call it, with its options.
        stack: The specification.
        family: The registered name that it belongs to; empty for a document.
        note: What it is easily taken for, or what its authors count otherwise.
    """

    name: str
    stack: Stack
    family: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A projector to be compared.

    Attributes:
        spec: A registered name, a stack or a document.
        name: What to call it, without its options.
        options: The options of a registered name; ``tokens`` may be among them.
        number: Which one it is of those that are called alike.
    """

    spec: str | Stack | Mapping[str, Any]
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    number: int = 1

    def label(self, options: Mapping[str, Any] | None = None) -> str:
        """Return its name with its options, or with those given: ``c-abstractor(queries=64)``."""
        options = self.options if options is None else options
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        name = f"{self.name}({given})" if given else self.name
        return name if self.number == 1 else f"{name} #{self.number}"

    def fit(self, around: Around, grids: Collection[Grid], tokens: int | None = None) -> Fitted:
        """Return its stack for the widths of the models around it.

        Args:
            around: The widths, the tower and the language model.
            grids: The images' grids.
            tokens: How many tokens are to come out of each image.

        Raises:
            MobileVLMError: It does not fit.
        """
        options = dict(self.options)
        tokens = options.pop("tokens", tokens)
        if tokens is not None:
            options = self._with_tokens(options, tokens, {*grids})
        stack, _ = resolve(
            self.spec, around.in_, around.out, around.tower, around.lm_width, options, None, None
        )
        family, note = self._facts(options)
        return Fitted(self.label(options), stack, family, note)

    def _with_tokens(
        self, options: Mapping[str, Any], tokens: int, sizes: Collection[Grid]
    ) -> dict[str, Any]:
        """Return the options that give so many tokens of each image.

        Raises:
            SpecError: There are none.
        """
        if not isinstance(self.spec, str):
            hint = "A document says everything itself: edit its blocks."
            raise SpecError(f"{tokens} for a document", "tokens", "a registered name with it", hint)
        if len(sizes) == 1:
            return with_tokens(self.spec, options, tokens, *sizes)
        try:
            return with_tokens(self.spec, options, tokens)
        except SpecError as error:
            found = f"images of several sizes do not all give {tokens}"
            raise SpecError(found, "tokens", hint="Give the option itself.") from error

    def _facts(self, options: Mapping[str, Any]) -> tuple[str, str]:
        """Return the family of a registered name, and the note on it."""
        if not isinstance(self.spec, str):
            return "", ""
        name = PROJECTORS.find(self.spec).name
        family, _ = aliases().get(name, (name, {}))
        return family, paragraph(type(instantiate(self.spec, options)), "Note")


def asked(specs: Iterable[Spec]) -> list[Asked]:
    """Return what is to be compared, numbered where names repeat.

    Raises:
        RegistryError: A name is unknown, or its plugin is broken.
        SpecError: It is something else than a `Spec`, or an option is none of the projector's.
    """
    if isinstance(specs, str | Mapping | Stack | Projector):
        raise SpecError("one projector", "specs", "a list of them", "Put it in brackets: [...].")
    seen: Counter[str] = Counter()
    found = []
    for spec in specs:
        each = _read(spec)
        seen[each.label()] += 1
        found.append(replace(each, number=seen[each.label()]))
    return found


def _read(spec: Spec) -> Asked:
    match spec:
        case str(name):
            return _named(name, {})
        case (str(name), Mapping() as options):
            return _named(name, options)
        case (str(name), Stack() | Projector() as thing):
            return Asked(spec=_stack(thing), name=name)
        case Stack() | Projector():
            return Asked(spec=_stack(spec), name="document")
        case Mapping():
            return Asked(spec=spec, name="document")
    expected = "a name, (name, options), a document, a Stack or a Projector"
    raise SpecError(quote(spec), "specs", expected)


def _named(name: str, options: Mapping[str, Any]) -> Asked:
    own = {key: value for key, value in options.items() if key != "tokens"}
    try:
        instantiate(name, own)  # a wrong name or option is a mistake of the call, and no row
    except UnknownName:
        refuse_path(name)
        raise
    return Asked(spec=name, name=name, options=options)


def _stack(thing: Stack | Projector) -> Stack:
    return thing.spec if isinstance(thing, Projector) else thing
