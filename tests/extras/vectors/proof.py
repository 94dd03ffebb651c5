"""The proof that the test vectors catch what goes wrong in practice, and name it.

``make vectors-proof`` runs it. An engine by somebody else (`engine`) computes every entry of a pack
in fp32, from the manifest and the weights alone; it has to be right. Then it makes each of the
mistakes in `mistakes`, and gives the checker what leaves its blocks. A mistake counts for an entry
if it changes the output of inputs that are not in the pack. The pack is written on two sets of
instructions. It fails below the limits here.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from platforms import differences, same_bytes, size_of, write
from registered import MISTAKES
from trials import Trial, false_alarms, load_checker, right_outputs, tried

CAUGHT, NAMED = 0.99, 0.80
LARGEST = 30_000_000


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, help="a whole pack that is there; default: a new one")
    parser.add_argument("--entry", nargs="*", help="only these entries, and only the mistakes")
    parser.add_argument("--list", action="store_true", help="list what is not named rightly")
    options = parser.parse_args(argv)
    np.seterr(all="ignore")  # of infinities, which mistakes make
    with tempfile.TemporaryDirectory() as folder:
        pack = options.pack or write(Path(folder, "pack"))
        checker = load_checker(pack)
        problems = check_mistakes(checker, pack, options.entry, list_all=options.list)
        if not options.entry:
            problems += check_packs(checker, pack, Path(folder))
            time_checker(checker, pack, Path(folder))
    print(*[f"FAILED: {problem}" for problem in problems], sep="\n")
    return int(bool(problems))


def check_mistakes(
    checker: ModuleType, folder: Path, names: Sequence[str] | None, *, list_all: bool
) -> list[str]:
    """Try all mistakes on the entries, print what came of them, and return what is below limits."""
    pack = checker.Pack(folder)
    entries = [pack[name] for name in names or pack.names]
    start = time.perf_counter()
    problems = [alarm for entry in entries for alarm in false_alarms(checker, entry)]
    trials = [trial for entry in entries for trial in tried(checker, entry)]
    seconds = time.perf_counter() - start
    print_table(trials)
    if list_all:
        print_misses(trials)
    total, counts = len(trials), Counter(trial.entry for trial in trials)
    few, *_, many = sorted(counts[entry.name] for entry in [*entries, *entries])
    print(
        f"\n{len(MISTAKES)} mistakes, {len(entries)} entries, {few} to {many} mistakes that change "
        f"anything in each: {total:,} trials in {seconds:.0f} s"
    )
    print(f"right engines taken for wrong: {len(problems)} of {len(entries)} entries")
    for way, words in (("blocks", "with all blocks"), ("output", "from the output alone")):
        caught = sum(trial.caught[way] for trial in trials) / total
        named = sum(trial.right(way) for trial in trials) / total
        print(f"{words}: caught {caught:.1%}, named rightly {named:.1%}")
        if caught < CAUGHT:
            problems.append(f"{words}, {caught:.1%} are caught; expected {CAUGHT:.0%}")
        if way == "blocks" and named < NAMED:
            problems.append(f"{words}, {named:.1%} are named rightly; expected {NAMED:.0%}")
    return problems


def print_table(trials: Sequence[Trial]) -> None:
    print(f"{'':26} {'changes':>7} {'caught':>7} {'named':>7}   from the output alone")
    print(f"{'mistake':26} {'entries':>7} {'':>7} {'first':>7} {'caught':>7} {'named':>7}")
    for mistake in MISTAKES:
        own = [trial for trial in trials if trial.mistake is mistake]
        counts = [
            sum(values)
            for way in ("blocks", "output")
            for values in zip(*((t.caught[way], t.right(way)) for t in own), strict=True)
        ]
        cells = "".join(f" {count:7}" for count in (len(own), *counts))
        print(f"{mistake.__name__:26}{cells}")


def print_misses(trials: Sequence[Trial]) -> None:
    print("\nNot named rightly, with what was named first:")
    for mistake in MISTAKES:
        found: dict[str, list[str]] = {}
        for trial in trials:
            if trial.mistake is mistake and not trial.right("blocks"):
                found.setdefault(trial.named["blocks"], []).append(trial.entry)
        for kind, entries in found.items():
            shown = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "")
            print(f"  {mistake.__name__}: {kind} {len(entries)} ({shown})")


def check_packs(checker: ModuleType, pack: Path, folder: Path) -> list[str]:
    """Write the pack again, and with other instruction sets; return what differs."""
    problems = []
    if (size := size_of(pack)) >= LARGEST:
        problems.append(f"the pack has {size:,} bytes; expected less than {LARGEST:,}")
    few = checker.Pack(pack).names[::8]
    changed = [*same_bytes(pack, write(folder / "again", *few))]
    problems += [f"not the same bytes twice: {name}" for name in changed]
    limited = write(folder / "limited", limited=True)
    others = len([*same_bytes(pack, limited)])
    found = [*differences(checker, pack, limited)]
    problems += [f"with AVX2 at most: {each}" for each in found]
    print(f"the pack: {size / 1e6:.1f} MB; written again, {len(changed)} files differ")
    print(f"with AVX2 at most: {others} files differ, {len(found)} cases by more than is allowed")
    return problems


def time_checker(checker: ModuleType, folder: Path, scratch: Path) -> None:
    """Print how long the checker takes for the family that has most vectors."""
    pack = checker.Pack(folder)
    families: dict[str, list[Any]] = {}
    for entry in map(pack.__getitem__, pack.names):
        families.setdefault(entry.facts["family"], []).append(entry)

    def size(family: str) -> int:
        files = [folder / str(entry.facts["vectors"]) for entry in families[family]]
        return sum(path.stat().st_size for path in files)

    family = max(families, key=size)
    for entry in families[family]:
        (scratch / "outputs" / entry.name).mkdir(parents=True)
        for case, outputs in right_outputs(checker, entry):
            np.savez(scratch / "outputs" / entry.name / f"{case.name}.npz", **dict(outputs))
    command = [sys.executable, str(folder / "check.py"), "check", str(scratch / "outputs")]
    for entry in families[family]:
        command += ["--entry", entry.name]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    print(f"the checker: {seconds:.2f} s for {family}, {len(families[family])} entries")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
