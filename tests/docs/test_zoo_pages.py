"""The pages of the zoo: they are what the tool writes, none is missing, and their code runs."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import family_page as pages
import pytest
from family_facts import KINDS, kind
from helpers.command import run
from helpers.pages import FENCE
from index import families
from safetensors.torch import save_file
from zoo_page import FOLDER, INDEX, main

from mobilevlm import build_projector
from mobilevlm.checkpoints.mapping import to_upstream

NAMES = list(families())
AGAIN = "run: python tools/zoo_page.py"
# What the config of a model says besides its type, where the tensors leave it open.
SETTINGS: dict[str, dict[str, Any]] = {
    "c-abstractor": {"projector_config": {"num_query_tokens": 144}},
    "gemma3": {"vision_config": {"image_size": 896, "patch_size": 14}},
    "glm-4v-9b": {"vision_config": {"scaling_factor": 8}},
    "nvila-lite": {"mm_projector_type": "mlp_downsample_3x3_fix"},
    "token-packer": {"scale_factor": 2},
    "voxtral": {"audio_config": {"hidden_size": 64}},
}
# The widths of its projector, where they cannot be any.
WIDTHS = {
    "deco": (1024, 2048),
    "flamingo": (64, 64),
    "llava-next-video": (1024, 2048),
    "llava-onevision-video": (1024, 2048),
}


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text("utf-8")


def test_every_family_has_a_page_and_no_page_is_left_over() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(f"{n}.md" for n in NAMES)


@pytest.mark.quick("ldp", "token-packer")
@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_the_tool_writes(name: str) -> None:
    assert pages.family_page(name) == text_of(name), AGAIN


def test_the_index_leads_to_every_page_and_old_links_lead_to_it() -> None:
    text = INDEX.read_text("utf-8")
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    assert [*sections] == ["How to read it", *KINDS]
    for name in NAMES:
        row = f'\n| <a id="{name}"></a>[`{name}`](zoo/{name}.md) | '
        assert [title for title, part in sections.items() if row in part] == [kind(name)]
    assert "nanoVLM" in sections["Merges of windows"]


@pytest.mark.parametrize("name", NAMES)
def test_its_links_lead_on_and_back(name: str) -> None:
    text = text_of(name)
    targets = re.findall(r"\]\((?!https://)([^)#]+)(?:#([^)]+))?\)", text)
    for target, anchor in targets:
        page = FOLDER / target
        assert page.is_file(), target
        title = anchor.replace("-", " ")
        assert f"\n## {title}\n" in page.read_text("utf-8").lower() or not anchor, anchor
    assert targets[-1] == ("../zoo.md", "")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_well_formed(name: str) -> None:
    text = text_of(name)
    assert {language for language, _ in FENCE.findall(text)} <= {"python", "text", "sh"}
    assert text.count("\n```") == 2 * len(FENCE.findall(text))
    assert len(text.splitlines()) <= 155
    long = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert long == []


def write_model(name: str, folder: Path) -> None:
    """Write a model's folder with a small projector of the family at the first place it has."""
    cls = families()[name]
    folder.mkdir(parents=True)
    if not cls.upstream:
        return
    entry = cls.upstream[0]
    in_, out = WIDTHS.get(name, (64, 128))
    state = to_upstream(build_projector(name, in_, out), entry.layout)
    root = f"{pages.places(entry.prefix)[0]}." if entry.prefix else ""
    tensors = {root + key: tensor.contiguous() for key, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": entry.model_types[0]} if entry.model_types else {}
    (folder / "config.json").write_text(json.dumps(config | SETTINGS.get(name, {})))


@pytest.mark.quick("ldp", "qwen2-vl")
@pytest.mark.parametrize("name", NAMES)
def test_its_code_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(name, Path(pages.MODEL))
    used = text_of(name).partition("\n## Build it\n")[2]
    printed = ""
    for language, body in FENCE.findall(used):
        if language == "text":
            assert printed == body
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(body, {})
            printed = out.getvalue()
        else:
            for line in body.splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "mobilevlm"
                status, _, error = run(*words)
                assert (status, error) == (0, ""), line


def test_writing_removes_the_pages_of_families_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "zoo"
    written.mkdir()
    (written / "gone.md").write_text("")
    (written / "ldp.md").write_text("stale")
    found = {tmp_path / "zoo.md": "index\n", written / "ldp.md": "page\n"}
    monkeypatch.setattr("zoo_page.FOLDER", written)
    monkeypatch.setattr("zoo_page.pages", lambda: found)
    main()
    assert {path: path.read_text() for path in tmp_path.rglob("*.md")} == found
