"""What `make package` has put in dist/: both are whole, and the wheel works on its own."""

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mobilevlm.registry.requirements import DISTRIBUTION

ROOT = Path(__file__).parents[3]
GENERATED = re.compile(r"PKG-INFO|setup\.cfg|[\w-]+\.egg-info/[\w.-]+")


@pytest.fixture(scope="module")
def sdist() -> Path:
    [path] = (ROOT / "dist").glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel() -> Path:
    [path] = (ROOT / "dist").glob("*.whl")
    return path


def digests(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def build(source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", out, source]
    subprocess.run(command, check=True, capture_output=True)
    [built] = out.glob("*.whl")
    return built


def test_the_sdist_holds_what_git_keeps(sdist: Path) -> None:
    """So it can be built, tested and documented; no caches, environments or results are in it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    kept = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    with tarfile.open(sdist) as archive:
        members = [each for each in archive.getmembers() if not each.isdir()]
    assert all(each.isfile() for each in members)
    names = {each.name.partition("/")[2] for each in members}
    assert {each.name.partition("/")[0] for each in members} == {sdist.name.removesuffix(".tar.gz")}
    made = {name for name in names if GENERATED.fullmatch(name)}
    assert {"PKG-INFO", "setup.cfg"} < made
    assert names - made == kept


def test_the_sdist_and_the_tree_build_the_same_wheel(
    sdist: Path, wheel: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    clone = tmp_path / "clone"
    made = (".git", ".venv*", ".*_cache", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*made))
    for tree in (source, clone):
        assert digests(build(tree, tmp_path / f"of-{tree.name}")) == digests(wheel)


def needed(names: list[str], seen: set[str]) -> Iterator[str]:
    """The distributions that some need, without extras, and what those need."""
    for name in names:
        if name in seen:
            continue
        seen.add(name)
        yield name
        more = map(Requirement, distribution(name).requires or ())
        here = [r.name for r in more if r.marker is None or r.marker.evaluate({"extra": ""})]
        yield from needed(here, seen)


class Bare:
    """A virtual environment with the wheel and what its metadata require, and nothing else."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", with_pip=False)
        self.python = folder / "venv" / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
        alone = ["--no-deps", "--no-index", "--no-compile", wheel]
        subprocess.run([*pip, *alone], check=True, capture_output=True)
        [site] = (folder / "venv").glob("lib/python*/site-packages")
        [info] = site.glob("*.dist-info/METADATA")
        wanted = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", info.read_text("utf-8"), re.M)
        self.installed = set()
        for name in needed(wanted, self.installed):
            for file in distribution(name).files or ():
                top = file.parts[0]
                origin = Path(distribution(name).locate_file(top))
                if top != ".." and origin.exists() and not (site / top).exists():
                    (site / top).symlink_to(origin)

    def run(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            [self.python, "-I", *words], cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bare:
    return Bare(wheel, tmp_path_factory.mktemp("bare"))


def test_it_is_alone(bare: Bare) -> None:
    assert {"torch", "pydantic", "numpy"} < bare.installed
    assert not {"transformers", "huggingface-hub", "pytest", "matplotlib"} & bare.installed
    assert "No module named 'transformers'" in bare.run("-c", "import transformers", status=1)


def test_it_is_imported_from_the_wheel_and_builds(bare: Bare) -> None:
    code = (
        "import torch, mobilevlm; from importlib.metadata import metadata\n"
        "from mobilevlm.registry.requirements import installed_as\n"
        "p = mobilevlm.build_projector('ldp', 64, 96)\n"
        "print(mobilevlm.__file__, mobilevlm.__version__, *p(torch.ones(1, 64, 64)).shape)\n"
        "print(metadata(installed_as())['Description-Content-Type'])"
    )
    place, version, *shape, kind = bare.run("-W", "error", "-c", code).split()
    assert Path(place).is_relative_to(bare.folder)
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert (shape, kind) == (["1", "16", "96"], "text/markdown")


def test_its_commands_work(bare: Bare) -> None:
    assert "ldpnetv2" in bare.run("-m", "mobilevlm", "list")
    assert "pointwise" in bare.run("-m", "mobilevlm", "show", "ldp", "in=64", "out=96")
    assert bare.run("-m", "mobilevlm", "doctor").endswith("No problems.\n")
    script = bare.python.with_name("mobilevlm")
    assert "version" in subprocess.run([script, "--help"], capture_output=True, text=True).stdout
    assert bare.run("-m", "mobilevlm", "new", "my-blocks").count("my-blocks/src/my_blocks/") == 4


def asks_for(extra: str, packages: str) -> str:
    """How a message says what to install."""
    return (
        f'Run: pip install "{DISTRIBUTION}[{extra}]"'
        if DISTRIBUTION
        else f"Run: pip install {packages}"
    )


@pytest.mark.parametrize(
    ("words", "extra", "package"),
    [
        (("export", "ldp", "x.onnx", "in=64", "out=96", "grid=8x8"), "onnx", "onnx>="),
        (("export", "ldp", "x.gguf", "in=64", "out=96", "grid=8x8"), "gguf", "gguf>="),
        (("inspect", "hf://org/model"), "hub", "huggingface-hub>="),
        (
            ("compare", "ldp", "in=64", "out=96", "grid=8x8", "--picture", "x.png"),
            "plot",
            "matplotlib>=",
        ),
    ],
)
def test_without_an_extra_it_says_what_to_install(
    bare: Bare, words: tuple[str, ...], extra: str, package: str
) -> None:
    said = " ".join(bare.run("-m", "mobilevlm", *words, status=2).split())
    assert asks_for(extra, f'"{package}') in said


def test_without_transformers_models_say_what_to_install(bare: Bare) -> None:
    said = bare.run("-c", "import mobilevlm.models", status=1)
    assert asks_for("models", '"pillow>=10" "transformers>=') in said
