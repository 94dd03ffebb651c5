"""How many tokens papers say that projectors make of an image."""

from collections.abc import Mapping
from typing import Any

from .sources import (
    CAMBRIAN,
    DECO,
    DIVT,
    FASTVLM,
    HONEYBEE,
    IDEFICS2,
    INTERNVL,
    MM1,
    MOBILEVLM,
    MOBILEVLM_V2,
    SMOLVLM,
    TOKENPACKER,
)
from .terms import Reason, Row, Setup


def small(said: str, grid: int = 24, width: int = 1024) -> Setup:
    """A projector of MobileVLM 1.7B, whose tower is CLIP ViT-L/14 at 336 pixels."""
    return Setup(said, (width, 2048), (grid, grid))


def vicuna(said: str, grid: int = 24, **options: Any) -> Setup:
    """A projector between the same tower and Vicuna-7B."""
    return Setup(said, (1024, 4096), (grid, grid), options)


def packer(side: int) -> Setup:
    """TokenPacker between four levels of the same tower and Vicuna-7B."""
    return Setup("token-packer", (4 * 1024, 4096), (24, 24), {"merge": side})


def counted(
    paper: str, place: str, what: str, tokens: int, setup: Setup, score: str = "", **more: Any
) -> Row:
    return Row(paper, place, what, {"tokens": str(tokens)}, setup, score=score, **more)


