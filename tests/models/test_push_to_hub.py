"""``push_to_hub=True`` uploads the code that a saved folder carries, too."""

import ast
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import transformers
from helpers.vlms import llava

from mobilevlm import swap_projector
from mobilevlm.models.processing import SwappedProcessor

CODE = {"modeling_mobilevlm.py", "processing_mobilevlm.py"}


class Hub:
    """The calls that reach the network, and what they would have uploaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[str, bytes] = {}
        for name in ("create_repo", "create_branch", "create_commit"):
            monkeypatch.setattr(huggingface_hub.HfApi, name, getattr(self, name))

    def create_repo(self, repo_id: str, **kwargs: Any) -> Any:
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def create_branch(self, *args: Any, **kwargs: Any) -> None: ...

    def create_commit(self, repo_id: str, operations: Any, **kwargs: Any) -> None:
        assert repo_id == "acme/swapped"
        for each in operations:
            source = each.path_or_fileobj
            content = Path(source).read_bytes() if isinstance(source, str | Path) else source.read()
            self.files[each.path_in_repo] = content


class Counting(SwappedProcessor, transformers.LlavaProcessor):
    """A processor that counts by the document."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(monkeypatch)


@pytest.mark.parametrize("again", [False, True], ids=["new", "saved before"])
def test_the_code_is_uploaded(hub: Hub, tmp_path: Path, quiet: None, again: bool) -> None:
    model, processor = llava()
    projector = swap_projector(model, "mlp", processor=processor)
    processor.__class__ = Counting
    processor.mobilevlm = {"document": model.config.mobilevlm, "grid": [6, 6]}
    if again:
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        assert not hub.files
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id="acme/swapped")
    assert "modeling_mobilevlm.py" in hub.files
    processor.save_pretrained(str(tmp_path), push_to_hub=True, repo_id="acme/swapped")
    expected = {"config.json", "model.safetensors", "processor_config.json", *CODE}
    assert expected <= hub.files.keys()
    for name in expected:
        assert hub.files[name] == (tmp_path / name).read_bytes()
    for name in CODE:
        ast.parse(hub.files[name])
    assert str(projector.spec.out).encode() in hub.files["config.json"]


def test_push_to_hub_by_itself(hub: Hub, quiet: None) -> None:
    model, processor = llava()
    swap_projector(model, "mlp", processor=processor)
    model.push_to_hub("acme/swapped")
    assert {"config.json", "model.safetensors", "modeling_mobilevlm.py"} <= hub.files.keys()
