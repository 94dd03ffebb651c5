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


def test_an_alias_is_found_as_a_built_in_but_not_listed() -> None:
    registry = ratios()
    assert registry.names() == list(registry) == ["ratio"]
    assert len(registry) == len(registry.entries()) == 1
    assert registry.aliases() == ALIASES
    for name in ("ratio", *ALIASES):
        assert registry.find(name) == Entry(name, "built-in", "", "fractions:Fraction")
        assert name in registry


def test_an_alias_that_is_not_a_short_name_is_looked_up_as_written() -> None:
    registry = ratios()
    assert registry.get("Some.Class_Name") == 3
    for name in ("some.class_name", "Some.Class-Name", "Half", "acme/half"):
        assert name not in registry
    with pytest.raises(UnknownName, match=r"Did you mean 'Some.Class_Name'\?"):
        registry.get("some.class_name")


def test_an_underscore_reads_as_a_dash_in_an_alias_too() -> None:
    for alias in ("one-half", "one_half"):
        registry = ratios(aliases={alias: ALIASES["half"]})
        assert registry.get("one_half") is registry.get("one-half")
        assert registry.name_of(registry.get("one-half")) == alias


def test_an_alias_cannot_be_taken_over() -> None:
    registry = ratios()
    with pytest.raises(NameTaken, match="'half' is built in and cannot be replaced"):
        registry.register("half", Fraction(1, 3), replace=True)
    with pytest.raises(NameTaken, match="'one_half' is built in and cannot be replaced"):
        ratios(aliases={"one_half": ALIASES["half"]}).register("one-half", Fraction(1, 3))


def test_advice_is_asked_for_before_a_misspelt_name_is_searched() -> None:
    registry = ratios(advise=lambda name: "It is a model." if name == "rati" else "")
    for name, hint in {"rati": "It is a model.", "ratoi": "Did you mean 'ratio'?"}.items():
        with pytest.raises(UnknownName) as caught:
            registry.get(name)
        assert str(caught.value) == f"unknown ratio '{name}'. {hint}"


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
        ratios(aliases={"half": ("ration", {})}).find("half")


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
