"""What pytest prints as it goes: a line for each file that has ended, not a dot for each test."""

from collections import Counter
from collections.abc import Iterable

import pytest


class Progress:
    """Reads the reports of this process, or of the workers of pytest-xdist."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self.terminal = terminal
        self.left: Counter[str] = Counter()
        self.outcomes: dict[str, Counter[str]] = {}
        self.seconds: Counter[str] = Counter()
        self.files = 0

    def expect(self, ids: Iterable[str]) -> None:
        self.left = Counter(file_of(name) for name in ids)
        self.outcomes = {file: Counter() for file in self.left}
        self.files = len(self.left)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.items:
            self.expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        if not self.files:  # every worker collects the same
            self.expect(ids)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Iterable[object]:
        category, _, word = yield
        return category, "", word

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = file_of(report.nodeid)
        self.seconds[file] += report.duration
        if report.failed:
            self.terminal.write_line(f"FAILED {report.nodeid}", red=True)
        if report.failed or report.skipped or report.when == "call":
            self.outcomes[file][report.outcome] += 1
        if report.when != "teardown":
            return
        self.left[file] -= 1
        if not self.left[file]:
            del self.left[file]
            counts = ", ".join(f"{n} {what}" for what, n in sorted(self.outcomes[file].items()))
            done = f"{self.files - len(self.left)}/{self.files}"
            self.terminal.write_line(f"{done:>6}  {file:<44} {self.seconds[file]:4.0f} s  {counts}")


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]
