"""Whole tiny models of transformers whose projector is a family of `more_families`, or of sound."""

import torch
from torch import Tensor, nn

from .case import Grid, Run, one_by_one, plain
from .models import CLIP, QWEN3, ROPE, Model, text
from .more_families import CASES
from .zoo import run_voxtral

MLP_MOE = {"n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 20}
EVEN = ((4, 6), (8, 8), (6, 2))
ODD = ((5, 7), (8, 8))
PROJECTOR = "model.multi_modal_projector"


def run_of(name: str) -> Run:
    return CASES[name].run


def inside(path: str, run: Run) -> Run:
    """Run what is at a path of the module."""

    def call(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        return run(module.get_submodule(path), x, grid)

    return call


def run_muse(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    module.shuffle = type(module.vision_tower).pixel_shuffle
    return run_of("muse-glimmer")(module, x, grid)


def run_step(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    tower = module.vision_model
    y = tower.downsampler2(tower.downsampler1(x.transpose(1, 2).unflatten(2, grid)))
    z: Tensor = module.multi_modal_projector(y.flatten(2).transpose(1, 2))
    return z


@one_by_one
def run_phi4(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """A view: pooled, with the separator of crops after each row, then the two layers."""
    y = module.image_token_compression(x.T.unflatten(1, grid)[None]).permute(0, 2, 3, 1)
    newline = module.sub_img_feature_extensor.expand(1, y.shape[1], 1, -1)
    y = torch.cat([y, newline], 2).flatten(0, 2)
    z: Tensor = module.img_projection_down(torch.nn.functional.gelu(module.img_projection_up(y)))
    return z


LATENTS = {"num_filters": 4, "downsampling_ratios": [2, 2], "depths": [1, 1, 1]}
CONFORMER = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
KOSMOS_TEXT = {
    "vocab_size": 50,
    "embed_dim": 24,
    "layers": 1,
    "ffn_dim": 20,
    "attention_heads": 4,
}
MODELS = {
    "ernie4_5_vl_moe": Model(
        *("Ernie4_5_VLMoe", "model.resampler_model", run_of("ernie4-5-vl"), "ernie4-5-vl"),
        *(16, *EVEN),
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "num_heads": 2,
            "patch_size": 4,
            "intermediate_size": 20,
            "rms_norm_eps": 1e-3,
        },
        text_config={
            **text("ernie4_5_vl_moe_text", rms_norm_eps=1e-4),
            "moe_num_experts": 2,
            "moe_k": 1,
            "moe_intermediate_size": [20, 20],
            "rope_parameters": ROPE,
        },
    ),
    "florence2": Model(
        *("Florence2", PROJECTOR, run_of("florence-2"), "florence-2", 16, *ODD),
        vision_config={
            "depths": [1],
            "patch_size": [7],
            "patch_stride": [4],
            "patch_padding": [3],
            "patch_prenorm": [False],
            "embed_dim": [16],
            "num_heads": [2],
            "num_groups": [2],
            "projection_dim": 24,
            "max_position_embeddings": 9,
            "max_temporal_embeddings": 5,
        },
        text_config={
            "model_type": "bart",
            "d_model": 24,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_ffn_dim": 20,
            "decoder_ffn_dim": 20,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "vocab_size": 50,
            "max_position_embeddings": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gemma4_unified": Model(
        *("Gemma4Unified", "model.embed_vision", run_of("gemma4-unified"), "gemma4-unified"),
        *(48, *ODD),
        vision_config={
            "patch_size": 2,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 20,
            "output_proj_dims": 20,
            "mm_posemb_size": 9,
            "rms_norm_eps": 1e-3,
        },
        text_config=text("gemma4_unified_text", layer_types=["full_attention"]),
        audio_config={"audio_embed_dim": 16, "rms_norm_eps": 1e-3},
    ),
    "git": Model(
        *("Git", "git.visual_projection", plain, "git", 16, *ODD),
        task="ForCausalLM",
        vision_config={**CLIP, "layer_norm_eps": 1e-3},
        hidden_size=24,
        vocab_size=50,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=20,
    ),
    "kosmos-2": Model(
        *("Kosmos2", "image_to_text_projection", run_of("kosmos-2"), "kosmos-2", 16, *ODD),
        vision_config=CLIP,
        text_config=KOSMOS_TEXT,
        latent_query_num=5,
    ),
    "kosmos-2.5": Model(
        *("Kosmos2_5", "image_to_text_projection", run_of("kosmos-2.5"), "kosmos-2", 16, *ODD),
        vision_config={
            "hidden_size": 16,
            "patch_embed_hidden_size": 48,
            "intermediate_size": 20,
            "head_dim": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_num_patches": 64,
        },
        text_config=KOSMOS_TEXT,
        latent_query_num=6,
    ),
    "minimax_m3_vl": Model(
        *("", PROJECTOR, run_of("minimax-m3-vl"), "minimax-m3-vl", 16, *EVEN),
        classes=("MiniMaxM3VLConfig", "MiniMaxM3SparseForConditionalGeneration"),
        vision_config={**CLIP, "temporal_patch_size": 2},
        text_config={
            **text("minimax_m3_vl_text", rotary_dim=4),
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "dense_intermediate_size": 20,
            "shared_intermediate_size": 20,
            "index_n_heads": 1,
            "index_head_dim": 12,
        },
        projector_hidden_size=20,
    ),
    "molmo2": Model(
        *("Molmo2", "model.multi_modal_projector", run_of("molmo2"), "molmo", 32, *EVEN, (5, 7)),
        vision_config={**CLIP, "num_key_value_heads": 2, "head_dim": 8, "image_size": [32, 32]},
        adapter_config={
            "vision_feature_layer": [0, 0],
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "intermediate_size": 20,
            "text_hidden_size": 24,
            "hidden_act": "gelu",
        },
        text_config={**text("molmo2_text"), "additional_vocab_size": 8},
    ),
    "muse_glimmer": Model(
        *("MuseGlimmer", "model", run_muse, "muse-glimmer", 16, *EVEN),
        vision_config={**CLIP, "pos_emb_height": 8, "pos_emb_width": 8},
        text_config=text("muse_glimmer_text", rms_norm_eps=1e-3),
        out_hidden_size=64,
        projector_hidden_size=20,
        projector_hidden_act="silu",
    ),
    "muse_spark": Model(
        *("MuseSpark", "model", run_muse, "muse-glimmer", 16, *EVEN),
        vision_config={**CLIP, "pos_emb_height": 8, "pos_emb_width": 8},
        text_config={
            **text("muse_spark_text", moe_intermediate_size=20, num_local_experts=2),
            "num_experts_per_tok": 1,
            "moe_hidden_size": 20,
        },
        audio_config={
            "hidden_sizes": [8, 8],
            "patch_sizes": [4, 2],
            "depths": [1, 1],
            "num_hidden_layers": 2,
            "out_hidden_size": 24,
            "rms_norm_eps": 1e-3,
        },
        out_hidden_size=64,
        projector_hidden_size=20,
    ),
    "ovis2": Model(
        *("Ovis2", "model", run_of("ovis2"), "ovis2", 16, *EVEN, (5, 7)),
        vision_config={**CLIP, "hidden_stride": 2, "vocab_size": 25},
        text_config=text("qwen2"),
        hidden_size=24,
    ),
    "phi4_multimodal": Model(
        *("Phi4Multimodal", "model.embed_tokens_extend.image_embed", run_phi4),
        *("phi-4-multimodal", 16, (8, 8), (4, 10), (6, 2)),
        task="ForCausalLM",
        **{key: value for key, value in text("").items() if key != "model_type"},
        vision_config={**CLIP, "crop_size": 32, "image_token_id": 7},
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 20,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "nemo_conv_channels": 4,
            "input_size": 8,
            "time_reduction": 4,
            "audio_token_id": 8,
        },
    ),
    "pp_formulanet": Model(
        *("PPFormulaNet", "model.encoder.multi_modal_projector", run_of("pp-formulanet")),
        *("pp-formulanet", 16, *EVEN, (5, 7)),
        vision_config={
            **CLIP,
            "output_channels": 16,
            "mlp_dim": 20,
            "global_attn_indexes": [],
            "window_size": 4,
            "post_conv_in_channels": 16,
            "post_conv_mid_channels": 20,
            "post_conv_out_channels": 28,
            "decoder_hidden_size": 24,
        },
        text_config={
            "vocab_size": 50,
            "max_position_embeddings": 32,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_layers": 1,
            "decoder_ffn_dim": 20,
            "decoder_attention_heads": 2,
            "d_model": 24,
        },
    ),
    "step3p7": Model(
        *("Step3p7", "model", run_step, "step3p7", 16, *EVEN, (5, 7)),
        vision_config=CLIP,
        text_config=text("step3p7_text"),
    ),
    "qwen3_asr": Model(
        *("Qwen3ASR", PROJECTOR, plain, "mlp", 16, (1, 8)),
        audio_config={
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 20,
            "output_dim": 24,
            "num_mel_bins": 8,
            "downsample_hidden_size": 4,
            "activation_function": "silu",
        },
        text_config=text("qwen3"),
    ),
    "moss_transcribe_diarize": Model(
        *("MossTranscribeDiarize", PROJECTOR, run_voxtral, "moss-transcribe", 16, (1, 8)),
        audio_config={
            "num_mel_bins": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 20,
            "hidden_size": 16,
            "max_source_positions": 20,
        },
        text_config=text("qwen3", rms_norm_eps=1e-3),
        projector_bias=False,
    ),
    "nemo_speechlm": Model(
        *("", PROJECTOR, plain, "linear", 16, (1, 8)),
        classes=("Nemotron3_5TranscribeConfig", "Nemotron3_5TranscribeForConditionalGeneration"),
        audio_config={
            "asr_config": CONFORMER,
            "diarization_config": {
                "audio_config": CONFORMER,
                "head_config": {"hidden_size": 8, "num_speakers": 8, "audio_hidden_size": 16},
            },
        },
        text_config=text("nemotron_h", layers_block_type=["attention"]),
        word_timestamp_config={**CONFORMER, "vocab_size": 12, "blank_token_id": 11},
    ),
    "vibevoice": Model(
        *("VibeVoice", PROJECTOR, plain, "vibevoice", 16, (1, 8)),
        audio_config={**LATENTS, "model_type": "vibevoice_acoustic_tokenizer", "hidden_size": 16},
        semantic_model_config={
            **LATENTS,
            "model_type": "vibevoice_acoustic_tokenizer_encoder",
            "hidden_size": 12,
        },
        text_config=text("qwen2"),
        diffusion_head_config={
            "hidden_size": 24,
            "latent_size": 16,
            "num_hidden_layers": 1,
            "intermediate_size": 20,
            "frequency_embedding_size": 8,
        },
    ),
    "hyperclovax_vision_v2": Model(
        *("HyperCLOVAXVisionV2", "model.projector", plain, "linear", 20, (1, 8)),
        vision_config={
            **QWEN3,
            "model_type": "qwen2_5_vl_vision",
            "out_hidden_size": 20,
            "intermediate_size": 20,
        },
        text_config=text("hyperclovax"),
    ),
}
