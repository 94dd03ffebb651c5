"""Which model types of transformers load, from the keys that their models are saved with.

Each model is built on the meta device with its default config cut to two layers, and a file is
written with the keys and shapes that `save_pretrained` writes, without the numbers.

python tools/model_types.py                                   writes docs/model-types.md
python tools/model_types.py TYPE ...                          prints what becomes of these
python tools/model_types.py --check --main 92 --every-part 88 fails where fewer vision types load,
                                                              or where the page is out of date
"""

import argparse
import json
import re
import struct
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import torchvision_operators

torchvision_operators.declare()

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict
from transformers.models.auto import modeling_auto

from mobilevlm import inspect_checkpoint, load_projector
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.models.host import TYPE_PREFIX
from mobilevlm.projectors import FAMILIES

PAGE = Path(__file__).parents[1] / "docs" / "model-types.md"
MAPPINGS = [
    getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES")
    for name in ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "RETRIEVAL")
]
# They have a projector too, and are only in the mapping of all base models or of masked models.
BASE = {
    "audioflamingo3": "AudioFlamingo3ForConditionalGeneration",
    "colqwen2": "ColQwen2ForRetrieval",
    "embedding_gemma2": "EmbeddingGemma2Model",
    "modernvbert": "ModernVBertForMaskedLM",
    "musicflamingo": "MusicFlamingoForConditionalGeneration",
    "ultravbert": "UltraVBertModel",
    "vibevoice": "VibeVoiceForConditionalGeneration",
}
# Their image features or codes go into the language model as they are.
WITHOUT = (
    *("blip", "chameleon", "emu3", "pix2struct", "udop", "vision-encoder-decoder", "mistral4"),
    "kyutai_speech_to_text",
)
# What the default config leaves out, or gives no value that the model can be built with.
SETTINGS: dict[str, dict[str, Any]] = {
    "aya_vision": {
        "vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 16}
    },
    "cohere_compass": {
        "text_config": {
            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
        }
    },
    "deepseek_ocr2": {
        "text_config": {"num_hidden_layers": 2, "mlp_layer_types": ["dense", "dense"]},
    },
    "diffusion_gemma": {
        "text_config": {"num_experts": 2, "top_k_experts": 1, "moe_intermediate_size": 64}
    },
    "embedding_gemma2": {"vision_config": {}, "audio_config": {}},
    "gemma3": {"vision_config": {"image_size": 896, "patch_size": 14}},
    "gemma4": {"vision_config": {}, "audio_config": {}},
    "gemma4_unified": {"vision_config": {}, "audio_config": {}},
    "granite4_vision": {"downsample_rate": "1/2", "deepstack_layer_map": [[-1, 0]]},
    "hunyuan_vl": {"text_config": {"head_dim": 128}},
    "idefics": {"use_resampler": True},
    "llama4": {"vision_config": {"vision_output_dim": 4096}},
    "perception_lm": {
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_core_large_patch14_336",
            "model_args": {"embed_dim": 1024, "depth": 2},
        }
    },
    "shieldgemma2": {"vision_config": {"image_size": 896, "patch_size": 14}},
    "t5gemma2": {
        "encoder": {"vision_config": {"image_size": 896, "patch_size": 14}, "text_config": {}}
    },
    "qwen3_omni_moe": {"enable_audio_output": False},
}
LAYERS = re.compile(
    r"(num_)?((hidden|encoder|decoder|global|conf_num_hidden|n)_)?layers?|depth|num_blocks"
)
# Modules that look like projectors by their name: a segment of their path.
PARTS = re.compile(
    r"(?:^|\.)((?:"
    r"\w*project(?:or|ion)s?(?:_\w+)?|\w*(?:merger|connector|aligner|adapter|embedder)s?(?:_\w+)?|"
    r"mlp1|resampler_model|vit_downsampler\d?|embed_(?:vision|audio)|visual_embeddings_table|"
    r"vision_embed_tokens|image_pooling_2d|\w+_proj_for_\w+|perceiver_resampler"
    r")(?:\.\d+(?=\.\w+\.))?)(?:\.|$)"
)
# Those of patches, of codes, and of the language model, and what stands inside of layers.
OTHERS = re.compile(
    r"(?:^|[._])(?:patch|subsample|per_layer|language_model|text_model|llm|talker|row|column|"
    r"projection_head)\w*\.|radio_model\.|audio_tower\.embedder|"
    r"(?:^|\.)(?:layers?|blocks?|resblocks|h|experts)\.\d+\."
)


