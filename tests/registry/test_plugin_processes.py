"""Plugins and registrations across processes: a real Ctrl-C, workers, a program of several."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.plugins import MALLET, SWAY, Site, gadgets, message

from mobilevlm.registry import STRICT_VARIABLE, BrokenPlugin


def program(code: str, cwd: Path) -> Path:
    file = cwd / "program.py"
    file.write_text(code)
    return file


def run(code: str, *words: str, cwd: Path, site: Site | None = None) -> str:
    """Run a program and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(site.folder) if site else ""}
    done = subprocess.run(
        [sys.executable, program(code, cwd), *words],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_real_ctrl_c_stops_the_program(site: Site, tmp_path: Path) -> None:
    points = "[mobilevlm.blocks]\nsway = north_blocks:Sway\n"
    source = "import pathlib, time\npathlib.Path('started').touch()\ntime.sleep(60)\n" + SWAY
    site.install("north-blocks", "1.0", points, {"north_blocks.py": source})
    code = (
        "from mobilevlm import BLOCKS, RegistryError\n"
        "try:\n    BLOCKS.get('sway')\nexcept RegistryError:\n    print('swallowed')\n"
        "print('went on')\n"
    )
    process = subprocess.Popen(
        [sys.executable, program(code, tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site.folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A parent that ignores the signal would have its children ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert out == ""
    assert err.splitlines()[-1] == "KeyboardInterrupt"


def test_uninstalled_between_listing_and_use(site: Site) -> None:
    info = site.install("north-tools", "1.0", MALLET, {"north_tools.py": "class Mallet: pass\n"})
    registry = gadgets()
    assert "mallet" in registry.names()
    for file in info.iterdir():
        file.unlink()
    (site.folder / "north_tools.py").unlink()
    assert message(BrokenPlugin, registry.get, "mallet") == (
        "gadget 'north-tools/mallet' from north-tools 1.0 (north_tools:Mallet): "
        "ModuleNotFoundError on import: No module named 'north_tools'. "
        "north-tools was uninstalled meanwhile: call GADGETS.refresh()."
    )
    registry.refresh()
    assert "mallet" not in registry


REGISTERED = """
import multiprocessing, sys
from mobilevlm import BLOCKS, Block, Stack, dump_spec
from torch import nn

class Gate(Block):
    def build(self, x):
        return nn.Identity()

def work(stack):
    try:
        again = Stack.parse({"in": 4, "out": 4, "blocks": ["gate"]})
        return dump_spec(stack) == dump_spec(again)
    except Exception as error:
        return str(error)

def start():
    stack = Stack(in_=4, out=4, blocks=(Gate(),))
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.apply(work, (stack,)))
"""
TOP = "BLOCKS.register('gate', Gate)\nif __name__ == '__main__':\n    start()\n"
GUARDED = "if __name__ == '__main__':\n    BLOCKS.register('gate', Gate)\n    start()\n"


@pytest.mark.quick("top-spawn", "guarded-spawn")
@pytest.mark.parametrize(
    ("end", "method", "said"),
    [
        pytest.param(TOP, "fork", "True", id="top-fork"),
        pytest.param(TOP, "spawn", "True", id="top-spawn"),
        pytest.param(TOP, "forkserver", "True", id="top-forkserver"),
        pytest.param(GUARDED, "fork", "True", id="guarded-fork"),
        pytest.param(
            GUARDED,
            "spawn",
            "blocks[0].type: unknown block 'gate'. This is a worker process: what is registered "
            "under if __name__ == '__main__' is not known here. Register it in a module that the "
            "worker imports.",
            id="guarded-spawn",
        ),
    ],
)
def test_registered_in_main_and_used_in_a_worker(
    registries: None, tmp_path: Path, end: str, method: str, said: str
) -> None:
    assert run(REGISTERED + end, method, cwd=tmp_path) == said + "\n"


FORKED = """
import os, threading
from mobilevlm import BLOCKS
from mobilevlm.registry import discovery

entered, leave = threading.Event(), threading.Event()
walk = discovery.distributions

def slow():
    entered.set()
    leave.wait(10)
    return walk()

discovery.distributions = slow
thread = threading.Thread(target=BLOCKS.names)
thread.start()
entered.wait()
threading.Timer(0.2, leave.set).start()
if (child := os.fork()) == 0:
    BLOCKS.refresh()
    discovery.distributions = walk
    os._exit(0 if "identity" in BLOCKS.names() else 1)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_while_another_thread_looks(registries: None, tmp_path: Path) -> None:
    """The child must not find the lock taken by a thread that it does not have."""
    assert run("import warnings\nwarnings.simplefilter('ignore')\n" + FORKED, cwd=tmp_path) == "0\n"


def test_a_worker_has_its_own_look_in_strict_mode(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "[mobilevlm.blocks]\nidentity = north_blocks:Sway\n"
    site.install("north-blocks", "1.0", points, {"north_blocks.py": SWAY})
    monkeypatch.setenv(STRICT_VARIABLE, "1")
    code = (
        "import multiprocessing\n"
        "from mobilevlm import BLOCKS\n"
        "def look():\n"
        "    try:\n        return BLOCKS.names()\n"
        "    except LookupError as error:\n        return error\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply(look))\n"
    )
    assert run(code, cwd=tmp_path, site=site) == (
        "MOBILEVLM_STRICT_PLUGINS: north-blocks: its block 'identity' has the name of a built-in, "
        "which keeps it. Write 'north-blocks/identity', or set "
        "MOBILEVLM_DISABLE_PLUGINS=north-blocks/identity. "
        "'mobilevlm doctor' shows every problem.\n"
    )
