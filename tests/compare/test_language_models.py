"""What is read of language models, against small ones that transformers builds and runs."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilevlm.compare.lm import LanguageModel, read_lm
from mobilevlm.compare.lm_families import FAMILIES
from mobilevlm.projectors.macs import count_macs

pytest.importorskip("transformers")

from transformers import AutoModel, AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Given to each type as far as its config has such keys.
SIZES: dict[str, Any] = {
    "vocab_size": 56,
    "additional_vocab_size": 3,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "embed_dim": 32,
    "num_hidden_layers": 6,
    "n_layer": 3,
    "n_layers": 3,
    "layers": 3,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "n_positions": 40,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "intermediate_size_mlp": 40,
    "sliding_window": 5,
    "attention_chunk_size": 5,
    "use_sliding_window": True,
    "max_window_layers": 2,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "top_k_experts": 2,
    "topk_method": "greedy",
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
    "moe_num_shared_experts": 2,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_mtp_layers": 0,
    "kv_lora_rank": 12,
    "q_lora_rank": 20,
    "v_head_dim": 6,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "hidden_size_per_layer_input": 6,
    "vocab_size_per_layer_input": 50,
    "laurel_rank": 4,
    "block_multiple_of": 8,
}
LATENT = {"num_key_value_heads": 4, "head_dim": 4}
SHARED = {
    "num_hidden_layers": 8,
    "num_kv_shared_layers": 3,
    "layer_types": ["sliding_attention", "full_attention"] * 4,
}
GEMMA4 = {**SHARED, "global_head_dim": 16, "num_global_key_value_heads": 1}


def mrope(*section: int) -> dict[str, Any]:
    values = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section}
    return {"rope_parameters": values}


# What some types need besides.
MORE: dict[str, dict[str, Any]] = {
    "cosmos3_edge_text": mrope(2, 1, 1),
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense"] + ["sparse"] * 5},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "gemma3n_text": SHARED,
    "gemma4_text": GEMMA4,
    "gemma4_unified_text": GEMMA4,
    "glm4v_moe_text": mrope(1, 0, 1),
    "glm4v_text": mrope(2, 1, 1),
    "glm_ocr_text": mrope(2, 1, 1),
    "hunyuan_vl_text": mrope(2, 1, 1),
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"] * 2},
    "minicpm3": LATENT,
    "mistral4": {"num_key_value_heads": 4},
    "phi4_multimodal": {
        "vision_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
        "audio_config": {"hidden_size": 32, "intermediate_size": 32, "num_blocks": 1},
    },
    "paddleocr_vl_text": mrope(2, 1, 1),
    "qwen2_5_omni_text": mrope(2, 1, 1),
    "qwen2_5_vl_text": mrope(2, 1, 1),
    "qwen2_vl_text": mrope(2, 1, 1),
    "unlimited_ocr_text": {"num_key_value_heads": 4},
}
# Other settings of a type: its name, and what changes.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "gemma4-experts": (
        "gemma4_text",
        {"enable_moe_block": True, "attention_k_eq_v": True, "use_double_wide_mlp": True},
    ),
    "gemma4-plain": ("gemma4_text", {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}),
    "lfm2-as-it-is": ("lfm2", {"block_auto_adjust_ff_dim": False, "conv_bias": True}),
    "llama4-dense": ("llama4_text", {"interleave_moe_layer_step": 2, "no_rope_layers": [1, 0] * 3}),
    "mistral-all": ("mistral", {"sliding_window": None}),
    "molmo2-olmo": ("molmo2_text", {"qk_norm_type": "olmo"}),
    "opt-350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 20}),
    "phi-tied": ("phi", {"tie_word_embeddings": True}),
    "plain-query": ("deepseek_v3", {"q_lora_rank": None, "attention_bias": True}),
    "qwen2-full": ("qwen2", {"use_sliding_window": False}),
    "qwen3-moe-steps": ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [3]}),
    "qwen3-next-long": ("qwen3_next", {"full_attention_interval": 2}),
    "tied": ("llama", {"tie_word_embeddings": True}),
}


def config_of(kind: str, **changes: Any) -> Any:
    """Return a small config of a model type."""
    cls = CONFIG_MAPPING[kind]
    known = cls.__dataclass_fields__
    values = {key: value for key, value in SIZES.items() if key in known}
    return cls(**{**values, **MORE.get(kind, {}), **changes})


def model_of(config: Any) -> Any:
    """Return a model with its head, if transformers has one for the language model alone."""
    options = {"attn_implementation": "eager", "experts_implementation": "eager"}
    for auto in (AutoModelForCausalLM, AutoModel):
        try:
            return auto.from_config(config, **options)
        except ValueError as error:
            if "Unrecognized" not in str(error):
                raise
    name = type(config).__module__.replace("configuration_", "modeling_")
    found = [
        cls
        for key, cls in vars(importlib.import_module(name)).items()
        if inspect.isclass(cls) and issubclass(cls, PreTrainedModel)
        if cls.config_class is type(config) and not key.endswith("PreTrainedModel")
    ]
    return min(found, key=lambda cls: "CausalLM" not in cls.__name__)._from_config(
        config, **options
    )


def bytes_of(cache: DynamicCache) -> int:
    """Return the bytes of all tensors of a cache."""
    tensors: list[Tensor | None] = []
    for layer in cache.layers:
        tensors += [getattr(layer, "prefill_keys", None), getattr(layer, "prefill_values", None)]
        tensors += [getattr(layer, "keys", None), getattr(layer, "values", None)]
        for states in ("conv_states", "recurrent_states"):
            tensors += getattr(layer, states, {}).values()
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


def besides(model: nn.Module, tokens: int) -> int:
    """Return the MACs that transformers spends on what it drops.

    Llama 4's module runs all experts on each token, of which it was given some. A causal
    convolution also returns what its padding at the end gives.
    """
    macs = 0
    for name, module in model.named_modules():
        if type(module).__name__ == "Llama4TextMoe":
            idle = module.num_experts - module.top_k
            weights = sum(x[0].numel() for x in module.experts.parameters())
            macs += tokens * idle * weights
        elif isinstance(module, nn.Conv1d) and "embed_tokens_extend" not in name:
            (kernel,) = module.kernel_size
            macs += module.out_channels * kernel * (kernel - 1)
    return macs


def check(kind: str, tokens: int, folder: Path, **changes: Any) -> LanguageModel:
    config = config_of(kind, **changes)
    model = model_of(config).eval()
    lm = read_lm(config)
    config.save_pretrained(folder)
    for source in (model, config.to_dict(), folder):
        assert read_lm(source) == lm

    has_head = model.get_output_embeddings() is not None
    headless = lm.parameters - (0 if has_head else lm.head.parameters)
    parts = [x for name, x in model.named_parameters() if "embed_tokens_extend" not in name]
    assert sum(x.numel() for x in parts) == headless

    cache = DynamicCache(config=config)
    ids = torch.arange(tokens)[None] % 50
    head = {"logits_to_keep": 1} if has_head else {}
    with torch.no_grad(), count_macs(model) as counted:
        model(input_ids=ids, past_key_values=cache, use_cache=True, **head)
    macs = lm.prefill_macs(tokens) - (0 if has_head else lm.head.macs)
    assert counted[""] == macs + besides(model, tokens)
    assert bytes_of(cache) == lm.kv_bytes(tokens, 4)
    return lm


@pytest.mark.quick("deepseek_v3", "gemma4_text", "lfm2", "llama", "mixtral", "qwen3_5_text")
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_language_model_costs_what_transformers_runs(kind: str, tmp_path: Path) -> None:
    check(kind, 9, tmp_path)


@pytest.mark.quick("tied")
@pytest.mark.parametrize("name", OTHERS)
def test_so_do_other_settings(name: str, tmp_path: Path) -> None:
    kind, changes = OTHERS[name]
    check(kind, 70 if name.endswith("long") else 7, tmp_path, **changes)


def test_linear_attention_keeps_its_state_in_float32() -> None:
    config = config_of("qwen3_5_text")
    model = model_of(config).to(torch.bfloat16).eval()
    cache = DynamicCache(config=config)
    with torch.no_grad():
        model(input_ids=torch.arange(9)[None], past_key_values=cache, use_cache=True)
    assert bytes_of(cache) == read_lm(config).kv_bytes(9)
    assert read_lm(config).kv_bytes(9) > read_lm(config).kv_bytes(9, 4) // 2


@pytest.mark.parametrize("kind", ["gemma3_text", "llama4_text", "mistral"])
@pytest.mark.parametrize("tokens", [1, 4, 5, 6, 13])
def test_what_the_mask_hides_can_be_left_out(kind: str, tokens: int) -> None:
    """The causal count, against the masks that transformers makes."""
    config = config_of(kind, num_hidden_layers=6)
    model = model_of(config).eval()
    seen: dict[int, int] = {}

    def note(index: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            mask = kwargs["attention_mask"]
            seen[index] = int((mask > -1).sum())

        return hook

    for index, layer in enumerate(model.model.layers):
        layer.self_attn.register_forward_pre_hook(note(index), with_kwargs=True)
    with torch.no_grad():
        model(input_ids=torch.arange(tokens)[None])
    lm = read_lm(config)
    hidden = sum(layer.pair * (tokens**2 - seen[i]) for i, layer in enumerate(lm.layers))
    assert lm.prefill_macs(tokens) - lm.prefill_macs(tokens, causal=True) == hidden
