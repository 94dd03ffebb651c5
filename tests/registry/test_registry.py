"""The registry by itself: what a name may be, who may have it, and what is said when it fails."""

import contextlib
import copy
import dataclasses
import datetime
import decimal
import fractions
import functools
import itertools
import pickle
import sys
import threading
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.plugins import BUILT_IN, Site, at_once, gadgets, message
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mobilevlm import BLOCKS, PROJECTORS, Block, GridError, Preset, SpecError, Stack
from mobilevlm.blocks.identity import Identity
from mobilevlm.projectors.zoo.mlp import Mlp
from mobilevlm.registry import (
    AmbiguousName,
    BrokenPlugin,
    Entry,
    MobileVLMError,
    NameTaken,
    Registry,
    RegistryError,
    UnknownName,
    did_you_mean,
    quote,
)
from mobilevlm.registry.names import _distance, normalize

KNOWN = "Known: hammer, saw, tape-measure."
RULE = "lower-case ASCII letters, digits and '-', starting with a letter, at most 64"
ALL = (BLOCKS, PROJECTORS)

# What is no name, and what is said about it instead of looking it up.
NO_NAMES = [
    pytest.param("Hammer", "'Hammer'. Did you mean 'hammer'?", id="upper-case"),
    pytest.param("hammer\n", r"'hammer\n'. Did you mean 'hammer'?", id="newline"),
    pytest.param(" hammer", "' hammer'. Did you mean 'hammer'?", id="space"),
    pytest.param("hammer\u0663", r"'hammer\u0663'. Did you mean 'hammer'?", id="arabic-digit"),
    pytest.param("h\u0430mmer", r"'h\u0430mmer'. Did you mean 'hammer'?", id="cyrillic-a"),
    pytest.param("\u017faw", r"'\u017faw'. Did you mean 'saw'?", id="long-s"),
    pytest.param("a" * 65, f"'{'a' * 65}'. {KNOWN}", id="65-letters"),
    pytest.param("a" * 5_000, f"'{'a' * 76}.... {KNOWN}", id="5000-letters"),
    pytest.param("", f"''. {KNOWN}", id="empty"),
    pytest.param("-", f"'-'. {KNOWN}", id="dash"),
    pytest.param("2x", f"'2x'. {KNOWN}", id="digit-first"),
    pytest.param("../saw", "'../saw'. Did you mean 'saw'?", id="path"),
    pytest.param("/hammer", "'/hammer'. Did you mean 'hammer'?", id="slash-first"),
    pytest.param("a/b/hammer", "'a/b/hammer'. Did you mean 'hammer'?", id="two-slashes"),
    pytest.param("decimal:Decimal", f"'decimal:Decimal'. {KNOWN}", id="import-path"),
    pytest.param(None, f"None. {KNOWN}", id="none"),
    pytest.param(3, f"3. {KNOWN}", id="integer"),
    pytest.param(10**5_000, f"<int>. {KNOWN}", id="huge-integer"),
    pytest.param(b"hammer", f"b'hammer'. {KNOWN}", id="bytes"),
    pytest.param(["hammer"], f"['hammer']. {KNOWN}", id="list"),
    pytest.param({}, f"{{}}. {KNOWN}", id="mapping"),
]


def make(name: str = "Mallet", module: str = "toolbox") -> type:
    """Return a new class, as a notebook cell does each time it is run."""
    return type(name, (), {"__module__": module, "__qualname__": name})


# ---------------------------------------------------------------------- what is there


def test_a_registry_lists_what_it_has() -> None:
    registry = gadgets()
    mallet = registry.register("mallet", make())
    assert registry.names() == ["hammer", "mallet", "saw", "tape-measure"]
    assert registry.entries() == [
        Entry("hammer", "built-in", "", "decimal:Decimal"),
        Entry("mallet", "local", "", "toolbox:Mallet"),
        Entry("saw", "built-in", "", "datetime:timedelta"),
        Entry("tape-measure", "built-in", "", "fractions:Fraction"),
    ]
    assert [registry.find(name) for name in registry.names()] == registry.entries()
    assert [str(entry) for entry in registry.entries()[:2]] == [
        "built-in (decimal:Decimal)",
        "local (toolbox:Mallet)",
    ]
    assert str(Entry("n/mallet", "n", "1.0", "m:Mallet")) == "n 1.0 (m:Mallet)"
    assert registry.get("mallet") is mallet
    assert registry.get("hammer") is decimal.Decimal
    assert registry.get("saw") is registry.get("saw") is datetime.timedelta
    assert repr(registry) == "<Registry of gadgets, entry-point group 'mobilevlm.gadgets'>"


