"""Language models read off configs: real sizes, what configs leave out, whole models, errors."""

import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobilevlm import SpecError
from mobilevlm.compare.defaults import defaults_of, hosts
from mobilevlm.compare.lm import LanguageModel, read_lm
from mobilevlm.compare.lm_families import FAMILIES, REFUSED
from mobilevlm.projectors.macs import count_macs
from mobilevlm.projectors.tower_families import LM_WIDTHS

MODEL_TYPES = Path(__file__).parents[2] / "docs" / "model-types.md"
VICUNA = {"model_type": "llama"}  # the class's own sizes are those of the 7B


def sizes(kind: str, width: int, inner: int, layers: int, heads: int, **more: Any) -> Any:
    return {
        "model_type": kind,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **more,
    }


QWEN3_30B = sizes(
    *("qwen3_moe", 2048, 6144, 48, 32),
    num_key_value_heads=4,
    head_dim=128,
    moe_intermediate_size=768,
    num_experts=128,
    num_experts_per_tok=8,
    vocab_size=151936,
)
# As their cards and papers give them.
PUBLISHED: dict[str, tuple[Any, int]] = {
    "deepseek-v3": ({"model_type": "deepseek_v3"}, 671_026_404_352),
    "gemma-2-2b": ({"model_type": "gemma2"}, 2_614_341_888),
    "gpt2": ({"model_type": "gpt2"}, 124_439_808),
    "llama-2-7b": (VICUNA, 6_738_415_616),
    "llama-3-8b": (
        sizes("llama", 4096, 14336, 32, 32, num_key_value_heads=8, vocab_size=128256),
        8_030_261_248,
    ),
    "mistral-7b": ({"model_type": "mistral"}, 7_241_732_096),
    "mixtral-8x7b": ({"model_type": "mixtral"}, 46_702_792_704),
    "mobilellama-1.4b": (sizes("mobilevlm", 2048, 5632, 24, 16), 1_364_297_728),
    "phi-2": (
        sizes("phi", 2560, 10240, 32, 32, vocab_size=51200),
        2_779_683_840,
    ),
    "qwen2.5-7b": (
        sizes("qwen2", 3584, 18944, 28, 28, num_key_value_heads=4, vocab_size=152064),
        7_615_616_512,
    ),
    "qwen3-30b-a3b": (QWEN3_30B, 30_532_122_624),
    "tinyllama-1.1b": (
        sizes("llama", 2048, 5632, 22, 32, num_key_value_heads=4),
        1_100_048_384,
    ),
}


