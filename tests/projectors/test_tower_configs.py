"""`tower=` and `lm=`: configs that leave things out, other language models, arguments, errors."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.command import run

from mobilevlm import (
    SpecError,
    build_projector,
    dump_spec,
    load_spec,
    plan_projector,
    spec_of,
)
from mobilevlm.projectors.tower import Tower, read_tower, read_width
from mobilevlm.projectors.tower_families import HOSTS, LM_WIDTHS, TOWERS

CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 48,
    "image_size": 48,
    "patch_size": 8,
}
QWEN = {"model_type": "qwen2_vl", "vision_config": {"embed_dim": 32, "hidden_size": 64}}
LM = {"model_type": "llama", "hidden_size": 64}


@pytest.fixture(scope="module")
def configs() -> Any:
    """The config classes of transformers, by model type."""
    pytest.importorskip("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING


@pytest.mark.parametrize("kind", TOWERS)
def test_what_a_config_leaves_out_is_what_its_class_has(kind: str, configs: Any) -> None:
    assert read_tower({"model_type": kind}) == read_tower(configs[kind]())


@pytest.mark.parametrize("kind", [kind for kind in HOSTS if HOSTS[kind].tower in TOWERS])
def test_what_a_whole_model_leaves_out_is_what_its_class_has(kind: str, configs: Any) -> None:
    config = configs[kind](vision_config={}, text_config={})
    bare = {"model_type": kind, "vision_config": {}}
    assert read_tower(bare) == read_tower(config)
    # Old files give the tower a model type that is not its own.
    if kind.startswith(("qwen", "idefics", "smol")):
        assert read_tower({**bare, "vision_config": {"model_type": kind}}) == read_tower(config)


@pytest.mark.parametrize("kind", LM_WIDTHS)
def test_the_width_that_a_config_leaves_out_is_what_its_class_has(kind: str, configs: Any) -> None:
    assert read_width({"model_type": kind}) == read_width(configs[kind]())
    assert read_width({"text_config": {"model_type": kind}}) == LM_WIDTHS[kind]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("bart", {"d_model": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 2}),
        ("bloom", {"hidden_size": 24, "n_layer": 1, "n_head": 2}),
        ("falcon", {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}),
        ("gemma3_text", {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}),
        ("gpt2", {"n_embd": 24, "n_layer": 1, "n_head": 2}),
        ("gpt_neox", {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}),
        ("llama", {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}),
        ("mpt", {"d_model": 24, "n_layers": 1, "n_heads": 2}),
        ("opt", {"hidden_size": 32, "word_embed_proj_dim": 24, "num_attention_heads": 2}),
        ("phi", {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}),
        ("qwen3", {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}),
        ("t5", {"d_model": 24, "num_layers": 1, "num_heads": 2}),
    ],
)
def test_a_language_model_is_as_wide_as_its_embeddings(
    kind: str, values: dict[str, Any], configs: Any, tmp_path: Path
) -> None:
    from transformers import AutoModel

    config = configs[kind](**values, vocab_size=32, pad_token_id=0)
    with torch.device("meta"):
        width = AutoModel.from_config(config).get_input_embeddings().weight.shape[1]
    config.save_pretrained(tmp_path)
    for each in (config, config.to_dict(), tmp_path):
        assert read_width(each) == width == 24


@pytest.mark.parametrize(
    ("change", "prefix", "levels"),
    [
        ({}, 0, 1),
        ({"vision_feature_select_strategy": "full"}, 1, 1),
        ({"vision_feature_layer": -1}, 0, 1),
        ({"vision_feature_layer": [-2, -5, 3]}, 0, 3),
        ({"model_type": "vipllava"}, 0, 5),
        ({"model_type": "mistral3"}, 1, 1),
        ({"model_type": "somebody's own"}, 1, 1),
    ],
)
def test_what_a_whole_model_takes(change: dict[str, Any], prefix: int, levels: int) -> None:
    tower = read_tower({"model_type": "llava", "vision_config": CLIP, **change})
    assert (tower.prefix_tokens, tower.channels) == (prefix, 48 * levels)
    assert tower.grid == (6, 6)


@pytest.mark.parametrize(
    ("image", "patch", "grid"),
    [(50, 8, (6, 6)), ([48, 64], 8, (6, 8)), ((48, 64), [8, 16], (6, 4))],
)
def test_sides_may_differ(image: object, patch: object, grid: tuple[int, int]) -> None:
    assert read_tower({**CLIP, "image_size": image, "patch_size": patch}).grid == grid


def test_a_grid_that_stages_round_each_in_its_way_is_not_said() -> None:
    assert read_tower({"model_type": "swin", "image_size": 224}).grid == (7, 7)
    assert read_tower({"model_type": "swin", "image_size": 230}).grid is None


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("vit_base_patch16_clip_224", 1),
        ("vit_base_patch14_reg4_dinov2", 5),
        ("vit_small_patch16_dinov3", 5),
        ("vit_so400m_patch14_siglip_384", 0),
        ("vit_pe_core_large_patch14_336", 1),
        ("vit_pe_core_gigantic_patch14_448", 0),
        ("vit_base_patch16_reg4_gap_256", 4),
    ],
)
def test_timm_names_tell_of_class_tokens(name: str, prefix: int) -> None:
    config = {"architecture": name, "num_features": 48, "pretrained_cfg": {}}
    assert read_tower(config).prefix_tokens == prefix
    assert read_tower({**config, "model_args": {"class_token": False, "reg_tokens": 2}}) == Tower(
        channels=48, grid=None, patch=read_tower(config).patch, prefix_tokens=2
    )


BY_HAND = "Give the tower's facts by hand: in_=1024, grid=(24, 24), prefix_tokens=1."
GIVE_MODEL = f"Give timm's model itself, with or without weights. {BY_HAND}"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "clip_vision_modle"},
            "tower: model type 'clip_vision_modle' is no vision model that is known. Did you mean "
            f"'clip_vision_model' or 'blip_vision_model'? {BY_HAND}",
        ),
        (
            {"model_type": "llava_llama", "mm_vision_tower": "openai/clip"},
            "tower: model type 'llava_llama' is no vision model that is known. Its tower is "
            f"'openai/clip': give that model's folder. {BY_HAND}",
        ),
        (
            {"model_type": "llava", "vision_config": {"model_type": "moonlight", "hidden_size": 8}},
            "tower.vision_config: model type 'moonlight' is no vision model that is known. "
            f"{BY_HAND}",
        ),
        (
            {"hidden_size": 768},
            "tower: no 'model_type', 'vision_config' or 'architecture'; expected the config of a "
            f"vision model. {BY_HAND}",
        ),
        (
            {**CLIP, "hidden_size": "768"},
            "tower.hidden_size: '768'; expected a number from 1 to 1048576",
        ),
        (
            {**CLIP, "image_size": [48]},
            "tower.image_size: [48]; expected a number, or two",
        ),
        (
            {"model_type": "convnext", "hidden_sizes": []},
            "tower.hidden_sizes: []; expected a list of 1 to 100 items",
        ),
        (
            {"model_type": "swin", "depths": [1] * 60},
            f"tower: {96 * 2**59} channels; expected 1 to 1048576",
        ),
        ({**CLIP, "patch_size": 64}, "tower: a grid of (0, 0); expected sides from 1 to 65536"),
        (
            {"model_type": "dinov2_with_registers", "num_register_tokens": "4"},
            "tower.num_register_tokens: '4'; expected a number from 0 to 1024",
        ),
        (
            {"model_type": "hiera", "embed_dim_multiplier": "2"},
            "tower.embed_dim_multiplier: '2'; expected a number from 1 to 16",
        ),
        (
            {"architecture": "resnet18", "num_features": 8, "pretrained_cfg": {"input_size": [9]}},
            "tower.pretrained_cfg.input_size: [9]; expected channels, height and width",
        ),
        (
            {"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}},
            "tower: the first token is dropped, and the tower has neither class token nor "
            "register. Set vision_feature_select_strategy to 'full', or give the tower's own "
            "config and what its features lack by hand.",
        ),
        (
            {"model_type": "llava", "vision_config": 7},
            "tower.vision_config: 7; expected a config, a mapping, or the path of a model's folder",
        ),
        (
            {"architecture": "vit_base_patch16_224", "input_size": [3, 224, 224]},
            f"tower: no 'num_features'; expected timm's config.json, which has it. {GIVE_MODEL}",
        ),
        (
            {"architecture": "xcit_nano_12_p8_224", "num_features": 128},
            "tower: timm's config does not say how many class tokens 'xcit_nano_12_p8_224' has. "
            f"{GIVE_MODEL}",
        ),
        (
            {
                "architecture": "vit_base_patch14_reg4_dinov2",
                "num_features": 128,
                "model_args": {"class_token": False},
            },
            "tower: timm's config does not say how many class tokens "
            f"'vit_base_patch14_reg4_dinov2' has. {GIVE_MODEL}",
        ),
        (768, "tower: 768; expected a config, a mapping, or the path of a model's folder"),
        ("", "tower: empty; expected a config, a mapping, or the path of a model's folder"),
    ],
)
def test_what_is_not_understood_is_refused(config: object, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_tower(config)
    assert str(caught.value) == message


def test_whatever_stands_in_a_config_is_read_or_refused() -> None:
    values: list[Any] = [None, 0, 3, -1, 2**70, 1.5, float("nan"), "x", True, [], [0], [3, 4, 5]]
    values += [{}, {"a": 1}, [1] * 100, "default", [7, 7], "patch0"]
    keys = "hidden_size hidden_sizes embed_dim depths image_size patch_size patch_stride strides"
    keys += " query_stride num_query_pool embed_dim_multiplier spatial_merge_size output_channels"
    keys += " num_register_tokens intermediate_layers_indices vision_config vision_feature_layer"
    keys += " architecture model_args pretrained_cfg num_features pool_size input_size img_size"
    keys += " class_token reg_tokens text_config n_embd"
    draw = random.Random(0)

    def config(depth: int = 0) -> dict[str, Any]:
        made = {key: draw.choice(values) for key in draw.sample(keys.split(), draw.randint(0, 8))}
        made["model_type"] = draw.choice([*TOWERS, *HOSTS])
        for key in ("vision_config", "pretrained_cfg", "model_args"):
            if depth < 2 and draw.random() < 0.3:
                made[key] = config(depth + 1)
        if draw.random() < 0.3:
            made["architecture"] = draw.choice(["vit_base_patch16_224", "resnet18"])
        return made

    read, places = 0, set()
    for _ in range(4000):
        try:
            read += read_tower(config()).channels > 0
        except SpecError as error:
            places.add(error.where.partition(".")[0])
    assert read > 400
    assert places <= {"tower", "token_order"}


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read_tower(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'config.json'}: cannot be read: No such file or directory; expected a JSON "
        "object. tower is the path of a model's folder, with a config.json; nothing is downloaded."
    )
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SpecError, match=r"config\.json: not JSON"):
        read_width(tmp_path)


def test_a_language_model_that_does_not_say_its_width_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        read_width({"model_type": "foo", "layers": 3})
    assert str(caught.value) == (
        "lm: no 'word_embed_proj_dim' or 'hidden_size' or 'n_embd' or 'd_model' or 'n_embed' in a "
        "config of model type 'foo'. Give the widths by hand: in_=1024, out=2048."
    )


def test_they_say_the_widths_the_grid_and_what_to_drop() -> None:
    projector = build_projector("ldp", tower=CLIP, lm=LM)
    assert (projector.spec.in_, projector.spec.out) == (48, 64)
    assert projector.grid == (6, 6)
    assert projector.spec.prefix_tokens == 1
    assert projector(torch.randn(2, 37, 48)).shape == (2, 9, 64)
    assert spec_of("ldp", tower=CLIP, lm=LM) == projector.spec
    assert plan_projector("ldp", tower=CLIP, lm=LM).tokens_out == 9
    assert plan_projector("ldp", tower=SimpleNamespace(**CLIP), lm=LM, grid=(2, 4)).tokens_out == 2


def test_what_the_call_says_wins() -> None:
    options: dict[str, Any] = {"prefix_tokens": 0, "grid": (3, 5)}
    projector = build_projector("mlp", tower=CLIP, lm=LM, **options)
    assert (projector.spec.prefix_tokens, projector.grid) == (0, (3, 5))
    assert spec_of("mlp", 48, 64, tower=CLIP, lm=LM) == spec_of("mlp", tower=CLIP, lm=LM)
    assert spec_of("mlp", out=64, tower=CLIP, **{"in": 48}) == spec_of("mlp", tower=CLIP, lm=LM)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (
            {"in_": 32},
            "in: tower has 48 channels, the call says 32; expected the same. Leave out in or "
            "tower.",
        ),
        (
            {"in": 32},
            "in: tower has 48 channels, the call says 32; expected the same. Leave out in or "
            "tower.",
        ),
        (
            {"out": 48},
            "out: lm has 64 channels, the call says 48; expected the same. Leave out out or lm.",
        ),
    ],
)
def test_widths_that_contradict_are_refused(widths: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_projector("mlp", tower=CLIP, lm=LM, **widths)
    assert str(caught.value) == message


def test_tokens_are_those_of_the_towers_grid() -> None:
    assert spec_of("internvl", tower=CLIP, lm=LM, tokens=4).blocks[0].size == (3, 3)
    with pytest.raises(SpecError, match="tokens: 5 tokens of 6x6"):
        spec_of("internvl", tower=CLIP, lm=LM, tokens=5)
    with pytest.raises(SpecError, match="depends on the grid"):
        spec_of("internvl", tower=QWEN, lm=LM, tokens=4)


def test_the_order_of_tokens_is_the_towers() -> None:
    assert spec_of("ldp", tower=QWEN, lm=LM).token_order == "blocked"
    assert spec_of("qwen2-vl", tower=CLIP, lm=LM).token_order == "raster"
    assert spec_of("qwen2-vl", tower=QWEN, lm=LM, merge=4).token_order == "blocked"
    said = spec_of("qwen2-vl", tower=QWEN, lm=LM, token_order="raster")
    assert said.token_order == "raster"


def test_a_document_says_more_than_a_tower() -> None:
    bare = {"blocks": ["pointwise"]}
    stack = plan_projector(bare, tower=CLIP, lm=LM).stack
    assert (stack.in_, stack.out, stack.prefix_tokens) == (48, 64, 1)
    assert plan_projector({**bare, "prefix_tokens": 3}, tower=CLIP, lm=LM).stack.prefix_tokens == 3
    whole = load_spec(dump_spec(spec_of("mlp", 48, 64)))
    assert plan_projector(whole, tower=CLIP, lm=LM).stack == whole
    with pytest.raises(SpecError, match="the document says 48, the call says 32"):
        plan_projector(whole, tower={**CLIP, "hidden_size": 32})


def test_a_tower_that_was_read_is_taken() -> None:
    tower = Tower(channels=48, grid=(2, 2), patch=(8, 8), prefix_tokens=2)
    assert read_tower(tower) is tower
    assert build_projector("mlp", tower=tower, lm=LM)(torch.randn(1, 6, 48)).shape == (1, 4, 64)


def test_the_command_line_takes_folders(tmp_path: Path) -> None:
    folders = {"--tower": CLIP, "--lm": LM}
    for name, config in folders.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    tower, lm = (str(tmp_path / name) for name in folders)
    code, out, err = run("spec", "ldp", "--tower", tower, "--lm", lm)
    assert code == 0, err
    assert load_spec(out) == spec_of("ldp", tower=tower, lm=lm)
    assert run("tokens", "ldp", f"tower={tower}")[1] == "9\n"
    assert run("tokens", "ldp", f"tower={tower}", "grid=4x4")[1] == "4\n"
    code, _, err = run("show", "ldp", "--tower", tower)
    assert code == 2
    assert "ldp: 'out' is missing" in err
    (tmp_path / "--tower" / "config.json").write_text(json.dumps(QWEN))
    code, _, err = run("tokens", "ldp", f"tower={tower}")
    assert code == 2
    assert "ldp: 'grid' is missing. Write grid=24x24." in err
