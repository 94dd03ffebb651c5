"""The base of everything that is written in a document: strict, frozen, with readable errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NoReturn, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from ...registry import MobileVLMError, did_you_mean, quote
from .errors import SpecError

__all__ = [
    "MAX_BLOCKS",
    "MAX_DEPTH",
    "MAX_NODES",
    "Refused",
    "Spec",
    "WithDuplicate",
    "check_structure",
    "relocate",
    "shown",
]

MAX_DEPTH = 16
MAX_BLOCKS = 4_096
MAX_NODES = 65_536
MAX_PROBLEMS = 10  # shown of one document
# Mappings count as levels, and lists do not: there may be a few around each mapping.
MAX_CONTAINERS = 4 * MAX_DEPTH


class Refused(ValueError):
    """Carry one of our errors through pydantic, which turns every exception into text.

    Building our text may include a search for a hint, and only some errors are shown. So this
    exception has no text of its own.
    """

    def __init__(self, error: MobileVLMError) -> None:
        super().__init__()
        self.error = error


class Spec(BaseModel):
    """A strict, frozen piece of a document.

    Nothing is converted: an integer field refuses ``true``, ``"64"`` and ``64.0``. Unknown keys,
    NaN and infinities are refused. Every failure is a `SpecError`. pydantic's `model_construct`
    and `model_copy(update=...)` check nothing.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        serialize_by_alias=True,
    )

    def __init__(self, /, **data: Any) -> None:
        where = self._root()
        check_structure(data, where)
        try:
            super().__init__(**data)
        except ValidationError as error:
            _explain(error, where)

    @classmethod
    def model_validate(cls, obj: Any, **_: Any) -> Self:
        """Validate a mapping, with the limits and the errors of the constructor."""
        if isinstance(obj, cls):
            return obj
        if not isinstance(obj, Mapping):
            raise SpecError(shown(obj), cls._root(), "a mapping")
        check_structure(obj, cls._root())
        return cls(**obj)

    @classmethod
    def model_validate_json(cls, json_data: Any, **_: Any) -> Self:
        """Refuse: pydantic's reader lets duplicate keys pass; `load_spec` reads JSON."""
        raise SpecError("JSON is read with load_spec", cls._root())

    # Tells pydantic that this __init__ only wraps its own, so that nested documents are validated
    # directly and keep their path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def _root(cls) -> str:
        """Return how messages name the root of the document."""
        return cls.__name__

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and cls.model_config.get("extra") != "allow":
            known = _field_keys(cls)
            for key in data:
                if key not in known:
                    raise Refused(_unknown_key(key, known))
        return data


@cache
def _field_keys(cls: type[Spec]) -> dict[str, None]:
    """Return every spelling of every field, in order."""
    found: dict[str, None] = {}
    for name, field in cls.model_fields.items():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
        found.update({choice: None for choice in choices if isinstance(choice, str)})
    return found


def _unknown_key(key: object, known: Iterable[str]) -> SpecError:
    # Python's spelling of a key, such as in_, is accepted but not advertised.
    names = [name for name in known if not name.endswith("_")]
    return SpecError(
        f"unknown key {quote(key)}",
        expected=f"one of {', '.join(names)}" if names else "no keys",
        hint=lambda: did_you_mean(key, names),
    )


class WithDuplicate(dict[str, Any]):
    """A JSON object that gives `key` twice; it is refused where its path is known."""

    def __init__(self, value: dict[str, Any], key: str) -> None:
        super().__init__(value)
        self.key = key


def check_structure(data: Any, where: str = "") -> None:
    """Refuse what is too deep, too big or contains itself, before anything else reads it.

    At most `MAX_NODES` values are visited, however many are shared.

    Raises:
        SpecError: With the path of the offending value.
    """
    _check_items(data, (where,), (id(data),), 0, iter(range(MAX_NODES)))


