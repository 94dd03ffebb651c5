"""Finds what is wrong with an installation: versions, extras, plugins, environment variables."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import distributions, metadata
from typing import Any, Literal

from ..blocks import BLOCKS
from ..projectors import PROJECTORS
from ..registry import (
    ALL,
    DISABLE_VARIABLE,
    STRICT_VARIABLE,
    MobileVLMError,
    Plugin,
    Registry,
    describe_error,
    did_you_mean,
    disabled,
    quote,
)
from ..registry.requirements import OWN, clone_first, install_own, installed_as, own_version
from .requirements import Requirement, matches, requirements

__all__ = ["VARIABLES", "Diagnosis", "Finding", "diagnose"]

PREFIX = "MOBILEVLM_"
VARIABLES = ("MOBILEVLM_CACHE", DISABLE_VARIABLE, "MOBILEVLM_FAST_PATHS", STRICT_VARIABLE)
SLOW = 1.0  # seconds of import worth a note

REGISTRIES: tuple[Registry[Any], ...] = (PROJECTORS, BLOCKS)


@dataclass(frozen=True)
class Finding:
    """Something worth knowing, and what to do about it.

    Attributes:
        level: A ``problem`` needs fixing; a ``note`` may be intended.
        about: The package, plugin or variable.
        text: What was found.
        hint: How to fix it.
    """

    level: Literal["problem", "note"]
    about: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.about}: {self.text}" + (f". {self.hint}" if self.hint else "")


@dataclass(frozen=True)
class Diagnosis:
    """What was checked, and what was found."""

    version: str
    python: str
    processor: dict[str, Any]
    requirements: list[Requirement]
    plugins: list[Plugin]
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return all(finding.level == "note" for finding in self.findings)


def diagnose() -> Diagnosis:
    """Check everything. Imports torch and every plugin that is not disabled."""
    findings: list[Finding] = []
    needed: list[Requirement] = []
    own = "?"
    try:
        own = own_version()
        findings += _check_own_installation()
        needed = requirements(installed_as())
    except Exception as error:  # not installed, broken metadata, a broken finder of another package
        text = f"its metadata cannot be read: {describe_error(error)}"
        hint = f"Install it: {install_own()}{clone_first(' in its clone')}."
        if isinstance(error, ImportError) and (error.name or "").startswith("packaging"):
            hint = "Write: pip install packaging. Without it, no version is checked."
        findings.append(Finding("problem", OWN, text, hint))
    missing = {each.extra for each in needed if not each.found}
    findings += [finding for each in needed for finding in _check_requirement(each, missing)]
    base = list(_base())
    if not base and {each.state for each in needed if each.extra == "models"} == {"ok"}:
        findings += _check_models()
    plugins = [plugin for registry in REGISTRIES for plugin in registry.plugins(check=not base)]
    names = list(_check_names())
    findings += [*base, *names]
    reported = {finding.text for finding in names}
    findings += [finding for each in plugins for finding in _check_plugin(each, reported)]
    findings += _check_variables(plugins)
    findings = list(dict.fromkeys(findings))
    return Diagnosis(own, platform.python_version(), processor(), needed, plugins, findings)


def processor() -> dict[str, Any]:
    """Return what decides which fast forms run here, as torch reports it; empty without torch."""
    try:
        import torch

        from ..blocks.core.linear import PROCESSOR_UNITS, capabilities, products

        linear = {
            str(dtype).removeprefix("torch."): product for dtype, product in products().items()
        }
        level = torch.backends.cpu.get_cpu_capability()
        flags = capabilities()
        threads = torch.get_num_threads()
    except Exception:  # `_base` reports what is wrong with torch
        return {}
    return {
        "name": str(flags.get("cpu_name", "")).strip() or platform.processor() or "unknown",
        "architecture": platform.machine(),
        "vectors": level,  # what torch's own kernels use; ATEN_CPU_CAPABILITY may lower it
        "flags": sorted(name for name in PROCESSOR_UNITS if flags.get(name) is True),
        "threads": threads,
        "linear": linear,  # what computes large linear layers, by dtype
    }


def _check_own_installation() -> Iterator[Finding]:
    copies: dict[str, str] = {}
    for copy in distributions(name=installed_as()):
        copies.setdefault(copy.version, str(copy.locate_file("")))
    if len(copies) > 1:
        found = ", ".join(f"{each} in {quote(folder, 200)}" for each, folder in copies.items())
        hint = f"Write: pip uninstall {installed_as()}, until none is left; "
        hint += f"then {install_own()}{clone_first(' in its clone')}."
        yield Finding("problem", OWN, f"it is installed more than once: {found}", hint)
    wanted = ",".join(metadata(installed_as()).get_all("Requires-Python") or ())
    running = platform.python_version()
    if not matches(running, wanted):
        hint = "Install it under a newer Python."
        yield Finding("problem", "Python", f"{running} is running; expected {wanted}", hint)


def _check_requirement(need: Requirement, missing: Collection[str]) -> Iterator[Finding]:
    """Check a requirement; one of an extra only if the whole extra is installed."""
    if need.state == "ok" or (need.extra and need.extra in missing):
        return
    text = f"{need.found} is installed" if need.found else "it is not installed"
    if need.wanted:
        text += f"; expected {need.wanted}"
    if need.extra:
        text += f" for the extra {need.extra!r}"
    hint = f'Write: pip install "{need.name}{need.wanted}"'
    yield Finding("note" if need.extra else "problem", need.name, text, hint)


def _base() -> Iterator[Finding]:
    """Import what every plugin requires, torch above all."""
    try:
        import torch as _torch  # noqa: F401

        from ..blocks.core import block as _block  # noqa: F401
        from ..projectors import preset as _preset  # noqa: F401
    except Exception as error:
        text = f"what plugins require cannot be imported: {describe_error(error)}"
        yield Finding("problem", OWN, text, "Fix this first: no plugin was imported.")


def _check_models() -> Iterator[Finding]:
    """Import what needs the extra `models`, as the versions do not say whether that succeeds."""
    try:
        from .. import models as _models  # noqa: F401
    except Exception as error:
        found, hint = describe_error(error), ""
        if isinstance(error, MobileVLMError):
            found, hint = error.found, error.hint
        yield Finding("note", "mobilevlm.models", f"it cannot be imported: {found}", hint)


def _check_names() -> Iterator[Finding]:
    for registry in REGISTRIES:
        for problem in (*registry.problems(), *registry.conflicts()):
            yield Finding("problem", problem.distribution, problem.text, problem.hint)


def _check_plugin(plugin: Plugin, reported: set[str]) -> Iterator[Finding]:
    entry = plugin.entry
    about = f"{plugin.kind} {entry.name!r} of {entry.source} {entry.version}"
    if plugin.state == "off":
        yield Finding("note", about, f"{DISABLE_VARIABLE} disables it")
    elif plugin.text and plugin.text not in reported:
        yield Finding("problem", about, plugin.text, plugin.hint)
    if plugin.seconds is not None and plugin.seconds >= SLOW:
        hint = "Its authors can defer heavy imports to first use."
        yield Finding("note", about, f"its import takes {plugin.seconds:.1f} s", hint)


def _check_variables(plugins: list[Plugin]) -> Iterator[Finding]:
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in VARIABLES:
            near = did_you_mean(variable[len(PREFIX) :], [v[len(PREFIX) :] for v in VARIABLES])
            hint = re.sub(r"'(\w+)'", rf"'{PREFIX}\1'", near) or f"Known: {', '.join(VARIABLES)}."
            yield Finding("problem", variable, "there is no such environment variable", hint)
    known = {plugin.entry.source for plugin in plugins}
    known |= {f"{each.entry.source}/{each.entry.name.rpartition('/')[2]}" for each in plugins}
    known |= {
        each.distribution for off in (True, False) for each in BLOCKS.problems(switched_off=off)
    }
    for name in sorted(disabled() - ALL - known):
        hint = did_you_mean(name, known) or "Unset it, or install what it names."
        yield Finding(
            "problem", DISABLE_VARIABLE, f"no installed plugin is called {quote(name)}", hint
        )
