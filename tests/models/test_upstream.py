"""What there is of this room without transformers, and with a version that lacks something."""

import json
import pickle
import subprocess
import sys

import pytest

from mobilevlm.models.upstream import TransformersMissing, load_class
from mobilevlm.registry.requirements import install_command

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "transformers":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
HINT = f"Run: {install_command('models')}"
SAID = f"mobilevlm.models: transformers cannot be imported. {HINT}"


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_without_transformers_all_else_is_there() -> None:
    """Also the room's public names, for who imports or lists all of them."""
    code = """
import inspect, json, sys
from mobilevlm import *
import mobilevlm
inspect.getmembers(mobilevlm)
try:
    swap_projector(None, "ldp")
except ImportError as error:
    said = str(error)
try:
    import mobilevlm.models
except ImportError as error:
    assert (type(error).__name__, str(error)) == ("TransformersMissing", said)
try:
    raise ModelError("found")
except mobilevlm.MobileVLMError as error:
    caught = str(error)
print(json.dumps([said, caught, build_projector("ldp", 8, 8).tokens(4, 4)]))
"""
    done = run(WITHOUT + code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [SAID, "found", 4]


def test_nothing_but_this_room_imports_transformers() -> None:
    code = """
import sys
import mobilevlm
for name in {*mobilevlm.__all__} - {"swap_projector"}:
    getattr(mobilevlm, name)
from mobilevlm.cli.app import app
mobilevlm.build_projector("mlp", 8, 8)
vision = {"model_type": "clip_vision_model"}
mobilevlm.plan_projector("mlp", tower=vision, lm={"model_type": "llama"})
print("transformers" in sys.modules, "timm" in sys.modules, "mobilevlm.models" in sys.modules)
"""
    done = run(code)
    assert (done.stdout, done.returncode) == ("False False False\n", 0), done.stderr


def test_a_version_that_lacks_a_class_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "4.0")
    with pytest.raises(TransformersMissing) as caught:
        load_class("NoSuchModel")
    said = f"mobilevlm.models: transformers 4.0 has no NoSuchModel. {HINT}"
    assert str(caught.value) == said
    assert str(pickle.loads(pickle.dumps(caught.value))) == said
