"""What importing a plugin does besides: what it prints and what global state it changes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .names import quote

__all__ = ["Load", "Probe", "watch"]

_SHOWN = 200  # characters of what was printed, in a message


@dataclass(frozen=True)
class Probe:
    """A piece of global state that importing a plugin should leave alone.

    Attributes:
        name: What a message calls it.
        read: Return it; None where there is none yet, which is never compared.
        restore: Put it back; None where that cannot be done.
        key: What to compare it by, where it is too big to be compared or shown itself.
    """

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object] | None = None
    key: Callable[[Any], object] | None = None


@dataclass
class Load:
    """What importing a plugin took and did.

    Attributes:
        seconds: How long it took; next to nothing if the module was loaded already.
        printed: What it wrote to standard output and standard error.
        changed: The global state that it changed, in words.
    """

    seconds: float = 0.0
    printed: str = ""
    changed: tuple[str, ...] = ()

    @property
    def effects(self) -> str:
        r"""What it did besides, as the end of a sentence; empty if nothing.

        >>> Load(printed="hello\n", changed=("torch's default dtype (put back)",)).effects
        "printed 'hello\\n' and changed torch's default dtype (put back)"
        """
        printed = f"printed {quote(self.printed, _SHOWN)}" if self.printed else ""
        changed = f"changed {', '.join(self.changed)}" if self.changed else ""
        return " and ".join(filter(None, [printed, changed]))


@contextmanager
def watch(probes: Sequence[Probe]) -> Iterator[Load]:
    """Hold back what this thread prints inside, and put the global state back afterwards.

    The `Load` is filled in at the end. State is the process's: what another thread changes
    meanwhile is seen, and put back, too.
    """
    load = Load()
    before = [(probe, probe.read()) for probe in probes]
    with _holding_back() as printed:
        start = time.perf_counter()
        try:
            yield load
        finally:
            load.seconds = time.perf_counter() - start
            load.printed = "".join(printed)
            load.changed = tuple(_changes(before))


def _changes(before: Iterable[tuple[Probe, Any]]) -> Iterator[str]:
    # All are read before any is put back: one may depend on another.
    for probe, old, new in [(probe, old, probe.read()) for probe, old in before]:
        key = probe.key or (lambda value: value)
        if old is None or key(old) == key(new):
            continue
        if probe.restore is not None:
            probe.restore(old)
        facts = [] if probe.key else [f"from {old} to {new}"]
        facts.append("put back" if probe.restore else "it cannot be put back")
        yield f"{probe.name} ({'; '.join(facts)})"


@contextmanager
def _holding_back() -> Iterator[list[str]]:
    held: list[str] = []
    streams = {
        name: _Held(stream, held)
        for name in ("stdout", "stderr")
        if (stream := getattr(sys, name)) is not None
    }
    for name, stream in streams.items():
        setattr(sys, name, stream)
    try:
        yield held
    finally:
        for name, stream in streams.items():
            stream.holding = False
            if getattr(sys, name) is stream:  # else another thread's, or the plugin's own
                setattr(sys, name, stream.below())


class _Held:
    """A standard stream that holds back what one thread writes, for a while.

    A logging handler made meanwhile keeps it for good: afterwards it is the stream below.
    """

    def __init__(self, stream: Any, held: list[str]) -> None:
        self._stream = stream
        self._held = held
        self._thread = threading.get_ident()
        self.holding = True

    def write(self, text: str) -> int:
        if self.holding and threading.get_ident() == self._thread:
            self._held.append(text)
            return len(text)
        written: int = self._stream.write(text)
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def below(self) -> Any:
        """Return the stream to go back to: threads need not finish in the order they began."""
        stream = self._stream
        while isinstance(stream, _Held) and not stream.holding:
            stream = stream._stream
        return stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
