"""Plugins: distributions that offer things, and everything that can be wrong with one of them."""

import asyncio
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from helpers.plugins import (
    BUILT_IN,
    MALLET,
    SWAY,
    TELL,
    UPDATE,
    Site,
    at_once,
    gadgets,
    message,
    problems,
)

from mobilevlm import BLOCKS, PROJECTORS, SpecError, Stack, dump_spec, load_spec
from mobilevlm.blocks.identity import Identity
from mobilevlm.registry import (
    DISABLE_VARIABLE,
    STRICT_VARIABLE,
    AmbiguousName,
    BrokenPlugin,
    Entry,
    Problem,
    UnknownName,
    disabled,
    discovery,
)
from mobilevlm.registry.switches import is_strict

BROKEN = "gadget 'north-tools/mallet' from north-tools 1.0 (north_tools:Mallet)"
MEND = "The fault is in stranger: update or uninstall it."


def loaded(module: str) -> bool:
    return any(name.partition(".")[0] == module for name in sys.modules)


# ---------------------------------------------------------------------- whose name it is


def test_local_before_built_in_before_plugin(site: Site) -> None:
    points = MALLET + "hammer = north_tools:Hammer\n"
    source = "class Mallet: pass\nclass Hammer: pass\n"
    site.install("north-tools", "1.0", points, {"north_tools.py": source})
    registry = gadgets()

    # Nobody else has a mallet; the built-in keeps its name, and the plugin's still has one.
    mallet = registry.get("mallet")
    assert mallet.__module__ == "north_tools"
    assert registry.get("hammer").__module__ == "decimal"
    assert registry.get("north-tools/hammer").__qualname__ == "Hammer"
    assert registry.entries() == [
        Entry("hammer", "built-in", "", "decimal:Decimal"),
        Entry("mallet", "north-tools", "1.0", "north_tools:Mallet"),
        Entry("north-tools/hammer", "north-tools", "1.0", "north_tools:Hammer"),
        Entry("saw", "built-in", "", "datetime:timedelta"),
        Entry("tape-measure", "built-in", "", "fractions:Fraction"),
    ]

    mine = registry.register("mallet", type("Mine", (), {"__module__": "cell"}))
    assert registry.get("mallet") is mine
    assert registry.get("north-tools/mallet") is mallet
    assert registry.name_of(mallet) == "north-tools/mallet"
    assert registry.name_of(mine) == "mallet"
    assert registry.entries()[1:4] == [
        Entry("mallet", "local", "", "cell:Mine"),
        Entry("north-tools/hammer", "north-tools", "1.0", "north_tools:Hammer"),
        Entry("north-tools/mallet", "north-tools", "1.0", "north_tools:Mallet"),
    ]
    assert {entry.name: entry.target for entry in registry.entries()} == {
        name: registry.find(name).target for name in registry.names()
    }
    registry.unregister("mallet")
    assert registry.get("mallet") is mallet


def test_finding_a_plugin_does_not_import_it(site: Site) -> None:
    site.mallet()
    registry = gadgets()
    entry = Entry("north-tools/mallet", "north-tools", "1.0", "north_tools:Mallet")
    for name in ("mallet", "north-tools/mallet"):
        assert name in registry
        assert registry.find(name) == entry
    assert str(entry) == "north-tools 1.0 (north_tools:Mallet)"
    assert not loaded("north_tools")
    registry.get("mallet")
    assert loaded("north_tools")


def test_distributions_are_compared_as_package_indexes_do(site: Site) -> None:
    points = "[mobilevlm.gadgets]\nrubber_mallet = north_tools:Mallet\n"
    site.install("North__Tools.X", "1.0", points, {"north_tools.py": "class Mallet: pass"})
    registry = gadgets()
    mallet = registry.get("rubber-mallet")
    for distribution in ("north-tools-x", "North__Tools.X", "NORTH.TOOLS_X", "north-_.tools-x"):
        for short in ("rubber-mallet", "rubber_mallet"):
            assert registry.get(f"{distribution}/{short}") is mallet
    assert registry.name_of(mallet) == "north-tools-x/rubber-mallet"
    for name in ("north-tools-x/Rubber-mallet", "north-tools-x/", "-north-tools-x/rubber-mallet"):
        assert name not in registry
    assert message(UnknownName, registry.get, "north-tools-x/rubber-malet") == (
        "unknown gadget 'north-tools-x/rubber-malet'. Did you mean 'north-tools-x/rubber-mallet'?"
    )


def test_two_distributions_may_not_share_a_short_name(site: Site) -> None:
    site.mallet("north-tools", "1.0")
    site.mallet("south-tools", "2.1")
    registry = gadgets()
    assert message(AmbiguousName, registry.get, "mallet") == (
        "gadget 'mallet' is offered by north-tools 1.0 (north_tools:Mallet) "
        "and south-tools 2.1 (south_tools:Mallet). "
        "Write 'north-tools/mallet' or 'south-tools/mallet', "
        "or switch one off by MOBILEVLM_DISABLE_PLUGINS."
    )
    with pytest.raises(AmbiguousName):
        registry.find("mallet")
    assert "mallet" not in registry
    assert [name for name in registry.names() if "mallet" in name] == [
        "north-tools/mallet",
        "south-tools/mallet",
    ]
    for name in ("north-tools/mallet", "south-tools/mallet"):
        assert name in registry
        assert registry.name_of(registry.get(name)) == name
    mine = registry.register("mallet", int)
    assert registry.get("mallet") is mine


