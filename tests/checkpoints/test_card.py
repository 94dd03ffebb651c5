"""The model card of a saved projector, and where its weights came from."""

import copy
import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.checkpoints import WEIGHTS, hf_mlp, mlp, same
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from torch import nn

from mobilevlm import (
    BLOCKS,
    Block,
    CheckpointError,
    Feature,
    Projector,
    build_projector,
    build_vision_projector,
    convert_checkpoint,
    dump_spec,
    load_projector,
    save_projector,
)
from mobilevlm.checkpoints.card import is_card, model_card
from mobilevlm.checkpoints.source import Source, source_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MINE = "# Mine\n\nTrained on a Tuesday.\n"


def card_of(projector: nn.Module, folder: Path) -> str:
    save_projector(projector, folder)
    return (folder / "README.md").read_text("utf-8")


def front_matter(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    assert ModelCard(card).data.to_dict() == found  # as the hub's own library reads it
    return found


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    """A model in the hub's cache, with the card of its authors."""
    folder = tmp_path / "models--llava-hf--llava-1.5-7b-hf" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    save_file({**hf_mlp(), "lm_head.weight": torch.ones(2, 2)}, folder / WEIGHTS)
    (folder / "config.json").write_text('{"model_type": "llava"}')
    (folder / "README.md").write_text("---\nlicense: llama2\n---\n# LLaVA\n")
    return folder


LDP = """\
---
library_name: mobilevlm
tags:
- mobilevlm
- projector
- vision-language
---
<!-- mobilevlm card DIGEST {} -->

# `ldp`, 16 -> 24

A vision-language projector, the module between a vision encoder and a language model, written by \
`mobilevlm`. `config.json` describes it, `model.safetensors` holds its weights and that description.

- Blocks: `pointwise`, `norm-act`, `depthwise-residual`, `pointwise`, `norm-act`, \
`depthwise-residual`, `pointwise`, `norm-act`
- Tokens: 576 -> 144 on a grid of 24x24
- Parameters: 2,184
- Source: not recorded
- Licence: not stated

## Plan, for a grid of 24x24

```text
PLAN
```

## Load

In a clone of `mobilevlm` run `pip install .`, then:

```python
from mobilevlm import load_projector

projector = load_projector("FOLDER")
y = projector(x, grid=(24, 24))  # (b, 576, 16) -> (b, 144, 24)
```
"""


def test_the_card_of_what_was_built(own: Path) -> None:
    card = (own / "README.md").read_text("utf-8")
    plan = str(load_projector(own).plan((24, 24)))
    assert re.sub(r"[0-9a-f]{64}", "DIGEST", card) == LDP.replace("PLAN", plan)
    assert front_matter(card) == {
        "library_name": "mobilevlm",
        "tags": ["mobilevlm", "projector", "vision-language"],
    }


def test_the_card_of_what_was_read(llava: Path, tmp_path: Path) -> None:
    """A source on the hub is named with its commit and its licence, as the hub wants them."""
    projector = load_projector(llava, dtype=torch.bfloat16)
    assert source_of(projector) == Source(
        "mlp", "multi_modal_projector.", "llava-hf/llava-1.5-7b-hf", COMMIT, "llama2"
    )
    card = card_of(projector, tmp_path / "out")
    facts = front_matter(card)
    assert (facts["license"], facts["base_model"]) == ("llama2", "llava-hf/llava-1.5-7b-hf")
    assert "\n# `mlp`, 16 -> 24\n" in card
    assert (
        f"- Source: read from `llava-hf/llava-1.5-7b-hf`, revision `{COMMIT}`, family `mlp`, "
        "tensors under `multi_modal_projector.`. What was changed since is not recorded.\n"
        "- Licence: `llama2`\n"
    ) in card
    convert_checkpoint(llava, tmp_path / "converted", dtype="bf16")
    assert (tmp_path / "converted" / "README.md").read_text("utf-8") == card


def test_a_source_survives_saving_copying_and_pickling(llava: Path, tmp_path: Path) -> None:
    projector = load_projector(llava)
    source = source_of(projector)
    assert source.name
    save_projector(projector, tmp_path / "one")
    save_projector(load_projector(tmp_path / "one" / WEIGHTS), tmp_path / "two")
    for each in (
        load_projector(tmp_path / "two"),
        copy.deepcopy(projector),
        pickle.loads(pickle.dumps(projector)),
        projector.to(torch.float64),
    ):
        assert source_of(each) == source
    blank = Projector(projector.spec)
    assert projector.state_dict().keys() == blank.state_dict().keys()
    assert dump_spec(projector.spec) == dump_spec(blank.spec)
    assert source_of(blank) == source_of(build_projector("mlp", 4, 4)) == Source()
    wrapped = nn.DataParallel(load_projector(llava))
    assert card_of(wrapped, tmp_path / "three") == (tmp_path / "one" / "README.md").read_text()


def test_no_path_of_the_user_is_in_a_card(tmp_path: Path) -> None:
    folder = tmp_path / "someone" / "llava-tiny"
    folder.mkdir(parents=True)
    save_file(mlp(), folder / WEIGHTS)
    card = card_of(load_projector(folder), tmp_path / "out")
    assert "- Source: read from `llava-tiny`, family `mlp`, tensors under `mm_projector.`." in card
    assert "- Licence: that of the source's weights, which is not known here\n" in card
    assert {"license", "base_model"}.isdisjoint(front_matter(card))
    assert source_of(load_projector(folder / WEIGHTS)).name == WEIGHTS
    for hidden in ("someone", str(tmp_path), tmp_path.name):
        assert hidden not in card


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        (b"---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        (b'\xef\xbb\xbf---\r\ntags: []\r\nlicense: "mit" # theirs\r\n---\r\n# x\r\n', "mit"),
        (b"---\nlicense: 'cc-by-4.0'\n---", "cc-by-4.0"),
        (b"---\nlicense:\n- mit\n- apache-2.0\n---\n", ""),  # two: which is not said
        (b"---\nlicense: >-\n  x\n---\n", ""),
        (b"---\nmodel:\n  license: mit\n---\n", ""),
        (b"# x\n---\nlicense: mit\n---\n", ""),  # not at the beginning
        (b"---\nlicense: mit\n", ""),  # never ends
        (b"---\ntags: []\n---\nlicense: mit\n", ""),
        (b"---\nlicense: mit'\n---\n", ""),
        (b"---\n" + 70_000 * b"#" + b"\nlicense: mit\n---\n", ""),  # further on than is read
        (b"\xff\xfe---", ""),
        (b"", ""),
    ],
)
def test_the_licence_is_what_the_models_card_states(
    readme: bytes, licence: str, llava: Path
) -> None:
    (llava / "README.md").write_bytes(readme)
    assert source_of(load_projector(llava)).licence == licence


