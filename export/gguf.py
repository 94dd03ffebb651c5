"""GGUF: llama.cpp's mmproj file, with the projector alone or with its vision tower.

Of the projectors that llama.cpp computes, three are written: ``mlp`` (`mlp2x_gelu`), ``ldp``
(`ldpnet`) and ``ldpv2`` (`ldpnetv2`). Tensors keep upstream's layout and are
renamed; none is transposed.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..blocks.core.feature import Grid
from ..checkpoints.mapping import find_layout, from_upstream, parts, to_upstream
from ..checkpoints.save import DOCUMENT
from ..projectors.build import spec_of
from ..projectors.projector import Projector
from ..projectors.stack import Stack
from .errors import ExportError
from .formats import Format, Job, Loaded, ProgressCallback
from .gguf_tower import VisionTower, read_vision_tower
from .signature import DEFAULT_GRID, ExportSignature

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["FORMAT"]

LDPNET_EPS = 1e-5  # llama.cpp uses the tower's eps instead


@dataclass(frozen=True)
class _Projector:
    """A projector that llama.cpp computes, and that is written for it.

    Attributes:
        preset: The name of our preset.
        layout: The layout of upstream's weights.
        rename: Maps upstream's key to llama.cpp's.
    """

    preset: str
    layout: str
    rename: Callable[[str], str]


# By llama.cpp's name.
_PROJECTORS = {
    "mlp": _Projector("mlp2x_gelu", "mlp", lambda key: f"mm.{key}"),
    "ldp": _Projector("ldpnet", "ldpnet", lambda key: f"mm.model.{key}"),
    "ldpv2": _Projector("ldpnetv2", "ldpnetv2", lambda key: f"mm.model.{key.partition('.')[2]}"),
}
_TWO_LAYERS = "llama.cpp's mlp has two linear layers with a GELU between them"
_REASONS = {
    "linear": "llama.cpp adds a GELU after a single linear layer",
    **{f"mlp{depth}x_gelu": _TWO_LAYERS for depth in range(3, 9)},
    "ldp": "llama.cpp's ldp is the projector released with MobileVLM v1, ldpnet",
}


_KEY = f"{DOCUMENT}.spec"


class Gguf(Format):
    """``.gguf``. Its metadata key ``mobilevlm.spec`` is the document."""

    extra = "gguf"
    packages = ("gguf",)
    tolerance: ClassVar = {"f16": torch.float16, "f32": 5e-3, "q8_0": 0.1}
    options = ("tower",)
    free = False
    # The length of the key, the key, and the type of its value, a string.
    mark = len(_KEY).to_bytes(8, "little") + _KEY.encode() + (8).to_bytes(4, "little")

    def grid(self, grid: Grid | None, options: Mapping[str, Any]) -> Grid:
        if "tower" not in options:
            return grid or DEFAULT_GRID
        side = read_vision_tower(options["tower"]).side
        if grid not in (None, (side, side)):
            found = f"{grid[0]}x{grid[1]}, but the tower gives {side}x{side}"
            raise ExportError(found, "grid", "the same")
        return side, side

    def restrict(self, signature: ExportSignature, options: Mapping[str, Any]) -> ExportSignature:
        return dataclasses.replace(signature, dims=(1, *signature.dims[1:]))

    def refuse(self, job: Job) -> None:
        projector = job.projector
        type_ = _type_of(projector)
        h, w = job.signature.traced
        if type_ != "mlp" and (h, w) != DEFAULT_GRID:
            hint = f"llama.cpp's {type_} only supports that grid."
            raise ExportError(f"{h}x{w}", "grid", "24x24", hint)
        if h != w:
            raise ExportError(f"{h}x{w}", "grid", "a square grid, as llama.cpp requires")
        prefix = projector.spec.prefix_tokens
        if prefix > 1:
            hint = "llama.cpp drops the CLS token and no others."
            raise ExportError(f"{prefix}", "prefix_tokens", "0 or 1", hint)
        if type_ != "mlp" and projector.spec.token_order != "raster":
            raise ExportError("tokens in block-major order", "token_order", "'raster'")
        if "tower" in job.options:
            _refuse_tower(read_vision_tower(job.options["tower"]), type_, projector.spec)

    def write(self, job: Job, report_progress: ProgressCallback) -> bytes:
        from gguf import GGUFWriter

        type_ = _type_of(job.projector)
        tower = read_vision_tower(job.options["tower"]) if "tower" in job.options else None
        writer = GGUFWriter(None, "clip")
        _add_keys(writer, job, type_, tower)
        report_progress("Encoding the projector")
        for name, tensor in _tensors(job.projector, type_):
            _add_tensor(writer, name, tensor, job.weights)
        if tower is not None:
            report_progress("Encoding the vision tower")
            for name, tensor in tower.tensors():
                _add_tensor(writer, name, tensor, job.weights)
        # GGUFWriter writes tensors to a file descriptor, never to memory.
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
        """Read the file back into a projector; llama.cpp has no Python package that could run it.

        tests/extras/export runs it in llama.cpp where that is installed.
        """
        from gguf import GGUFReader
        from gguf.quants import dequantize

        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:  # GGUFReader maps a named file
            file.write(data)
            file.flush()
            reader = GGUFReader(file.name)
        type_ = str(reader.fields["clip.projector_type"].contents())
        llama = _PROJECTORS[type_]
        found = {
            tensor.name: torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            for tensor in reader.tensors
            if tensor.name.startswith("mm.")
        }
        projector = Projector(job.projector.spec, device="meta")
        layout = find_layout(llama.layout)
        state = {
            part.theirs: found.pop(llama.rename(part.theirs)).reshape(part.stored)
            for part in parts(projector, layout)
        }
        if found:
            raise ExportError(f"tensors that do not belong to the projector: {', '.join(found)}")
        projector.load_state_dict(from_upstream(projector, layout, state), assign=True)
        projector.eval()

        tower = job.options.get("tower")
        notes = () if tower is None else read_vision_tower(tower).notes

        def number(key: str) -> int:
            return int(reader.fields[f"clip.vision.{key}"].contents())

        n = (number("image_size") // number("patch_size")) ** 2
        tokens = job.projector.spec.tokens(*job.signature.traced)
        return Loaded(
            partial(projector, grid=job.signature.traced),
            inputs=(1, n, number("embedding_length")),
            outputs=(1, tokens, number("projection_dim")),
            versions={"gguf": int(reader.fields["GGUF.version"].contents()), "projector": type_},
            notes=(*_notes({tensor.name for tensor in reader.tensors}), *notes),
            timed=False,
        )


def _notes(names: Collection[str]) -> Iterator[str]:
    yield "it was read back, not run: llama.cpp is not a Python package"
    if not any(name.startswith("v.") for name in names):
        yield "llama.cpp only runs it together with its vision tower: pass the tower's folder"
    if "v.class_embd" in names:
        yield "since May 2025 llama.cpp passes on CLIP's tokens shifted by one (its issue 25814)"


def _type_of(projector: Projector) -> str:
    """Return llama.cpp's name for a projector; the error says why it is not written."""
    spec = projector.spec

    def is_(name: str) -> bool:
        return spec.blocks == spec_of(name, spec.in_, spec.out).blocks

    for type_, llama in _PROJECTORS.items():
        if is_(llama.preset):
            return type_
    reasons = (f"this is {name}; {why}" for name, why in _REASONS.items() if is_(name))
    found = next(reasons, "")
    hint = "" if found else "Of a whole model, llama.cpp's convert_hf_to_gguf.py --mmproj may."
    found = found or "we do not write these blocks to GGUF yet"
    raise ExportError(found, "projector", "mlp2x_gelu, ldpnet or ldpnetv2", hint)


