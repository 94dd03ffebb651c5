"""Further families, with originals that are more than one class or are not in transformers.

Real classes of transformers where it has them, and else published computations in plain torch.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace as NS
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilevlm.projectors.upstream import Name

from .case import (
    SMALL,
    Case,
    D,
    Grid,
    H,
    V,
    as_image,
    blocked,
    hf,
    one_by_one,
    plain,
    run_blocked,
    with_grid,
)
from .published import TokenPacker
from .zoo import run_voxtral

EVEN, ODD = ((8, 8), (4, 10), (6, 2)), ((8, 8), (5, 7), (4, 9))


def mlp(in_: int, hidden: int, out: int, act: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_, hidden), act or nn.GELU(), nn.Linear(hidden, out))


def maps(x: Tensor, grid: Grid) -> Tensor:
    return x.transpose(1, 2).unflatten(2, grid)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


class DeCo(nn.Module):
    """Pools the grid to 144 places, then LLaVA's MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = mlp(V, D, D)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        y: Tensor = self.mlp(tokens(F.adaptive_avg_pool2d(maps(x, grid), 12)))
        return y


def ernie() -> nn.Module:
    name = "Ernie4_5_VLMoeVariableResolutionResamplerModel"
    vision = NS(hidden_size=V, spatial_merge_size=2, temporal_merge_size=2, rms_norm_eps=1e-6)
    config = NS(vision_config=vision, text_config=NS(hidden_size=D, rms_norm_eps=1e-5))
    return hf("ernie4_5_vl_moe.modeling_ernie4_5_vl_moe", name)(config)


