"""The page of the model types says what is so, and enough of them load."""

import pytest
from model_types import MAPPINGS, PAGE, WITHOUT, Outcome, count, model_types, outcomes, page, parts

from mobilevlm.models.auto import register_models
from mobilevlm.models.hosts import HOSTS

# One that loads, one with projectors beside, one without a part, one refused, one without any.
FIVE = ["blip", "cosmos3_omni", "git", "instructblip", "minicpm_ocr"]


@pytest.mark.filterwarnings("ignore")
def test_five_types() -> None:
    blip, cosmos, git, instructblip, minicpm = found = outcomes(FIVE)
    assert blip == Outcome("blip", sees=True)
    deepstack = ("qwen3-vl-deepstack",) * 3
    assert cosmos == Outcome("cosmos3_omni", sees=True, families=("qwen2-vl", *deepstack))
    assert git == Outcome("git", sees=True, families=("git",))
    assert instructblip.why.startswith("config.json: model_type: 'instructblip', whose Q-Former")
    assert minicpm.missing == ("model.vision_tower.vit_merger",)
    assert count(found) == {"projector": 4, "main": 3, "every part": 2}
    written = page(found)
    for row in (
        "| images or videos | 4 | 3 | 2 |",
        "| `git` | [`git`](zoo/git.md) |",
        "| `cosmos3_omni` | [`qwen2-vl`](zoo/qwen2-vl.md), `qwen3-vl-deepstack` x 3 |",
        "| `minicpm_ocr` | [`minicpmv4-6`](zoo/minicpmv4-6.md) | `model.vision_tower.vit_merger` |",
    ):
        assert f"{row}\n" in written


def test_what_looks_like_a_part() -> None:
    keys = [
        "model.multi_modal_projector.linear_1.weight",
        "model.visual.deepstack_merger_list.0.norm.weight",
        "model.visual.blocks.0.adapter.weight",
        "vision_tower.patch_embedder.weight",
        "model.embed_audio.embedding_projection.weight",
        "model.language_model.layers.0.mlp.up_proj.weight",
    ]
    assert list(parts(keys)) == [
        "model.multi_modal_projector",
        "model.visual.deepstack_merger_list.0",
        "model.embed_audio",
    ]


def test_types_of_swapped_models_are_none_of_upstreams() -> None:
    register_models(HOSTS["llava"])  # into transformers' tables, as a swap does
    assert "mobilevlm-llava" in MAPPINGS[0]
    assert "mobilevlm-llava" not in model_types()


def test_the_page_lists_every_type() -> None:
    written = PAGE.read_text("utf-8")
    assert all(f"`{name}`" in written for name in model_types())
    assert set(WITHOUT) <= set(model_types())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_page_is_true_and_enough_load() -> None:
    found = outcomes(model_types())
    n = count(found)
    assert n["main"] >= 92
    assert n["every part"] >= 88
    assert page(found) == PAGE.read_text("utf-8")