def test_a_distribution_may_not_offer_a_name_twice(site: Site) -> None:
    points = MALLET + "mallet = north_tools:Beetle\nhook = north_tools:Hook\n"
    source = "class Mallet: pass\nclass Beetle: pass\nclass Hook: pass\n"
    site.install("north-tools", "1.0", points, {"north_tools.py": source})
    registry = gadgets()
    expected = (
        "gadget 'north-tools/mallet' is offered more than once: "
        "north-tools 1.0 (north_tools:Mallet) and north-tools 1.0 (north_tools:Beetle). " + TELL
    )
    for name in ("mallet", "north-tools/mallet"):
        assert message(BrokenPlugin, registry.get, name) == expected
        assert name not in registry
    assert registry.get("hook").__qualname__ == "Hook"
    assert registry.names() == ["hammer", "hook", "north-tools/mallet", "saw", "tape-measure"]


def test_the_same_line_twice_is_one_offer(site: Site) -> None:
    site.install("north-tools", "1.0", MALLET + MALLET, {"north_tools.py": "class Mallet: pass"})
    assert gadgets().get("mallet").__qualname__ == "Mallet"


def test_groups_do_not_mix(site: Site) -> None:
    points = "[mobilevlm.gizmos]\nmallet = north_tools:Mallet\n[console_scripts]\nhook = a:b\n"
    site.install("north-tools", "1.0", points)
    assert gadgets().names() == sorted(BUILT_IN)
    assert problems(gadgets(), "north-tools") == []