@pytest.mark.parametrize(
    "make",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda _: None],
)
def test_a_card_that_cannot_be_read_is_none(make: Callable[[Path], None], llava: Path) -> None:
    (llava / "README.md").unlink()
    make(llava / "README.md")
    assert source_of(load_projector(llava)).licence == ""


# ---------------------------------------------------------------------- a folder's own README.md


def test_a_readme_of_somebody_elses_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(MINE)
    projector = build_projector("mlp", 16, 24)
    for _ in range(2):
        save_projector(projector, tmp_path)
        assert (tmp_path / "README.md").read_text() == MINE
        assert same(load_projector(tmp_path), projector)
    save_projector(projector, tmp_path, replace=True)
    assert is_card(tmp_path / "README.md")


def test_a_card_of_ours_is_replaced_until_it_is_edited(tmp_path: Path) -> None:
    first = card_of(build_projector("mlp", 16, 24), tmp_path)
    second = card_of(build_projector("ldp", 16, 24), tmp_path)
    assert first != second
    for edited in (second + "\nTrained on a Tuesday.\n", second.replace("not stated", "`mit`")):
        (tmp_path / "README.md").write_text(edited)
        assert not is_card(tmp_path / "README.md")
        assert card_of(build_projector("ldp", 16, 24), tmp_path) == edited


def test_what_an_edited_card_says_of_the_source_counts(llava: Path, tmp_path: Path) -> None:
    card = card_of(load_projector(llava), tmp_path / "out")
    edited = card.replace('license: "llama2"', "license: other") + "\nOurs.\n"
    (tmp_path / "out" / "README.md").write_text(edited)
    again = source_of(load_projector(tmp_path / "out"))
    assert (again.name, again.licence) == ("llava-hf/llava-1.5-7b-hf", "other")


@pytest.mark.parametrize("replace", [False, True])
def test_a_readme_that_is_no_file_is_no_obstacle(replace: bool, tmp_path: Path) -> None:
    (tmp_path / "README.md").mkdir()
    save_projector(build_projector("linear", 4, 4), tmp_path, replace=replace)
    assert (tmp_path / "README.md").is_dir()


