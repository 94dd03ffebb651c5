"""Aliases: other names for a built-in, each with options of its own."""

import threading
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest

from mobilevlm.registry import Entry, NameTaken, Registry, UnknownName

ALIASES: dict[str, tuple[str, Mapping[str, object]]] = {
    "half": ("ratio", {"numerator": 1, "denominator": 2}),
    "Some.Class_Name": ("ratio", {"numerator": 3}),
    "quotient": ("ratio", {}),
}


def ratios(**changes: Any) -> Registry[Any]:
    options: dict[str, Any] = {
        "group": "mobilevlm.ratios",
        "builtins": {"ratio": "fractions:Fraction"},
        "aliases": ALIASES,
        "specialise": lambda base, options: base(**options),
        "accepts": lambda thing: thing is Fraction or isinstance(thing, Fraction),
        "expected": "a fraction",
    }
    return Registry("ratio", **{**options, **changes})


def test_an_alias_means_its_name_with_its_options() -> None:
    registry = ratios()
    assert registry.get("half") == Fraction(1, 2)
    assert registry.get("half") is registry.get("half")
    assert registry.get("quotient") == Fraction()
    assert registry.get("ratio") is Fraction


def test_without_specialise_an_alias_is_another_name_of_the_same() -> None:
    assert ratios(specialise=None).get("quotient") is Fraction


def test_an_alias_is_listed_as_a_built_in() -> None:
    registry = ratios()
    assert registry.names() == ["Some.Class_Name", "half", "quotient", "ratio"]
    for name in registry.names():
        entry = Entry(name, "built-in", "", "fractions:Fraction")
        assert registry.find(name) == entry
        assert entry in registry.entries()
        assert name in registry


def test_an_alias_that_is_not_a_short_name_is_looked_up_as_written() -> None:
    registry = ratios()
    assert registry.get("Some.Class_Name") == 3
    for name in ("some.class_name", "Some.Class-Name", "Half", "acme/half"):
        assert name not in registry
    with pytest.raises(UnknownName, match=r"Did you mean 'Some.Class_Name'\?"):
        registry.get("some.class_name")


def test_an_underscore_reads_as_a_dash_in_an_alias_too() -> None:
    registry = ratios(aliases={"one-half": ALIASES["half"]})
    assert registry.get("one_half") is registry.get("one-half")


def test_an_alias_cannot_be_taken_over() -> None:
    registry = ratios()
    with pytest.raises(NameTaken, match="'half' is built in and cannot be replaced"):
        registry.register("half", Fraction(1, 3), replace=True)


def test_what_an_alias_means_is_known_by_it() -> None:
    registry = ratios()
    half = registry.get("half")
    assert registry.name_of(half) == "half"
    assert registry.name_of(Fraction) == "ratio"
    registry.refresh()
    assert registry.get("half") is half
    assert registry.name_of(half) == "half"


def test_an_alias_of_an_unknown_name_fails_at_the_first_look() -> None:
    with pytest.raises(KeyError, match="ration"):
        ratios(aliases={"half": ("ration", {})}).names()


def test_threads_get_the_same() -> None:
    barrier = threading.Barrier(2)

    def specialise(base: Any, options: Mapping[str, object]) -> Any:
        barrier.wait(10)  # both are here before either is done
        return base(**options)

    registry, found = ratios(specialise=specialise), []
    threads = [
        threading.Thread(target=lambda: found.append(registry.get("half"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] is found[1]