def _refuse_tower(tower: VisionTower, type_: str, spec: Stack) -> None:
    where = str(tower.weights.path)
    if tower.width != spec.in_:
        raise ExportError(f"the tower gives {tower.width} channels", where, f"{spec.in_}")
    if spec.prefix_tokens and not tower.class_token:
        found = f"{spec.prefix_tokens}, but the tower has no class token"
        raise ExportError(found, "prefix_tokens", "0", "llama.cpp would not drop a patch.")
    if type_ == "ldp" and tower.eps != LDPNET_EPS:
        hint = "llama.cpp would use the tower's eps for the projector's norms."
        found = f"LayerNorms with an eps of {tower.eps:g}"
        raise ExportError(found, where, f"{LDPNET_EPS:g}", hint)


def _tensors(projector: Projector, type_: str) -> Iterator[tuple[str, Tensor]]:
    llama = _PROJECTORS[type_]
    for key, tensor in to_upstream(projector, llama.layout).items():
        # There a 1x1 convolution is a matrix, and a depthwise kernel is (c, k, k).
        if tensor.ndim == 4:
            tensor = tensor.squeeze(1) if tensor.shape[1] == 1 else tensor.flatten(1)
        yield llama.rename(key), tensor


def _add_tensor(writer: GGUFWriter, name: str, tensor: Tensor, weights: str) -> None:
    """Add a tensor: matrices as requested, kernels as f16, the only type ggml convolves with."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    tensor = tensor.float()
    kind = weights if tensor.ndim == 2 else "f16" if tensor.ndim > 2 else "f32"
    if kind == "q8_0" and (tensor.shape[-1] % 32 or name == "v.position_embd.weight"):
        kind = "f16"  # blocks are 32 numbers of a row; positions are not multiplied
    if kind == "q8_0":
        data = quantize(tensor.numpy(), GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, (tensor.half() if kind == "f16" else tensor).numpy())


def _add_keys(writer: GGUFWriter, job: Job, type_: str, tower: VisionTower | None) -> None:
    """Add the keys that llama.cpp reads; without a tower, those of a tower with no layers."""
    spec = job.projector.spec
    h, _ = job.signature.traced
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
    writer.add_name(f"{_PROJECTORS[type_].preset} {spec.in_} -> {spec.out}")
    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[job.weights])
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_text_encoder", False)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_bool("clip.use_gelu", tower.gelu if tower else False)
    writer.add_string("clip.projector_type", type_)
    for key, number in vision.items():
        writer.add_uint32(f"clip.vision.{key}", number)
    eps = tower.eps if tower else LDPNET_EPS
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", eps)
    writer.add_array("clip.vision.image_mean", tower.mean if tower else [0.5] * 3)
    writer.add_array("clip.vision.image_std", tower.std if tower else [0.5] * 3)
    if tower:
        # Without it llama.cpp stops one layer before the file's last layer.
        writer.add_array("clip.vision.feature_layer", [tower.feature_layer])
    if job.document:
        writer.add_string(_KEY, job.document)


FORMAT = Gguf()