def patches_of_14() -> Reason:
    return Reason(
        f"224 pixels in patches of 16 are {(224 // 16) ** 2} tokens; {(224 // 14) ** 2} are those "
        "of ViT-L/14, which stands in the same row of the table's other half.",
        holds=(224 // 16) ** 2 != 256 == (224 // 14) ** 2,
    )


def same_scores() -> Reason:
    return Reason(
        "The row has the six scores of table 7's ViT-B/16, of 196 tokens: one of them misprints "
        "the patch.",
        holds=(224 // 14) ** 2 != 196 == (224 // 16) ** 2,
    )


def off_24(side: int) -> Row:
    """LDPv2's pool as the paper writes it, on a grid on which the code's makes other tokens."""
    windows = Setup("ldpnetv2", (1024, 2048), (side, side), {"stride": 2})
    code = small("ldpnetv2", side)

    def reason() -> Reason:
        return Reason(
            "The paper pools windows of 2x2 (`stride=2`), its code any grid to 12x12; they are the "
            "same on 24x24 alone.",
            holds=windows.plan.tokens_out == (side // 2) ** 2 != code.plan.tokens_out,
        )

    what = f"LDPv2's AvgPool 2x2 on {side}x{side}"
    return counted(MOBILEVLM_V2, "", what, (side // 2) ** 2, code, reason=reason)


def any_resampler() -> Reason:
    plan = vicuna("flamingo", 16, queries=144).plan
    return Reason(
        "Its resampler is mPLUG-Owl's, which is no family here; any resampler makes as many tokens "
        "as it has queries.",
        holds=plan.tokens_out == 144,
    )


def comparison(tokens: int, side: int, scores: Mapping[str, str]) -> list[Row]:
    """TokenPacker's comparison of projectors at one number of tokens, of side x side windows."""
    setups = {
        "Average-Pooling": vicuna("llava-next-video", stride=side),
        "Resampler": vicuna("qwen-vl", queries=tokens),
        "C-Abstractor": vicuna("c-abstractor", queries=tokens),
        "Pixel-Shuffle": vicuna("internvl", merge=side),
        "LDP-v2": vicuna("ldpnetv2", size=24 // side),
        "TokenPacker": packer(side),
    }
    return [
        counted(TOKENPACKER, "table 3", what, tokens, setup, scores[what])
        for what, setup in setups.items()
    ]


SCORES = {
    144: {
        "Average-Pooling": "60.9",
        "Resampler": "60.4",
        "C-Abstractor": "60.0",
        "Pixel-Shuffle": "60.8",
        "LDP-v2": "61.2",
        "TokenPacker": "62.8",
    },
    64: {
        "Average-Pooling": "59.1",
        "Resampler": "60.1",
        "C-Abstractor": "59.3",
        "Pixel-Shuffle": "59.7",
        "LDP-v2": "60.6",
        "TokenPacker": "61.9",
    },
}

ROWS = [
    counted(MOBILEVLM, "table 7", "ViT-B/16, 224 pixels", 196, small("mlp2x_gelu", 14, 768)),
    counted(MOBILEVLM, "table 7", "ViT-L/14, 224 pixels", 256, small("mlp2x_gelu", 16)),
    counted(MOBILEVLM, "table 7", "ViT-L/14, 336 pixels", 576, small("mlp2x_gelu")),
    counted(MOBILEVLM, "table 7", "the same, LDP", 144, small("ldpnet")),
    counted(
        MOBILEVLM,
        "table 7",
        "ViT-L/16, 224 pixels",
        256,
        Setup("mlp2x_gelu", (1024, 2560), (14, 14)),
        reason=patches_of_14,
    ),
    counted(
        MOBILEVLM,
        "table 8",
        "ViT-B/14, 224 pixels",
        256,
        small("mlp2x_gelu", 16, 768),
        reason=same_scores,
    ),
    counted(MOBILEVLM, "section 5.3", "168 pixels (RIR)", 144, small("mlp2x_gelu", 12), "53.9"),
    counted(MOBILEVLM, "table 9", "[PW]x2", 576, small("mlp2x_gelu"), "56.9"),
    counted(MOBILEVLM, "table 9", "[DW1 PW] [DW2 PW]", 144, small("DW1 > DW2"), "54.9"),
    counted(MOBILEVLM, "table 9", "LDP: [PW]x2 [DW1 PW] [DW2 PW]", 144, small("ldpnet"), "56.1"),
    counted(
        MOBILEVLM,
        "table 9",
        "[PW]x2 [DW1 PW]x3 [DW2 PW]",
        144,
        small("PW > GELU > PW > x + DW1 > x + DW1 > x + DW1 > DW2"),
        "55.3",
    ),
    counted(
        MOBILEVLM,
        "table 9",
        "[PW]x2 [DW2 PW] [DW1 PW]",
        144,
        small("PW > GELU > PW > DW2 > x + DW1"),
        "55.6",
    ),
    off_24(27),
    off_24(16),
    off_24(14),
    counted(HONEYBEE, "table 3", "B4, Linear", 256, vicuna("linear", 16), "52.6"),
    counted(
        HONEYBEE,
        "table 3",
        "B2, Resampler",
        144,
        vicuna("flamingo", 16, queries=144),
        "43.9",
        reason=any_resampler,
    ),
    counted(
        HONEYBEE,
        "table 3",
        "B5, Resampler",
        256,
        vicuna("flamingo", 16, queries=256),
        "45.6",
        reason=any_resampler,
    ),
    counted(HONEYBEE, "table 3", "B3, C-Abstractor", 144, vicuna("c-abstractor", 16), "53.5"),
    counted(
        HONEYBEE,
        "table 3",
        "B6, C-Abstractor",
        256,
        vicuna("c-abstractor", 16, queries=256),
        "56.3",
    ),
    counted(TOKENPACKER, "table 3", "MLP", 576, vicuna("mlp2x_gelu"), "62.0"),
    *comparison(144, 2, SCORES[144]),
    *comparison(64, 3, SCORES[64]),
    counted(
        IDEFICS2,
        "",
        "Perceiver with 128 latents",
        128,
        Setup("idefics2", (1152, 4096), (27, 27), {"queries": 128}),
        "71.2",
    ),
    counted(
        FASTVLM,
        "",
        "0.5B, 1024 pixels",
        256,
        Setup("mlp2x_gelu", (3072, 896), (16, 16)),
    ),
    counted(
        SMOLVLM,
        "",
        "512 pixels, also nanoVLM",
        64,
        Setup("idefics3", (768, 960), (32, 32), {"merge": 4}),
    ),
    counted(INTERNVL, "", "448 pixels", 256, Setup("internvl", (1024, 4096), (32, 32))),
    counted(MM1, "", "C-Abstractor", 144, small("c-abstractor")),
    counted(DECO, "", "2-D adaptive pooling", 144, vicuna("deco")),
    counted(DIVT, "", "Resampler", 64, vicuna("qwen-vl", queries=64)),
    counted(DIVT, "", "C-Abstractor", 64, vicuna("c-abstractor", queries=64)),
    counted(DIVT, "", "pixel shuffle", 64, vicuna("internvl", merge=3)),
    counted(DIVT, "", "TokenPacker", 64, packer(3)),
    Row(
        DIVT,
        "",
        "DiVT",
        {"tokens": "64"},
        needs="a number of tokens that depends on what the image shows",
        unknown=("divt",),
    ),
    Row(
        CAMBRIAN,
        "table 1",
        "SVA",
        {"tokens": "576"},
        score="68.5",
        needs="the features of four towers",
        unknown=("cambrian", "sva"),
    ),
]
