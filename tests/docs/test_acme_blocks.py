"""The example package, really installed: found, used, written down, missed when it is gone."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "acme-blocks"

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
    assert "acme_blocks-0.1.0.dist-info/licenses/LICENSE" in files


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
        "gate - acme-blocks 0.1.0 (acme_blocks.gate:Gate)",
        "gated-mlp - acme-blocks 0.1.0 (acme_blocks.gated_mlp:GatedMlp)",
        "[]",
        "(2, 5, 10)",
    ]
    assert (tmp_path / "gated.json").read_text() == DOCUMENT


READ = """
    import json, sys
    from pathlib import Path
    import torch
    from safetensors.torch import save_file
    from mobilevlm import CheckpointError, build_projector, inspect_checkpoint, load_projector

    def folder(path, root, state, model_type):
        Path(path).mkdir()
        save_file({root + key: tensor for key, tensor in state.items()}, f"{path}/model.safetensors")
        Path(path, "config.json").write_text(json.dumps({"model_type": model_type}))

    fc = torch.nn.Linear(10, 10).state_dict()
    llava = {f"linear_{n}.{key}": each.clone() for n in (1, 2) for key, each in fc.items()}
    folder("llava", "multi_modal_projector.", llava, "llava")
    print(inspect_checkpoint("llava").family, "acme_blocks" in sys.modules)
    sizes = {"fc1": (10, 6), "gate": (10, 10), "fc2": (10, 10)}
    acme = {f"{name}.weight": torch.randn(*size) for name, size in sizes.items()}
    folder("acme", "model.gated_projector.", acme, "acme_blocks")
    try:
        print(inspect_checkpoint("acme"))
        loaded = load_projector("acme/model.safetensors")
        assert loaded.spec == build_projector("gated-mlp", 6, 10, bias=False).spec
        assert all(any(torch.equal(a, b) for b in acme.values()) for a in loaded.parameters())
        assert load_projector("acme", family="gated-mlp").spec == loaded.spec
    except CheckpointError as error:
        print(str(error).partition("; ")[0])
"""


def test_installed_its_checkpoints_are_read(site: Path, tmp_path: Path) -> None:
    """Not where one of ours reads the folder; and not where it is gone."""
    with_it, without = tmp_path / "with", tmp_path / "without"
    for folder in (with_it, without):
        folder.mkdir()
    assert script(READ, site=site, cwd=with_it).splitlines() == [
        "mlp False",
        "acme: acme-blocks/gated-mlp, 6 -> 10, float32, 3 tensors under 'model.gated_projector.', "
        "0 others left",
    ]
    assert script(READ, cwd=without).splitlines() == [
        "mlp False",
        "acme: no projector that is known of model type 'acme_blocks', among 3 tensors",
    ]


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


@pytest.mark.slow
def test_its_own_tests_pass(source: Path, site: Path) -> None:
    out = run("-m", "pytest", "-q", "-p", "no:cacheprovider", site=site, cwd=source)
    assert " passed" in out


def test_installed_as_editable_it_is_found_too(source: Path, tmp_path: Path) -> None:
    """Its modules stay where they are; a .pth file leads there."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    copy = tmp_path / "acme-blocks"
    shutil.copytree(source, copy)
    prefix = tmp_path / "prefix"
    run("-m", "pip", "install", *options, "--prefix", str(prefix), "-e", str(copy), cwd=tmp_path)
    [site] = prefix.rglob("site-packages")
    code = f"""
        import site
        site.addsitedir({str(site)!r})
        from mobilevlm import BLOCKS, build_projector
        print(BLOCKS.find("gate"))
        print(build_projector("gated-mlp", 6, 10).spec.blocks[2])
        print(BLOCKS.get("gate").__module__, __import__("acme_blocks").__file__)
        assert [each for each in BLOCKS.problems() if each.distribution == "acme-blocks"] == []
    """
    assert script(code, cwd=tmp_path).splitlines() == [
        "acme-blocks 0.1.0 (acme_blocks.gate:Gate)",
        "bias=True",
        f"acme_blocks.gate {copy}/src/acme_blocks/__init__.py",
    ]


