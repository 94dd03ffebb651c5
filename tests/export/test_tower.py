"""Vision towers of strangers: whatever lies in the folder, it is refused soon and in our words."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mobilevlm import ExportError, MobileVLMError
from mobilevlm.export.gguf_tower import read_vision_tower

WEIGHTS, CONFIG, PICTURES = "model.safetensors", "config.json", "preprocessor_config.json"
PATCH, POSITION = "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"
FC1 = "encoder.layers.0.mlp.fc1.weight"
VISION = {"num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
NORMAL = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


def tensors() -> dict[str, Tensor]:
    return {
        PATCH: torch.zeros(8, 3, 2, 2),
        POSITION: torch.zeros(9, 8),
        FC1: torch.zeros(16, 8),
        "encoder.layers.0.mlp.fc2.weight": torch.zeros(8, 16),
        "encoder.layers.1.mlp.fc1.weight": torch.zeros(16, 8),
    }


def write(
    folder: Path,
    config: Any = None,
    pictures: Any = None,
    **changes: Tensor | None,
) -> None:
    state = {key: t for key, t in {**tensors(), **changes}.items() if t is not None}
    save_file(state, folder / WEIGHTS)
    (folder / CONFIG).write_text(
        json.dumps({"vision_config": VISION} if config is None else config)
    )
    (folder / PICTURES).write_text(json.dumps(NORMAL if pictures is None else pictures))


def test_a_tower_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    tower = read_vision_tower(tmp_path)
    assert (tower.width, tower.hidden, tower.patch, tower.side) == (8, 16, 2, 3)
    assert (tower.heads, tower.layers, tower.feature_layer) == (2, 2, 1)
    assert (tower.eps, tower.gelu) == (1e-6, True)
    assert (tower.mean, tower.std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    (tmp_path / PICTURES).unlink()
    assert read_vision_tower(tmp_path).mean == [0.5, 0.5, 0.5]


CLASS = {POSITION: torch.zeros(10, 8), "embeddings.class_embedding": torch.zeros(8)}
LLAVA = {"model_type": "llava", "vision_config": VISION}
STRATEGY, FEATURE = "vision_feature_select_strategy", "mm_vision_select_feature"
BY_NAME = "a tower without a class token; expected 'full'. transformers would drop a patch, and "
BY_NAME += "llama.cpp drops none. If the model was trained on all patches, write 'full' in its "
BY_NAME += "config.json."


@pytest.mark.parametrize(
    ("class_token", "config", "said"),
    [
        # llama.cpp drops the class token: so must the model.
        (True, LLAVA, ""),
        (True, {**LLAVA, STRATEGY: "default"}, ""),
        (True, {"vision_config": VISION, FEATURE: "patch"}, ""),
        (
            True,
            {**LLAVA, STRATEGY: "full"},
            f"X: {STRATEGY}: 'full'; expected 'default'. llama.cpp always drops the CLS token.",
        ),
        (
            True,
            {"vision_config": VISION, FEATURE: "cls_patch"},
            f"X: {FEATURE}: 'cls_patch'; expected 'patch'. llama.cpp always drops the CLS token.",
        ),
        # Without one it drops nothing: neither must the model.
        (False, {"vision_config": VISION}, ""),
        (False, {**LLAVA, STRATEGY: "full"}, ""),
        (False, {"vision_config": VISION, "model_type": "llava_onevision"}, ""),
        (False, {"vision_config": VISION, FEATURE: "cls_patch"}, ""),
        (False, {**LLAVA, STRATEGY: "default"}, f"X: {STRATEGY}: 'default', of {BY_NAME}"),
        (False, LLAVA, f"X: {STRATEGY}: 'default', by default, of {BY_NAME}"),
        (
            False,
            {**LLAVA, "model_type": "llava_next"},
            f"X: {STRATEGY}: 'default', by default, of {BY_NAME}",
        ),
        # Nonsense is refused in either case.
        (
            False,
            {**LLAVA, STRATEGY: "cls"},
            f"X: {STRATEGY}: 'cls'; expected 'default' or 'full'",
        ),
        (True, {**LLAVA, FEATURE: []}, f"X: {FEATURE}: []; expected 'patch' or 'cls_patch'"),
    ],
)
def test_the_rule_is_about_the_class_token(
    class_token: bool, config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    write(tmp_path, config, **(CLASS if class_token else {}))
    if said:
        with pytest.raises(ExportError) as caught:
            read_vision_tower(tmp_path)
        assert str(caught.value).replace(str(tmp_path), "X") == said
    else:
        tower = read_vision_tower(tmp_path)
        assert (tower.class_token, tower.notes) == (class_token, ())


@pytest.mark.parametrize(
    ("model_type", "layers"),
    [
        (None, 1),
        ("llava", 1),
        ("mobilevlm-llava_next", 1),
        ("llava_onevision", 2),
        ("gemma3", None),
    ],
)
def test_the_layer_that_no_config_names(
    model_type: str | None, layers: int | None, tmp_path: Path
) -> None:
    """The model's own default; where that is what a last norm makes, there is no such file."""
    kind = {} if model_type is None else {"model_type": model_type}
    write(tmp_path, {"vision_config": VISION, STRATEGY: "full", **kind})
    if layers is not None:
        assert read_vision_tower(tmp_path).feature_layer == layers
        return
    with pytest.raises(ExportError) as caught:
        read_vision_tower(tmp_path)
    assert str(caught.value).replace(str(tmp_path), "X") == (
        "X: vision_feature_layer: none, in a model of type 'gemma3'; expected one, or a model of "
        "type llava, llava_next, llava_next_video, video_llava, llava_onevision, aya_vision. "
        "Others may take what the tower's last norm makes, which llama.cpp leaves out here. If "
        "this one does not, write its layer in its config.json."
    )