def test_underscores_read_as_dashes() -> None:
    registry = gadgets()
    mallet = registry.register("rubber_mallet", make())
    for name in ("rubber_mallet", "rubber-mallet"):
        assert registry.get(name) is mallet
        assert registry.find(name).name == "rubber-mallet"
        assert name in registry
    assert registry.get("tape_measure") is registry.get("tape-measure") is fractions.Fraction
    assert registry.name_of(mallet) == "rubber-mallet"


@pytest.mark.parametrize(("name", "said"), NO_NAMES)
def test_what_is_no_name_is_unknown(name: Any, said: str) -> None:
    registry = gadgets()
    assert name not in registry
    assert message(UnknownName, registry.get, name) == f"unknown gadget {said}"
    assert message(UnknownName, registry.find, name) == f"unknown gadget {said}"


@pytest.mark.parametrize(("name", "said"), NO_NAMES)
def test_what_is_no_name_cannot_be_registered(name: Any, said: str) -> None:
    registry = gadgets()
    expected = f"{quote(name)} is not a usable gadget name; expected {RULE}"
    assert message(RegistryError, registry.register, name, make()) == expected
    assert message(RegistryError, registry.register, name) == expected
    expected = f"gadget {quote(name)} is not registered in this process"
    assert message(UnknownName, registry.unregister, name) == expected
    assert registry.names() == sorted(BUILT_IN)


def test_a_name_of_64_letters_is_a_name() -> None:
    registry = gadgets()
    mallet = registry.register("m" * 64, make())
    assert registry.get("m" * 64) is mallet


@settings(database=None)
@given(st.text(max_size=80) | st.integers() | st.binary(max_size=20))
def test_whatever_is_looked_up_the_answer_is_one_line_of_ascii(name: object) -> None:
    said = message(UnknownName, gadgets().get, name)
    assert said.isascii()
    assert said.isprintable()
    assert said.startswith(f"unknown gadget {quote(name)}. ")


# ---------------------------------------------------------------------- what is meant


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hamemr", "Did you mean 'hammer'?"),
        ("hammmer", "Did you mean 'hammer'?"),
        ("hamer", "Did you mean 'hammer'?"),
        ("sae", "Did you mean 'saw'?"),
        ("aws", "Did you mean 'saw'?"),  # one swap; two edits would be too far for three letters
        ("TAPE_MEASURE", "Did you mean 'tape-measure'?"),
        ("tape-mea", "Did you mean 'tape-measure'?"),
        ("screwdriver", KNOWN),
        ("s", KNOWN),
    ],
)
def test_a_slip_is_recognised(name: str, hint: str) -> None:
    assert message(UnknownName, gadgets().get, name) == f"unknown gadget {name!r}. {hint}"


def test_every_swap_of_neighbours_is_one_slip() -> None:
    name = "perceiver"
    for i in range(len(name) - 1):
        slip = name[:i] + name[i + 1] + name[i] + name[i + 2 :]
        assert did_you_mean(slip, [name, "pointwise"]) == f"Did you mean {name!r}?"
    # In three letters one edit is near, two are not.
    assert did_you_mean("pde", ["ldp"]) == ""


def test_two_near_names_are_both_offered() -> None:
    names = ["ldpnet", "ldpnetv2", "mlp"]
    assert did_you_mean("ldpnet2", names) == "Did you mean 'ldpnet' or 'ldpnetv2'?"
    assert did_you_mean("LDPNet", names) == "Did you mean 'ldpnet'?"
    names = [f"mlp{n}x-gelu" for n in range(1, 9)]  # all as near; two will do
    assert did_you_mean("mlp9x_gelu", names) == "Did you mean 'mlp1x-gelu' or 'mlp2x-gelu'?"


