"""What the test vectors are of: the families, small, with the options that matter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...blocks.core.errors import SpecError
from ...blocks.core.feature import Grid
from ...projectors import FAMILIES, PROJECTORS
from ...projectors.index import aliases
from ...projectors.lookup import instantiate
from ...projectors.preset import Preset
from ...projectors.stack import Stack
from ...registry import UnknownName

__all__ = ["Entry", "all_entries", "find_entries"]

# The first pair that a projector takes.
_WIDTHS = ((8, 12), (12, 12), (16, 24), (48, 96))

# Options that make a family small, where it is not by itself.
_SMALL: dict[str, dict[str, Any]] = {
    "aya-vision": {"hidden": 20},
    "blip2": {"depth": 2, "heads": 3, "queries": 4, "width": 12},
    "c-abstractor": {"depth": 1, "hidden": 12, "queries": 4},
    "deco": {"side": 2},
    "flamingo": {"depth": 2, "head_dim": 4, "heads": 3, "queries": 4},
    "florence-2": {"places": 8},
    "gemma3": {"pool": 2},
    "gemma4": {"pool": 2},
    "gemma4-unified": {"hidden": 10, "places": 8},
    "glm-4v-9b": {"hidden": 20},
    "granite-docling": {"merge": 2},
    "idefics2": {"depth": 2, "head_dim": 4, "heads": 4, "hidden": 20, "kv_heads": 2, "queries": 4},
    "kosmos-2": {"head_dim": 4, "queries": 4},
    "ldpnetv2": {"size": [3, 3]},
    "llama4": {"hidden": 20},
    "minicpmv": {"heads": 3, "queries": 4},
    "molmo": {"head_dim": 4, "heads": 3, "hidden": 20},
    "moondream2": {"hidden": 20},
    "muse-glimmer": {"hidden": 20},
    "ovis2": {"indicators": 3, "words": 16},
    "pp-formulanet": {"hidden": 10, "wide": 14},
    "qwen-vl": {"heads": 3, "queries": 4},
    "step3": {"hidden": 10},
    "token-packer": {"heads": 3, "width": 12},
}

# Whose input is as wide as their output in all models, so that checkpoints have no last layer.
_SAME_WIDTHS = ("flamingo",)

# Further options, which change what is computed.
_FURTHER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("aya-vision", {"norm": False}),
    ("blip2", {"cross_every": 1}),
    ("c-abstractor", {"depth": 2, "queries": 9}),
    ("c-abstractor", {"end": 2, "position": True}),
    ("deco", {"side": 3}),
    ("deepseek-vl2", {"mode": "pooling"}),
    ("deepseek-vl2", {"merge": 3, "ratio": 2}),
    ("flamingo", {"act": "relu", "qk_norm": True}),
    ("gemma3n", {"scale": False}),
    ("gemma4", {"pool": 3, "standardize": True}),
    ("gemma4", {"pool": 1, "scale": False}),
    ("git", {"norm": "rms"}),
    ("glm4v", {"limit": 0.5}),
    ("glm4v", {"merge": 3}),
    ("granite-docling", {"merge": 3}),
    ("idefics3", {"merge": 3}),
    ("idefics3", {"norm": "rms"}),
    ("internvl", {"merge": 3}),
    ("internvl", {"norm": "none"}),
    ("internvl", {"odd": "pad"}),
    ("internvl", {"odd": "pad", "transpose": True}),
    ("internvl", {"act": "relu2", "bias": False, "norm": "rms"}),
    ("ldp", {"skip": "input"}),
    ("ldp", {"kernel": 5}),
    ("ldpnetv2", {"size": None, "stride": 2}),
    ("linear", {"bias": False}),
    ("llava-next-video", {"mode": "max"}),
    ("llava-next-video", {"mode": "conv"}),
    ("minicpmv", {"places": "both"}),
    ("minicpmv", {"places": "resized"}),
    ("minicpmv4-6", {"times": 2}),
    ("mistral3", {"bias": True}),
    ("mlp", {"depth": 3}),
    ("mlp", {"norm": "layer"}),
    ("mlp-res", {"depth": 1, "residuals": 1}),
    ("molmo", {"ceil": True}),
    ("perception-lm", {"ratio": 3}),
    ("prismatic", {"fused": False}),
    ("qwen2-vl", {"norm": "rms"}),
    ("qwen2-vl", {"norm_after": True}),
    ("qwen2-vl", {"bias": False, "norm": "none"}),
    ("qwen2-vl", {"merge": 3}),
    ("qwen2-vl", {"eps": 1e-5, "token_order": "raster"}),
    ("token-packer", {"merge": 3}),
    ("voxtral", {"bias": True}),
)


@dataclass(frozen=True)
class Entry:
    """A projector with a set of options, for which there are weights and cases.

    Attributes:
        name: Its name in the pack, which is a folder's.
        family: The registered name of its projector.
        preset: The projector's preset.
        stack: Its specification.
        options: The options, beside those that the name fixes.
        grid: The grid that it is built for; None for any.
        further: Whether the family has an entry before this one.
    """

    name: str
    family: str
    preset: Preset
    stack: Stack
    options: Mapping[str, Any]
    grid: Grid | None = None
    further: bool = False


def all_entries() -> list[Entry]:
    """Return the entries of all built-in families, family by family."""
    return [entry for family in sorted(FAMILIES) for entry in _of_family(family)]


def find_entries(names: Iterable[str]) -> list[Entry]:
    """Return the entries of each name, once.

    Args:
        names: Registered names, of which a family's mean all its entries; other names of a family,
            such as ``qwen2-5-vl``, which have one entry; or names of entries.

    Raises:
        RegistryError: A name is not registered, or its plugin is broken.
        SpecError: A projector takes no small widths.
    """
    found = [entry for name in names for entry in _find(name)]
    return [*{entry.name: entry for entry in found}.values()]


def _find(name: str) -> Iterator[Entry]:
    try:
        known = PROJECTORS.find(name)
    except UnknownName as error:
        # "internvl-merge-3", or what is written for it elsewhere: "internvl(merge=3)".
        families = [each for each in FAMILIES if re.match(f"{each}[-_(]", name)]
        entries = {entry.name: entry for each in families for entry in _of_family(each)}
        if name.replace("_", "-") not in entries:
            if entries:
                error.hint = f"There are {', '.join(entries)}."
            raise
        yield entries[name.replace("_", "-")]
        return
    if known.name in FAMILIES:
        yield from _of_family(known.name)
        return
    family, fixed = aliases().get(known.name, (known.name, {}))
    small = {key: value for key, value in _SMALL.get(family, {}).items() if key not in fixed}
    yield _entry(known.name.replace("/", "-"), known.name, small)


def _of_family(family: str) -> Iterator[Entry]:
    small = _SMALL.get(family, {})
    yield _entry(family, family, small)
    for other, options in _FURTHER:
        if other == family:
            said = (f"{key}-{value}" for key, value in options.items() if value is not None)
            name = "-".join([family, *said]).replace("_", "-").lower()
            yield _entry(name, family, {**small, **options}, further=True)


def _entry(name: str, family: str, options: Mapping[str, Any], *, further: bool = False) -> Entry:
    preset = instantiate(family, options)
    # A learned table of positions has a row for each place of one grid.
    grid = (5, 5) if options.get("position") else None
    return Entry(name, family, preset, _small_stack(family, preset), options, grid, further)


def _small_stack(family: str, preset: Preset) -> Stack:
    """Return a projector of small widths.

    Raises:
        SpecError: It takes none.
    """
    for in_, out in _WIDTHS[1:] if family in _SAME_WIDTHS else _WIDTHS:
        try:
            return preset.stack(in_, out)
        except SpecError as error:
            refused = error
    raise refused