@dataclass(frozen=True)
class Outcome:
    """What becomes of a model type.

    Attributes:
        model_type: The model type.
        sees: Whether it takes images or videos.
        families: The families of the projectors that load, the main one first.
        missing: The modules that look like projectors and do not load.
        why: Why the main projector is refused; empty if it loads.
    """

    model_type: str
    sees: bool
    families: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    why: str = ""


# ---------------------------------------------------------------------------- models


def model_types() -> list[str]:
    """Return the multimodal model types of the transformers that is installed.

    Those of swapped models are there too once `mobilevlm.models` is imported.
    """
    names = {*BASE, *(name for mapping in MAPPINGS for name in mapping)}
    return sorted(name for name in names if not name.startswith(TYPE_PREFIX))


def model_class(model_type: str) -> Any:
    """Return the class with the model's projector."""
    name = BASE.get(model_type)
    for mapping in MAPPINGS:
        name = name or mapping.get(model_type)
    return getattr(transformers, name if isinstance(name, str) else name[0])


def cut(config: Any) -> Any:
    """Return a config's mapping with two layers where it has more, and lists to match."""
    if not isinstance(config, Mapping):
        return config
    found = {key: cut(value) for key, value in config.items()}
    layers = found.get("per_layer_config") or {}
    for layer in [layer for layer in layers if int(layer) > 1]:
        del layers[layer]
    total = found.get("num_hidden_layers")
    for key, value in found.items():
        if isinstance(value, int) and value > 2 and LAYERS.fullmatch(key):
            found[key] = 2
        elif isinstance(value, list) and len(value) == total:
            found[key] = value[:2]
    return found


def build(model_type: str) -> Any:
    """Return the model on the meta device; its config is cut unless the model then refuses it."""
    config = transformers.CONFIG_MAPPING[model_type](**SETTINGS.get(model_type, {}))
    cls = model_class(model_type)
    try:
        with torch.device("meta"):
            return cls._from_config(type(config).from_dict(cut(config.to_dict())))
    except (ValueError, TypeError, ImportError, StrictDataclassError):
        with torch.device("meta"):
            return cls._from_config(config)


def saved(model: Any) -> dict[str, torch.Tensor]:
    """Return what `save_pretrained` writes, on meta."""
    state = model.state_dict()
    for key in model._keys_to_ignore_on_save or ():
        state.pop(key, None)
    state = remove_tied_weights_from_state_dict(state, model)
    found: dict[str, torch.Tensor] = revert_weight_conversion(model, state)
    return found