def test_how_near_a_name_must_be() -> None:
    assert did_you_mean("", ["a", "b"]) == ""
    # One edit always is near, be the name as short as it may; of six letters two are.
    assert did_you_mean("xb", ["ab"]) == "Did you mean 'ab'?"
    assert did_you_mean("abcdef", ["abcdefxyz", "badcef"]) == (
        "Did you mean 'badcef' or 'abcdefxyz'?"
    )
    assert did_you_mean("abcdef", ["xyzdef"]) == ""
    # The nearest comes first.
    assert did_you_mean("abcdef", ["abcdaa", "abcdez"]) == "Did you mean 'abcdez' or 'abcdaa'?"
    assert did_you_mean("LDP", ["Ldp", "ldq"]) == "Did you mean 'Ldp'?"


def test_a_dash_for_an_underscore_is_no_slip_at_all() -> None:
    assert did_you_mean("norm_act", ["norm-act", "norm-acts"]) == "Did you mean 'norm-act'?"
    assert did_you_mean("a-b", ["a_b", "a-c"]) == "Did you mean 'a_b'?"


def test_nobody_mistypes_a_name_of_129_letters() -> None:
    assert did_you_mean("a" * 128, ["a" * 128]) == f"Did you mean '{'a' * 128}'?"
    assert did_you_mean("a" * 129, ["a" * 129]) == ""  # it would take long to find out


