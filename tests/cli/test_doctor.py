"""The verbs that look at plugins and at what is installed: plugins, doctor, and list by package."""

import functools
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from helpers.command import run
from helpers.plugins import SWAY, Site
from packaging.requirements import Requirement as Requires

import mobilevlm
from mobilevlm.blocks.core import linear
from mobilevlm.cli import diagnosis
from mobilevlm.cli.requirements import Requirement, matches, requirements
from mobilevlm.registry import DISABLE_VARIABLE, STRICT_VARIABLE
from mobilevlm.registry.requirements import install_command, install_own, installed_as

ROOT = Path(__file__).parents[2]

SWAYING = """
from mobilevlm import Preset, Stack

class Swaying(Preset):
    def expand(self, in_, out):
        return Stack(in_=in_, out=out, blocks=("pointwise",))
"""
POINTS = (
    "[mobilevlm.blocks]\nsway = north_blocks:Sway\n"
    "[mobilevlm.projectors]\nswaying = north_blocks:Swaying\n"
)
TELL = "The fault is in north-blocks: tell its authors."


def install(site: Site, source: str = SWAY + SWAYING, points: str = POINTS) -> None:
    site.install("north-blocks", "1.0", points, {"north_blocks.py": source})


def findings(out: str) -> list[str]:
    """Return what doctor says after its tables."""
    return [line for line in out.splitlines() if line.startswith(("problem:", "note:"))]


# ---------------------------------------------------------------------- list


@pytest.mark.parametrize(
    "pattern",
    ["north", "north-blocks", "North_Blocks", "*-blocks", "north-blocks/*", "rth-blocks/sw"],
)
def test_list_finds_a_plugin_by_its_package(site: Site, pattern: str) -> None:
    install(site)
    assert run("list", pattern) == (
        0,
        "projector  tokens  parameters  from              models\n"
        "---------  ------  ----------  ----------------  ------\n"
        "swaying                        north-blocks 1.0\n"
        "\n"
        "block  from\n"
        "-----  ----------------\n"
        "sway   north-blocks 1.0\n",
        "",
    )


def test_list_does_not_take_built_in_for_a_package(site: Site) -> None:
    assert run("list", "built-in") == (1, "", "note: nothing matches 'built-in'\n")


def test_list_notes_an_upper_case_name(site: Site) -> None:
    install(site, points="[mobilevlm.blocks]\nSway = north_blocks:Sway\n")
    assert run("list", "identity")[2] == (
        "note: north-blocks: entry point 'Sway = north_blocks:Sway' in [mobilevlm.blocks] has no "
        f"usable name; expected 'sway', in lower case. {TELL}\n"
    )


# ---------------------------------------------------------------------- plugins


def test_no_plugin(site: Site) -> None:
    assert run("plugins") == (0, "", "note: no plugin is installed\n")
    assert json.loads(run("plugins", "--json")[1]) == {"plugins": [], "problems": []}


def test_plugins_lists_without_importing(site: Site) -> None:
    install(site)
    assert run("plugins") == (
        0,
        "name     kind       from              target                state  import\n"
        "-------  ---------  ----------------  --------------------  -----  ------\n"
        "swaying  projector  north-blocks 1.0  north_blocks:Swaying  ready       -\n"
        "sway     block      north-blocks 1.0  north_blocks:Sway     ready       -\n",
        "",
    )
    assert "north_blocks" not in sys.modules


@pytest.mark.usefixtures("clock")
def test_plugins_imports_and_times_them_to_check(site: Site) -> None:
    install(site, "import time\ntime.sleep(0.1)\n" + SWAY + SWAYING)
    status, out, err = run("plugins", "--check")
    assert (status, err) == (0, "")
    assert out == (
        "name     kind       from              target                state  import\n"
        "-------  ---------  ----------------  --------------------  -----  ------\n"
        "swaying  projector  north-blocks 1.0  north_blocks:Swaying  works  100 ms\n"
        "sway     block      north-blocks 1.0  north_blocks:Sway     works    0 ms\n"
    )
    status, out, err = run("plugins", "--check", "--json")
    found = json.loads(out)["plugins"]
    assert (status, err) == (0, "")
    assert found[0].pop("seconds") == 0.1
    assert found[0] == {
        "name": "swaying",
        "source": "north-blocks",
        "version": "1.0",
        "target": "north_blocks:Swaying",
        "kind": "projector",
        "location": str(site.folder),
        "state": "works",
        "text": "",
        "hint": "",
    }