def test_the_first_on_the_path_wins(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("north-tools", "1.0", MALLET + "hook = north_tools:Hook\n")
    first = Site(tmp_path / "first")
    first.install("North.Tools", "2.0", MALLET, {"north_tools.py": "class Mallet: pass"})
    monkeypatch.syspath_prepend(first.folder)
    registry = gadgets()
    assert registry.find("mallet").version == "2.0"
    assert registry.get("mallet").__qualname__ == "Mallet"
    assert "hook" not in registry  # of the copy behind it nothing is used
    monkeypatch.setattr(sys, "path", [*sys.path[1:], sys.path[0]])
    registry.refresh()
    assert registry.find("mallet").version == "1.0"
    assert "hook" in registry


def test_a_copy_that_is_hidden_is_a_problem_if_it_differs(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("north-tools", "1.0", MALLET)
    behind = Site(tmp_path / "behind")
    info = behind.install("North.Tools", "1.0", MALLET)
    monkeypatch.setattr(sys, "path", [*sys.path, str(behind.folder), str(site.folder)])
    registry = gadgets()
    assert problems(registry, "north-tools") == []  # a source tree on the path, say
    (info / "entry_points.txt").write_bytes(b"\xff")
    registry.refresh()
    assert problems(registry, "north-tools") == []  # of the copy behind nothing is used
    text = f"1.0 in {str(site.folder)!r} hides 1.0 in {str(behind.folder)!r}"
    hint = "Uninstall the one you do not want: pip uninstall north-tools"
    for other in (MALLET + "hook = north_tools:Hook\n", ""):
        (info / "entry_points.txt").write_text(other)
        registry.refresh()
        assert problems(registry, "north-tools") == [Problem("north-tools", text, hint)]
    assert message(UnknownName, registry.get, "north-tools/hook") == (
        f"unknown gadget 'north-tools/hook'. north-tools is installed, but {text}."
    )


def test_two_copies_of_a_stranger_are_not_our_business(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("stranger", "1.0", "[console_scripts]\na = b:c\n")
    behind = Site(tmp_path / "behind")
    behind.install("stranger", "0.9", b"\xff")
    monkeypatch.setattr(sys, "path", [*sys.path, str(behind.folder)])
    assert problems(gadgets(), "stranger") == []


def test_two_registries_share_one_walk(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[int] = []

    def counted() -> discovery.Discovery:
        walks.append(1)
        return discover()

    discover = discovery.discover
    monkeypatch.setattr(discovery, "discover", counted)
    site.mallet()
    installed = discovery.Installed()
    registry = gadgets(installed=installed)
    other = gadgets(builtins={}, installed=installed)
    assert "mallet" in registry.names()
    assert "mallet" in other.names()
    assert len(walks) == 1
    mallet = registry.get("mallet")
    del sys.modules["north_tools"]
    other.refresh()  # for both
    assert registry.get("mallet") is not mallet
    assert "mallet" in other
    assert len(walks) == 2


def test_the_time_of_an_import_by_another_registry_is_unknown(site: Site) -> None:
    site.mallet()
    installed = discovery.Installed()
    gadgets(installed=installed).get("mallet")
    [plugin] = (
        plugin
        for plugin in gadgets(installed=installed).plugins(check=True)
        if plugin.entry.name == "mallet"
    )
    assert (plugin.state, plugin.seconds) == ("works", None)


def test_our_own_entry_points_are_no_plugin(site: Site) -> None:
    site.install("MobileVLM", "9.0", MALLET)
    registry = gadgets()
    assert "mallet" not in registry
    assert message(UnknownName, registry.get, "mobilevlm/mallet") == (
        "unknown gadget 'mobilevlm/mallet'. "
        "It comes from 'mobilevlm', which is not installed or offers no such thing."
    )
    assert not {"mobilevlm"} & {entry.source for entry in BLOCKS.entries()}


def test_refresh_sees_what_was_installed_and_what_is_gone(site: Site) -> None:
    registry = gadgets()
    assert "mallet" not in registry
    assert importlib.util.find_spec("north_tools") is None
    status = site.folder.stat()
    (site.folder / "north_tools.py").write_text("class Mallet: pass")
    info = site.install("north-tools", "1.0", MALLET)
    # A coarse clock: the standard library believes that the folder is as it was.
    os.utime(site.folder, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "mallet" not in registry  # discovery is done once
    registry.refresh()
    mallet = registry.get("mallet")
    info.rename(site.folder / "gone")
    assert registry.get("mallet") is mallet
    registry.refresh()
    assert message(UnknownName, registry.get, "north-tools/mallet") == (
        "unknown gadget 'north-tools/mallet'. "
        "It comes from 'north-tools', which is not installed or offers no such thing."
    )


def test_refresh_loads_again(site: Site) -> None:
    site.mallet()
    registry = gadgets()
    old = registry.get("mallet")
    del sys.modules["north_tools"]
    assert registry.get("mallet") is old
    registry.refresh()
    assert registry.get("mallet") is not old


def test_listing_imports_nothing_heavy_and_no_plugin(site: Site) -> None:
    points = (
        "[mobilevlm.blocks]\nsway = north_tools:Sway\n"
        "[mobilevlm.projectors]\nswaying = north_tools:Swaying\n"
    )
    site.install("north-tools", "1.0", points, {"north_tools.py": SWAY})
    code = """if True:
        import json, sys
        from mobilevlm import BLOCKS, PROJECTORS
        names = [*BLOCKS.names(), *PROJECTORS.names()]
        entries = [entry.name for entry in (*BLOCKS.entries(), *PROJECTORS.entries())]
        assert names == entries
        assert "sway" in BLOCKS and BLOCKS.find("sway").source == "north-tools"
        BLOCKS.problems()
        tops = {name.partition(".")[0] for name in sys.modules}
        ours = sorted(name for name in sys.modules if name.startswith("mobilevlm."))
        print(json.dumps([names, sorted(tops & {"torch", "pydantic", "north_tools"}), ours]))
    """
    environment = {**os.environ, "PYTHONPATH": str(site.folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    names, heavy, ours = json.loads(done.stdout)
    assert heavy == []
    assert {"sway", "swaying", "pointwise", "ldp"} <= set(names)
    assert [name for name in ours if not name.startswith("mobilevlm.registry")] == [
        "mobilevlm.blocks",
        "mobilevlm.projectors",
        "mobilevlm.projectors.index",
        "mobilevlm.zeta",
        "mobilevlm.zeta.names",
    ]


# ---------------------------------------------------------------------- switched off


@pytest.mark.parametrize(
    "value",
    [
        *(
            "1",
            "true",
            "True",
            "all",
            "__all__",
            "north-tools",
            "NORTH.TOOLS",
            "north-tools/mallet",
        ),
        *("North_Tools/mallet", " other , north-tools ", "other,,north-tools/mallet"),
    ],
)
def test_plugins_can_be_switched_off(
    site: Site, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    site.mallet()
    registry = gadgets()
    mallet = registry.get("mallet")
    monkeypatch.setenv(DISABLE_VARIABLE, value)  # read at each lookup
    for name in ("mallet", "north-tools/mallet"):
        assert name not in registry
        assert message(UnknownName, registry.get, name) == (
            f"unknown gadget {name!r}. "
            "It is offered by north-tools, which MOBILEVLM_DISABLE_PLUGINS switches off."
        )
    assert message(UnknownName, registry.get, "south-tools/mallet") == (
        "unknown gadget 'south-tools/mallet'. "
        "It comes from 'south-tools', which is not installed or offers no such thing."
    )
    assert message(UnknownName, registry.get, "hook") == (
        "unknown gadget 'hook'. Known: hammer, saw, tape-measure."
    )
    assert registry.names() == sorted(BUILT_IN)
    assert registry.get("hammer").__qualname__ == "Decimal"
    monkeypatch.delenv(DISABLE_VARIABLE)
    assert registry.get("mallet") is mallet


@pytest.mark.parametrize(
    "value", ["", " ", ",", "0", "false", "mallet", "north", "north-tools/hook", "north-tools/"]
)
def test_other_values_switch_nothing_off(
    site: Site, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    site.mallet()
    monkeypatch.setenv(DISABLE_VARIABLE, value)
    assert gadgets().get("mallet").__qualname__ == "Mallet"


def test_what_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DISABLE_VARIABLE, raising=False)
    assert disabled() == frozenset()
    monkeypatch.setenv(DISABLE_VARIABLE, " , Acme_Blocks,, other/Gate ,")
    assert disabled() == {"acme-blocks", "other/gate"}


@pytest.mark.parametrize(
    ("value", "strict"), [("", False), (" 0 ", False), (" Off", False), ("1", True), ("yes", True)]
)
def test_what_is_strict(value: str, strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STRICT_VARIABLE, value)
    assert is_strict() is strict


def test_switching_one_off_ends_a_quarrel(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.mallet("north-tools")
    site.mallet("south-tools")
    registry = gadgets()
    monkeypatch.setenv(DISABLE_VARIABLE, "south-tools")
    assert registry.get("mallet").__module__ == "north_tools"
    assert registry.find("mallet").name == "north-tools/mallet"
    assert "mallet" in registry.names()


# ---------------------------------------------------------------------- broken


@pytest.mark.parametrize(
    ("source", "cause", "found"),
    [
        ("raise ImportError('too old')", ImportError, "ImportError on import: too old"),
        ("1 / 0", ZeroDivisionError, "ZeroDivisionError on import: division by zero"),
        (
            "class Mallet(",
            SyntaxError,
            "SyntaxError on import: '(' was never closed (north_tools.py, line 1)",
        ),
        (
            "class Malet: pass",
            AttributeError,
            "AttributeError on import: module 'north_tools' has no attribute 'Mallet'",
        ),
        ("raise SystemExit('no licence')", SystemExit, "SystemExit on import: no licence"),
        ("import sys; sys.exit(3)", SystemExit, "SystemExit on import: 3"),
        (
            "import asyncio\nraise asyncio.CancelledError('late')",
            asyncio.CancelledError,
            "CancelledError on import: late",
        ),
        ("raise GeneratorExit('early')", GeneratorExit, "GeneratorExit on import: early"),
        (
            "class PanicException(BaseException): pass\nraise PanicException('overflow')",
            BaseException,
            "PanicException on import: overflow",
        ),
    ],
)
def test_a_plugin_that_cannot_be_imported_fails_alone(
    site: Site, source: str, cause: type[BaseException], found: str
) -> None:
    site.mallet(source=source)
    site.install(
        "south-tools",
        "2.1",
        "[mobilevlm.gadgets]\nhook = south_tools:Hook\n",
        {"south_tools.py": "class Hook: pass\n"},
    )
    registry = gadgets()
    for name in ("mallet", "north-tools/mallet"):
        assert name in registry
        assert name.rpartition("/")[2] in registry.names()
        with pytest.raises(BrokenPlugin) as caught:
            registry.get(name)
        assert str(caught.value) == f"{BROKEN}: {found}. {UPDATE}"
        assert isinstance(caught.value.__cause__, cause)
    if cause is ZeroDivisionError:  # the way to the fault is shown, down to its line
        text = "".join(traceback.format_exception(caught.value))
        assert f'File "{site.folder / "north_tools.py"}", line 1, in <module>\n    1 / 0\n' in text
    assert registry.get("hook").__qualname__ == "Hook"
    assert registry.get("hammer").__qualname__ == "Decimal"
    assert registry.names() == ["hammer", "hook", "mallet", "saw", "tape-measure"]


def test_a_plugin_may_miss_a_part_of_itself(site: Site) -> None:
    site.mallet(source="import north_tools.handle")
    with pytest.raises(BrokenPlugin) as caught:
        gadgets().get("mallet")
    assert type(caught.value.__cause__) is ModuleNotFoundError
    assert caught.value.hint == UPDATE


def test_metadata_that_is_broken_meanwhile_is_not_gone(site: Site) -> None:
    info = site.install("north-tools", "1.0", MALLET)
    registry = gadgets()
    assert "mallet" in registry
    (info / "entry_points.txt").write_bytes(b"\xff")
    assert message(BrokenPlugin, registry.get, "mallet") == (
        f"{BROKEN}: ModuleNotFoundError on import: No module named 'north_tools'. {UPDATE}"
    )


def test_a_problem_in_one_line() -> None:
    assert str(Problem("north-tools", "a fault")) == "north-tools: a fault"
    assert str(Problem("north-tools", "a fault", "Mend it.")) == "north-tools: a fault. Mend it."


@pytest.mark.parametrize(
    ("source", "missing"), [("import no_such.thing", "no_such"), ("import json.no", "json.no")]
)
def test_what_a_plugin_needs_may_be_missing(site: Site, source: str, missing: str) -> None:
    site.mallet(source=source)
    with pytest.raises(BrokenPlugin) as caught:
        gadgets().get("mallet")
    assert caught.value.hint == (
        f"north-tools needs {missing!r}: install that, or uninstall north-tools."
    )


def test_a_module_that_is_not_there(site: Site) -> None:
    site.install("north-tools", "1.0", MALLET)
    assert message(BrokenPlugin, gadgets().get, "mallet") == (
        f"{BROKEN}: ModuleNotFoundError on import: No module named 'north_tools'. {UPDATE}"
    )


def test_a_failure_is_not_remembered(site: Site) -> None:
    site.mallet(source="raise RuntimeError('not yet')")
    registry = gadgets()
    for _ in range(2):
        with pytest.raises(BrokenPlugin):
            registry.get("mallet")
    site.write("north_tools.py", "class Mallet: pass")
    mallet = registry.get("mallet")
    assert registry.get("mallet") is mallet
    assert registry.name_of(mallet) == "north-tools/mallet"


def test_a_missing_attribute_is_not_remembered(site: Site) -> None:
    site.mallet(source="Mallet = None")
    registry = gadgets()
    assert message(BrokenPlugin, registry.get, "mallet") == (
        f"{BROKEN}: it leads to None; expected a class. {TELL}"
    )
    site.write("north_tools.py", "class Mallet: pass")
    importlib.reload(sys.modules["north_tools"])
    assert registry.get("mallet").__qualname__ == "Mallet"


def test_a_user_can_still_stop_the_program(site: Site) -> None:
    site.mallet(source="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        gadgets().get("mallet")


@pytest.mark.parametrize(
    ("thing", "shown"),
    [
        ("42", "42"),
        ("int", "<class 'int'>"),
        ("Identity()", "Identity()"),
        ("NoBuild", "<class 'north_blocks.NoBuild'>"),
        ("Rude()", "<Rude>"),
    ],
)
def test_a_plugin_of_the_wrong_kind(site: Site, thing: str, shown: str) -> None:
    source = (
        "from mobilevlm import Block\n"
        "from mobilevlm.blocks.identity import Identity\n"
        "class NoBuild(Block): pass\n"
        "class Rude:\n    def __repr__(self): raise TypeError('no')\n"
        f"Sway = {thing}\n"
    )
    points = "[mobilevlm.blocks]\nsway = north_blocks:Sway\n"
    points += "[mobilevlm.projectors]\nsway = north_blocks:Sway\n"
    site.install("north-blocks", "1.0", points, {"north_blocks.py": source})
    tail = "The fault is in north-blocks: tell its authors."
    assert message(BrokenPlugin, BLOCKS.get, "sway") == (
        "block 'north-blocks/sway' from north-blocks 1.0 (north_blocks:Sway): "
        f"it leads to {shown}; expected a subclass of mobilevlm.Block with a build method. {tail}"
    )
    assert message(BrokenPlugin, PROJECTORS.get, "sway") == (
        "projector 'north-blocks/sway' from north-blocks 1.0 (north_blocks:Sway): "
        f"it leads to {shown}; expected a subclass of mobilevlm.Preset with an expand method, "
        f"or an instance of one. {tail}"
    )
    assert BLOCKS.get("identity") is Identity


def test_a_name_found_broken_is_not_looked_for_elsewhere(site: Site) -> None:
    """One of two is broken: which one is meant stays an open question."""
    site.mallet("north-tools", source="1 / 0")
    site.mallet("south-tools")
    registry = gadgets()
    with pytest.raises(AmbiguousName):
        registry.get("mallet")
    assert registry.get("south-tools/mallet").__module__ == "south_tools"


# ---------------------------------------------------------------------- metadata of strangers


def test_a_stranger_with_a_malformed_file_is_not_our_business(site: Site) -> None:
    site.install("stranger", "1.0", "[console_scripts]\nthis is no entry point\n")
    site.mallet()
    with pytest.raises(TypeError):
        list(importlib.metadata.entry_points())  # the standard way stops here, for everyone
    registry = gadgets()
    assert registry.get("mallet").__qualname__ == "Mallet"
    assert problems(registry, "stranger") == []


def test_a_finder_that_fails_is_a_problem(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        find_spec = find_distributions = lambda *_: 1 / 0

    site.mallet()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    registry = gadgets()
    assert registry.get("mallet").__module__ == "north_tools"
    text = "a finder of distributions failed: ZeroDivisionError('division by zero')"
    hint = "Some package put it on sys.meta_path."
    assert problems(registry, "unknown") == [Problem("unknown", text, hint)]


def test_a_malformed_file_with_our_group_is_a_problem(site: Site) -> None:
    info = site.install("stranger", "1.0", MALLET + "this is no entry point\n")
    site.install("north-tools", "1.0", MALLET, {"north_tools.py": "class Mallet: pass"})
    with pytest.raises(TypeError) as caught:
        list(importlib.metadata.Distribution.at(info).entry_points)
    registry = gadgets()
    text = f"its entry points cannot be read: {caught.value!r}"
    assert problems(registry, "stranger") == [Problem("stranger", text, MEND)]
    assert registry.get("mallet").__module__ == "north_tools"
    assert message(UnknownName, registry.get, "stranger/mallet") == (
        f"unknown gadget 'stranger/mallet'. stranger is installed, but {text}."
    )


def test_a_file_that_is_not_utf8_is_a_problem(site: Site) -> None:
    site.install("stranger", "1.0", b"[mobilevlm.gadgets]\nmallet = \xff:Mallet\n")
    site.mallet()
    registry = gadgets()
    expected = (
        r"its entry points cannot be read: UnicodeDecodeError('utf-8', "
        r"b'[mobilevlm.gadgets]\nmallet = \xff:Mallet\n', 29, 30, 'invalid start byte')"
    )
    assert problems(registry, "stranger") == [Problem("stranger", expected, MEND)]
    assert registry.get("mallet").__module__ == "north_tools"


@pytest.mark.parametrize(
    "metadata",
    [
        *("", "Version: 1.0\n", "Version: 1.0\n\nName: decoy\n", "Name:\n"),
        *("Name: two words\n", "Name: ../up\n", "Name: \u0430\n"),
    ],
)
def test_a_distribution_without_a_usable_name_is_a_problem(site: Site, metadata: str) -> None:
    """What it offers could not be written in a document."""
    site.install("stranger", "1.0", MALLET, metadata=metadata)
    site.install("quiet-stranger", "1.0", "[console_scripts]\na = b:c\n", metadata=metadata)
    registry = gadgets()
    text = f"its metadata has no usable name; it is in {str(site.folder)!r}"
    assert [each for each in problems(registry, "?") if str(site.folder) in each.text] == [
        Problem("?", text, "Install what is there again, or remove it.")
    ]
    assert registry.names() == sorted(BUILT_IN)
    site.mallet()  # nobody's offer is no rival
    registry.refresh()
    assert registry.get("mallet").__module__ == "north_tools"


def test_metadata_that_is_not_utf8_has_no_usable_name(site: Site) -> None:
    info = site.install("stranger", "1.0", MALLET)
    (info / "METADATA").write_bytes(b"Name: stranger\nAuthor: J\xf6rg\n")
    site.mallet()
    registry = gadgets()
    assert str(site.folder) in "".join(each.text for each in problems(registry, "?"))
    assert registry.get("mallet").__module__ == "north_tools"


def test_a_distribution_without_entry_points_is_no_problem(site: Site) -> None:
    (site.install("stranger", "1.0") / "entry_points.txt").unlink()
    assert problems(gadgets(), "stranger") == []


def test_a_version_is_read_without_what_stands_around_it(site: Site) -> None:
    metadata = "Name:\tnorth-tools \r\nVersion:  1.0 \r\n"
    site.install("north-tools", "1.0", MALLET, metadata=metadata)
    assert str(gadgets().find("mallet")) == "north-tools 1.0 (north_tools:Mallet)"


def test_metadata_without_a_version(site: Site) -> None:
    site.install("north-tools", "1.0", MALLET, metadata="Name: north-tools\n")
    assert str(gadgets().find("mallet")) == "north-tools ? (north_tools:Mallet)"


def test_distributions_may_be_eggs(site: Site) -> None:
    info = site.install("north-tools", "1.0", MALLET)
    (info / "METADATA").rename(info / "PKG-INFO")
    info.rename(site.folder / "north_tools.egg-info")
    assert gadgets().find("mallet").version == "1.0"


TARGET = "target; expected mallet = package.module:Class"
ANY_NAME = (
    "name; expected lower-case ASCII letters, digits and '-', starting with a letter, at most 64"
)


@pytest.mark.parametrize(
    ("line", "what", "name"),
    [
        ("Mallet = a:B", "name; expected 'mallet', in lower case", "mallet"),
        ("Big_Mallet = a:B", "name; expected 'big-mallet', in lower case", "big-mallet"),
        ("m\u0430llet = a:B", ANY_NAME, ""),
        ("two words = a:B", ANY_NAME, ""),
        ("a/b = a:B", ANY_NAME, ""),
        ("2x = a:B", ANY_NAME, ""),
        (f"{'m' * 65} = a:B", ANY_NAME, ""),
        (" = a:B", ANY_NAME, ""),
        ("mallet = ", TARGET, "mallet"),
        ("mallet = a b", TARGET, "mallet"),
        ("mallet = a:B()", TARGET, "mallet"),
        ("mallet = import os", TARGET, "mallet"),
        ("mallet = a", TARGET, "mallet"),  # a module is nothing of ours
        ("mallet = a:", TARGET, "mallet"),
    ],
)
def test_an_unusable_entry_point_is_a_problem(site: Site, line: str, what: str, name: str) -> None:
    points = f"[mobilevlm.gadgets]\n{line}\nhook = north_tools:Hook\n"
    site.install("north-tools", "1.0", points, {"north_tools.py": "class Hook: pass"})
    registry = gadgets()
    written = " = ".join(part.strip() for part in line.split("=", 1))
    text = f"entry point {written!a} in [mobilevlm.gadgets] has no usable {what}"
    assert problems(registry, "north-tools") == [Problem("north-tools", text, TELL, name)]
    assert registry.get("hook").__qualname__ == "Hook"
    assert registry.names() == ["hammer", "hook", "saw", "tape-measure"]
    # Whoever asks for it, as it is written or as it should be, is told.
    for asked in (f"north-tools/{name or 'mallet'}", *([name, name.title()] if name else [])):
        assert message(UnknownName, registry.get, asked) == (
            f"unknown gadget {asked!r}. north-tools is installed, but {text}."
        )


def test_a_fault_of_one_distribution_is_no_excuse_for_another(site: Site) -> None:
    site.install("north-tools", "1.0", "[mobilevlm.gadgets]\nmallet = a\n")
    site.install("stranger", "1.0", MALLET + "this is no entry point\n")
    assert message(UnknownName, gadgets().get, "south-tools/mallet") == (
        "unknown gadget 'south-tools/mallet'. It comes from 'south-tools', which is not installed "
        "or offers no such thing."
    )


def test_conflicts_are_listed_in_order(site: Site) -> None:
    points = "[mobilevlm.gadgets]\ntape-measure = a:B\nsaw = a:B\nhammer = a:B\n"
    site.install("north-tools", "1.0", points)
    assert [each.name for each in gadgets().conflicts()] == ["hammer", "saw", "tape-measure"]


def test_what_a_distribution_offers_is_listed_in_order(site: Site) -> None:
    names = ("plane", "file", "awl", "vice", "drill")
    points = "".join(f"{name} = north_tools:Mallet\n" for name in names)
    site.install("north-tools", "1.0", f"[mobilevlm.gadgets]\n{points}")
    listed = ", ".join(f"north-tools/{name}" for name in sorted(names))
    assert message(UnknownName, gadgets().get, "north-tools/zzzzzzzzzzzzzzzz") == (
        f"unknown gadget 'north-tools/zzzzzzzzzzzzzzzz'. Known: {listed}."
    )


def test_a_fault_of_one_name_is_no_excuse_for_another(site: Site) -> None:
    points = "[mobilevlm.gadgets]\nMallet = a:B\nhook = north_tools:Hook\n"
    site.install("north-tools", "1.0", points)
    assert message(UnknownName, gadgets().get, "north-tools/hok") == (
        "unknown gadget 'north-tools/hok'. Did you mean 'north-tools/hook'?"
    )
    assert message(UnknownName, gadgets().get, "drill") == (
        "unknown gadget 'drill'. Known: hammer, hook, saw, tape-measure."
    )


def test_an_entry_point_may_have_extras_and_inner_classes(site: Site) -> None:
    points = "[mobilevlm.gadgets]\nmallet = north_tools : Box.Mallet [fast]\n"
    source = "class Box:\n    class Mallet: pass\n"
    site.install("north-tools", "1.0", points, {"north_tools.py": source})
    registry = gadgets()
    mallet = registry.get("mallet")
    assert mallet.__qualname__ == "Box.Mallet"
    registry.refresh()
    assert registry.name_of(mallet) == "north-tools/mallet"


# ---------------------------------------------------------------------- its name in a document


def test_a_plugins_thing_is_named_in_full(site: Site) -> None:
    site.mallet()
    registry = gadgets()
    assert registry.name_of(registry.get("mallet")) == "north-tools/mallet"
    assert registry.name_of(registry.get("north_tools/mallet")) == "north-tools/mallet"


def test_a_class_that_was_imported_directly(site: Site) -> None:
    module = importlib.import_module(site.mallet())
    registry = gadgets()
    assert registry.name_of(module.Mallet) == "north-tools/mallet"
    mallet = type("Mallet", (), {"__module__": "north_tools"})
    assert message(UnknownName, registry.name_of, mallet) == (
        "north_tools:Mallet is not a registered gadget. Register it with @GADGETS.register(...)."
    )


@pytest.mark.parametrize("target", ["north", "north.offers"])
def test_an_entry_point_may_be_a_re_export(site: Site, target: str) -> None:
    """Also through a module that nobody has imported yet."""
    files = {
        "north/__init__.py": "from .mallet import Mallet\n",
        "north/mallet.py": "class Mallet: pass\n",
        "north/offers.py": "from .mallet import Mallet\n",
    }
    points = f"[mobilevlm.gadgets]\nbroken = north.none:None\nmallet = {target}:Mallet\n"
    site.install("north-tools", "1.0", points, files)
    mallet = importlib.import_module("north.mallet").Mallet
    assert gadgets().name_of(mallet) == "north-tools/mallet"


def test_looking_for_a_name_imports_no_other_package(site: Site) -> None:
    site.mallet("north-tools")
    site.mallet("south-tools", source="1 / 0")
    importlib.import_module("north_tools")
    other = type("Other", (), {"__module__": "north_tools"})
    with pytest.raises(UnknownName):
        gadgets().name_of(other)
    assert not loaded("south_tools")


def test_a_module_that_raises_when_looked_at_hides_nobody(site: Site) -> None:
    site.mallet("north-tools", source="def __getattr__(name): raise ImportError('extra')\n")
    site.mallet("south-tools")
    importlib.import_module("north_tools")
    south = importlib.import_module("south_tools")
    registry = gadgets()
    assert registry.name_of(south.Mallet) == "south-tools/mallet"
    with pytest.raises(UnknownName):  # having looked at every one of them
        registry.name_of(int)
    assert message(BrokenPlugin, registry.get, "north-tools/mallet") == (
        f"{BROKEN}: ImportError on import: extra. {UPDATE}"
    )


def test_a_plugin_that_offers_a_built_in_does_not_rename_it(site: Site) -> None:
    points = "[mobilevlm.gadgets]\nmallet = decimal:Decimal\n"
    site.install("north-tools", "1.0", points)
    registry = gadgets()
    assert registry.name_of(registry.get("mallet")) == "hammer"


def test_a_plugin_that_also_registers_is_still_named_in_full(site: Site) -> None:
    points = "[mobilevlm.blocks]\nsway = north_blocks:Sway\n"
    source = SWAY + "\nfrom mobilevlm import BLOCKS\nBLOCKS.register('sway', Sway)\n"
    site.install("north-blocks", "1.0", points, {"north_blocks.py": source})
    sway = BLOCKS.get("sway")
    assert BLOCKS.get("sway") is sway
    assert BLOCKS.find("sway").source == "local"
    assert BLOCKS.name_of(sway) == "north-blocks/sway"


# ---------------------------------------------------------------------- while it loads


def test_a_plugin_may_use_the_registry_while_it_is_loaded(site: Site) -> None:
    points = "[mobilevlm.blocks]\nsway = north_blocks:Sway\n"
    source = SWAY + (
        "\nfrom mobilevlm import BLOCKS\n"
        "OTHERS = [BLOCKS.get('identity'), BLOCKS.get('sway-too')]\n"
        "NAMES = BLOCKS.names()\n"
        "OWN = BLOCKS.name_of(Sway)\n"
    )
    site.install("north-blocks", "1.0", points, {"north_blocks.py": source})
    points = "[mobilevlm.blocks]\nsway-too = south_blocks:Sway\n"
    site.install("south-blocks", "1.0", points, {"south_blocks.py": SWAY})
    BLOCKS.get("sway")
    module = sys.modules["north_blocks"]
    identity, other = module.OTHERS
    assert identity is Identity
    assert other is BLOCKS.get("south-blocks/sway-too")
    assert {"identity", "sway", "sway-too"} <= set(module.NAMES)
    assert module.OWN == "north-blocks/sway"


def test_a_plugin_that_asks_for_itself_is_broken(site: Site) -> None:
    points = "[mobilevlm.blocks]\nsway = north_blocks:Sway\n"
    source = "from mobilevlm import BLOCKS\nSway = BLOCKS.get('sway')\n"
    site.install("north-blocks", "1.0", points, {"north_blocks.py": source})
    where = "block 'north-blocks/sway' from north-blocks 1.0 (north_blocks:Sway)"
    tail = "The fault is in north-blocks: update or uninstall it."
    with pytest.raises(BrokenPlugin) as caught:
        BLOCKS.get("sway")
    inner = caught.value.__cause__
    assert isinstance(inner, BrokenPlugin)
    assert isinstance(inner.__cause__, AttributeError)
    assert str(inner) == f"{where}: AttributeError on import: {inner.__cause__}. {tail}"
    assert str(caught.value) == f"{where}: BrokenPlugin on import: {inner}. {tail}"


def test_threads_ask_for_a_plugin_at_once(site: Site) -> None:
    source = "import time\ntime.sleep(0.05)\nclass Mallet: pass\n"
    site.mallet(source=source)
    registry = gadgets()
    got: list[object] = []
    assert at_once(*[lambda: got.append(registry.get("mallet"))] * 8) == []
    assert got == [sys.modules["north_tools"].Mallet] * 8


# ---------------------------------------------------------------------- documents


def test_a_document_says_whose_block_it_is(site: Site) -> None:
    points = "[mobilevlm.blocks]\nsway = north_blocks:Sway\n"
    info = site.install("north-blocks", "1.0", points, {"north_blocks.py": SWAY})
    stack = Stack.parse({"in": 4, "out": 4, "blocks": ["sway"]})
    text = dump_spec(stack)
    assert '{"type": "north-blocks/sway", "bias": true}' in text
    assert load_spec(text) == stack

    # Another distribution comes along: the document still means the same.
    points = "[mobilevlm.blocks]\nsway = south_blocks:Sway\n"
    site.install("south-blocks", "2.1", points, {"south_blocks.py": SWAY})
    BLOCKS.refresh()
    assert load_spec(text) == stack
    with pytest.raises(SpecError) as caught:
        Stack.parse({"in": 4, "out": 4, "blocks": ["sway"]})
    assert caught.value.where == "blocks[0].type"
    assert isinstance(caught.value.__cause__, AmbiguousName)

    info.rename(site.folder / "gone")
    BLOCKS.refresh()
    with pytest.raises(SpecError) as caught:
        load_spec(text)
    assert str(caught.value) == (
        "blocks[0].type: unknown block 'north-blocks/sway'. "
        "It comes from 'north-blocks', which is not installed or offers no such thing."
    )


def test_a_plugins_block_is_pickled_by_its_name(site: Site) -> None:
    points = "[mobilevlm.blocks]\nsway = north_tools:Sway\n"
    site.install("north-tools", "1.0", points, {"north_tools.py": SWAY})
    sway = {"type": "north-tools/sway", "bias": False}
    stack = load_spec({"in": 4, "out": 4, "blocks": ["identity", sway]})
    data = pickle.dumps(stack)
    assert pickle.loads(data) == stack
    assert b"north-tools/sway" in data
    assert b"north_tools" not in data
    assert b"_reopen" not in pickle.dumps(Identity())


def test_a_broken_block_is_a_fault_at_its_place(site: Site) -> None:
    points = "[mobilevlm.blocks]\nsway = north_blocks:Sway\n"
    site.install("north-blocks", "1.0", points, {"north_blocks.py": "1 / 0"})
    with pytest.raises(SpecError) as caught:
        Stack.parse({"in": 4, "out": 4, "blocks": ["identity", {"type": "sway"}]})
    assert str(caught.value) == (
        "blocks[1].type (block 'north-blocks/sway' from north-blocks 1.0 (north_blocks:Sway)): "
        "ZeroDivisionError on import: division by zero. "
        "The fault is in north-blocks: update or uninstall it."
    )
    assert isinstance(caught.value.__cause__, BrokenPlugin)
    assert isinstance(caught.value.__cause__.__cause__, ZeroDivisionError)
