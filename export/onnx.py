"""ONNX: one file, for onnxruntime and the many tools that read ONNX."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..checkpoints.save import DOCUMENT
from ..registry import quote
from .axes import rename_symbols, symbols_of
from .errors import ExportError
from .formats import Format, Job, Loaded, ProgressCallback
from .rewrites import with_exact_pools

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["FORMAT"]

OPSETS = range(18, 24)
OPSET = 20
_MAX_INT8 = 64
_MAX_BYTES = 2_000_000_000  # a protobuf message holds 2^31, including the graph


class Onnx(Format):
    """``.onnx``. Its metadata property ``mobilevlm`` is the document."""

    extra = "onnx"
    packages = ("onnx", "onnxruntime", "onnxscript")
    tolerance: ClassVar = {"f32": 1e-5, "f16": torch.float16, "int8": 0.1}
    options = ("opset",)
    mark = b"\x0a\x09%b\x12" % DOCUMENT.encode()  # the key of a property, and its value's tag

    def dtype(self, weights: str) -> torch.dtype:
        return torch.float16 if weights == "f16" else torch.float32

    def refuse(self, job: Job) -> None:
        opset = job.options.get("opset", OPSET)
        if opset not in OPSETS:
            hint = "For a lower one PyTorch's exporter may silently write 18."
            raise ExportError(quote(opset), "opset", f"{OPSETS[0]} to {OPSETS[-1]}", hint)
        size = sum(parameter.nbytes for parameter in job.projector.parameters())
        if size > _MAX_BYTES:
            found = f"weights of {size / 1e9:.1f} GB"
            raise ExportError(found, "projector", "at most 2 GB, in one ONNX file")

    def write(self, job: Job, report_progress: ProgressCallback) -> bytes:
        import onnx

        signature = job.signature
        if job.dynamic_grid:
            signature = dataclasses.replace(signature, module=with_exact_pools(signature.module))
        report_progress("Tracing")
        program = signature.trace()
        report_progress("Converting to ONNX")
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=job.options.get("opset", OPSET),
            input_names=["x"],
            output_names=["y"],
            verbose=False,
        )
        model = converted.model_proto  # type: ignore[union-attr]
        _clean(model, symbols_of(program, signature.dims))
        if job.document:
            onnx.helper.set_model_props(model, {DOCUMENT: job.document})
        if job.weights == "int8":
            report_progress("Quantising")
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


def _clean(model: ModelProto, symbols: Mapping[str, str]) -> None:
    """Name the free axes, and drop the exporter's metadata, which contains local paths."""
    graph = model.graph
    for value in chain(graph.input, graph.output, graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = rename_symbols(dim.dim_param, symbols)
    for annotated in chain(
        [model, graph], graph.node, graph.input, graph.output, graph.value_info, graph.initializer
    ):
        del annotated.metadata_props[:]


def _quantised(model: ModelProto) -> ModelProto:
    """Store the weights of linear layers as int8 per output channel, and quantise their inputs.

    The weights use 7 bits, so that sums are the same on every processor. Unsigned weights of 8 bits
    would be too, with about a sixth less error, but take onnxruntime twice as long with VNNI.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:  # it only writes to a path
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

    Without VNNI, x86-64 adds two products of u8 and s8 in 16 bits, where larger sums saturate:
    2 * 255 * 64 fits, 2 * 255 * 65 does not.

    Raises:
        ExportError: Some weights are too large.
    """
    import onnx

    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8:
            largest = int(abs(onnx.numpy_helper.to_array(tensor).astype("int16")).max(initial=0))
            if largest > _MAX_INT8:
                hint = "Larger ones give different sums on processors without VNNI."
                found = f"int8 weights of up to {largest}"
                raise ExportError(found, tensor.name, f"at most {_MAX_INT8}", hint)


FORMAT = Onnx()