def _check_items(
    data: Any, path: tuple[str, ...], parents: tuple[int, ...], level: int, budget: Iterator[int]
) -> None:
    """Check what a container holds.

    Args:
        data: The container.
        path: The steps to it.
        parents: The identities of the containers around it, and its own.
        level: How many mappings there are on the way.
        budget: One item for each value that may still be visited.
    """
    for step, value in _items(data, path):
        if next(budget, None) is None:
            expected = f"at most {MAX_NODES:,} values in a document"
            raise SpecError("too big", _short_path(path), expected)
        if isinstance(value, str | bytes | int | float | None):
            continue
        if not isinstance(value, Mapping | list | tuple | Spec):
            if isinstance(value, Iterable):  # sets, queues, generators, arrays
                found = f"a {type(value).__name__}"
                raise SpecError(found, _short_path((*path, step)), "a list or an object of JSON")
            continue
        if id(value) in parents:
            raise SpecError("it contains itself", _short_path((*path, step)))
        inner = level + (not isinstance(value, list | tuple))
        if inner > MAX_DEPTH or len(parents) > MAX_CONTAINERS:
            raise SpecError("nested too deep", _short_path(path), f"at most {MAX_DEPTH} levels")
        _check_items(value, (*path, step), (*parents, id(value)), inner, budget)


def _short_path(path: tuple[str, ...]) -> str:
    """Join a path's steps, and cut a very long one."""
    text = "".join(path).lstrip(".")
    return text if len(text) <= 60 else text[:57] + "..."


def _items(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield what a container holds, each with its step of the path."""
    if isinstance(value, WithDuplicate):
        raise SpecError(f"key {quote(value.key)} is given twice", "".join(path).lstrip("."))
    if isinstance(value, Spec):
        yield from ((f".{key}", item) for key, item in value.__dict__.items())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SpecError(f"key {quote(key)} is not a string", "".join(path).lstrip("."))
            yield f".{key}" if key.isidentifier() else f"[{quote(key)}]", item
    else:
        yield from ((f"[{index}]", item) for index, item in enumerate(value))


def _explain(error: ValidationError, where: str) -> NoReturn:
    """Raise what pydantic found as a `SpecError` in our words."""
    count = error.error_count()
    problems = [_problem(each, where) for each in error.errors(include_url=False)[:MAX_PROBLEMS]]
    if count == 1:
        raise problems[0] from problems[0].__cause__
    lines = "".join(f"\n  - {problem}" for problem in problems)
    if count > MAX_PROBLEMS:
        lines += f"\n  - and {count - MAX_PROBLEMS} more"
    raise SpecError(f"{count} problems{lines}") from None


_EXPECTED = {
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_type": "an integer",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_type": "a string",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} items",
    "tuple_type": "a list",
}


def _problem(each: ErrorDetails, root: str) -> MobileVLMError:
    where, kind, context = _path(root, each["loc"]), each["type"], each.get("ctx", {})
    inner = context.get("error")
    if isinstance(inner, Refused):
        inner = inner.error
    if isinstance(inner, MobileVLMError):
        return relocate(inner, where)
    if kind == "missing":
        return SpecError(f"key {quote(each['loc'][-1])} is missing", _path(root, each["loc"][:-1]))
    given = shown(each["input"])
    if kind == "literal_error":
        options = context["expected"].replace(" or ", ",").split(",")
        hint = did_you_mean(each["input"], [option.strip("' ") for option in options])
        return SpecError(given, where, context["expected"], hint)
    if kind in _EXPECTED:
        return SpecError(given, where, _EXPECTED[kind].format(**context))
    message = each["msg"].removeprefix("Input should be ")
    return SpecError(given, where, message[0].lower() + message[1:])


def relocate(error: MobileVLMError, where: str) -> MobileVLMError:
    """Return the same error with `where` before its path."""
    inner = error.where
    if inner.startswith(f"{where}["):  # a chain's own messages carry its whole path
        joined = inner
    else:
        joined = where + (inner if inner.startswith(("[", ".")) or not inner else f".{inner}")
    cls = type(error) if isinstance(error, ValueError) else SpecError
    new = cls(error.found, joined, error.expected, error.hint)
    new.__cause__ = error.__cause__ if cls is type(error) else error
    return new


def _path(root: str, loc: tuple[int | str, ...]) -> str:
    text = root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.lstrip(".")


def shown(value: Any) -> str:
    """Show a value as JSON writes it, or with the name of its type if JSON cannot."""
    try:
        text = json.dumps(value, allow_nan=True) if not isinstance(value, dict | list) else ""
    except (TypeError, ValueError, RecursionError):
        text = ""
    return quote(value) if not text or len(text) > 80 else text