def test_the_distance_is_the_least_number_of_edits() -> None:
    @functools.cache
    def least(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        ways = [least(a[1:], b) + 1, least(a, b[1:]) + 1, least(a[1:], b[1:]) + (a[0] != b[0])]
        if len(a) > 1 and a[:2] == b[1::-1]:
            ways.append(least(a[2:], b[2:]) + 1)
        return min(ways)

    words = ["".join(word) for n in range(5) for word in itertools.product("abc", repeat=n)]
    for a, b in itertools.product(words, words):
        assert _distance(a, b) == least(a, b)


def test_a_long_list_is_cut() -> None:
    registry = gadgets({f"g{n:02}": "decimal:Decimal" for n in range(13)})
    shown = ", ".join(f"g{n:02}" for n in range(12))
    expected = f"unknown gadget 'screwdriver'. Known: {shown}, and others."
    assert message(UnknownName, registry.get, "screwdriver") == expected
    registry = gadgets({f"g{n:02}": "decimal:Decimal" for n in range(12)})
    expected = f"unknown gadget 'screwdriver'. Known: {shown}."
    assert message(UnknownName, registry.get, "screwdriver") == expected


def test_the_other_registry_is_pointed_at() -> None:
    expected = "unknown block 'ldp'. 'ldp' is a projector, not a block."
    assert message(UnknownName, BLOCKS.get, "ldp") == expected
    expected = "unknown projector 'norm_act'. 'norm_act' is a block, not a projector."
    assert message(UnknownName, PROJECTORS.get, "norm_act") == expected


def test_an_absent_distribution_is_named() -> None:
    expected = (
        "unknown gadget 'Nowhere_Tools/saw'. "
        "It comes from 'nowhere-tools', which is not installed or offers no such thing."
    )
    registry = gadgets()
    assert message(UnknownName, registry.get, "Nowhere_Tools/saw") == expected
    assert "Nowhere_Tools/saw" not in registry


# ---------------------------------------------------------------------- register


def test_a_worker_is_told_where_a_registration_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "multiprocessing.process"
    ordinary = f"unknown gadget 'screwdriver'. {KNOWN}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    assert message(UnknownName, gadgets().get, "screwdriver") == ordinary
    for parent, expected in (
        (None, ordinary),
        (
            object(),
            "unknown gadget 'screwdriver'. This is a worker process: what is registered under if "
            "__name__ == '__main__' is not known here. Register it in a module that the worker "
            "imports.",
        ),
    ):
        fake = SimpleNamespace(parent_process=lambda parent=parent: parent)
        monkeypatch.setitem(sys.modules, module, fake)
        assert message(UnknownName, gadgets().get, "screwdriver") == expected


def test_what_is_unregistered_meanwhile_is_unknown() -> None:
    expected = f"unknown gadget 'screwdriver'. {KNOWN}"
    assert message(UnknownName, gadgets()._own, "screwdriver") == expected


def test_a_thing_of_another_kind_cannot_be_registered() -> None:
    assert message(RegistryError, gadgets().register, "nail", 3) == (
        "register('nail'): 3 cannot be a gadget; expected a class"
    )


GADGETS: Registry[Any] = gadgets(other=f"{__name__}:TOOLS")
TOOLS: Registry[Any] = Registry(
    "tool",
    group="mobilevlm.tools",
    builtins={"chisel": "decimal:Context"},
    accepts=lambda thing: isinstance(thing, type),
    expected="a class",
    other=f"{__name__}:GADGETS",
)


def test_two_registries_point_at_each_other() -> None:
    expected = "unknown gadget 'chisel'. 'chisel' is a tool, not a gadget."
    assert message(UnknownName, GADGETS.get, "chisel") == expected
    expected = "unknown tool 'hammer'. 'hammer' is a gadget, not a tool."
    assert message(UnknownName, TOOLS.get, "hammer") == expected


def test_register_is_a_decorator_and_a_call() -> None:
    registry = gadgets()

    @registry.register("mallet")
    class Mallet:
        pass

    assert isinstance(Mallet, type)
    assert registry.get("mallet") is Mallet
    drill = make("Drill")
    assert registry.register("drill", drill) is drill
    assert registry.name_of(drill) == "drill"
    assert registry.register("drill", drill) is drill  # once more is no harm


def test_only_the_right_kind_is_registered(registries: None) -> None:
    class NoBuild(Block):
        pass

    class NoExpand(Preset):
        pass

    wanted = "a subclass of mobilevlm.Block with a build method"
    for thing in (42, int, Identity(), lambda: 0, "pointwise"):
        expected = f"register('sway'): {quote(thing)} cannot be a block; expected {wanted}"
        assert message(RegistryError, BLOCKS.register, "sway", thing) == expected
    expected = f"register('sway'): {quote(NoBuild)} cannot be a block; expected {wanted}"
    assert message(RegistryError, BLOCKS.register("sway"), NoBuild) == expected

    wanted = "a subclass of mobilevlm.Preset with an expand method, or an instance of one"
    for thing in (42, Identity, NoExpand, Stack(in_=4, out=4, blocks=("pointwise",))):
        expected = f"register('sway'): {quote(thing)} cannot be a projector; expected {wanted}"
        assert message(RegistryError, PROJECTORS.register, "sway", thing) == expected
    assert "sway" not in BLOCKS
    assert "sway" not in PROJECTORS


def test_presets_are_registered_as_classes_and_as_instances(registries: None) -> None:
    class Sway(Preset):
        def expand(self, in_: int, out: int) -> Stack:
            return Stack(in_=in_, out=out, blocks=("pointwise",))

    assert PROJECTORS.register("sway", Sway) is Sway
    instance = Sway(prefix_tokens=1)
    PROJECTORS.register("sway-cls", instance)
    assert PROJECTORS.get("sway-cls") is instance
    assert PROJECTORS.find("sway-cls").target.endswith(".<locals>.Sway")


def test_a_taken_name_names_its_holder() -> None:
    registry = gadgets()
    first = registry.register("mallet", make())
    other = make("Drill", "shed")
    expected = (
        "gadget 'mallet' is already registered, by toolbox:Mallet. "
        "Choose another name, or pass replace=True."
    )
    assert message(NameTaken, registry.register, "mallet", other) == expected
    assert message(NameTaken, registry.register("mallet"), other) == expected
    assert registry.get("mallet") is first
    assert registry.register("mallet", other, replace=True) is other
    assert registry.get("mallet") is other


def test_a_cell_may_be_run_again() -> None:
    registry = gadgets()
    old = registry.register("mallet", make())
    new = registry.register("mallet", make())
    assert new is not old
    assert registry.get("mallet") is new
    assert registry.name_of(new) == "mallet"
    assert message(UnknownName, registry.name_of, old) == (
        "toolbox:Mallet is not a registered gadget. "
        "'mallet' now means a newer toolbox:Mallet: build it again from that one."
    )


def test_an_equal_instance_may_be_registered_again_another_may_not(registries: None) -> None:
    PROJECTORS.register("sway", Mlp(depth=3))
    again = PROJECTORS.register("sway", Mlp(depth=3))
    assert PROJECTORS.get("sway") is again
    assert message(NameTaken, PROJECTORS.register, "sway", Mlp(depth=4)) == (
        "projector 'sway' is already registered, by mobilevlm.projectors.zoo.mlp:Mlp. "
        "Choose another name, or pass replace=True."
    )
    assert PROJECTORS.get("sway") is again


def test_a_thing_has_one_name() -> None:
    registry = gadgets()
    mallet = registry.register("mallet", make())
    for replace in (False, True):
        assert message(NameTaken, registry.register, "beetle", mallet, replace=replace) == (
            "toolbox:Mallet is already registered as 'mallet'. "
            "A thing has one name, so that documents can be written back."
        )
    registry.unregister("mallet")
    assert registry.register("beetle", mallet) is mallet


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("name", ["tape-measure", "tape_measure"])
def test_a_built_in_cannot_be_taken_over(name: str, replace: bool) -> None:
    registry = gadgets()
    key = name.replace("_", "-")
    expected = f"gadget {key!r} is built in and cannot be replaced. Choose another name."
    assert message(NameTaken, registry.register, name, make(), replace=replace) == expected
    assert message(NameTaken, registry.register(name, replace=replace), make()) == expected
    assert registry.names() == sorted(BUILT_IN)


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)
def test_none_of_ours_can_be_taken_over(registry: Registry[Any], registries: None) -> None:
    for name in filter(normalize, registry._builtins):  # others cannot be registered at all
        thing = registry.get(name)
        expected = f"{registry.kind} {name!r} is built in and cannot be replaced. "
        expected += "Choose another name."
        assert message(NameTaken, registry.register, name, thing, replace=True) == expected


