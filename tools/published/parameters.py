"""How many parameters papers say that projectors have."""

from .sources import BLIP2, IDEFICS2, MOBILEVLM, MOBILEVLM_V2, QWEN_VL
from .terms import Figure, Reason, Row, Setup

CLIP_TO_2048 = ((1024, 2048), (24, 24))
CODE = Setup("ldpnet", *CLIP_TO_2048)
FORMULA = Setup("PW > GELU > PW > x + plain1 > plain2", *CLIP_TO_2048)
MLP = Setup("mlp2x_gelu", *CLIP_TO_2048)
LDPV2 = Setup("ldpnetv2", *CLIP_TO_2048)
SIGLIP = ((1152, 4096), (27, 27))
ADAPTER = Setup("qwen-vl", (1664, 4096), (32, 32))
Q_FORMER = Setup("blip2", (1408, 2560), (1, 257))


def linear(in_: int, out: int) -> int:
    return in_ * out + out


def beyond_the_mlp(setup: Setup) -> int:
    return setup.plan.parameters - MLP.plan.parameters


def formula_and_code() -> Reason:
    formula, code = FORMULA.plan.parameters, CODE.plan.parameters
    excite = 2 * (linear(2048, 512) + linear(512, 2048))
    return Reason(
        f"The paper's formula, {formula:,} parameters, is not its code: it leaves out hardswish "
        f"and squeeze-excitation, {excite:,} parameters.",
        holds=formula + excite == code,
    )


def ratio_of_rounded() -> Reason:
    ratio = 12.64 / 0.02
    return Reason(
        f"It is the ratio of the two figures as the paper rounds them, {ratio:.0f}.",
        holds=Figure("630x").agrees(ratio),
    )


def part_of_the_tower() -> Reason:
    inside = 2 * 4096 + 4096 * 4096
    rest = ADAPTER.plan.parameters - inside
    return Reason(
        f"It comes out without the last norm and the last projection, {inside:,} parameters, which "
        f"upstream's code has in the tower's class: {rest:,} are left.",
        holds=Figure("0.08 B").agrees(rest),
    )


def side_of_the_text() -> Reason:
    feed_forward = 12 * (linear(768, 3072) + linear(3072, 768) + 2 * 768)
    embeddings = (30522 + 512) * 768
    total = Q_FORMER.plan.parameters + feed_forward + embeddings
    return Reason(
        "It comes out with the side of the text, through which no image goes: feed-forward layers, "
        f"{feed_forward:,} parameters, and embeddings, {embeddings:,}; in all {total:,}.",
        holds=Figure("188 M").agrees(total),
    )


ROWS = [
    Row(
        MOBILEVLM,
        "section 3.4",
        "LDP, the released code",
        {"tokens": "144", "parameters": "< 20 M"},
        CODE,
    ),
    Row(
        MOBILEVLM,
        "equation 3",
        "LDP, the formula",
        {"tokens": "144", "parameters": "< 20 M"},
        FORMULA,
        reason=formula_and_code,
    ),
    Row(
        MOBILEVLM_V2,
        "table 5",
        "[PW]x2",
        {"tokens": "576", "parameters": "6.30 M"},
        MLP,
        score="58.8",
    ),
    Row(
        MOBILEVLM_V2,
        "table 5",
        "LDP",
        {"tokens": "144", "parameters": "18.94 M"},
        CODE,
        score="58.7",
    ),
    Row(
        MOBILEVLM_V2,
        "table 5",
        "PW and AvgPool",
        {"tokens": "144", "parameters": "6.30 M"},
        Setup("PW > GELU > PW > pool", *CLIP_TO_2048),
    ),
    Row(
        MOBILEVLM_V2,
        "table 5",
        "with learned PE",
        {"tokens": "144", "parameters": "6.59 M"},
        Setup("PW > GELU > PW > pool > PE", *CLIP_TO_2048),
    ),
    Row(
        MOBILEVLM_V2,
        "table 5",
        "LDPv2",
        {"tokens": "144", "parameters": "6.32 M"},
        LDPV2,
    ),
    Row(
        MOBILEVLM_V2,
        "",
        "LDP behind its MLP",
        {"parameters": "12.64 M"},
        ours=lambda: {"parameters": beyond_the_mlp(CODE)},
    ),
    Row(
        MOBILEVLM_V2,
        "",
        "LDPv2 behind its MLP",
        {"parameters": "0.02 M"},
        ours=lambda: {"parameters": beyond_the_mlp(LDPV2)},
    ),
    Row(
        MOBILEVLM_V2,
        "",
        "the first to the second",
        {"parameters": "630x"},
        ours=lambda: {"parameters": beyond_the_mlp(CODE) / beyond_the_mlp(LDPV2)},
        reason=ratio_of_rounded,
    ),
    Row(
        IDEFICS2,
        "table 3",
        "without Perceiver",
        {"tokens": "729", "parameters": "5 M"},
        Setup("linear", *SIGLIP),
        score="51.8",
    ),
    Row(
        IDEFICS2,
        "table 3",
        "with Perceiver",
        {"tokens": "64", "parameters": "740 M"},
        Setup("idefics2", *SIGLIP),
        score="60.3",
    ),
    Row(
        QWEN_VL,
        "table 1",
        "VL adapter",
        {"tokens": "256", "parameters": "0.08 B"},
        ADAPTER,
        reason=part_of_the_tower,
    ),
    Row(
        BLIP2,
        "section 3.1",
        "Q-Former",
        {"tokens": "32", "parameters": "188 M"},
        Q_FORMER,
        reason=side_of_the_text,
    ),
]