@pytest.fixture(scope="module")
def configs() -> Any:
    """The config classes of transformers, by model type."""
    pytest.importorskip("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_are_published(name: str) -> None:
    config, parameters = PUBLISHED[name]
    assert read_lm(config).parameters == parameters


def test_vicuna_prefills_an_image_in_the_work_that_papers_give() -> None:
    lm = read_lm(VICUNA)
    tera = [2 * lm.prefill_macs(tokens) / 1e12 for tokens in (576, 144, 64)]
    assert [round(x, 2) for x in tera] == [7.63, 1.88, 0.83]
    assert round(2 * lm.prefill_macs(576, causal=True) / 1e12, 2) == 7.55
    layers = 6_738_415_616 - 2 * 32000 * 4096 - 4096 * (2 * 32 + 1)  # no embeddings, no norms
    attention = 32 * 2 * 4096 * 576**2
    assert lm.prefill_macs(576) == layers * 576 + attention + 32000 * 4096
    assert lm.prefill_macs(500, text=76) == lm.prefill_macs(576)
    assert lm.prefill_macs(0) == 0


def test_vicuna_keeps_half_a_megabyte_for_each_token() -> None:
    assert read_lm(VICUNA).kv_bytes(1) == 512 * 1024
    assert read_lm(VICUNA).kv_bytes(576) == 576 * 512 * 1024
    assert read_lm(VICUNA).kv_bytes(1, dtype_bytes=1) == 256 * 1024


def test_of_experts_only_the_active_ones_work() -> None:
    lm = read_lm(QWEN3_30B)
    active = sum(layer.macs for layer in lm.layers) + lm.head.macs
    assert round(active / 1e9) == 3  # "A3B"
    assert lm.kv_bytes(1) == 2 * 2 * 48 * 4 * 128


def test_latent_attention_keeps_the_latent() -> None:
    assert read_lm({"model_type": "deepseek_v3"}).kv_bytes(1) == 2 * 61 * (512 + 64)


def test_windows_bound_the_cache() -> None:
    lm = read_lm({"model_type": "gemma2"})
    each = 2 * 2 * 4 * 256
    assert lm.kv_bytes(10_000) == 13 * each * 10_000 + 13 * each * 4095
    # The eager form computes the pairs that the mask hides; a causal one does not.
    assert lm.prefill_macs(10_000) - lm.prefill_macs(10_000, causal=True) == sum(
        layer.pair * (10_000**2 - seen)
        for layer, seen in zip(
            lm.layers,
            [4096 * 4097 // 2 + 5904 * 4096, 10_000 * 10_001 // 2] * 13,
            strict=True,
        )
    )


@pytest.mark.quick("deepseek_v3", "gemma3_text", "gpt2", "llama", "qwen2_vl_text", "qwen3_moe")
@pytest.mark.parametrize("kind", FAMILIES)
def test_what_a_config_leaves_out_is_what_its_class_has(kind: str, configs: Any) -> None:
    def read(config: object) -> LanguageModel | str:
        try:
            return read_lm(config)
        except SpecError as error:  # two classes leave out how many experts work
            return error.found

    assert read({"model_type": kind}) == read(configs[kind]())


@pytest.mark.slow
def test_the_table_of_what_configs_leave_out_is_up_to_date() -> None:
    import config_defaults

    assert config_defaults.DEFAULTS.read_text("utf-8") == config_defaults.text()


def test_null_is_a_value() -> None:
    assert read_lm({"model_type": "mistral"}).layers[0].window == 4096
    assert read_lm({"model_type": "mistral", "sliding_window": None}).layers[0].window is None
    assert defaults_of("deepseek_v3")["q_lora_rank"] == 1536
    lite = read_lm({"model_type": "deepseek_v3", "q_lora_rank": None}).parameters
    assert lite > read_lm({"model_type": "deepseek_v3"}).parameters


TEXT = sizes("llama", 32, 48, 2, 4, vocab_size=64)


@pytest.mark.parametrize(
    ("whole", "tied"),
    [
        ({"model_type": "llava", "text_config": TEXT}, False),
        ({"model_type": "llava", "text_config": {**TEXT, "tie_word_embeddings": True}}, False),
        ({"model_type": "llava", "text_config": TEXT, "tie_word_embeddings": True}, True),
        ({"model_type": "mistral3", "text_config": TEXT}, True),
        ({"model_type": "blip-2", "text_config": {**TEXT, "tie_word_embeddings": True}}, True),
        ({"model_type": "internvl_chat", "llm_config": TEXT}, False),
        ({"model_type": "own", "language_config": {**TEXT, "tie_word_embeddings": True}}, True),
        ({**TEXT, "model_type": "llava_llama"}, False),
        (SimpleNamespace(**TEXT), False),
        (SimpleNamespace(config=TEXT), False),
    ],
)
def test_whole_models_say_whether_the_head_shares_the_embeddings(whole: Any, tied: bool) -> None:
    lm = read_lm(whole)
    assert lm.head.macs == 32 * 64
    assert lm.head.parameters == (0 if tied else 32 * 64)


def test_the_type_of_the_language_model_may_be_left_out() -> None:
    of_the_hub = {**TEXT, "model_type": "qwen2_vl", "vision_config": {}}
    assert read_lm(of_the_hub) == read_lm({**TEXT, "model_type": "qwen2_vl_text"})
    for host, row in hosts().items():
        if row["text"] in FAMILIES:
            assert len(read_lm({"model_type": host, "text_config": TEXT}).layers) == 2
    old = {"model_type": "llava", "text_config": {"num_hidden_layers": 2}}
    assert read_lm(old) == read_lm({**VICUNA, "num_hidden_layers": 2})


@pytest.mark.quick("llava-False", "paligemma-True")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "host",
    [
        *("aya_vision", "gemma3", "idefics3", "internvl", "llava", "llava_onevision", "mistral3"),
        *("paligemma", "qwen2_5_vl", "qwen3_5", "smolvlm"),
    ],
)
def test_of_a_whole_model_the_language_model_counts(host: str, tied: bool, configs: Any) -> None:
    transformers = pytest.importorskip("transformers")
    kind = hosts()[host]["text"]
    text = {**TEXT, "model_type": kind, "num_key_value_heads": 2, "head_dim": 8}
    text |= {"pad_token_id": 0, "tie_word_embeddings": tied}
    if host == "qwen2_5_vl":
        del text["head_dim"]
        text["rope_parameters"] = {"rope_type": "default", "mrope_section": [2, 1, 1]}
    config = configs[host](text_config=text, tie_word_embeddings=tied)
    config.vision_config.num_hidden_layers = config.vision_config.depth = 1
    config.vision_config.num_attention_heads = 16
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    own = re.compile("vision|visual|projector|connector|newline")
    count = sum(x.numel() for name, x in model.named_parameters() if not own.search(name))
    for source in (config, config.to_dict(), config.to_diff_dict()):
        assert read_lm(source).parameters == count


BY_HAND = (
    "Give the sizes of one by hand that costs the same, in Llama's words: {'model_type': 'llama', "
    "'hidden_size': 4096, 'intermediate_size': 11008, 'num_hidden_layers': 32, "
    "'num_attention_heads': 32, 'num_key_value_heads': 8, 'vocab_size': 32000}."
)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "llamma"},
            "lm: model type 'llamma' is no language model that can be counted. Did you mean "
            f"'llama'? {BY_HAND}",
        ),
        (
            {"model_type": "blip-2", "text_config": {"model_type": "t5"}},
            "lm.text_config: model type 't5' is an encoder and a decoder: images go into the "
            f"encoder; this is not counted. {BY_HAND}",
        ),
        (
            {"model_type": "mllama", "text_config": {}},
            "lm.text_config: model type 'mllama_text_model' reads images by cross-attention: they "
            f"are no tokens of its own; this is not counted. {BY_HAND}",
        ),
        (
            {"hidden_size": 64},
            "lm: no 'model_type' or 'text_config'; expected the config of a language model. "
            f"{BY_HAND}",
        ),
        (
            {"model_type": "deepseek_v2"},
            "lm: no 'num_experts_per_tok' or 'moe_topk' or 'moe_k' in a config of model type "
            f"'deepseek_v2'. {BY_HAND}",
        ),
        (
            {**VICUNA, "hidden_size": "64"},
            f"lm.hidden_size: '64'; expected a number from 1 to 1048576. {BY_HAND}",
        ),
        (
            {**VICUNA, "num_hidden_layers": 2000},
            f"lm.num_hidden_layers: 2000; expected a number from 0 to 1024. {BY_HAND}",
        ),
        (
            {**VICUNA, "layer_types": ["full_attention"]},
            f"lm.layer_types: ['full_attention']; expected a list of 2 to 100 items. {BY_HAND}",
        ),
        (
            {**VICUNA, "num_hidden_layers": 1, "layer_types": ["fancy"]},
            f"lm: a layer of kind 'fancy'; expected one that can be counted. {BY_HAND}",
        ),
        (
            {"model_type": "gemma3_text", "use_bidirectional_attention": True},
            "lm.use_bidirectional_attention: its tokens see later ones; expected a decoder. "
            f"{BY_HAND}",
        ),
        (
            {"model_type": "gemma4_text", "per_layer_config": {"0": 3}},
            f"lm.per_layer_config: 3; expected a mapping of layers to mappings. {BY_HAND}",
        ),
        (
            {"model_type": "lfm2", "block_ffn_dim_multiplier": "1"},
            f"lm.block_ffn_dim_multiplier: '1'; expected a number above 0, up to 64. {BY_HAND}",
        ),
        (7, "lm: 7; expected a config, a mapping, or the path of a model's folder"),
    ],
)
def test_what_cannot_be_counted_is_refused(config: object, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_lm(config)
    assert str(caught.value) == message


def test_what_the_message_says_to_give_can_be_given() -> None:
    given = BY_HAND[BY_HAND.index("{") : BY_HAND.index("}") + 1]
    assert read_lm(eval(given)).kv_bytes(1) == 128 * 1024
    lm = read_lm(VICUNA)
    assert read_lm(lm) is lm


def test_every_language_model_that_says_its_width_is_counted_or_refused() -> None:
    assert LM_WIDTHS.keys() <= {*FAMILIES, *REFUSED}
    assert not FAMILIES.keys() & REFUSED.keys()
    for kind, why in REFUSED.items():
        with pytest.raises(SpecError, match=re.escape(f"'{kind}' {why}; this is not counted")):
            read_lm({"model_type": kind})


@pytest.mark.slow
def test_every_model_type_of_the_page_is_counted_or_refused(configs: Any) -> None:
    counted, hints = 0, set()
    for kind in re.findall(r"^\| `([\w.-]+)` \|", MODEL_TYPES.read_text("utf-8"), re.MULTILINE):
        try:
            counted += read_lm(configs[kind]()).parameters > 0
        except SpecError as error:
            hints.add(error.hint.partition("? ")[2] or error.hint)
    assert hints == {BY_HAND}
    assert counted >= 70


def test_whatever_stands_in_a_config_is_read_or_refused() -> None:
    values: list[Any] = [None, 0, 3, -1, 2**70, 1.5, float("nan"), "x", True, [], [0], [3, 4, 5]]
    values += [{}, {"a": 1}, [1] * 100, ["conv"] * 50, ["sparse"] * 9, {"1": {"head_dim": 4}}]
    keys = sorted({key for kind in FAMILIES for key in defaults_of(kind)})
    keys += ["layer_types", "mlp_layer_types", "per_layer_config", "full_attn_idxs", "moe_layers"]
    keys += ["no_rope_layers", "mlp_only_layers", "use_bidirectional_attention"]
    draw = random.Random(0)
    read, places = 0, set()
    for _ in range(3000):
        config = {key: draw.choice(values) for key in draw.sample(keys, draw.randint(0, 4))}
        config["num_hidden_layers"] = draw.choice([3, 3, 3, None, "x", []])
        config["model_type"] = draw.choice([*FAMILIES])
        try:
            lm = read_lm(config)
        except SpecError as error:
            places.add(error.where.partition(".")[0])
            continue
        read += lm.parameters > 0
        assert lm.prefill_macs(7, causal=True) <= lm.prefill_macs(7)
        assert lm.kv_bytes(7) <= lm.kv_bytes(8)
    assert read > 500
    assert places == {"lm"}


@pytest.mark.slow
@given(
    kind=st.sampled_from(["gemma2", "glm4", "llama", "olmo2", "qwen2", "qwen3"]),
    heads=st.integers(1, 3),
    shared=st.integers(1, 3),
    head=st.sampled_from([2, 4, 10]),
    inner=st.integers(1, 70),
    layers=st.integers(1, 3),
    vocabulary=st.integers(3, 90),
    tokens=st.integers(1, 12),
    tied=st.booleans(),
)
def test_sizes_of_any_kind(
    kind: str,
    heads: int,
    shared: int,
    head: int,
    inner: int,
    layers: int,
    vocabulary: int,
    tokens: int,
    tied: bool,
    configs: Any,
) -> None:
    from transformers import AutoModelForCausalLM

    more = {"vocab_size": vocabulary, "tie_word_embeddings": tied, "pad_token_id": 0}
    config = sizes(kind, head * heads * shared, inner, layers, heads * shared, **more)
    config |= {"num_key_value_heads": heads, "head_dim": head}
    if kind in ("olmo2", "qwen2"):
        del config["head_dim"]
    lm = read_lm(config)
    made = configs[kind](**{key: x for key, x in config.items() if key != "model_type"})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made, attn_implementation="eager").eval()
        ids = torch.zeros(1, tokens, dtype=torch.long)
    assert sum(x.numel() for x in model.parameters()) == lm.parameters
    with torch.no_grad(), count_macs(model) as counted:
        cache = model(input_ids=ids, logits_to_keep=1).past_key_values
    assert counted[""] == lm.prefill_macs(tokens)
    assert sum(2 * x.keys.numel() for x in cache.layers) == lm.kv_bytes(tokens, 1)