def test_unregister_frees_the_name() -> None:
    registry = gadgets()
    registry.register("rubber-mallet", make())
    registry.unregister("rubber_mallet")
    assert "rubber-mallet" not in registry
    assert registry.names() == sorted(BUILT_IN)
    drill = make("Drill")
    assert registry.register("rubber-mallet", drill) is drill
    for name in ("mallet", "hammer"):
        expected = f"gadget {name!r} is not registered in this process"
        assert message(UnknownName, registry.unregister, name) == expected
    assert registry.get("hammer") is decimal.Decimal


# ---------------------------------------------------------------------- the name of a thing


def test_the_name_of_a_thing() -> None:
    registry = gadgets()
    mallet = registry.register("mallet", make())
    assert registry.name_of(mallet) == "mallet"
    assert registry.name_of(decimal.Decimal) == "hammer"  # imported, never asked for by name
    registry.get("saw")
    assert registry.name_of(datetime.timedelta) == "saw"
    drill = make("Drill")
    for thing in (drill, drill()):
        assert message(UnknownName, registry.name_of, thing) == (
            "toolbox:Drill is not a registered gadget. Register it with @GADGETS.register(...)."
        )


def test_nothing_is_not_the_name_of_what_is_not_loaded() -> None:
    registry = gadgets({"ghost": "no_such_module:Ghost", "gap": "decimal:no_such_attribute"})
    assert message(UnknownName, registry.name_of, None) == (
        "builtins:NoneType is not a registered gadget. Register it with @GADGETS.register(...)."
    )


def test_a_built_in_keeps_its_name_in_documents() -> None:
    registry = gadgets()
    registry.register("tool", decimal.Decimal)
    assert registry.get("tool") is decimal.Decimal
    assert registry.name_of(decimal.Decimal) == "hammer"


