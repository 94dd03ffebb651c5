"""How verbs are parsed: ``--in 1024`` is ``in=1024``, and with --json errors are JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..registry import did_you_mean
from .output import USAGE, explain

__all__ = ["Verb", "Verbs"]

# Written as --key value or key=value.
_EITHER_WAY = ("in", "out", "grid", "tower", "lm", "root", "family")
_SETTINGS = ("dtype", "device", "weights")  # so may these, if the verb has them as options


class Verb(TyperCommand):
    """A command whose keys may be written as options or as words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, each key in the spelling that this verb declares."""
        with _usage(args):
            return super().parse_args(ctx, [*self._normalized(ctx, args)])

    def _normalized(self, ctx: Any, args: Sequence[str]) -> Iterator[str]:
        """Yield the arguments, each key in the spelling that this verb declares."""
        if ctx.resilient_parsing:  # a shell asks for completions
            yield from args
            return
        options = {option for param in self.get_params(ctx) for option in param.opts}
        arguments = {param.name for param in self.params}
        words = not arguments.isdisjoint(("words", "targets"))
        written = "NAME({}={})" if "targets" in arguments else "{}={}"
        rest = iter(args)
        for arg in rest:
            if arg == "--":
                yield from (arg, *rest)
                return
            dashes, key, equals, value = _split(arg)
            option = f"--{key}"
            if dashes and words and option not in options:
                if key in _EITHER_WAY:
                    value = value if equals else next(rest, "")
                    if not value:
                        ctx.fail(f"{option} needs a value. Write {key}=VALUE.")
                    yield f"{key}={value}"
                    continue
                if key not in _SETTINGS and not did_you_mean(
                    key, [known.strip("-") for known in options]
                ):
                    value = value or next(rest, "VALUE")
                    ctx.fail(
                        f"No such option: {option}. A projector's options are written "
                        f"{written.format('KEY', 'VALUE')}: {written.format(key, value)}."
                    )
            option = option.replace("_", "-")
            either_way = key in _SETTINGS or not words
            if not dashes and equals and either_way and option in options:
                yield from (option, value)
                continue
            yield arg


class Verbs(TyperGroup):
    """The command `mobilevlm`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb; an unknown one is an error."""
        with _usage(args):
            return super().resolve_command(ctx, args)


def _split(arg: str) -> tuple[str, str, str, str]:
    """Return the dashes, the key, the ``=`` and the value of ``--key=value`` or ``key=value``."""
    match = re.fullmatch(r"(--)?([A-Za-z][\w-]*)(=?)(.*)", arg, re.ASCII | re.DOTALL)
    if match is None or not (match[1] or match[3]):
        return "", "", "", ""
    return match[1] or "", match[2], match[3], match[4]


@contextmanager
def _usage(args: Sequence[str]) -> Iterator[None]:
    """Print usage errors as JSON if ``--json`` is among the arguments."""
    try:
        yield
    except Exception as error:
        message = getattr(error, "format_message", None)  # only typer's errors have it
        if message is None or "--json" not in args:
            raise
        explain(message(), as_json=True)
        raise typer.Exit(USAGE) from None
