"""Mistakes tried on the entries of a pack, and what its checker says of each."""

import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from engine import Array, Engine
from mistakes import StoredInBfloat16
from registered import KINDS, MISTAKES

__all__ = ["Trial", "false_alarms", "given", "load_checker", "tried"]

CHANGED = 1e-5
"""From which largest difference on, relative to the largest value, a mistake changes an output."""
SCALES = (1.0, 1e-3)

Outputs = Mapping[str, Array]
# An engine that stops at what it cannot compute tells its author all that there is to tell.
STOPS = (ValueError, IndexError, ZeroDivisionError, KeyError)


@dataclass
class Trial:
    """What the checker said of one mistake in one entry.

    Attributes:
        caught: Whether it found any case wrong, by all blocks and by the output alone.
        named: The kind of the cause that it named first.
    """

    mistake: type[Engine]
    entry: str
    caught: dict[str, bool] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)

    def right(self, way: str) -> bool:
        return self.named[way] in KINDS[self.mistake]


def load_checker(pack: Path) -> ModuleType:
    """Import a pack's own check.py."""
    spec = spec_from_file_location("check", pack / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["check"] = module  # its dataclasses look for it
    spec.loader.exec_module(module)
    return module


def right_outputs(checker: ModuleType, entry: Any) -> Iterator[tuple[Any, Outputs]]:
    """Yield what a right engine gives for each case, computed in fp32."""
    engine = Engine(entry.facts["document"], checker.read_tensors(entry.weights))
    for case in entry.cases.values():
        yield case, given(case, engine.run(case.input.astype(np.float32), case.facts))


def false_alarms(checker: ModuleType, entry: Any) -> Iterator[str]:
    """Yield the cases in which a right engine is taken for wrong; also one in bf16."""
    weights = checker.read_tensors(entry.weights)
    half = StoredInBfloat16(entry.facts["document"], weights)
    for case, outputs in right_outputs(checker, entry):
        tries = [outputs]
        if case.facts["dtype"] == "bfloat16":
            tries.append(given(case, half.run(case.input.astype(np.float32), case.facts)))
        for result in (checker.compare(case, each) for each in tries):
            if not result.ok:
                yield f"{entry.name} {case.name}: {result.path}: {result.problem}"


def tried(checker: ModuleType, entry: Any) -> Iterator[Trial]:
    """Yield what becomes of each mistake that changes anything."""
    document, weights = entry.facts["document"], checker.read_tensors(entry.weights)
    right = Engine(document, weights)
    probes = [(x, case.facts, right.run(x, case.facts)) for case, x in unseen(entry)]
    for mistake in MISTAKES:
        wrong = mistake(document, weights)
        if any(changes(wrong, *probe) for probe in probes):
            yield judged(checker, entry, mistake, wrong)


def unseen(entry: Any) -> Iterator[tuple[Any, Array]]:
    """Yield inputs that are not in the pack, for the grids of its cases."""
    for case in entry.cases.values():
        for scale in SCALES:
            random = np.random.default_rng(zlib.crc32(f"{case.name} {scale}".encode()))
            yield case, (scale * random.standard_normal(case.input.shape)).astype(np.float32)


def changes(wrong: Engine, x: Array, facts: Mapping[str, Any], right: Outputs) -> bool:
    """Whether a mistake changes the output by more than rounding does."""
    try:
        found = wrong.run(x, facts)["output"]
    except STOPS:
        return False
    want = right["output"]
    if found.size != want.size:
        return True
    distance = np.abs(found.reshape(want.shape) - want).max()
    return not distance <= CHANGED * np.abs(want).max()


def judged(checker: ModuleType, entry: Any, mistake: type[Engine], wrong: Engine) -> Trial:
    """Give the checker what a wrong engine computes: all of it, and the output alone."""
    trial = Trial(mistake, entry.name)
    outputs = [*computed(entry, wrong)]
    for way in ("blocks", "output"):
        results = [
            checker.compare(case, found if way == "blocks" else {"output": found["output"]})
            for case, found in outputs
        ]
        causes: Sequence[Any] = checker.summarise(results)
        trial.caught[way] = not all(result.ok for result in results)
        trial.named[way] = causes[0].kind if causes else "none"
    return trial


def computed(entry: Any, wrong: Engine) -> Iterator[tuple[Any, Outputs]]:
    for case in entry.cases.values():
        try:
            yield case, given(case, wrong.run(case.input.astype(np.float32), case.facts))
        except STOPS:
            continue


def given(case: Any, found: Outputs) -> Outputs:
    """Of what an engine computes, that for which the case has something right."""
    return {path: found[path] for path in case.expected if path in found}
