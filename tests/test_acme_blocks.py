"""The example package, really installed: found, used, written down, missed when it is gone."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "acme-blocks"

# ruff: noqa: E501 - a document says every default of a block on one line
DOCUMENT = """\
{
  "schema": 1,
  "in": 6,
  "out": 10,
  "prefix_tokens": 0,
  "token_order": "raster",
  "blocks": [
    {"type": "pointwise", "out": "out", "bias": true},
    {"type": "norm-act", "norm": "none", "eps": 1e-05, "weight": "plain", "cast": "before", "act": "gelu"},
    {"type": "acme-blocks/gate", "bias": true},
    {"type": "pointwise", "out": "out", "bias": true}
  ]
}
"""


def run(*command: str, site: Path | None = None, cwd: Path) -> str:
    """Run Python, with a folder of installed packages, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(site) if site else ""}
    environment.pop("MOBILEVLM_DISABLE_PLUGINS", None)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def script(code: str, *, site: Path | None = None, cwd: Path) -> str:
    return run("-c", textwrap.dedent(code), site=site, cwd=cwd)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, so that building it leaves nothing in the repository."""
    copy = tmp_path_factory.mktemp("source") / "acme-blocks"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    return copy


@pytest.fixture(scope="module")
def site(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip has installed the example in."""
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile"]
    run("-m", "pip", "install", *options, "--target", str(target), str(source), cwd=source)
    return target


def test_the_wheel_has_what_it_should(site: Path) -> None:
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert {file for file in files if ".dist-info/" not in file} == {
        "acme_blocks/__init__.py",
        "acme_blocks/gate.py",
        "acme_blocks/gated_mlp.py",
        "acme_blocks/py.typed",
    }
    assert "acme_blocks-1.0.0.dist-info/licenses/LICENSE" in files


def test_installed_it_is_found_used_and_written_in_full(site: Path, tmp_path: Path) -> None:
    code = """
        import sys
        from mobilevlm import BLOCKS, PROJECTORS
        for registry, name in ((BLOCKS, "gate"), (PROJECTORS, "gated-mlp")):
            assert name in registry.names()
            print(name, "-", registry.find(name))
        print(sorted({"acme_blocks", "torch"} & set(sys.modules)))

        import torch
        from mobilevlm import build_projector, dump_spec, load_spec
        projector = build_projector("gated-mlp", 6, 10)
        print(tuple(projector(torch.zeros(2, 5, 6)).shape))
        text = dump_spec(projector.spec, "gated.json")
        assert load_spec("gated.json") == projector.spec
        again = build_projector(load_spec(text))
        again.load_state_dict(projector.state_dict())
        x = torch.randn(2, 5, 6)
        assert torch.equal(again(x), projector(x))
    """
    assert script(code, site=site, cwd=tmp_path).splitlines() == [
        "gate - acme-blocks 1.0.0 (acme_blocks.gate:Gate)",
        "gated-mlp - acme-blocks 1.0.0 (acme_blocks.gated_mlp:GatedMlp)",
        "[]",
        "(2, 5, 10)",
    ]
    assert (tmp_path / "gated.json").read_text() == DOCUMENT


def test_without_it_the_document_says_what_to_install(site: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(site, gone)
    (tmp_path / "gated.json").write_text(DOCUMENT)
    code = """
        from mobilevlm import SpecError, load_spec
        try:
            print(load_spec("gated.json").blocks[2])
        except SpecError as error:
            print(error)
    """
    assert script(code, site=gone, cwd=tmp_path) == "bias=True\n"
    shutil.rmtree(gone)
    assert script(code, site=gone, cwd=tmp_path) == (
        "blocks[2].type: unknown block 'acme-blocks/gate'. "
        "It comes from 'acme-blocks', which is not installed or offers no such thing.\n"
    )


def test_its_own_tests_pass(source: Path, site: Path) -> None:
    out = run("-m", "pytest", "-q", "-p", "no:cacheprovider", site=site, cwd=source)
    assert " passed" in out