def test_what_the_file_leaves_out_is_noted(tmp_path: Path) -> None:
    write(tmp_path, {"vision_config": VISION, FEATURE: "patch"})
    assert read_vision_tower(tmp_path).notes == (
        f"{FEATURE} is 'patch', but the tower has no class token: no token is dropped",
    )
    write(tmp_path, **{"model.image_newline": torch.zeros(8)})
    [note] = read_vision_tower(tmp_path).notes
    assert note.startswith("the model also gets an image in tiles")


def shaped(key: str, *shape: int) -> Callable[[Path], None]:
    return lambda folder: write(folder, **{key: torch.zeros(shape)})


def layer(number: str) -> Callable[[Path], None]:
    return shaped(f"encoder.layers.{number}.mlp.fc1.weight", 16, 8)


def vision(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder, {"vision_config": {**VISION, **fields}})


def pictures(value: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder, pictures=value)


def text(name: str, value: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        write(folder)
        (folder / name).write_text(value)

    return damage


def fifo(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        write(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def link(name: str, to: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        write(folder)
        (folder / name).unlink()
        (folder / name).symlink_to(to)

    return damage


AGAIN = "Download it again."
IRREGULAR = "cannot be read: not a regular file; expected a JSON object"
GAP = "layers, but none with the number 2; expected layers numbered from 0 without gaps"
HEADS = "expected a divisor of 8, the tower's width"
EPS = "expected a number between 0 and 1"
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flat patch embedding": (
        shaped(PATCH, 8, 12),
        f"X['{PATCH}']: shape (8, 12); expected (n, 3, n, n)",
    ),
    "patches of side 0": (
        shaped(PATCH, 8, 3, 0, 0),
        f"X['{PATCH}']: shape (8, 3, 0, 0); expected (n, 3, n, n)",
    ),
    "patches that are no squares": (
        shaped(PATCH, 8, 3, 2, 4),
        f"X['{PATCH}']: shape (8, 3, 2, 4); expected (8, 3, 2, 2)",
    ),
    "no positions": (
        shaped(POSITION, 0, 8),
        f"X['{POSITION}']: shape (0, 8); expected (n, 8)",
    ),
    "only the CLS token's position": (
        lambda folder: write(
            folder, **{POSITION: torch.zeros(1, 8), "embeddings.class_embedding": torch.zeros(8)}
        ),
        "X: 1 positions; expected a square grid, as llama.cpp requires",
    ),
    "a number for a layer": (shaped(FC1), f"X['{FC1}']: shape (); expected (n, 8)"),
    "a layer of another width": (shaped(FC1, 16, 4), f"X['{FC1}']: shape (16, 4); expected (n, 8)"),
    "a layer number of 5,000 digits": (layer("9" * 5000), f"X: 3 {GAP}"),
    "10^20 layers": (layer("1" + "0" * 20), f"X: 3 {GAP}"),
    "a layer twice": (layer("01"), f"X: 3 {GAP}"),
    "an activation that is a list": (
        vision(hidden_act=[]),
        "X: hidden_act: []; expected one of gelu, gelu_pytorch_tanh, quick_gelu",
    ),
    "vision_config is a list": (
        lambda folder: write(folder, {"vision_config": [1]}),
        "X: vision_config: [1]; expected a JSON object",
    ),
    "vision_config is a string": (
        lambda folder: write(folder, {"vision_config": "clip"}),
        "X: vision_config: 'clip'; expected a JSON object",
    ),
    "a mean that is a number": (
        vision(image_mean=7),
        "X: image_mean: 7; expected three numbers",
    ),
    "a mean that is null": (
        vision(image_mean=None),
        "X: image_mean: None; expected three numbers",
    ),
    "pictures' mean is a number": (
        pictures({"image_mean": 7}),
        "X: image_mean: 7; expected three numbers",
    ),
    "means that are words": (
        pictures({"image_mean": ["a", "b"]}),
        "X: image_mean: ['a', 'b']; expected three numbers",
    ),
    "a mean that is infinite": (
        text(PICTURES, '{"image_mean": [0, 1e999, 0]}'),
        "X: image_mean: [0, inf, 0]; expected three numbers",
    ),
    "a division by zero": (
        pictures({"image_std": [0, 1, 1]}),
        "X: image_std: [0, 1, 1]; expected three numbers above 0",
    ),
    "pictures nested deep": (
        text(PICTURES, "[" * 100_000),
        f"X/{PICTURES}: nested too deep. {AGAIN}",
    ),
    "pictures are a list": (
        text(PICTURES, "[]"),
        f"X/{PICTURES}: a JSON list; expected a JSON object. {AGAIN}",
    ),
    "pictures are no JSON": (
        text(PICTURES, "mean"),
        f"X/{PICTURES}: not JSON: Expecting value at line 1, column 1. {AGAIN}",
    ),
    "pictures say something twice": (
        text(PICTURES, '{"image_mean": 1, "image_mean": 2}'),
        f"X/{PICTURES}: key 'image_mean' is given twice. Leave one of them out.",
    ),
    "pictures are a FIFO": (fifo(PICTURES), f"X/{PICTURES}: {IRREGULAR}"),
    "pictures are endless": (link(PICTURES, "/dev/zero"), f"X/{PICTURES}: {IRREGULAR}"),
    "the config is a FIFO": (fifo(CONFIG), f"X/{CONFIG}: {IRREGULAR}"),
    "heads in words": (vision(num_attention_heads="x"), f"X: num_attention_heads: 'x'; {HEADS}"),
    "fewer than no heads": (vision(num_attention_heads=-1), f"X: num_attention_heads: -1; {HEADS}"),
    "heads that do not fit": (vision(num_attention_heads=3), f"X: num_attention_heads: 3; {HEADS}"),
    "an eps in words": (vision(layer_norm_eps="x"), f"X: layer_norm_eps: 'x'; {EPS}"),
    "an eps that is true": (vision(layer_norm_eps=True), f"X: layer_norm_eps: True; {EPS}"),
    "an eps that is no number": (
        vision(layer_norm_eps=float("nan")),
        f"X: layer_norm_eps: nan; {EPS}",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_towers(name: str, tmp_path: Path) -> None:
    damage, message = HOSTILE[name]
    damage(tmp_path)
    with pytest.raises(MobileVLMError) as caught:
        read_vision_tower(tmp_path)
    assert str(caught.value).replace(str(tmp_path), "X") == message