def test_it_may_be_a_zip_file(site: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "acme"), "zip", site)
    code = """
        from mobilevlm import BLOCKS, build_projector
        print(build_projector("gated-mlp", 6, 10).spec.blocks[2])
        [plugin] = [each for each in BLOCKS.plugins(check=True) if each.entry.name == "gate"]
        print(plugin.state, plugin.entry, plugin.location)
    """
    assert script(code, site=Path(archive), cwd=tmp_path).splitlines() == [
        "bias=True",
        f"works acme-blocks 0.1.0 (acme_blocks.gate:Gate) {archive}/",
    ]


OPEN = """
    import pickle, sys, torch
    from mobilevlm import RegistryError
    for file in ("projector.pickle", "stack.pickle", "model.pt"):
        try:
            if file.endswith(".pt"):
                found = torch.load(file, weights_only=False)
            else:
                with open(file, "rb") as opened:
                    found = pickle.load(opened)
            print(type(found).__name__)
        except RegistryError as error:
            print(type(error).__name__ + ":", error)
"""


@pytest.mark.slow
def test_a_pickle_names_the_plugin_it_misses(site: Path, tmp_path: Path) -> None:
    code = """
        import copy, pickle, torch
        from mobilevlm import build_projector
        projector = build_projector("gated-mlp", 6, 10)
        x = torch.randn(2, 5, 6)
        for twin in (copy.copy(projector), copy.deepcopy(projector)):
            assert torch.equal(twin(x), projector(x)) and twin.spec == projector.spec
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            twin = pickle.loads(pickle.dumps(projector, protocol))
            assert torch.equal(twin(x), projector(x)) and twin.spec == projector.spec
        with open("projector.pickle", "wb") as file:
            pickle.dump(projector, file)
        with open("stack.pickle", "wb") as file:
            pickle.dump(projector.spec, file)
        torch.save(torch.nn.Sequential(torch.nn.Identity(), projector), "model.pt")
    """
    script(code, site=site, cwd=tmp_path)
    assert script(OPEN, site=site, cwd=tmp_path).split() == ["Projector", "Stack", "Sequential"]
    missing = (
        "UnknownName: unknown block 'acme-blocks/gate'. "
        "It comes from 'acme-blocks', which is not installed or offers no such thing.\n"
    )
    assert script(OPEN, cwd=tmp_path) == 3 * missing
    off = (
        "UnknownName: unknown block 'acme-blocks/gate'. "
        "It is offered by acme-blocks, which MOBILEVLM_DISABLE_PLUGINS switches off.\n"
    )
    code = "import os\nos.environ['MOBILEVLM_DISABLE_PLUGINS'] = 'acme-blocks'\n"
    assert script(code + textwrap.dedent(OPEN), site=site, cwd=tmp_path) == 3 * off


WORKERS = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from mobilevlm import BLOCKS, build_projector

class Features(Dataset):
    def __init__(self, projector):
        self.projector = projector

    def __len__(self):
        return 4

    def __getitem__(self, index):
        torch.manual_seed(index)
        x = torch.randn(1, 5, 6)
        assert BLOCKS.find("gate").source == "acme-blocks"
        again = build_projector(self.projector.spec)
        again.load_state_dict(self.projector.state_dict())
        with torch.no_grad():
            assert torch.equal(again(x), self.projector(x))
            return self.projector(x)[0]

if __name__ == "__main__":
    features = Features(build_projector("gated-mlp", 6, 10))
    loader = DataLoader(features, num_workers=2, multiprocessing_context=sys.argv[1])
    for index, y in enumerate(loader):
        assert torch.equal(y[0], features[index])
    print("same")
"""


@pytest.mark.quick("fork")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_find_it(site: Path, tmp_path: Path, method: str) -> None:
    (tmp_path / "workers.py").write_text(WORKERS)
    assert run("workers.py", method, site=site, cwd=tmp_path) == "same\n"