@pytest.mark.usefixtures("clock")
def test_plugins_says_what_is_broken_or_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, SWAY)
    points = "[mobilevlm.blocks]\nidentity = south_blocks:Sway\n"
    site.install("south-blocks", "2.1", points, {"south_blocks.py": SWAY})
    points = "[mobilevlm.blocks]\nlean = west_blocks:Lean\n"
    site.install("west-blocks", "3", points, {"west_blocks.py": "1 / 0"})
    monkeypatch.setenv(DISABLE_VARIABLE, "west-blocks")
    hidden = (
        "note: south-blocks: its block 'identity' has the name of a built-in, which keeps it. "
        "Write 'south-blocks/identity', or set "
        "MOBILEVLM_DISABLE_PLUGINS=south-blocks/identity\n"
    )
    assert run("plugins")[2] == hidden
    status, out, err = run("plugins", "--check")
    assert status == 1
    assert out == (
        "name                   kind       from              target                state   import\n"
        "---------------------  ---------  ----------------  --------------------  ------  ------\n"
        "swaying                projector  north-blocks 1.0  north_blocks:Swaying  broken       -\n"
        "south-blocks/identity  block      south-blocks 2.1  south_blocks:Sway     works     0 ms\n"
        "sway                   block      north-blocks 1.0  north_blocks:Sway     works     0 ms\n"
        "west-blocks/lean       block      west-blocks 3     west_blocks:Lean      off          -\n"
    )
    assert err == (
        "error: swaying: AttributeError on import: module 'north_blocks' has no attribute "
        "'Swaying'. The fault is in north-blocks: update or uninstall it.\n" + hidden
    )
    assert "west_blocks" not in sys.modules


def test_a_plugin_that_raises_what_is_no_exception(site: Site) -> None:
    points = "[mobilevlm.blocks]\nsway = north_blocks:Sway\n"
    install(site, "import asyncio\nraise asyncio.CancelledError('late')\n", points)
    text = "CancelledError on import: late. The fault is in north-blocks: update or uninstall it."
    assert run("plugins", "--check")[1] == (
        "name  kind   from              target             state   import\n"
        "----  -----  ----------------  -----------------  ------  ------\n"
        "sway  block  north-blocks 1.0  north_blocks:Sway  broken       -\n"
    )
    assert run("plugins", "--check")[::2] == (1, f"error: sway: {text}\n")
    status, out, _ = run("doctor")
    where = "block 'sway' of north-blocks 1.0"
    assert (status, findings(out)) == (1, [f"problem: {where}: {text}"])


@pytest.mark.parametrize(
    "words",
    [
        ("plugins", "--check", "--json"),
        ("doctor", "--json"),
        ("show", "swaying", "in=4", "out=8", "--json"),
        ("spec", "swaying", "in=4", "out=8"),
    ],
)
def test_what_a_plugin_prints_is_no_result(site: Site, words: tuple[str, ...]) -> None:
    install(site, "print('hello')\n" + SWAY + SWAYING)
    status, out, err = run(*words)
    assert (status, err) == (0, "hello\n")
    assert "hello" not in out
    assert json.loads(out)


