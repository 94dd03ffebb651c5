"""What importing a plugin does besides: it prints, seeds, changes defaults, takes its time."""

import linecache
import logging
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plugins import BUILT_IN, MALLET, SWAY, TELL, UPDATE, Site, at_once, gadgets, message

from mobilevlm import BLOCKS, PROJECTORS
from mobilevlm.blocks.probes import PROBES
from mobilevlm.registry import (
    DISABLE_VARIABLE,
    STRICT_VARIABLE,
    BrokenPlugin,
    Entry,
    Plugin,
    PluginWarning,
    Probe,
    Registry,
)
from mobilevlm.registry.watch import watch

WHERE = "gadget 'north-tools/mallet' from north-tools 1.0 (north_tools:Mallet)"
ENTRY = Entry("mallet", "north-tools", "1.0", "north_tools:Mallet")
CLASS = "class Mallet: pass\n"
# What fake plugins change and wait for, by importing this module.
STATE: dict[str, int] = {}
EVENTS: dict[str, threading.Event] = {}


def watching(**options: Any) -> Registry[Any]:
    """Return a registry that watches a number, and one that it cannot put back."""
    STATE.clear()
    STATE.update(mood=1, fuse=1)
    mood = Probe("the mood", lambda: STATE["mood"], lambda value: STATE.update(mood=value))
    fuse = Probe("the fuse", lambda: STATE["fuse"])
    return gadgets(probes=lambda: (mood, fuse), **options)


def warned(call: Callable[..., object], *args: Any) -> str:
    """Return the text of the one warning that a call gives, which points at this file."""
    with pytest.warns(PluginWarning) as caught:
        call(*args)
    [warning] = caught
    assert warning.filename == __file__
    assert linecache.getline(__file__, warning.lineno).strip() == "call(*args)"
    return str(warning.message)


def test_what_a_plugin_prints_is_held_back_and_told(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        "import sys\n"
        "count = sys.stdout.write('hello\\n')\n"
        "sys.stderr.writelines(['to ', 'you'])\n"
        "print(count, sys.stdout.encoding, file=sys.stderr)\n"
    )
    site.mallet(source=source + CLASS)
    registry = gadgets()
    before = sys.stdout, sys.stderr
    encoding = sys.stdout.encoding
    text = f"{WHERE}: its import printed 'hello\\nto you6 {encoding}\\n'. {TELL}"
    assert warned(registry.get, "mallet") == text
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("", "")
    registry.get("mallet")  # once is enough: a second warning would be an error here
    [plugin] = registry.plugins(check=True)
    told = f"its import printed 'hello\\nto you6 {encoding}\\n'"
    seconds = plugin.seconds
    where = str(site.folder)
    assert plugin == Plugin("gadget", ENTRY, where, "untidy", told, TELL, seconds)


def test_a_long_print_is_cut_in_the_message(site: Site) -> None:
    site.mallet(source="print('x' * 1000)\n" + CLASS)
    text = warned(gadgets().get, "mallet")
    assert text == f"{WHERE}: its import printed '{'x' * 196}.... {TELL}"


def test_what_a_broken_plugin_prints_is_told(site: Site) -> None:
    site.mallet(source="print('Licence?')\nraise SystemExit(3)\n")
    assert message(BrokenPlugin, gadgets().get, "mallet") == (
        f"{WHERE}: SystemExit on import: 3; it printed 'Licence?\\n'. {UPDATE}"
    )


