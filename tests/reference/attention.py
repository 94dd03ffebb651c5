"""The attention families: resamplers and Q-Formers, of transformers and published ones."""

from collections.abc import Callable
from types import SimpleNamespace as NS

import torch
from torch import Tensor, nn

from .case import Case, D, Grid, V, hf, plain, with_grid
from .resamplers import MiniCPMV, OpenFlamingo, QwenVL

N = 5  # queries


def idefics(qk_norm: bool) -> Callable[[], nn.Module]:
    return lambda: hf("idefics.perceiver", "IdeficsPerceiverResampler")(
        NS(
            perceiver_config=NS(qk_layer_norms_perceiver=qk_norm),
            vision_config=NS(embed_dim=V),
        ),
        *(V, 2, 4, 6, N),
    )


def idefics2() -> nn.Module:
    from transformers import Idefics2Config

    config = Idefics2Config(
        vision_config={"hidden_size": V},
        text_config={"model_type": "mistral", "hidden_size": D, "intermediate_size": 40},
        perceiver_config={
            "hidden_size": D,
            "resampler_n_latents": N,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 6,
            "num_key_value_heads": 2,
        },
    )
    config.perceiver_config._attn_implementation = "eager"
    return hf("idefics2.modeling_idefics2", "Idefics2Connector")(config)


def run_masked(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x, torch.ones(x.shape[:2], dtype=torch.bool))
    return y


def blip2(depth: int, every: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from transformers import Blip2QFormerConfig

        config = Blip2QFormerConfig(
            hidden_size=20,
            num_hidden_layers=depth,
            num_attention_heads=4,
            intermediate_size=28,
            encoder_hidden_size=V,
            cross_attention_frequency=every,
        )
        config._attn_implementation = "eager"
        module = nn.Module()
        module.query_tokens = nn.Parameter(torch.empty(1, N, 20))
        module.qformer = hf("blip_2.modeling_blip_2", "Blip2QFormerModel")(config)
        module.language_projection = nn.Linear(20, D)
        return module

    return build


def run_blip2(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    queries = module.query_tokens.expand(len(x), -1, -1)
    y = module.qformer(query_embeds=queries, encoder_hidden_states=x).last_hidden_state
    z: Tensor = module.language_projection(y)
    return z


RESAMPLER = {"queries": N, "depth": 2, "heads": 4, "head_dim": 6}
ANY = ((8, 8), (1, 65), (3, 7), (1, 1))
CASES = {
    "idefics": Case(
        "flamingo", "idefics", idefics(False), plain, {**RESAMPLER, "act": "relu"}, V, ANY
    ),
    "idefics-qk-norm": Case(
        "flamingo",
        "idefics",
        idefics(True),
        plain,
        {**RESAMPLER, "act": "relu", "qk_norm": True},
        V,
        ANY,
    ),
    "open-flamingo": Case(
        "flamingo",
        "open-flamingo",
        lambda: OpenFlamingo(V, 2, 4, 6, N),
        plain,
        RESAMPLER,
        grids=ANY,
    ),
    "idefics2": Case(
        "idefics2",
        "idefics2",
        idefics2,
        run_masked,
        {**RESAMPLER, "hidden": 40, "kv_heads": 2},
        V,
        ANY,
    ),
    "minicpmv": Case(
        "minicpmv",
        "minicpmv",
        lambda: MiniCPMV(V, D, 3, N),
        with_grid,
        {"queries": N, "heads": 3},
        grids=((8, 8), (4, 10), (5, 2), (1, 1), (40, 70)),
    ),
    "minicpmv-2.0": Case(
        "minicpmv",
        "minicpmv",
        lambda: MiniCPMV(V, D, 3, 4, "both"),
        with_grid,
        {"queries": 4, "heads": 3, "places": "both"},
        grids=((8, 8), (4, 10), (2, 2), (40, 70)),
    ),
    "qwen-vl": Case(
        "qwen-vl",
        "qwen-vl",
        lambda: QwenVL(V, D, 3, 9),
        with_grid,
        {"queries": 9, "heads": 3},
        grids=((8, 8), (3, 3), (1, 1), (4, 10), (2, 5)),
    ),
    "qwen-vl-same-width": Case(
        "qwen-vl",
        "qwen-vl",
        lambda: QwenVL(D, D, 3, 4),
        with_grid,
        {"queries": 4, "heads": 3},
        D,
        ((4, 4),),
    ),
    "minicpmv-same-width": Case(
        "minicpmv",
        "minicpmv",
        lambda: MiniCPMV(D, D, 3, N),
        with_grid,
        {"queries": N, "heads": 3},
        D,
        ((4, 7),),
    ),
    "blip2": Case(
        "blip2",
        "blip2",
        blip2(4, 2),
        run_blip2,
        {"width": 20, "queries": N, "depth": 4, "heads": 4, "hidden": 28},
        V,
        ANY,
    ),
    "blip2-every-third": Case(
        "blip2",
        "blip2",
        blip2(5, 3),
        run_blip2,
        {"width": 20, "queries": N, "depth": 5, "heads": 4, "hidden": 28, "cross_every": 3},
        V,
        ANY,
    ),
}