def test_plugins_in_strict_mode(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows what the look-ups refuse."""
    install(site, points="[mobilevlm.blocks]\nSway = north_blocks:Sway\n")
    monkeypatch.setenv(STRICT_VARIABLE, "1")
    text = (
        "north-blocks: entry point 'Sway = north_blocks:Sway' in [mobilevlm.blocks] has no usable "
        f"name; expected 'sway', in lower case. {TELL}"
    )
    note = "note: no plugin is installed\n"
    assert run("plugins") == (0, "", f"{note}note: {text}\n")
    expected = f"MOBILEVLM_STRICT_PLUGINS: {text} 'mobilevlm doctor' shows every problem."
    assert run("list") == (2, "", f"error: {expected}\n")
    assert run("tokens", "ldp", "grid=2x2") == (2, "", f"error: {expected}\n")


# ---------------------------------------------------------------------- doctor


def test_all_is_well(site: Site) -> None:
    status, out, err = run("doctor")
    first, _, _, _, _, _, *table, last = out.splitlines()
    assert (status, err) == (0, "")
    assert first == f"mobilevlm {mobilevlm.__version__}, Python {platform.python_version()}"
    assert table[0].split() == ["package", "for", "wanted", "found", "state"]
    rows = {tuple(line.split()[:2]): line.split()[-1] for line in table[2:] if line}
    assert rows["torch", "-"] == rows["pydantic", "-"] == "ok"
    assert ("pillow", "demo") in rows
    assert last == "No problems."
    found = json.loads(run("doctor", "--json")[1])
    assert found["ok"] is True
    assert (found["version"], found["python"]) == (first.split()[1][:-1], first.split()[-1])
    assert [each["name"] for each in found["requirements"] if each["extra"] == ""] == sorted(
        re.split("[><]", need)[0] for need in core_requirements()
    )
    assert (found["plugins"], found["findings"]) == ([], [])


def test_what_transformers_hides_is_named(tmp_path: Path) -> None:
    """Its versions fit, and still no model can be loaded."""
    pytest.importorskip("PIL")
    pytest.importorskip("transformers")
    said = "operator torchvision::nms does not exist"
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise RuntimeError({said!r})")
    (tmp_path / "torchvision-99.0.dist-info").mkdir()
    (tmp_path / "torchvision-99.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 99.0\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mobilevlm", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert findings(done.stdout) == [
        "note: mobilevlm.models: it cannot be imported: transformers cannot import AutoProcessor: "
        f"RuntimeError: {said}. transformers imports it: install a version that fits, or uninstall "
        "it."
    ]


def core_requirements() -> list[str]:
    return [need for need in importlib.metadata.requires("mobilevlm") or [] if "extra" not in need]


def test_doctor_finds_every_fault_of_plugins(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, SWAY)
    points = "[mobilevlm.blocks]\nsway = south_blocks:Sway\npool = south_blocks:Sway\n"
    site.install("south-blocks", "2.1", points, {"south_blocks.py": SWAY})
    points = "[mobilevlm.blocks]\nSway = a:B\nlean = a:B\nlean = a:C\n"
    site.install("west-blocks", "3", points)
    behind = Site(tmp_path / "behind")
    behind.install("south-blocks", "2.0", points)
    monkeypatch.setattr(sys, "path", [*sys.path, str(behind.folder)])
    monkeypatch.setattr(diagnosis, "SLOW", 1e9)
    status, out, err = run("doctor")
    assert (status, err) == (1, "")
    assert findings(out) == [
        f"problem: south-blocks: 2.1 in '{site.folder}' hides 2.0 in '{behind.folder}'. "
        "Uninstall the one you do not want: pip uninstall south-blocks",
        "problem: west-blocks: entry point 'Sway = a:B' in [mobilevlm.blocks] has no usable name; "
        "expected 'sway', in lower case. The fault is in west-blocks: tell its authors.",
        "problem: west-blocks: block 'west-blocks/lean' is offered more than once: "
        "west-blocks 3 (a:B) and west-blocks 3 (a:C). "
        "The fault is in west-blocks: tell its authors.",
        "problem: south-blocks: its block 'pool' has the name of a built-in, which keeps it. "
        "Write 'south-blocks/pool', or set MOBILEVLM_DISABLE_PLUGINS=south-blocks/pool",
        "problem: north-blocks: block 'sway' is offered by north-blocks 1.0 (north_blocks:Sway) "
        "and south-blocks 2.1 (south_blocks:Sway). Write 'north-blocks/sway' or "
        "'south-blocks/sway', or switch one off by MOBILEVLM_DISABLE_PLUGINS.",
        "problem: projector 'swaying' of north-blocks 1.0: AttributeError on import: module "
        "'north_blocks' has no attribute 'Swaying'. The fault is in north-blocks: update or "
        "uninstall it.",
    ]
    assert out.endswith("\n6 problems.\n")
    found = json.loads(run("doctor", "--json")[1])
    assert found["ok"] is False
    assert [each["level"] for each in found["findings"]] == ["problem"] * 6
    assert found["findings"][3] == {
        "level": "problem",
        "about": "south-blocks",
        "text": "its block 'pool' has the name of a built-in, which keeps it",
        "hint": "Write 'south-blocks/pool', or set MOBILEVLM_DISABLE_PLUGINS=south-blocks/pool",
    }


@pytest.mark.usefixtures("clock")
def test_what_may_be_meant_so_is_a_note(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "import time\ntime.sleep(1)\n" + SWAY + SWAYING)
    points = "[mobilevlm.blocks]\nlean = west_blocks:Lean\n"
    site.install("west-blocks", "3", points, {"west_blocks.py": "1 / 0"})
    monkeypatch.setenv(DISABLE_VARIABLE, "west-blocks")
    monkeypatch.setattr(diagnosis, "SLOW", 1.0)
    status, out, _ = run("doctor")
    assert status == 0
    slow, off = findings(out)
    assert slow == (
        "note: projector 'swaying' of north-blocks 1.0: its import takes 1.0 s. "
        "Its authors can defer heavy imports to first use."
    )
    assert off == (
        "note: block 'west-blocks/lean' of west-blocks 3: MOBILEVLM_DISABLE_PLUGINS disables it"
    )
    assert out.endswith("\nNo problems.\n")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "MOBILEVLM_STRICT_PLUGIN",
            "1",
            "there is no such environment variable. Did you mean 'MOBILEVLM_STRICT_PLUGINS'?",
        ),
        (
            "MOBILEVLM_X",
            "1",
            "there is no such environment variable. "
            "Known: MOBILEVLM_CACHE, MOBILEVLM_DISABLE_PLUGINS, MOBILEVLM_FAST_PATHS, "
            "MOBILEVLM_STRICT_PLUGINS.",
        ),
        (
            DISABLE_VARIABLE,
            "north-blocks/sway, nort-blocks",
            "no installed plugin is called 'nort-blocks'. "
            "Did you mean 'north-blocks' or 'north-blocks/sway'?",
        ),
        (
            DISABLE_VARIABLE,
            "zzz",
            "no installed plugin is called 'zzz'. Unset it, or install what it names.",
        ),
    ],
)
def test_doctor_reads_the_environment(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    install(site)
    monkeypatch.setenv(name, value)
    status, out, _ = run("doctor")
    assert status == 1
    assert [line for line in findings(out) if line.startswith("problem:")] == [
        f"problem: {name}: {said}"
    ]


@pytest.mark.parametrize("value", ["", "1", "all", "north-blocks", "North_Blocks/sway", "bad"])
def test_doctor_knows_what_can_be_switched_off(
    site: Site, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    install(site)
    site.install("bad", "1", "[mobilevlm.blocks]\nthis is no entry point\n")
    monkeypatch.setenv(DISABLE_VARIABLE, value)
    out = run("doctor")[1]
    assert not [line for line in findings(out) if DISABLE_VARIABLE + ":" in line]


def test_doctor_knows_every_variable_of_ours() -> None:
    root = Path(__file__).parents[2]
    rooms = (path for path in root.glob("[!.]*/*.py") if (path.parent / "__init__.py").exists())
    used = {
        name for path in rooms for name in re.findall(r"\"(MOBILEVLM_[A-Z_]+)\"", path.read_text())
    }
    assert used - {"MOBILEVLM_"} == set(diagnosis.VARIABLES)


def test_doctor_survives_a_finder_that_fails(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        find_spec = find_distributions = lambda *_: 1 / 0

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    status, out, _ = run("doctor")
    assert status == 1
    assert findings(out) == [
        "problem: mobilevlm: its metadata cannot be read: ZeroDivisionError: division by zero. "
        "Install it: pip install . in its clone.",
        "problem: unknown: a finder of distributions failed: "
        "ZeroDivisionError('division by zero'). Some package put it on sys.meta_path.",
    ]


def test_doctor_says_when_plugins_have_nothing_to_build_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site)
    monkeypatch.setitem(sys.modules, "torch", None)
    status, out, _ = run("doctor")
    assert status == 1
    assert findings(out) == [
        "problem: mobilevlm: what plugins require cannot be imported: ModuleNotFoundError: "
        "import of torch halted; None in sys.modules. Fix this first: no plugin was imported."
    ]
    assert "ready" in out


def test_doctor_says_that_what_compares_versions_is_missing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("packaging", "packaging.requirements", "packaging.specifiers"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("requirements", "diagnosis"):  # so that they are imported without it, too
        monkeypatch.delitem(sys.modules, f"mobilevlm.cli.{name}")
    status, out, err = run("doctor")
    assert (status, err) == (1, "")
    assert findings(out) == [
        "problem: mobilevlm: its metadata cannot be read: ModuleNotFoundError: import of "
        "packaging.specifiers halted; None in sys.modules. Write: pip install packaging. Without "
        "it, no version is checked."
    ]


# ---------------------------------------------------------------------- versions


OWN = """\
Metadata-Version: 2.1
Name: mobilevlm
Version: 0.0.1
Requires-Python: {python}
Requires-Dist: torch{torch}
Requires-Dist: no-such-thing<2,>=1
Requires-Dist: pillow>={pillow}; extra == "demo"
Requires-Dist: no-such-thing[x] (>=3) ; extra == 'rare'
Requires-Dist: mobilevlm[demo]; extra == "all"
"""


def test_doctor_compares_versions(site: Site) -> None:
    metadata = OWN.format(python=">=3.99", torch="<2", pillow="99")
    site.install("mobilevlm", "0.0.1", metadata=metadata)
    status, out, _ = run("doctor")
    torch = importlib.metadata.version("torch")
    pillow = importlib.metadata.version("pillow")
    assert status == 1
    own, *rest = findings(out)
    assert own.startswith(
        f"problem: mobilevlm: it is installed more than once: 0.0.1 in {str(site.folder)!r}, "
        f"{mobilevlm.__version__} in "
    )
    assert own.endswith(
        ". Write: pip uninstall mobilevlm, until none is left; then pip install . in its clone."
    )
    assert rest == [
        f"problem: Python: {platform.python_version()} is running; expected >=3.99. "
        "Install it under a newer Python.",
        "problem: no-such-thing: it is not installed; expected <2,>=1. "
        'Write: pip install "no-such-thing<2,>=1"',
        f'problem: torch: {torch} is installed; expected <2. Write: pip install "torch<2"',
        f"note: pillow: {pillow} is installed; expected >=99 for the extra 'demo'. "
        'Write: pip install "pillow>=99"',
    ]
    assert requirements("mobilevlm") == [
        Requirement("no-such-thing", "", "<2,>=1", "", "not installed"),
        Requirement("torch", "", "<2", torch, "does not fit"),
        Requirement("pillow", "demo", ">=99", pillow, "does not fit"),
        Requirement("no-such-thing", "rare", ">=3", "", "not installed"),
    ]
    assert install_command("demo") == 'pip install "pillow>=99"'
    assert install_command("rare") == 'pip install "no-such-thing[x]>=3"'


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            {"cpu_name": "AMD EPYC", "avx2": True, "avx512_f": False, "num_logical_cores": 2},
            "it has: avx2",
        ),
        (
            {"cpu_name": "Xeon", "avx2": True, "avx512_bf16": True, "amx_bf16": True},
            "it has: amx_bf16, avx2, avx512_bf16",
        ),
        ({}, "it has: not known"),
        (None, "it has: not known"),  # a torch that cannot tell
    ],
)
def test_doctor_says_what_the_processor_can_do(
    flags: dict[str, object] | None,
    said: str,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if flags is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        for name in ("avx2", "avx512", "vnni"):
            monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    for choice in (linear._onednn, linear._lacks_units):
        choice.cache_clear()
        request.addfinalizer(choice.cache_clear)
    out = run("doctor")[1].splitlines()
    level, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    name = (flags or {}).get("cpu_name") or platform.processor() or "unknown"
    chosen = {
        str(dtype).removeprefix("torch."): which for dtype, which in linear.products().items()
    }
    assert out[2:5] == [
        f"processor: {name}, {platform.machine()}, torch uses {level}, threads: {threads}",
        said,
        f"large linear layers in inference: {', '.join(f'{k} {v}' for k, v in chosen.items())}",
    ]
    found = json.loads(run("doctor", "--json")[1])["processor"]
    assert (found["name"], found["vectors"], found["threads"]) == (name, level, threads)
    assert found["linear"] == chosen
    assert said.removeprefix("it has: ") == (", ".join(found["flags"]) or "not known")


def test_hints_name_what_to_install_and_never_the_package_of_our_name() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for extra, packages in extras["optional-dependencies"].items():
        program, verb, *named = shlex.split(install_command(extra))
        assert (program, verb) == ("pip", "install")
        assert {*map(Requires, named)} == {*map(Requires, packages)}


def test_hints_without_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilevlm.registry.requirements.OWN", "no-such-thing")
    assert install_command("onnx") == 'pip install ".[onnx]"'


def test_hints_once_an_index_has_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilevlm.registry.requirements.DISTRIBUTION", "its-name")
    assert install_command("onnx") == 'pip install "its-name[onnx]"'
    assert (install_own(), installed_as()) == ("pip install its-name", "its-name")
    out = run("doctor")[1]
    assert findings(out)[0] == (
        "problem: mobilevlm: its metadata cannot be read: PackageNotFoundError: No package "
        "metadata was found for its-name. Install it: pip install its-name."
    )


def test_doctor_without_an_installation(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = functools.partial(importlib.metadata.version, "no-such-thing")
    monkeypatch.setattr(diagnosis, "own_version", missing)
    status, out, _ = run("doctor")
    assert status == 1
    assert out.startswith(f"mobilevlm ?, Python {platform.python_version()}\n")
    assert findings(out) == [
        "problem: mobilevlm: its metadata cannot be read: PackageNotFoundError: No package "
        "metadata was found for no-such-thing. Install it: pip install . in its clone."
    ]


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        ("2.6", "", True),
        ("2.6", ">=2.6", True),
        ("2.6.0", ">=2.6", True),
        ("2.6", ">=2.6.0", True),
        ("2.5.9", ">=2.6", False),
        ("2.10", ">=2.6", True),
        ("2.13.0+cpu", ">=2.6,<3", True),
        ("3.0", ">=2.6, <3", False),
        ("0.30.0", "<0.30,>=0.15", False),
        ("1.0", "==1", True),
        ("1.0.1", "==1", False),
        ("1.0.1", "==1.*", True),
        ("1.1", "!=1.1", False),
        ("1.2", ">1.1", True),
        ("1.1", "<=1.1", True),
        ("1.4.7", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False),
        ("1.9", "~=1.4", True),
        ("1.3", "~=1.4", False),
        ("2.7.0rc1", ">=2.7", True),
        ("1.0", "===1.0", True),
        ("?", ">=1", False),
    ],
)
def test_versions_are_compared_as_numbers(found: str, wanted: str, said: bool) -> None:
    assert matches(found, wanted) is said