def test_a_program_without_standard_streams(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.mallet(source="print('hello')\n" + CLASS)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    gadgets().get("mallet")
    assert sys.stdout is None
    assert sys.stderr is None


def test_a_logger_made_at_import_writes_on(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    source = "import logging\nhandler = logging.StreamHandler()\n"
    site.mallet(source=source + CLASS)
    gadgets().get("mallet")
    handler = sys.modules["north_tools"].handler
    handler.emit(logging.makeLogRecord({"msg": "later"}))
    assert capsys.readouterr() == ("", "later\n")


def test_other_threads_print_meanwhile(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    source = (
        "import threading\n"
        "def speak():\n"
        "    print(__import__('sys').stdout.write('elsewhere: '))\n"
        "thread = threading.Thread(target=speak)\n"
        "thread.start(); thread.join()\n"
    )
    site.mallet(source=source + CLASS)
    gadgets().get("mallet")
    assert capsys.readouterr() == ("elsewhere: 11\n", "")


def test_an_import_inside_another_holds_back_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with watch(()) as outer:
        with watch(()) as inner:
            print("inside")
        print("after")
    assert (inner.printed, outer.printed) == ("inside\n", "after\n")
    assert capsys.readouterr() == ("", "")


def test_effects_that_come_later_are_told_too(site: Site) -> None:
    source = (
        "asked = []\n"
        "def __getattr__(name):\n"
        "    print(*asked, end='')\n"
        "    asked.append('again')\n"
        "    return type(name, (), {})\n"
    )
    site.mallet(source=source)
    registry = gadgets()
    registry.get("mallet")
    registry.refresh()
    assert warned(registry.get, "mallet") == f"{WHERE}: its import printed 'again'. {TELL}"
    registry.refresh()
    [plugin] = registry.plugins(check=True)
    assert (plugin.state, plugin.text) == ("untidy", "its import printed 'again again'")


def test_two_imports_that_end_in_the_order_they_began(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    wait = "import test_plugin_imports as t\nt.EVENTS['{}'].set(); t.EVENTS['{}'].wait()\n"
    site.mallet("north-tools", source=wait.format("north", "south") + "print('n')\n" + CLASS)
    site.mallet("south-tools", source=wait.format("south", "done") + "print('s')\n" + CLASS)
    EVENTS.update({name: threading.Event() for name in ("north", "south", "done")})
    registry = gadgets()
    before = sys.stdout

    def north() -> None:
        registry.get("north-tools/mallet")
        EVENTS["done"].set()

    def south() -> None:
        EVENTS["north"].wait()
        registry.get("south-tools/mallet")

    with pytest.warns(PluginWarning) as caught:
        assert at_once(north, south) == []
    told = sorted(str(warning.message).partition(": ")[2].partition(".")[0] for warning in caught)
    assert told == ["its import printed 'n\\n'", "its import printed 's\\n'"]
    assert sys.stdout is before
    print("free")
    assert capsys.readouterr() == ("free\n", "")


# ---------------------------------------------------------------------- global state


def test_state_is_put_back_where_that_can_be_done(site: Site) -> None:
    source = "import test_plugin_imports as t\nt.STATE.update(mood=2, fuse=3)\n"
    site.mallet(source=source + CLASS)
    registry = watching()
    assert warned(registry.get, "mallet") == (
        f"{WHERE}: its import changed the mood (from 1 to 2; put back), "
        f"the fuse (from 1 to 3; it cannot be put back). {TELL}"
    )
    assert STATE == {"mood": 1, "fuse": 3}


def test_state_is_put_back_when_the_import_fails(site: Site) -> None:
    source = "import test_plugin_imports as t\nt.STATE.update(mood=2)\nprint('oh')\n1 / 0\n"
    site.mallet(source=source)
    assert message(BrokenPlugin, watching().get, "mallet") == (
        f"{WHERE}: ZeroDivisionError on import: division by zero; "
        f"it printed 'oh\\n' and changed the mood (from 1 to 2; put back). {UPDATE}"
    )
    assert STATE == {"mood": 1, "fuse": 1}


def test_state_is_put_back_when_the_user_stops_the_program(site: Site) -> None:
    source = "import test_plugin_imports as t\nt.STATE.update(mood=2)\nraise KeyboardInterrupt\n"
    site.mallet(source=source)
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyboardInterrupt):
        watching().get("mallet")
    assert STATE == {"mood": 1, "fuse": 1}
    assert (sys.stdout, sys.stderr) == before


def test_a_sibling_watches_the_same(site: Site) -> None:
    source = "import test_plugin_imports as t\nt.STATE.update(mood=2)\n"
    site.mallet(source=source + CLASS)
    other = gadgets(sibling=watching(builtins={}))
    assert warned(other.get, "mallet") == (
        f"{WHERE}: its import changed the mood (from 1 to 2; put back). {TELL}"
    )
    assert PROJECTORS._plugins.probes() is BLOCKS._plugins.probes() is PROBES


@pytest.fixture
def torch_state() -> Iterator[None]:
    """Put back what cannot be trusted to be put back."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    mode, precision = torch.get_deterministic_debug_mode(), torch.get_float32_matmul_precision()
    yield
    torch.set_default_dtype(dtype)
    torch.set_default_device(None)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    torch.set_deterministic_debug_mode(mode)
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("random.seed(0)", "Python's random state (put back)"),
        ("random.random()", "Python's random state (put back)"),
        ("numpy.random.seed(0)", "NumPy's random state (put back)"),
        ("numpy.random.randn()", "NumPy's random state (put back)"),
        ("torch.manual_seed(0)", "torch's random state (put back)"),
        ("torch.randn(1)", "torch's random state (put back)"),
        (
            "torch.set_default_dtype(torch.float64)",
            "torch's default dtype (from torch.float32 to torch.float64; put back)",
        ),
        (
            "torch.set_default_device('meta')",
            "torch's default device (from cpu to meta; put back)",
        ),
        (
            "torch.set_num_threads(torch.get_num_threads() + 1)",
            f"torch's number of threads (from {torch.get_num_threads()} to "
            f"{torch.get_num_threads() + 1}; put back)",
        ),
        ("torch.set_grad_enabled(False)", "torch's grad mode (from True to False; put back)"),
        (
            "torch.use_deterministic_algorithms(True, warn_only=True)",
            "torch's deterministic mode (from 0 to 1; put back)",
        ),
        (
            "torch.set_float32_matmul_precision('high')",
            "torch's matmul precision (from highest to high; put back)",
        ),
        (
            "torch.set_autocast_enabled('cpu', True)",
            "torch's autocast (from (False, torch.bfloat16) to (True, torch.bfloat16); put back)",
        ),
        (
            "torch.backends.cudnn.benchmark = True",
            "cuDNN's switches (from (True, False, False) to (True, True, False); put back)",
        ),
        (
            "torch.backends.mkldnn.enabled = False",
            "oneDNN's switch (from True to False; put back)",
        ),
    ],
)
def test_random_states_and_torchs_defaults_are_watched(
    site: Site, torch_state: None, line: str, told: str
) -> None:
    points = "[mobilevlm.blocks]\nsway = north_blocks:Sway\n"
    source = f"import random, numpy, torch\n{line}\n{SWAY}"
    site.install("north-blocks", "1.0", points, {"north_blocks.py": source})

    def numbers() -> list[object]:
        return [torch.randn(3).tolist(), np.random.rand(3).tolist(), random.random()]

    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = numbers()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    shown = {probe.name: probe.read() for probe in PROBES if probe.key is None}
    with pytest.warns(PluginWarning) as caught:
        BLOCKS.get("sway")
    assert [str(warning.message) for warning in caught] == [
        "block 'north-blocks/sway' from north-blocks 1.0 (north_blocks:Sway): "
        f"its import changed {told}. The fault is in north-blocks: tell its authors."
    ]
    # Everything is as if it had not been imported, to the next random number.
    assert {probe.name: probe.read() for probe in PROBES if probe.key is None} == shown
    assert torch.initial_seed() == 5
    assert torch.overrides._len_torch_function_stack() == 0
    assert numbers() == expected


def test_cudas_random_state_is_watched_once_cuda_is_in_use(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for CUDA: what is read, compared and put back, not CUDA itself."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: "cuda" in STATE)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.tensor(STATE["cuda"])])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state_all", lambda states: STATE.update(cuda=int(states[0]))
    )
    STATE.clear()
    told = []
    for name in ("north", "south"):
        module = f"{name}_blocks"
        source = "import test_plugin_imports as t\nt.STATE['cuda'] = t.STATE.get('cuda', 0) + 1\n"
        points = f"[mobilevlm.blocks]\n{name} = {module}:Sway\n"
        site.install(f"{name}-blocks", "1.0", points, {f"{module}.py": source + SWAY})
        BLOCKS.refresh()
        told.append(warned(BLOCKS.get, name).partition("its import ")[2].partition(". ")[0])
        assert STATE["cuda"] == 1
    assert told == [
        "changed whether CUDA is in use (from False to True; it cannot be put back)",
        "changed CUDA's random state (put back)",
    ]


def test_a_tidy_plugin_changes_nothing(site: Site) -> None:
    """Subclassing a block, building a layer on meta: nothing of that is an effect."""
    points = "[mobilevlm.blocks]\nsway = north_blocks:Sway\n"
    source = f"import torch\nLAYER = torch.nn.Linear(2, 2, device='meta')\n{SWAY}"
    site.install("north-blocks", "1.0", points, {"north_blocks.py": source})
    BLOCKS.get("sway")
    [plugin] = [each for each in BLOCKS.plugins(check=True) if each.entry.name == "sway"]
    assert (plugin.state, plugin.text, plugin.hint) == ("works", "", "")


# ---------------------------------------------------------------------- time


def test_the_import_is_timed_once(site: Site) -> None:
    points = MALLET + "beetle = north_tools:Beetle\n"
    source = "import time\ntime.sleep(0.2)\nclass Mallet: pass\nclass Beetle: pass\n"
    site.install("north-tools", "1.0", points, {"north_tools.py": source})
    registry = gadgets()
    assert [(each.state, each.seconds) for each in registry.plugins()] == [("ready", None)] * 2
    assert "north_tools" not in sys.modules
    registry.get("mallet")
    beetle, mallet = registry.plugins(check=True)
    assert mallet.seconds is not None
    assert beetle.seconds is not None
    assert 0.2 <= mallet.seconds < 2
    assert beetle.seconds < 0.1  # its module was there
    registry.refresh()
    assert registry.plugins(check=True) == [beetle, mallet]


def test_what_an_import_did_is_not_forgotten_among_threads(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STRICT_VARIABLE, "1")
    site.mallet(source="import time\nprint('hello')\ntime.sleep(0.1)\n" + CLASS)
    registry = gadgets()
    raised = at_once(*[lambda: registry.get("mallet")] * 4)
    # A thread may be through before the one that imports has told; nobody is after it.
    assert raised
    told = {str(error) for error in [*raised, *at_once(lambda: registry.get("mallet"))]}
    assert told == {f"{WHERE}: its import printed 'hello\\n'. {TELL}"}


# ---------------------------------------------------------------------- strict mode


@pytest.mark.parametrize("value", ["1", "true", "yes", " on "])
def test_strict_mode_refuses_effects(
    site: Site, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(STRICT_VARIABLE, value)
    site.mallet(source="print('hello')\n" + CLASS)
    registry = gadgets()
    assert registry.names() == sorted([*BUILT_IN, "mallet"])  # nothing is wrong on paper
    for _ in range(2):  # the second time its module is there
        assert message(BrokenPlugin, registry.get, "mallet") == (
            f"{WHERE}: its import printed 'hello\\n'. {TELL}"
        )
    monkeypatch.setenv(STRICT_VARIABLE, "0")
    assert registry.get("mallet").__qualname__ == "Mallet"


def shadowed(site: Site) -> str:
    site.install("north-tools", "1.0", "[mobilevlm.gadgets]\nhammer = north_tools:Mallet\n")
    return (
        "north-tools: its gadget 'hammer' has the name of a built-in, which keeps it. "
        "Write 'north-tools/hammer', or set MOBILEVLM_DISABLE_PLUGINS=north-tools/hammer"
    )


def renamed(site: Site) -> str:
    site.install("north-tools", "1.0", "[mobilevlm.gadgets]\nold-hammer = north_tools:Mallet\n")
    return (
        "north-tools: its gadget 'old-hammer' has the name of a built-in, which keeps it. "
        "Write 'north-tools/old-hammer', or set MOBILEVLM_DISABLE_PLUGINS=north-tools/old-hammer"
    )


def ambiguous(site: Site) -> str:
    site.mallet("north-tools")
    site.mallet("south-tools")
    return (
        "north-tools: gadget 'mallet' is offered by north-tools 1.0 (north_tools:Mallet) "
        "and south-tools 1.0 (south_tools:Mallet). Write 'north-tools/mallet' or "
        "'south-tools/mallet', or switch one off by MOBILEVLM_DISABLE_PLUGINS"
    )


def twice(site: Site) -> str:
    site.install("north-tools", "1.0", MALLET + "mallet = north_tools:Beetle\n")
    return (
        "north-tools: gadget 'north-tools/mallet' is offered more than once: "
        "north-tools 1.0 (north_tools:Mallet) and north-tools 1.0 (north_tools:Beetle). "
        "The fault is in north-tools: tell its authors"
    )


def unusable(site: Site) -> str:
    site.install("north-tools", "1.0", "[mobilevlm.gadgets]\nMallet = north_tools:Mallet\n")
    return (
        "north-tools: entry point 'Mallet = north_tools:Mallet' in [mobilevlm.gadgets] has no "
        "usable name; expected 'mallet', in lower case. The fault is in north-tools: tell its "
        "authors"
    )


@pytest.mark.parametrize("fault", [shadowed, renamed, ambiguous, twice, unusable])
def test_strict_mode_refuses_at_the_first_look(
    site: Site, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Site], str]
) -> None:
    text = fault(site)
    registry = gadgets(renamed={"old-hammer": "hammer"})
    assert "hammer" in registry.names()
    monkeypatch.setenv(STRICT_VARIABLE, "1")
    expected = f"MOBILEVLM_STRICT_PLUGINS: {text}. 'mobilevlm doctor' shows every problem."
    looks: list[Callable[[], object]] = [
        registry.names,
        registry.entries,
        lambda: "hammer" in registry,
        lambda: registry.find("hammer"),
        lambda: registry.get("hammer"),
        lambda: registry.get("nothing"),
    ]
    for look in looks:
        assert message(BrokenPlugin, look) == expected
    # What explains it goes on working, and switching the plugin off mends it.
    first, *_ = [*registry.problems(), *registry.conflicts()]
    assert str(first).rstrip(".") == text
    assert all(plugin.entry.source != "built-in" for plugin in registry.plugins())
    monkeypatch.setenv(DISABLE_VARIABLE, "north-tools")
    assert registry.get("hammer").__qualname__ == "Decimal"


def test_strict_mode_takes_a_tidy_plugin(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STRICT_VARIABLE, "1")
    site.mallet()
    assert gadgets().get("mallet").__qualname__ == "Mallet"


def test_strict_mode_counts_one_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("north-tools", "1.0", "[mobilevlm.gadgets]\nhammer = a:B\nOne = a:B\n")
    monkeypatch.setenv(STRICT_VARIABLE, "1")
    assert message(BrokenPlugin, gadgets().names) == (
        "MOBILEVLM_STRICT_PLUGINS: north-tools: entry point 'One = a:B' in [mobilevlm.gadgets] "
        "has no usable name; expected 'one', in lower case (and 1 more). "
        f"{TELL} 'mobilevlm doctor' shows every problem."
    )


def test_strict_mode_counts_the_rest(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    points = "[mobilevlm.gadgets]\nhammer = a:B\nsaw = a:B\nOne = a:B\n"
    site.install("north-tools", "1.0", points)
    monkeypatch.setenv(STRICT_VARIABLE, "1")
    assert message(BrokenPlugin, gadgets().names) == (
        "MOBILEVLM_STRICT_PLUGINS: north-tools: entry point 'One = a:B' in [mobilevlm.gadgets] "
        "has no usable name; expected 'one', in lower case (and 2 more). "
        f"{TELL} 'mobilevlm doctor' shows every problem."
    )


@pytest.mark.parametrize("value", ["", "0", "false", "No", "off"])
def test_without_strict_mode_a_fault_harms_nobody_else(
    site: Site, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(STRICT_VARIABLE, value)
    shadowed(site)
    assert gadgets().get("hammer").__qualname__ == "Decimal"


# ---------------------------------------------------------------------- how plugins fare


def test_every_plugin_has_a_state(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.mallet("east-tools", source="print('hello')\n" + CLASS)
    site.mallet("north-tools", source="1 / 0\n")
    site.install("off-tools", "1.0", "[mobilevlm.gadgets]\nawl = off_tools:Awl\n")
    twin = "[mobilevlm.gadgets]\nsaw = a:B\nsaw = a:C\nplane = west_tools:Plane\n"
    site.install("west-tools", "2.0", twin, {"west_tools.py": "class Plane: pass\n"})
    monkeypatch.setenv(DISABLE_VARIABLE, "off-tools")
    registry = gadgets()
    named = [each.entry.name for each in registry.plugins()]
    assert named == [
        *("east-tools/mallet", "north-tools/mallet", "off-tools/awl", "plane"),
        *("west-tools/saw", "west-tools/saw"),
    ]
    states = ["ready", "ready", "off", "ready", "broken", "broken"]
    assert [each.state for each in registry.plugins()] == states
    checked = registry.plugins(check=True)
    assert [each.state for each in checked] == [
        *("untidy", "broken", "off", "works", "broken", "broken")
    ]
    assert [each.text for each in checked[:4]] == [
        "its import printed 'hello\\n'",
        "ZeroDivisionError on import: division by zero",
        "",
        "",
    ]
    assert {each.location for each in checked} == {str(site.folder)}
    assert "off_tools" not in sys.modules