# ---------------------------------------------------------------------- errors


def test_a_message_has_four_parts() -> None:
    assert str(MobileVLMError("found")) == "found"
    assert str(MobileVLMError("found", "where")) == "where: found"
    assert str(MobileVLMError("found", expected="more")) == "found; expected more"
    assert str(MobileVLMError("found", hint="Try.")) == "found. Try."
    assert str(MobileVLMError("found", "where", "more", "Try.")) == (
        "where: found; expected more. Try."
    )


FAMILY = (RegistryError, UnknownName, AmbiguousName, NameTaken, BrokenPlugin)


@pytest.mark.parametrize("cls", [MobileVLMError, *FAMILY, SpecError, GridError])
def test_an_error_survives_a_process_border(cls: type[MobileVLMError]) -> None:
    error = cls("found", where="blocks[0]", expected="more", hint="Try.")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        twin = pickle.loads(pickle.dumps(error, protocol))
        assert type(twin) is cls
        assert (twin.found, twin.where) == ("found", "blocks[0]")
        assert (twin.expected, twin.hint) == ("more", "Try.")
        assert str(twin) == str(error) == "blocks[0]: found; expected more. Try."
    assert str(copy.copy(error)) == str(error)


def test_the_family_of_errors() -> None:
    for cls in FAMILY:
        assert issubclass(cls, MobileVLMError)
        assert issubclass(cls, LookupError)
        assert not issubclass(cls, KeyError)  # which callers catch for reasons of their own
    assert issubclass(SpecError, ValueError)
    assert not issubclass(SpecError, RegistryError)


def test_anything_can_be_quoted() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise TypeError("no")

    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert quote(Rude()) == "<Rude>"
    assert quote(deep) == "<list>"
    assert quote("\u0430\n") == r"'\u0430\n'"
    assert quote("x" * 79) == f"'{'x' * 76}..."
    assert quote("x" * 78) == f"'{'x' * 78}'"


# ---------------------------------------------------------------------- threads


