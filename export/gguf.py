"""GGUF: the mmproj file of llama.cpp, with the projector alone or with its vision tower.

llama.cpp computes three of our projectors: ``mlp`` (`mlp2x_gelu`), ``ldp`` (`ldpnet`) and
``ldpv2`` (`ldpnetv2`). Its tensors are upstream's, renamed; nothing is transposed.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..blocks.core.feature import Grid
from ..checkpoints.mapping import find_layout, from_upstream, parts, to_upstream
from ..projectors.build import spec_of
from ..projectors.projector import Projector
from .door import USUAL, Door
from .errors import ExportError
from .target import Job, Loaded, Target, Tell
from .tower import Tower, read_tower

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["TARGET"]

EPS = 1e-5  # of ldpnet's norms; llama.cpp takes the tower's


@dataclass(frozen=True)
class Family:
    """A projector that llama.cpp computes.

    Attributes:
        preset: Our name for it.
        layout: How upstream names its weights.
        rename: Turns upstream's key into llama.cpp's.
    """

    preset: str
    layout: str
    rename: Callable[[str], str]


# By llama.cpp's name.
FAMILIES = {
    "mlp": Family("mlp2x_gelu", "mlp", lambda key: f"mm.{key}"),
    "ldp": Family("ldpnet", "ldpnet", lambda key: f"mm.model.{key}"),
    "ldpv2": Family("ldpnetv2", "ldpnetv2", lambda key: f"mm.model.{key.partition('.')[2]}"),
}
_TWO = "llama.cpp's mlp is two linear layers with a GELU between"
_REASONS = {
    "linear": "llama.cpp puts a GELU behind a single linear layer",
    **{f"mlp{depth}x_gelu": _TWO for depth in range(3, 9)},
    "ldp": "llama.cpp's ldp is what MobileVLM v1 released, ldpnet",
}


class Gguf(Target):
    """``.gguf``. The document lies in its metadata as ``mobilevlm.spec``."""

    extra = "gguf"
    packages = ("gguf",)
    tolerance: ClassVar = {"f16": torch.float16, "f32": 5e-3, "q8_0": 0.1}
    options = ("tower",)
    free = False

    def grid(self, grid: Grid | None, options: Mapping[str, Any]) -> Grid:
        if "tower" not in options:
            return grid or USUAL
        side = read_tower(options["tower"]).side
        if grid not in (None, (side, side)):
            raise ExportError(
                f"{grid[0]}x{grid[1]}, and the tower gives {side}x{side}", "grid", "the same"
            )
        return side, side

    def door(self, door: Door, options: Mapping[str, Any]) -> Door:
        return dataclasses.replace(door, dims=(1, *door.dims[1:]))

    def refuse(self, job: Job) -> None:
        projector = job.projector
        type_ = _type_of(projector)
        h, w = job.grid or USUAL
        if type_ != "mlp" and (h, w) != USUAL:
            raise ExportError(
                f"{h}x{w}", "grid", "24x24", f"llama.cpp's {type_} is written for that grid alone."
            )
        if h != w:
            raise ExportError(f"{h}x{w}", "grid", "a square grid, as llama.cpp has it")
        prefix = projector.spec.prefix_tokens
        if prefix > 1:
            hint = "llama.cpp drops the CLS token, and no other."
            raise ExportError(f"{prefix}", "prefix_tokens", "0 or 1", hint)
        if type_ != "mlp" and projector.spec.token_order != "raster":
            raise ExportError("tokens that come in blocks", "token_order", "'raster'")
        if "tower" in job.options:
            _refuse_tower(read_tower(job.options["tower"]), type_, projector.spec.in_)

    def write(self, job: Job, tell: Tell) -> bytes:
        from gguf import GGUFWriter

        type_ = _type_of(job.projector)
        tower = read_tower(job.options["tower"]) if "tower" in job.options else None
        writer = GGUFWriter(None, "clip")
        _add_keys(writer, job, type_, tower)
        tell("Encoding the projector")
        for name, tensor in _tensors(job.projector, type_):
            _add_tensor(writer, name, tensor, job.weights)
        if tower is not None:
            tell("Encoding the vision tower")
            for name, tensor in tower.tensors():
                _add_tensor(writer, name, tensor, job.weights)
        # It writes tensors to a file descriptor, never to memory.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "p.gguf")
            try:
                writer.write_header_to_file(path)
                writer.write_kv_data_to_file()
                writer.write_tensors_to_file()
            finally:
                writer.close()
            return path.read_bytes()

    def load(self, job: Job, data: bytes) -> Loaded:
        """Read the file back into a projector: llama.cpp itself comes with no package of Python's.

        tests/extras/export runs it in llama.cpp, where that is installed.
        """
        from gguf import GGUFReader
        from gguf.quants import dequantize

        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:  # it maps a file of a name
            file.write(data)
            file.flush()
            reader = GGUFReader(file.name)
        type_ = str(reader.fields["clip.projector_type"].contents())
        family = FAMILIES[type_]
        found = {
            tensor.name: torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            for tensor in reader.tensors
            if tensor.name.startswith("mm.")
        }
        projector = Projector(job.projector.spec, device="meta")
        layout = find_layout(family.layout)
        state = {
            part.theirs: found.pop(family.rename(part.theirs)).reshape(part.stored)
            for part in parts(projector, layout)
        }
        if found:
            raise ExportError(f"tensors that are no projector's: {', '.join(found)}")
        projector.load_state_dict(from_upstream(projector, layout, state), assign=True)
        projector.eval()

        def run(x: Tensor) -> Tensor:
            y: Tensor = projector(x, grid=job.grid)
            return y

        def number(key: str) -> int:
            return int(reader.fields[f"clip.vision.{key}"].contents())

        n = (number("image_size") // number("patch_size")) ** 2
        tokens = job.projector.spec.tokens(*(job.grid or USUAL))
        return Loaded(
            run,
            inputs=(1, n, number("embedding_length")),
            outputs=(1, tokens, number("projection_dim")),
            versions={"gguf": int(reader.fields["GGUF.version"].contents()), "projector": type_},
            notes=tuple(_notes({tensor.name for tensor in reader.tensors})),
            timed=False,
        )


def _notes(names: Collection[str]) -> Iterator[str]:
    yield "it was read back, not run: llama.cpp is no Python package"
    if not any(name.startswith("v.") for name in names):
        yield "llama.cpp runs it with its vision tower only: give the tower's folder"
    if "v.class_embd" in names:
        yield "llama.cpp since May 2025 feeds CLIP's tokens on one place off (its issue 25814)"


def _type_of(projector: Projector) -> str:
    """Return llama.cpp's name for a projector, or say why it has none."""
    spec = projector.spec

    def is_(name: str) -> bool:
        return spec.blocks == spec_of(name, spec.in_, spec.out).blocks

    for type_, family in FAMILIES.items():
        if is_(family.preset):
            return type_
    *names, last = (family.preset for family in FAMILIES.values())
    expected = f"{', '.join(names)} or {last}"
    for name, why in _REASONS.items():
        if is_(name):
            raise ExportError(f"this is {name}, and {why}", "projector", expected)
    raise ExportError("llama.cpp has no name for these blocks", "projector", expected)