@one_by_one
def run_ernie(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(blocked(x, grid), torch.tensor([[1, *grid]]))
    return y


def florence() -> nn.Module:
    vision = NS(
        embed_dim=[V], projection_dim=D, max_position_embeddings=50, max_temporal_embeddings=100
    )
    module = hf("florence2.modeling_florence2", "Florence2MultiModalProjector")
    return module(NS(vision_config=vision))


def gemma4() -> nn.Module:
    vision = NS(
        model_patch_size=2, mm_embed_dim=D, mm_posemb_size=40, rms_norm_eps=1e-6, output_proj_dims=D
    )
    module = hf("gemma4_unified.modeling_gemma4_unified", "Gemma4UnifiedVisionEmbedder")
    return module(vision, NS(hidden_size=D))


def run_gemma4(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    h, w = grid
    y, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    positions = torch.stack([column, y], -1).flatten(0, 1).expand(len(x), -1, -1)
    z: Tensor = module(x, positions).pooler_output
    return z


def git() -> nn.Module:
    return hf("git.modeling_git", "GitProjection")(
        NS(vision_config=NS(hidden_size=V, layer_norm_eps=1e-5), hidden_size=D)
    )


class Glm4v9b(nn.Module):
    """The tail of EVA2CLIPModel, without the CLS token."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(V, D, 2, 2)
        self.linear_proj = glu = nn.Module()
        glu.linear_proj = nn.Linear(D, D, bias=False)
        glu.norm1 = nn.LayerNorm(D)
        glu.gate_proj = nn.Linear(D, H, bias=False)
        glu.dense_h_to_4h = nn.Linear(D, H, bias=False)
        glu.dense_4h_to_h = nn.Linear(H, D, bias=False)
        self.boi, self.eoi = (nn.Parameter(torch.zeros(1, 1, D)) for _ in range(2))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        glu = self.linear_proj
        x = glu.linear_proj(tokens(self.conv(maps(x, grid))))
        x = F.gelu(glu.norm1(x))
        x = glu.dense_4h_to_h(F.silu(glu.gate_proj(x)) * glu.dense_h_to_4h(x))
        ends = (y.expand(len(x), -1, -1) for y in (self.boi, self.eoi))
        return torch.cat([next(ends), x, next(ends)], 1) / 8


class HReducer(nn.Module):
    """Two convolutions over four tokens of a row; between them the four stand apart again."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_q = nn.LayerNorm(V)  # of no use
        self.reducer_before = nn.Sequential(nn.Conv2d(V, 4 * V, (1, 4), (1, 4)), nn.GELU())
        self.reducer = nn.Conv2d(V, V, (1, 4), (1, 4))
        self.visual_fc = nn.Linear(V, D)
        self.vit_eos = nn.Parameter(torch.zeros(1, 1, D))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        y = self.reducer_before(maps(x, grid))
        y = y.unflatten(1, (4, V)).permute(0, 2, 3, 4, 1).flatten(3)
        y = self.visual_fc(tokens(self.reducer(y)))
        return torch.cat([y, self.vit_eos.expand(len(y), -1, -1)], 1)


def inkling() -> nn.Module:
    return hf("inkling2.modeling_inkling2", "Inkling2VisionMerger")(
        NS(
            spatial_merge_size=2,
            hidden_size=V,
            projection_hidden_dim=H,
            projector_bias=False,
            hidden_act="gelu",
            text_hidden_size=D,
        )
    )


@one_by_one
def run_inkling(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(blocked(x, grid).reshape(-1, 4 * V))
    return y


def kosmos(module: str, name: str) -> Callable[[], nn.Module]:
    text = NS(embed_dim=D, attention_heads=4, attention_dropout=0.0, _attn_implementation="eager")
    config = NS(vision_config=NS(hidden_size=V), text_config=text, latent_query_num=5)
    return lambda: hf(module, name)(config)


def run_kosmos(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x)[0]
    return y


def run_minigpt(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """Four tokens in a row become one, whatever the grid."""
    y: Tensor = module(x.reshape(len(x), x.shape[1] // 4, 4 * V))
    return y


def minimax() -> nn.Module:
    return hf("minimax_m3_vl.modeling_minimax_m3_vl", "MiniMaxM3VLMultiModalProjector")(
        NS(
            vision_config=NS(hidden_size=V, spatial_merge_size=2),
            text_config=NS(hidden_size=D),
            projector_hidden_size=D,
            merged_hidden_size=4 * D,
        )
    )


class Molmo(nn.Module):
    """Molmo's image pooling, whose query is the mean of a window, and its image projector."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.image_pooling_2d, self.image_projector = pool, glu = nn.Module(), nn.Module()
        pool.wq, pool.wk, pool.wv = (nn.Linear(2 * V, V) for _ in range(3))
        pool.wo = nn.Linear(V, V)
        glu.w1, glu.w3 = (nn.Linear(V, H, bias=False) for _ in range(2))
        glu.w2 = nn.Linear(H, D, bias=False)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        h, w = grid
        x = x.view(-1, h // 2, 2, w // 2, 2, 2 * V).transpose(2, 3).flatten(3, 4)
        pool, glu = self.image_pooling_2d, self.image_projector
        q, k, v = pool.wq(x.mean(3, keepdim=True)), pool.wk(x), pool.wv(x)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(3, 4) for y in (q, k, v))
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        y = pool.wo((scores @ v).flatten(3)).flatten(1, 2)
        z: Tensor = glu.w2(F.silu(glu.w1(y)) * glu.w3(y))
        return z


def molmo2() -> nn.Module:
    from transformers import Molmo2AdapterConfig

    config = Molmo2AdapterConfig(
        hidden_size=V,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=4,
        intermediate_size=H,
        text_hidden_size=D,
        vision_feature_layer=[1, 0],
    )
    config._attn_implementation = "eager"
    return hf("molmo2.modeling_molmo2", "Molmo2Adapter")(config)


@one_by_one
def run_molmo2(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    arange = hf("molmo2.image_processing_molmo2", "arange_for_pooling")
    index, _, _ = arange(torch.arange(len(x)).view(grid), 2, 2)
    y: Tensor = module(x[None], index).last_hidden_state
    return y


def muse(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        part = f"{name.lower()[:4]}_{name.lower()[4:]}"
        path = f"{part}.modeling_{part}"
        module = nn.Module()
        module.vision_adapter = hf(path, f"{name}VisionAdapter")(
            NS(out_hidden_size=4 * V, projector_hidden_size=H, projector_hidden_act="gelu")
        )
        module.vision_projection = nn.Linear(H, D, bias=False)
        module.perception_emb_norm = hf(path, f"{name}RMSNorm")(eps=1e-5, with_scale=False)
        module.shuffle = hf(path, f"{name}VisionModel").pixel_shuffle
        return module

    return build


@one_by_one
def run_muse(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    x = module.shuffle(NS(merge_size=2), x, torch.tensor([[1, *grid]]))
    y: Tensor = module.perception_emb_norm(module.vision_projection(module.vision_adapter(x)))
    return y


def moss() -> nn.Module:
    name = "MossTranscribeDiarizeMultiModalProjector"
    return hf("moss_transcribe_diarize.modeling_moss_transcribe_diarize", name)(
        NS(
            adaptor_input_dim=4 * V,
            projector_bias=True,
            projector_hidden_act="silu",
            text_config=NS(hidden_size=D, rms_norm_eps=1e-6),
        )
    )


class Oryx(nn.Module):
    """The dynamic compressor on an image, whose windows are single tokens, and one view's MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = mlp(V, D, D)
        self.image_newline = nn.Parameter(torch.zeros(D))
        self.query, self.key = nn.Linear(V, H), nn.Linear(V, H)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        query, key, value = self.query(x)[..., None, :], self.key(x)[..., None, :], x[..., None, :]
        attention = (query @ key.transpose(-1, -2) / H**0.5).softmax(-1)
        y = self.mlp(x + (attention @ value)[..., 0, :]).unflatten(1, grid)
        newline = self.image_newline.expand(len(x), grid[0], 1, -1)
        return torch.cat([y, newline], 2).flatten(1, 2)


def ovis() -> nn.Module:
    module = nn.Module()
    module.vision_tower = tower = nn.Module()
    tower.head_linear = nn.Linear(4 * V, H, bias=False)
    tower.head_norm = nn.LayerNorm(H)
    module.visual_embeddings_table = hf("ovis2.modeling_ovis2", "Ovis2VisualEmbeddingTable")(
        H + 5, D
    )
    return module


def run_ovis(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """As in Ovis' own code; transformers 5.23 pads the token axis of an odd side by mistake."""
    h, w = grid
    x = F.pad(x.unflatten(1, grid), (0, 0, 0, w % 2, 0, h % 2))
    x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3).flatten(1, 2)
    probabilities = module.vision_tower.head_norm(module.vision_tower.head_linear(x)).softmax(-1)
    y: Tensor = module.visual_embeddings_table(
        F.pad(probabilities, (0, 5))
    )  # five indicators, never mixed in
    return y


class Phi3Vision(nn.Module):
    """A view of Phi3ImageEmbedding: 2x2 patches side by side, then newlines, then its MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, 4 * V))
        self.img_projection = mlp(4 * V, D, D)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        h, w = grid
        x = x.view(-1, h // 2, 2, w // 2, 2, V).permute(0, 1, 3, 2, 4, 5).flatten(3)
        x = torch.cat([x, self.sub_GN.expand(len(x), h // 2, 1, -1)], 2)
        y: Tensor = self.img_projection(x.flatten(1, 2))
        return y


def phi4() -> nn.Module:
    from transformers import Phi4MultimodalConfig

    config = Phi4MultimodalConfig(
        hidden_size=D,
        num_attention_heads=4,
        num_key_value_heads=4,
        vision_config={
            "hidden_size": V,
            "intermediate_size": H,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 4,
            "crop_size": 32,
            "image_token_id": 7,
            "feature_layer": 0,
        },
    )
    module = hf("phi4_multimodal.modeling_phi4_multimodal", "Phi4MultimodalImageEmbedding")(config)
    module.img_processor = Tower()
    return module


class Tower(nn.Module):
    """Stands for the vision tower: what it would make of the images comes in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = NS(patch_embedding=NS(weight=torch.zeros(1)))

    def forward(self, x: Tensor, **_: Any) -> NS:
        return NS(hidden_states=[x])


@one_by_one
def run_phi4(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """An image of crops of 8x8 tokens; a separator and the global view follow, and are cut off."""
    rows, columns = grid[0] // 8, grid[1] // 8
    crops = x.view(rows, 8, columns, 8, V).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    images = torch.cat([torch.zeros(1, 64, V), crops])[None]
    n = grid[0] // 2 * (grid[1] // 2 + 1)
    ids = torch.full((1, n + 1 + 4 * 5), 7)
    y: Tensor = module(
        ids,
        torch.zeros(*ids.shape, D),
        images,
        torch.tensor([[32 * rows, 32 * columns]]),
        torch.ones(1, 1 + rows * columns, 8, 8),
    )
    return y[0, :n]


def formulanet() -> nn.Module:
    return hf("pp_formulanet.modeling_pp_formulanet", "PPFormulaNetMultiModalProjector")(
        NS(
            post_conv_in_channels=V,
            post_conv_mid_channels=H,
            post_conv_out_channels=28,
            decoder_hidden_size=D,
        )
    )


class Step3(nn.Module):
    """Two convolutions that halve the sides, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.vit_downsampler = nn.Conv2d(V, H, 2, stride=2)
        self.vit_downsampler2 = nn.Conv2d(H, 2 * H, 3, stride=2, padding=1)
        self.vit_large_projector = nn.Linear(2 * H, D, bias=False)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = self.vit_downsampler2(self.vit_downsampler(maps(x, grid)))
        y: Tensor = self.vit_large_projector(tokens(x))
        return y


class Step3p7(nn.Module):
    """The tail of Step3p7VisionModel, and the projector."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_model = nn.Module()
        self.vision_model.downsampler1 = nn.Conv2d(V, 2 * V, 3, stride=2, padding=1)
        self.vision_model.downsampler2 = nn.Conv2d(2 * V, 4 * V, 3, stride=2, padding=1)
        self.multi_modal_projector = nn.Linear(4 * V, D, bias=False)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        tower = self.vision_model
        x = tower.downsampler2(tower.downsampler1(maps(x, grid)))
        y: Tensor = self.multi_modal_projector(tokens(x))
        return y


def prismatic() -> nn.Module:
    widths = (V, 4 * V, D, D)
    steps: dict[str, nn.Module] = {}
    for step, (in_, out) in enumerate(pairwise(widths), start=1):
        steps[f"act_fn{step - 1}"] = nn.GELU() if step > 1 else nn.Identity()
        steps[f"fc{step}"] = nn.Linear(in_, out)
    return nn.Sequential(OrderedDict(steps))


def moondream() -> nn.Module:
    layers = {"fc1": nn.Linear(V, H), "act": nn.GELU("tanh"), "fc2": nn.Linear(H, D)}
    return nn.Sequential(OrderedDict(layers))


def ultravbert() -> nn.Module:
    return hf("ultravbert.modeling_ultravbert", "UltraVBertConnector")(
        NS(
            pixel_shuffle_factor=4,
            vision_config=NS(hidden_size=V),
            text_config=NS(hidden_size=D, rms_norm_eps=1e-6),
        )
    )


def kosmos_case(module: str, name: str) -> Case:
    options = {"queries": 5, "head_dim": 6}
    return Case("kosmos-2", "kosmos-2", kosmos(module, name), run_kosmos, options, grids=ODD)


INNER = {"hidden": H}
TABLE = "visual_temporal_embed.pos_idx_to_embed"  # constants
CASES = {
    "deco": Case(
        "deco",
        ["mlp.0", "mlp.2"],
        DeCo,
        with_grid,
        grids=((24, 24), (12, 12), (20, 13)),
    ),
    "ernie4-5-vl": Case("ernie4-5-vl", "ernie4-5-vl-module", ernie, run_ernie, grids=EVEN),
    "florence-2": Case(
        "florence-2", "florence-2", florence, as_image, grids=(*ODD, (24, 24)), unused=(TABLE,)
    ),
    "gemma4-unified": Case(
        "gemma4-unified",
        "gemma4-unified",
        gemma4,
        run_gemma4,
        {"places": 40},
        in_=12,
        grids=(*ODD, (1, 40)),
    ),
    "git": Case("git", "git", git, plain, grids=ODD),
    "glm-4v-9b": Case("glm-4v-9b", "glm-4v-9b", Glm4v9b, with_grid, INNER, grids=ODD, prefix=1),
    "h-reducer": Case(
        "h-reducer",
        "h-reducer",
        HReducer,
        with_grid,
        grids=((8, 8), (3, 12)),
        unused=("ln_q.weight", "ln_q.bias"),
        prefix=1,
    ),
    "inkling2": Case("inkling2", "inkling2-module", inkling, run_inkling, INNER, grids=EVEN),
    "kosmos-2": kosmos_case("kosmos2.modeling_kosmos2", "Kosmos2ImageToTextProjection"),
    "kosmos-2.5": kosmos_case("kosmos2_5.modeling_kosmos2_5", "Kosmos2_5ImageToTextProjection"),
    "minigpt-v2": Case(
        "minigpt-v2",
        "linear",
        lambda: nn.Linear(4 * V, D),
        run_minigpt,
        grids=((8, 8), (3, 12)),
        prefix=1,
    ),
    "minimax-m3-vl": Case(
        "minimax-m3-vl", "minimax-m3-vl-module", minimax, run_blocked, grids=EVEN
    ),
    "molmo": Case(
        "molmo", "molmo", Molmo, with_grid, {"head_dim": 4, **INNER}, 2 * V, EVEN, prefix=1
    ),
    "molmo2": Case(
        "molmo",
        "molmo2-module",
        molmo2,
        run_molmo2,
        {"head_dim": 4, "ceil": True, **INNER},
        2 * V,
        (*EVEN, *ODD),
        prefix=1,
    ),
    "moss-transcribe": Case(
        "moss-transcribe", "moss-transcribe", moss, run_voxtral, grids=((1, 40), (1, 8))
    ),
    "moondream2": Case("moondream2", "moondream2", moondream, plain, INNER, grids=ODD),
    "muse-glimmer": Case(
        "muse-glimmer", "muse-glimmer", muse("MuseGlimmer"), run_muse, INNER, grids=EVEN
    ),
    "muse-spark": Case(
        "muse-spark", "muse-glimmer", muse("MuseSpark"), run_muse, INNER, grids=EVEN
    ),
    "oryx": Case(
        "oryx",
        ["mlp.0", "mlp.2", Name("image_newline", "bare")],
        Oryx,
        with_grid,
        grids=ODD,
        unused=tuple(f"{name}.{part}" for name in ("query", "key") for part in ("weight", "bias")),
    ),
    "ovis2": Case("ovis2", "ovis2", ovis, run_ovis, {"words": H}, grids=(*EVEN, *ODD)),
    "phi-3-vision": Case(
        "phi-3-vision", "phi-3-vision", Phi3Vision, with_grid, grids=EVEN, prefix=1
    ),
    "phi-4-multimodal": Case(
        "phi-4-multimodal",
        "phi-4-multimodal",
        phi4,
        run_phi4,
        grids=((8, 8), (8, 16), (24, 8)),
        unused=("global_img_feature_extensor",),
    ),
    "pp-formulanet": Case(
        "pp-formulanet",
        "pp-formulanet",
        formulanet,
        as_image,
        {"wide": 28, **INNER},
        grids=(*EVEN, *ODD),
    ),
    "prismatic": Case("prismatic", "prismatic", prismatic, plain, grids=ODD),
    "step3": Case("step3", "step3", Step3, with_grid, INNER, grids=(*EVEN, *ODD)),
    "step3p7": Case("step3p7", "step3p7-module", Step3p7, with_grid, grids=(*EVEN, *ODD)),
    "token-packer": Case(
        "token-packer",
        "token-packer",
        lambda: TokenPacker(SMALL, width=H, heads=5, side=2),
        with_grid,
        {"width": H, "heads": 5},
        4 * V,
        EVEN,
        prefix=1,
    ),
    "token-packer-3x3": Case(
        "token-packer",
        "token-packer",
        lambda: TokenPacker(SMALL, width=V, heads=1, side=3, levels=2),
        with_grid,
        {"merge": 3, "levels": 2},
        2 * V,
        ((6, 9), (3, 12)),
        prefix=1,
    ),
    "vibevoice": Case(
        "vibevoice",
        "vibevoice",
        lambda: hf("vibevoice.modeling_vibevoice", "VibeVoiceMultiModalProjector")(V, D),
        plain,
        grids=ODD,
    ),
    "ultravbert": Case("ultravbert", "ultravbert", ultravbert, plain, grids=((8, 8), (4, 4))),
}
