"""The built-in blocks and projectors, and the fields and options that make them small."""

from typing import Any

from mobilevlm import BLOCKS, PROJECTORS

# Fields that must be given; deep blocks shallow.
FIELDS: dict[str, dict[str, Any]] = {
    "extra-tokens": {"at": "begin"},
    "pad-channels": {"count": 3},
    "parallel": {"branches": [["identity"], ["depthwise"]]},
    "pool": {"stride": 2},
    "preset": {"name": "ldp"},
    "qformer": {"depth": 2},
    "region-attention": {
        "query": [{"type": "pool", "stride": 2}],
        "key": ["depthwise"],
        "value": ["identity"],
        "heads": 2,
    },
    "repeat": {"times": 2, "body": ["depthwise"]},
    "resampler": {"depth": 2},
    "residual": {"body": ["depthwise"]},
    "scale": {"by": 0.5},
    "take-channels": {"first": 1, "count": 4},
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("conv", {"stride": 2}),
    ("depthwise", {"stride": 2, "kernel": 5}),
    ("depthwise-residual", {"stride": 2}),
    ("extra-tokens", {"at": "end", "count": 3}),
    ("norm-act", {"norm": "rms", "act": "silu"}),
    ("parallel", {"branches": [["newline"], ["newline", "conv"]], "join": "cat"}),
    ("patch-merge", {"odd": "pad"}),
    ("patch-merge", {"odd": "drop", "transpose": True}),
    ("pool", {"mode": "adaptive", "size": [2, 2]}),
    ("pool", {"mode": "bilinear", "stride": 2}),
    ("pool", {"mode": "max", "stride": 2, "ceil": True}),
    ("position", {"kind": "axes", "size": [64, 64], "join": "cat"}),
    ("position", {"kind": "frame"}),
    ("residual", {"body": [{"type": "pointwise", "out": "same"}]}),
]
# Widths that fit, and deep or wide projectors small.
OPTIONS: dict[str, dict[str, Any]] = {
    "aya-vision": {"hidden": 64},
    "blip2": {"depth": 2, "width": 48},
    "c-abstractor": {"hidden": 48, "depth": 1},
    "cohere2-vision": {"hidden": 64},
    "flamingo": {"depth": 2},
    "gemma4-unified": {"places": 64},
    "glm-4v-9b": {"hidden": 64},
    "idefics": {"depth": 2},
    "idefics2": {"hidden": 64, "depth": 2},
    "identity": {"out": 48},
    "llama4": {"hidden": 64},
    "molmo": {"hidden": 64},
    "molmo2": {"hidden": 64},
    "moondream2": {"hidden": 64},
    "muse-glimmer": {"hidden": 64},
    "muse-spark": {"hidden": 64},
    "ovis2": {"words": 64},
    "pp-formulanet": {"hidden": 32, "wide": 40},
    "step3": {"hidden": 32},
}
# Zeta's have a suite of their own, where zetascale is installed.
BUILT_IN = [
    name
    for name in BLOCKS.names()
    if BLOCKS.find(name).source == "built-in" and not name.startswith("zeta-")
]
FAMILIES = [name for name in PROJECTORS if PROJECTORS.find(name).source == "built-in"]
# Of the aliases, the first with each set of options; of those that only count layers, a few.
_FIRST = {
    f"{family} {options}": alias
    for alias, (family, options) in reversed(PROJECTORS.aliases().items())
    if options
}
PRESETS = sorted(
    {*FAMILIES, *_FIRST.values()}
    - {f"mlp{depth}x_gelu" for depth in range(4, 17)}
    - {f"mlp{d}x_res{n}x_gelu" for d in range(1, 5) for n in range(1, 5) if (d, n) != (3, 1)}
)