def test_a_link_is_replaced_only_if_told_to_and_its_target_never(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text(MINE)
    (tmp_path / "README.md").symlink_to("mine.md")
    projector = build_projector("linear", 4, 4)
    save_projector(projector, tmp_path)
    assert (tmp_path / "README.md").is_symlink()
    save_projector(projector, tmp_path, replace=True)
    assert not (tmp_path / "README.md").is_symlink()
    assert (tmp_path / "mine.md").read_text() == MINE


def test_an_empty_readme_is_filled(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    save_projector(build_projector("linear", 4, 4), tmp_path)
    assert is_card(tmp_path / "README.md")


# ---------------------------------------------------------------------- what it says is true


CASES: dict[str, tuple[Projector, str, str]] = {
    "a grid of its own, for a learned table": (
        build_projector("c-abstractor", 16, 24, grid=(4, 6), position=True, hidden=16, queries=4),
        'load_projector("FOLDER", grid=(4, 6))',
        "y = projector(x)  # (b, 24, 16) -> (b, 4, 24)",
    ),
    "no block that reads the grid": (
        build_projector("mlp", 16, 24),
        'load_projector("FOLDER")',
        "y = projector(x)  # (b, 576, 16) -> (b, 576, 24)",
    ),
    "prefix tokens and packed blocks": (
        build_projector("qwen2-vl", 16, 24, prefix_tokens=1),
        'load_projector("FOLDER")',
        "y = projector(x, grid=(24, 24))  # (b, 577, 16) -> (b, 144, 24)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_lines_that_load_it_do(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector, load, call = CASES[case]
    card = card_of(projector, tmp_path / "FOLDER")
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert code == f"from mobilevlm import load_projector\n\nprojector = {load}\n{call}\n"
    n, c, m, d = map(int, re.findall(r"\d+", call.partition("#")[2]))
    names: dict[str, Any] = {"x": torch.randn(1, n, c)}
    monkeypatch.chdir(tmp_path)
    exec(code, names)
    assert names["y"].shape == (1, m, d)
    torch.testing.assert_close(names["y"], projector(names["x"], projector.grid or (24, 24)))
    assert f"- Tokens: {n - projector.spec.prefix_tokens} -> {m} on a grid of" in card


def test_input_that_is_not_plain_is_described(tmp_path: Path) -> None:
    projector = build_projector("qwen2-vl", 16, 24, prefix_tokens=1)
    card = card_of(projector, tmp_path)
    assert "- Prefix tokens, which it drops: 1\n- Order of the input tokens: `blocked`\n" in card


class Unrunnable(nn.Module):
    """A module that does not run without values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum().item() else -x


def test_a_block_that_does_not_run_without_values_is_saved(
    tmp_path: Path, registries: None
) -> None:
    """Its plan is then of no grid, and has no MACs."""

    class UnrunnableBlock(Block):
        def build(self, x: Feature) -> nn.Module:
            return Unrunnable()

    BLOCKS.register("unrunnable", UnrunnableBlock)
    projector = build_projector({"in": 4, "out": 6, "blocks": ["unrunnable", "pointwise"]})
    card = card_of(projector, tmp_path)
    assert same(load_projector(tmp_path), projector)
    assert "# `projector`, 4 -> 6\n" in card
    assert "## Plan\n" in card
    assert "y = projector(x, grid=(h, w))  # (b, n, 4) -> (b, m, 6)" in card


def test_a_drop_in_has_the_same_card(tmp_path: Path) -> None:
    config = {"mm_projector_type": "ldpnet", "mm_hidden_size": 16, "hidden_size": 24}
    card = card_of(build_vision_projector(config), tmp_path / "drop-in")
    assert card == card_of(build_projector("ldpnet", 16, 24), tmp_path / "built")


def test_text_from_elsewhere_stays_text() -> None:
    """A root, a folder's name or a damaged card cannot write YAML, Markdown or HTML."""
    hostile = "a`b`\n---\nx: <script>-->\u202e"
    source = Source(hostile, hostile, hostile, hostile, hostile)
    card = model_card(build_projector("linear", 4, 4), source)
    assert front_matter(card)["license"] == hostile
    _, _, rest = card.split("---\n", 2)
    mark, body = rest.split("\n", 1)
    assert mark.count("-->") == 1
    assert Source.parse(source.dump()) == Source(hostile, hostile, hostile, hostile)
    outside = re.sub(r"`[^`\n]*`", "", body)
    assert "<script>" in body
    assert "<script>" not in outside
    assert "---\nx" not in outside
    assert "\u202e" not in card


@pytest.mark.parametrize("text", ["", "[]", "{", '{"root": 1}', '{"path": "/home/me"}', "1"])
def test_a_damaged_mark_is_no_source(text: str) -> None:
    assert Source.parse(text) == Source()


def test_an_edited_card_of_another_projector_is_a_warning(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    save_projector(build_projector("mlp", 8, 12), tmp_path)
    edited = card.read_text("utf-8") + "My notes.\n"
    card.write_text(edited, "utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_projector(build_projector("mlp", 8, 12), tmp_path)  # the same: no warning
    with pytest.warns(UserWarning, match="was edited, so it stays as it is, but it describes"):
        save_projector(build_projector("ldp", 8, 12), tmp_path)
    assert card.read_text("utf-8") == edited


def test_a_hub_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    projector = build_projector("mlp", 8, 12)
    save_projector(projector, "saved")
    for write in (
        lambda to: save_projector(projector, to),
        lambda to: convert_checkpoint("saved", to),
        lambda to: convert_checkpoint("saved", to, to="mlp"),
    ):
        with pytest.raises(CheckpointError) as caught:
            write("hf://org/name")
        assert str(caught.value) == (
            "hf://org/name: an address of a hub; expected a path on this machine. Call "
            "push_projector(projector, 'org/name')."
        )
    assert [each.name for each in tmp_path.iterdir()] == ["saved"]