@pytest.fixture
def hasty() -> Any:
    """Let threads change places as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_threads_register_and_look_up_at_once(hasty: None) -> None:
    registry = gadgets()
    classes = {f"g{n}-{i}": make(f"G{n}{i}") for n in range(4) for i in range(40)}

    def register(n: int) -> None:
        for i in range(40):
            name = f"g{n}-{i}"
            registry.register(name, classes[name])
            assert registry.get(name) is classes[name]
            assert registry.get("hammer") is decimal.Decimal
            assert name in registry.names()

    assert at_once(*(lambda n=n: register(n) for n in range(4))) == []  # type: ignore[misc]
    assert registry.names() == sorted([*BUILT_IN, *classes])


def test_what_another_thread_unregisters_is_unknown(hasty: None) -> None:
    registry = gadgets()
    mallet = make()
    done = threading.Event()

    def flicker() -> None:
        for _ in range(2_000):
            registry.register("mallet", mallet)
            registry.unregister("mallet")
        done.set()

    def look() -> None:
        while not done.is_set():
            for call in (registry.get, registry.find):
                with contextlib.suppress(UnknownName):
                    call("mallet")

    assert at_once(flicker, look) == []


def test_a_refresh_may_happen_at_any_time(site: Site) -> None:
    site.mallet()
    registry = gadgets()

    class Vanishing(dict[object, object]):
        """What is loaded, forgotten by another thread as soon as this one has looked."""

        def __contains__(self, point: object) -> bool:
            registry.refresh()
            return super().__contains__(point)

    found = registry._plugins.installed.scan()
    [point] = [each for each in found.entry_points if each.point.group == registry.group]
    vanishing = Vanishing({point: decimal.Decimal})
    registry._plugins.installed._found = dataclasses.replace(found, loaded=vanishing)
    assert registry.get("mallet") is decimal.Decimal
    assert registry._plugins.installed._found is None


# ---------------------------------------------------------------------- a model

NAMES = st.sampled_from(["mallet", "rubber-mallet", "rubber_mallet", "drill", "saw", "No"])
CLASSES = [make("A"), make("A"), make("B"), make("C")]


class Model(RuleBasedStateMachine):
    """A registry does what a dict does, with a few refusals."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = gadgets()
        self.model: dict[str, type] = {}

    @rule(name=NAMES, thing=st.sampled_from(CLASSES), replace=st.booleans())
    def register(self, name: str, thing: type, replace: bool) -> None:
        key = name.replace("_", "-")
        held = self.model.get(key)
        refusal: type[RegistryError] | None = None
        if not name.islower():
            refusal = RegistryError
        elif (
            key in BUILT_IN
            or any(thing is other and key != at for at, other in self.model.items())
            or (held is not None and held.__name__ != thing.__name__ and not replace)
        ):
            refusal = NameTaken
        if refusal is None:
            assert self.registry.register(name, thing, replace=replace) is thing
            self.model[key] = thing
        else:
            with pytest.raises(refusal):
                self.registry.register(name, thing, replace=replace)

    @rule(name=NAMES)
    def unregister(self, name: str) -> None:
        key = name.replace("_", "-")
        if key in self.model:
            self.registry.unregister(name)
            del self.model[key]
        else:
            with pytest.raises(UnknownName):
                self.registry.unregister(name)

    @rule()
    def refresh(self) -> None:
        self.registry.refresh()  # forgets nothing that was registered here

    @rule(name=NAMES)
    def look_up(self, name: str) -> None:
        key = name.replace("_", "-")
        if key in self.model:
            assert self.registry.get(name) is self.model[key]
            assert self.registry.find(name).source == "local"
        elif key in BUILT_IN:
            assert self.registry.find(name).source == "built-in"
        else:
            with pytest.raises(UnknownName):
                self.registry.get(name)

    @invariant()
    def same_as_the_model(self) -> None:
        assert self.registry.names() == sorted([*BUILT_IN, *self.model])
        for thing in CLASSES:
            names = [name for name, other in self.model.items() if other is thing]
            if names:
                assert [self.registry.name_of(thing)] == names
            else:
                with pytest.raises(UnknownName):
                    self.registry.name_of(thing)


TestModel = pytest.mark.thread_unsafe(Model.TestCase)
TestModel.settings = settings(max_examples=25, stateful_step_count=25, deadline=None, database=None)


# ---------------------------------------------------------------------- what is built in


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)
def test_the_table_is_in_order_and_every_line_of_it_loads(registry: Registry[Any]) -> None:
    table = registry._builtins
    own = [name for name in table if name not in registry._aliases]
    assert own == sorted(own)
    for name, target in table.items():
        thing = registry.get(name)
        assert registry._accepts(thing), name
        assert registry.name_of(thing) == name
        assert registry.find(name) == Entry(name, "built-in", "", target)
        if isinstance(thing, type):
            assert f"{thing.__module__}:{thing.__qualname__}" == target


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)
def test_pyproject_mirrors_the_table(registry: Registry[Any]) -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    points = tomllib.loads(text)["project"]["entry-points"][registry.group]
    # Instances are a family with some options set: further names, which are not mirrored. Nor are
    # Zeta's modules, which are not ours.
    families = {
        name: target
        for name, target in registry._builtins.items()
        if isinstance(registry.get(name), type) and not name.startswith("zeta-")
    }
    assert list(points.items()) == list(families.items())


def test_register_without_a_name() -> None:
    letter = type("\u0410", (), {"__module__": "m"})
    for cls, shown in ((dict, "<class 'dict'>"), (letter, "<class 'm.\\u0410'>")):
        with pytest.raises(RegistryError) as caught:
            BLOCKS.register(cls)  # type: ignore[call-overload]
        assert str(caught.value) == f"{shown} is not a usable block name; expected {RULE}"
    with pytest.raises(RegistryError) as caught:
        BLOCKS.register(dict, Identity)  # type: ignore[call-overload]
    assert str(caught.value) == (
        "<class 'dict'> is not a usable block name; expected lower-case ASCII letters, digits and "
        "'-', starting with a letter, at most 64"
    )
