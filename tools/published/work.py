"""How much work papers say that a model does, and how long it takes."""

from collections.abc import Mapping

from mobilevlm.compare import read_lm, vision_cost

from .sources import DYNAMIC_LLAVA, LLAMA_CPP, MOBILEVLM, MOBILEVLM_V2
from .terms import Figure, Reason, Row, Setup

LDP = Setup("ldpnet", (1024, 2048), (24, 24))
LDPV2 = Setup("ldpnetv2", (1024, 2048), (24, 24))
# Of Vicuna: width, layers and the width of the feed-forward layers.
SIZES = {"7B": (4096, 32, 11008), "13B": (5120, 40, 13824)}
PUBLISHED = {
    ("7B", 576): "10.1 T",
    ("7B", 144): "2.5 T",
    ("7B", 64): "1.1 T",
    ("13B", 576): "19.6 T",
    ("13B", 144): "4.9 T",
    ("13B", 64): "2.2 T",
}
# Milliseconds in which llama.cpp's page says that an image is encoded.
PHONE, ORIN = 21_148.71, 296.62


CLIP = {  # ViT-L/14 on 336x336 pixels
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
TOWER_MACS = vision_cost(CLIP).macs


def third_convention() -> str:
    """Say what FastV's formula makes of Vicuna-7B and 576 tokens."""
    width, layers, hidden = SIZES["7B"]
    weights = 4 * width**2 + 2 * width * hidden
    fastv = layers * (576 * weights + 2 * 576**2 * width)
    return (
        "FastV's formula counts one FLOP for each MAC, and two of the three matrices of a "
        f"feed-forward\nlayer: {fastv / 1e12:.2f} T for Vicuna-7B and 576 tokens, in place of "
        f"{flops('7B', 576) / 1e12:.2f} T."
    )


def macs(setup: Setup) -> int:
    found = setup.plan.macs
    assert found is not None
    return found


def not_by_work() -> Reason:
    ratio = TOWER_MACS / macs(LDP)
    return Reason(
        f"By MACs the tower is {ratio:.1f} times LDP, {TOWER_MACS / 1e9:.0f} G to "
        f"{macs(LDP) / 1e9:.2f} G, and {TOWER_MACS / macs(LDPV2):.1f} times LDPv2; the paper does "
        "not say how it measured.",
        holds=ratio < 30,
        solved=False,
    )


def flops(size: str, tokens: int, *, wide: bool = False) -> int:
    """Return the FLOPs of Vicuna's prefill; `wide` with feed-forward layers of 4 x its width."""
    width, layers, hidden = SIZES[size]
    config = {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 4 * width if wide else hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 128,
        "vocab_size": 32000,
    }
    return 2 * read_lm(config).prefill_macs(tokens)


def wide_layers(size: str, tokens: int) -> Reason:
    return Reason(
        "It comes out with feed-forward layers four times as wide as the model; Vicuna's have "
        "11,008 of 4,096 (7B) and 13,824 of 5,120 (13B).",
        holds=Figure(PUBLISHED[size, tokens]).agrees(flops(size, tokens, wide=True)),
    )


def a_quarter() -> Reason:
    """Explain the one figure that the count of the others does not give."""
    return Reason(
        f"The same count gives {flops('13B', 144, wide=True) / 1e12:.2f}; the paper's is a quarter "
        "of its 19.6 for 576 tokens.",
        holds=Figure(PUBLISHED["13B", 144]).agrees(19.6e12 / 4),
        solved=False,
    )


def prefill(size: str, tokens: int) -> Row:
    return Row(
        DYNAMIC_LLAVA,
        "table 2",
        f"Vicuna-{size}, {tokens} tokens",
        {"FLOPs": PUBLISHED[size, tokens]},
        ours=lambda: {"FLOPs": flops(size, tokens)},
        reason=a_quarter if (size, tokens) == ("13B", 144) else lambda: wide_layers(size, tokens),
    )


def a_token(milliseconds: float) -> Mapping[str, float]:
    tokens = LDP.plan.tokens_out
    assert tokens is not None
    return {"ms": milliseconds / tokens}


def too_fast_for_a_phone() -> Reason:
    flops = 2 * (TOWER_MACS + macs(LDP))
    paper, page = flops / (144 * 6.82e-3), flops / (PHONE / 1e3)
    return Reason(
        f"Times 144 it is {paper / 1e9:.0f} GFLOP/s on a phone's processor; llama.cpp's page has "
        f"{page / 1e9:.0f} on the same chip, {paper / page:.1f} times less.",
        holds=paper > 20 * page,
        solved=False,
    )


def slower_than_the_page() -> Reason:
    ours = a_token(ORIN)["ms"]
    return Reason(
        f"llama.cpp's page has {ours:.2f} there, with a language model as fast as the paper's "
        "(65.58 tokens a second to 65.27).",
        holds=ours < 3.32,
        solved=False,
    )


def other_definition() -> Reason:
    seconds = 256 / 30.80
    return Reason(
        f"256 tokens at 30.80 a second take {seconds:.2f} s; for the 1.7B model this agrees.",
        holds=Figure("4.96").agrees(256 / 51.63),
        solved=False,
    )


ROWS = [
    Row(
        MOBILEVLM,
        "section 3.4",
        "LDP, faster than the tower",
        {"ratio": "81x"},
        ours=lambda: {"ratio": TOWER_MACS / macs(LDP)},
        reason=not_by_work,
    ),
    *(prefill(*which) for which in PUBLISHED),
    Row(
        LLAMA_CPP,
        "Snapdragon 888",
        f"{PHONE:,} ms for an image",
        {"ms": "146.87"},
        ours=lambda: a_token(PHONE),
    ),
    Row(
        LLAMA_CPP,
        "Jetson Orin",
        f"{ORIN:,} ms for an image",
        {"ms": "2.06"},
        ours=lambda: a_token(ORIN),
    ),
    Row(
        MOBILEVLM,
        "table 6",
        "tower, Snapdragon 888",
        {"ms": "6.82"},
        ours=lambda: a_token(PHONE),
        reason=too_fast_for_a_phone,
    ),
    Row(
        MOBILEVLM,
        "table 6",
        "tower, Jetson Orin",
        {"ms": "3.32"},
        ours=lambda: a_token(ORIN),
        reason=slower_than_the_page,
    ),
    Row(
        MOBILEVLM_V2,
        "",
        "1.7B at 51.63 tokens/s",
        {"s": "4.96"},
        ours=lambda: {"s": 256 / 51.63},
    ),
    Row(
        MOBILEVLM_V2,
        "",
        "3B at 30.80 tokens/s",
        {"s": "8.38"},
        ours=lambda: {"s": 256 / 30.80},
        reason=other_definition,
    ),
]
