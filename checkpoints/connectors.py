"""Modules of a model that look like connectors, by their names alone; no family is known here."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache

__all__ = ["connectors", "does_half", "halves_beside", "looks_like_connector"]

MAX_TENSORS = 300  # of a module that is listed; a Q-Former of twelve layers has 256

# What models call the module between an encoder and a language model: words in its name, in which
# a pattern would look at a long name over and over; and whole names.
_WORDS = (
    *("projector", "connector", "merger", "patch_merge", "adapter", "aligner", "resampler"),
    *("abstractor", "compressor", "downsampler", "vision_sampler", "perceiver"),
    *("embed_audio", "embed_image", "embed_video", "embed_vision"),
)
_NAME = re.compile(r"(?:audio|image|img|mm|multi_?modal|vision|visual)_proj(?:ection)?|mlp1|mlp_ar")
# Where it is said that a module does half of a projector's work: it merges or samples tokens.
_HALF = ("merge", "sampler", "projector_aux", "abstractor", "compressor", "qformer")
_OF_SOUND = ("audio", "speech", "sound")


@lru_cache(maxsize=4096)
def looks_like_connector(name: str) -> bool:
    """Return whether a module's own name is one that models give to connectors.

    >>> [looks_like_connector(name) for name in ("mm_projector", "vit_merger", "lm_head")]
    [True, True, False]
    """
    name = name.lower()
    return _has(name, _WORDS) or _NAME.fullmatch(name) is not None


def _has(name: str, words: Iterable[str]) -> bool:
    return any(word in name for word in words)


def connectors(keys: Iterable[str], used: Collection[str] = ()) -> dict[str, int]:
    """Return the modules that look like connectors, each with its number of tensors, in order.

    A module inside a numbered layer, such as an adapter in a decoder, is part of that layer. One
    in a list of connectors is a module of its own.

    >>> connectors(["m.merger_list.0.a.weight", "m.merger_list.0.b.weight", "m.layers.0.adapter.w"])
    {'m.merger_list.0.': 2}

    Args:
        keys: The keys of a model.
        used: Those that belong to projectors that are known; a module with one is left out.
    """
    found: dict[str, int] = {}
    known = set()
    for key in keys:
        root = _root(key)
        if root:
            found[root] = found.get(root, 0) + 1
            if key in used:
                known.add(root)
    return {
        root: number
        for root, number in found.items()
        if root not in known and number <= MAX_TENSORS
    }


def _root(key: str) -> str:
    """Return the path of the module that looks like a connector, with a dot; empty if none does."""
    parts = key.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ""
        if looks_like_connector(part):
            end = place + 1
            if end < len(parts) - 1 and parts[end].isdecimal() and part.endswith("list"):
                end += 1
            return ".".join(parts[:end]) + "."
    return ""


def does_half(name: str) -> bool:
    """Return whether a module's name says that it merges or samples the tokens of images."""
    name = name.lower()
    return _has(name, _HALF) and not _has(name, _OF_SOUND)


def halves_beside(root: str, keys: Iterable[str], used: Collection[str]) -> list[str]:
    """Return the modules beside a projector whose names say that they do half of its work.

    >>> halves_beside("m.mm_projector.", ["m.vision_sampler_0.w", "m.audio_merger.w", "m.w"], ())
    ['m.vision_sampler_0.']
    """
    parent = root[: root.rstrip(".").rfind(".") + 1]
    found: dict[str, None] = {}
    for key in keys:
        if key.startswith(parent) and not key.startswith(root or "\0"):
            name, dot, _ = key[len(parent) :].partition(".")
            if dot and does_half(name):
                found[f"{parent}{name}."] = None
    of_others = {key[: len(module)] for key in used for module in found if key.startswith(module)}
    return [module for module in found if module not in of_others]
