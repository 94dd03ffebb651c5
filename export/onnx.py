"""ONNX: one file, for onnxruntime and for the many tools that start from it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..registry import quote
from .axes import renamed, symbols_of
from .errors import ExportError
from .rewrites import with_exact_pools
from .target import Job, Loaded, Target, Tell

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["TARGET"]

OPSETS = range(18, 24)
OPSET = 20
DOCUMENT = "mobilevlm"
_WIDEST = 64
_LIMIT = 2_000_000_000  # bytes; a protobuf message holds 2^31, the graph among them


class Onnx(Target):
    """``.onnx``. The document lies in its metadata as ``mobilevlm``."""

    extra = "onnx"
    packages = ("onnx", "onnxruntime", "onnxscript")
    tolerance: ClassVar = {"f32": 1e-5, "int8": 0.1}
    options = ("opset",)

    def refuse(self, job: Job) -> None:
        opset = job.options.get("opset", OPSET)
        if opset not in OPSETS:
            raise ExportError(
                quote(opset),
                "opset",
                f"{OPSETS[0]} to {OPSETS[-1]}",
                "Asked for a lower one, PyTorch's exporter may write 18 without a word.",
            )
        size = sum(4 * parameter.numel() for parameter in job.projector.parameters())
        if size > _LIMIT:
            raise ExportError(
                f"weights of {size / 1e9:.1f} GB", "projector", "at most 2 GB, in one ONNX file"
            )

    def write(self, job: Job, tell: Tell) -> bytes:
        import onnx

        door = job.door
        if job.dynamic_grid:
            door = dataclasses.replace(door, module=with_exact_pools(door.module))
        tell("Tracing")
        program = door.trace()
        tell("Converting to ONNX")
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=job.options.get("opset", OPSET),
            input_names=["x"],
            output_names=["y"],
            verbose=False,
        )
        model = converted.model_proto  # type: ignore[union-attr]
        _tidy(model, symbols_of(program, door.dims))
        if job.document:
            onnx.helper.set_model_props(model, {DOCUMENT: job.document})
        if job.weights == "int8":
            tell("Quantising")
            model = _quantised(model)
        data: bytes = model.SerializeToString()
        return data

    def load(self, job: Job, data: bytes) -> Loaded:
        import onnx
        import onnxruntime

        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
        _refuse_saturation(model)
        [opset] = [entry.version for entry in model.opset_import if not entry.domain]
        if opset != job.options.get("opset", OPSET):
            raise ExportError(f"the exporter wrote opset {opset}", "opset", "the one asked for")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # see time_ratio
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

        def run(x: Tensor) -> Tensor:
            [y] = session.run(["y"], {"x": x.numpy()})
            return torch.from_numpy(y)

        return Loaded(
            run,
            inputs=tuple(session.get_inputs()[0].shape),
            outputs=tuple(session.get_outputs()[0].shape),
            versions={"opset": opset, "ir": model.ir_version, "torch": torch.__version__},
        )


def _tidy(model: ModelProto, symbols: Mapping[str, str]) -> None:
    """Name the free axes, and drop the exporter's notes, which hold paths of this machine."""
    graph = model.graph
    for value in chain(graph.input, graph.output, graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = renamed(dim.dim_param, symbols)
    for noted in chain(
        [model, graph], graph.node, graph.input, graph.output, graph.value_info, graph.initializer
    ):
        del noted.metadata_props[:]


def _quantised(model: ModelProto) -> ModelProto:
    """Keep the weights of linear layers as int8, per output channel, and quantise what enters.

    Of 7 bits, so that the sums are the same on every processor. Those of unsigned weights are too,
    with 8 bits and an error about a sixth smaller, but take onnxruntime twice as long with VNNI.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:  # it writes to a path alone
        path = Path(folder, "p.onnx")
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load_model(path)


def _refuse_saturation(model: ModelProto) -> None:
    """Refuse int8 weights whose sums depend on the processor.

    Without VNNI, x86-64 adds the products of two pairs of u8 and s8 in 16 bits, where larger sums
    stick at the ends: 2 * 255 * 64 fits, 2 * 255 * 65 does not.

    Raises:
        ExportError: It says which weights.
    """
    import onnx

    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8:
            largest = int(abs(onnx.numpy_helper.to_array(tensor).astype("int16")).max(initial=0))
            if largest > _WIDEST:
                raise ExportError(
                    f"int8 weights of up to {largest}",
                    tensor.name,
                    f"at most {_WIDEST}",
                    "Larger ones give other sums on processors without VNNI.",
                )


TARGET = Onnx()