def _refuse_tower(tower: Tower, type_: str, width: int) -> None:
    where = str(tower.weights.path)
    if tower.width != width:
        raise ExportError(f"the tower gives {tower.width} channels", where, f"{width}")
    if type_ == "ldp" and tower.eps != EPS:
        raise ExportError(
            f"LayerNorms with an eps of {tower.eps:g}",
            where,
            f"{EPS:g}",
            "llama.cpp would give the projector's norms the tower's eps.",
        )


def _tensors(projector: Projector, type_: str) -> Iterator[tuple[str, Tensor]]:
    family = FAMILIES[type_]
    for key, tensor in to_upstream(projector, family.layout).items():
        if tensor.ndim == 4:  # a 1x1 convolution is a matrix there, a depthwise one (c, k, k)
            tensor = tensor.squeeze(1) if tensor.shape[1] == 1 else tensor.flatten(1)
        yield family.rename(key), tensor


def _add_tensor(writer: GGUFWriter, name: str, tensor: Tensor, weights: str) -> None:
    """Add a tensor: matrices as asked for, kernels as f16, for ggml convolves with no others."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    tensor = tensor.float()
    kind = weights if tensor.ndim == 2 else "f16" if tensor.ndim > 2 else "f32"
    if kind == "q8_0" and (tensor.shape[-1] % 32 or name == "v.position_embd.weight"):
        kind = "f16"  # its blocks are 32 numbers of a row; a table of positions is no matrix
    if kind == "q8_0":
        data = quantize(tensor.numpy(), GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, (tensor.half() if kind == "f16" else tensor).numpy())


def _add_keys(writer: GGUFWriter, job: Job, type_: str, tower: Tower | None) -> None:
    """Add the keys that llama.cpp reads; without a tower those of one that has no layers."""
    spec = job.projector.spec
    h, _ = job.grid or USUAL
    vision: dict[str, int] = {
        "image_size": tower.image if tower else 14 * h,
        "patch_size": tower.patch if tower else 14,
        "embedding_length": spec.in_,
        "feed_forward_length": tower.hidden if tower else 4 * spec.in_,
        "projection_dim": spec.out,
        "block_count": tower.layers if tower else 0,
        "attention.head_count": tower.heads if tower else 1,
    }
    writer.add_type("mmproj")
    writer.add_name(f"{FAMILIES[type_].preset} {spec.in_} -> {spec.out}")
    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[job.weights])
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_text_encoder", False)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_bool("clip.use_gelu", tower.gelu if tower else False)
    writer.add_string("clip.projector_type", type_)
    for key, number in vision.items():
        writer.add_uint32(f"clip.vision.{key}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", tower.eps if tower else EPS)
    writer.add_array("clip.vision.image_mean", tower.mean if tower else [0.5] * 3)
    writer.add_array("clip.vision.image_std", tower.std if tower else [0.5] * 3)
    if tower:
        # Without it llama.cpp stops one layer before the last it has, whatever that is.
        writer.add_array("clip.vision.feature_layer", [tower.feature_layer])
    if job.document:
        writer.add_string("mobilevlm.spec", job.document)


TARGET = Gguf()