def write(folder: Path, config: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Write a folder whose weights are a hole in the file: zeros that take no space."""
    config.save_pretrained(folder)
    header: dict[str, Any] = {}
    end = 0
    for key, tensor in state.items():
        start, end = end, end + 2 * tensor.numel()
        shape = list(tensor.shape)
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + end)


# ---------------------------------------------------------------------------- outcomes


def parts(keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the keys of each module that looks like a projector."""
    found: dict[str, list[str]] = {}
    for key in keys:
        match = PARTS.search(key)
        if match and not OTHERS.search(key):
            found.setdefault(key[: match.end(1)], []).append(key)
    return found


def look(model_type: str, folder: Path) -> Outcome:
    """Load whatever projectors the model has."""
    sees = bool({"image", "video"} & set(model_class(model_type).input_modalities))
    if model_type in WITHOUT:
        return Outcome(model_type, sees)
    model = build(model_type)
    state = saved(model)
    write(folder, model.config, state)
    try:
        main = inspect_checkpoint(folder)
        load_projector(folder, device="meta")
    except CheckpointError as error:
        return Outcome(model_type, sees, why=str(error).replace(f"{folder}: ", ""))
    families, used = [main.family], set(main.used)
    for root in main.others:
        try:
            load_projector(folder, root=root, device="meta")
            other = inspect_checkpoint(folder, root=root)
        except CheckpointError:
            continue
        families.append(other.family)
        used.update(other.used)
    missing = [path for path, keys in parts(state).items() if not used & set(keys)]
    return Outcome(model_type, sees, tuple(families), tuple(missing))


def outcomes(names: Sequence[str]) -> list[Outcome]:
    """Load the projectors of each model type."""
    found = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found.append(look(name, Path(folder)))
    return found


# ---------------------------------------------------------------------------- the page


def table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    cells = head.split(" | ")
    lines = [head, "|".join("---" for _ in cells), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def counted(families: Sequence[str]) -> str:
    """Write families, each once, with how often it is there."""
    times = {name: families.count(name) for name in families}
    found = []
    for name, n in times.items():
        cell = f"[`{name}`](zoo/{name}.md)" if name in FAMILIES else f"`{name}`"
        found.append(f"{cell} x {n}" if n > 1 else cell)
    return ", ".join(found)


def count(found: Iterable[Outcome]) -> dict[str, int]:
    """Return how many model types that see have a projector, load it, and load every part."""
    seeing = [one for one in found if one.sees and one.model_type not in WITHOUT]
    main = [one for one in seeing if not one.why]
    whole = [one for one in main if not one.missing]
    return {"projector": len(seeing), "main": len(main), "every part": len(whole)}


def page(found: Sequence[Outcome]) -> str:
    """Return the text of docs/model-types.md."""
    n = count(found)
    sound = [one for one in found if not one.sees and one.model_type not in WITHOUT]
    heard = [one for one in sound if not one.why]
    fully = sum(not one.missing for one in heard)
    whole, partly, refused = [], [], []
    for one in found:
        name = f"`{one.model_type}`"
        if one.model_type in WITHOUT:
            continue
        if one.why:
            refused.append((name, re.split("; expected|, among", one.why.replace("|", "\\|"))[0]))
        elif one.missing:
            missing = ", ".join(f"`{path}`" for path in one.missing)
            partly.append((name, counted(one.families), missing))
        else:
            whole.append((name, counted(one.families)))
    return f"""# Model types of transformers

What `load_projector` finds in a folder of each multimodal model type of transformers
{transformers.__version__}: those of images or videos with text, of retrieval, and of sound.

| | have a projector | load | load with every part |
|---|---|---|---|
| images or videos | {n["projector"]} | {n["main"]} | {n["every part"]} |
| sound and others | {len(sound)} | {len(heard)} | {fully} |

This page is written by `python tools/model_types.py`, from models with their default settings and
no weights; where these cannot be built, with a few others. Other tests compare the numbers.

## Loads with every part

The main projector's family first, then those of the projectors beside it, which load by their root.

{table("model type | families", whole)}

## Loads, without a part

{table("model type | families | what does not load", partly)}

## Refused

{table("model type | why", refused)}

## No projector

Their features or codes go into the language model as they are, or into its cross-attention:
{", ".join(f"`{name}`" for name in WITHOUT)}.
"""


def main() -> None:
    """Write the page, print what becomes of some types, or check both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    parser.add_argument("--main", type=int, default=0, help="how many types that see must load")
    parser.add_argument("--every-part", type=int, default=0, help="and how many with every part")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    found = outcomes(given.types or model_types())
    if given.types:
        for one in found:
            families = ", ".join(one.families) or "no projector"
            missing = f"; without {', '.join(one.missing)}" if one.missing else ""
            print(f"{one.model_type}: {one.why or families + missing}")
        return
    n = count(found)
    print(", ".join(f"{what}: {number}" for what, number in n.items()))
    if not given.check:
        PAGE.write_text(page(found), "utf-8")
        return
    if n["main"] < given.main or n["every part"] < given.every_part:
        parser.exit(
            1, f"expected {given.main} by the main one, {given.every_part} with every part\n"
        )
    if PAGE.read_text("utf-8") != page(found):
        parser.exit(1, "docs/model-types.md is out of date: run python tools/model_types.py\n")


if __name__ == "__main__":
    main()
