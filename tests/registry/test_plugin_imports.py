"""How plugins are reported: how long their import takes, strict mode, the state of each."""

import sys
from collections.abc import Callable

import pytest
from helpers.plugins import MALLET, TELL, Site, gadgets, message

from mobilevlm.registry import DISABLE_VARIABLE, STRICT_VARIABLE, BrokenPlugin

# ---------------------------------------------------------------------- time


@pytest.mark.usefixtures("clock")
def test_the_import_is_timed_once(site: Site) -> None:
    points = MALLET + "beetle = north_tools:Beetle\n"
    source = "import time\ntime.sleep(0.2)\nclass Mallet: pass\nclass Beetle: pass\n"
    site.install("north-tools", "1.0", points, {"north_tools.py": source})
    registry = gadgets()
    assert [(each.state, each.seconds) for each in registry.plugins()] == [("ready", None)] * 2
    assert "north_tools" not in sys.modules
    registry.get("mallet")
    beetle, mallet = registry.plugins(check=True)
    assert mallet.seconds == 0.2
    assert beetle.seconds == 0.0  # its module was there
    registry.refresh()
    assert registry.plugins(check=True) == [beetle, mallet]


# ---------------------------------------------------------------------- strict mode


def shadowed(site: Site) -> str:
    site.install("north-tools", "1.0", "[mobilevlm.gadgets]\nhammer = north_tools:Mallet\n")
    return (
        "north-tools: its gadget 'hammer' has the name of a built-in, which keeps it. "
        "Write 'north-tools/hammer', or set MOBILEVLM_DISABLE_PLUGINS=north-tools/hammer"
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


@pytest.mark.parametrize("fault", [shadowed, ambiguous, twice, unusable])
def test_strict_mode_refuses_at_the_first_look(
    site: Site, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Site], str]
) -> None:
    text = fault(site)
    registry = gadgets()
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
    # What explains it goes on working, and switching the plugin off settles it.
    first, *_ = [*registry.problems(), *registry.conflicts()]
    assert str(first).rstrip(".") == text
    assert all(plugin.entry.source != "built-in" for plugin in registry.plugins())
    monkeypatch.setenv(DISABLE_VARIABLE, "north-tools")
    assert registry.get("hammer").__qualname__ == "Decimal"


def test_strict_mode_takes_a_plugin_without_faults(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
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


# ---------------------------------------------------------------------- the state of each


def test_every_plugin_has_a_state(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.mallet("east-tools")
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
        *("works", "broken", "off", "works", "broken", "broken")
    ]
    assert [each.text for each in checked[:4]] == [
        "",
        "ZeroDivisionError on import: division by zero",
        "",
        "",
    ]
    assert {each.location for each in checked} == {str(site.folder)}
    assert "off_tools" not in sys.modules
