"""ExecuTorch: a program for phones; XNNPACK runs its linear layers, convolutions and sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..blocks.core.linear import Linear
from ..registry import quote
from .axes import Dims
from .errors import ExportError
from .formats import Format, Job, Loaded, ProgressCallback
from .rewrites import with_exact_gelus, with_sliced_merges
from .signature import BATCH, ExportSignature

if TYPE_CHECKING:
    from torch.fx import GraphModule

__all__ = ["FORMAT"]

MAX_BATCH = 4


class ExecuTorch(Format):
    """``.pte``, lowered to XNNPACK."""

    extra = "executorch"
    packages = ("executorch", "torchao")
    tolerance: ClassVar = {"f32": 1e-5, "int8": 0.1}
    options = ("max_batch",)

    def restrict(self, signature: ExportSignature, options: Mapping[str, Any]) -> ExportSignature:
        """Bound the free axes: memory is planned for the largest input."""
        max_batch = options.get("max_batch", MAX_BATCH)
        if type(max_batch) is not int or max_batch < 1:
            raise ExportError(quote(max_batch), "max_batch", "an integer of at least 1")
        grids = (signature.traced, *signature.checked)
        home = signature.checked[0]
        height, width = (max(2 * home[axis], *(grid[axis] for grid in grids)) for axis in (0, 1))
        tokens = signature.prefix_tokens + height * width
        max_sizes = {BATCH: max_batch, "height": height, "width": width, "tokens": tokens}
        dims = (1, *signature.dims[1:]) if max_batch == 1 else signature.dims
        return dataclasses.replace(signature, dims=dims, max_sizes=max_sizes)

    def write(self, job: Job, report_progress: ProgressCallback) -> bytes:
        from executorch.backends.xnnpack.partition.config.xnnpack_config import (
            ConfigPrecisionType,
        )
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        module = with_exact_gelus(job.signature.module)
        if job.dynamic_grid:
            module = with_sliced_merges(module)
        signature = dataclasses.replace(job.signature, module=module)
        report_progress("Tracing")
        program = signature.trace()
        partitioners = [XnnpackPartitioner()]
        if job.weights == "int8":
            report_progress("Quantising")
            program = _quantised(program, signature)
            # A partition of their own: next to other operations XNNPACK's reader loses the
            # quantisation of an input that is a sum (1.5.1).
            dynamic = ConfigPrecisionType.DYNAMIC_QUANT
            first = XnnpackPartitioner(config_precisions=dynamic, per_op_mode=True)
            partitioners.insert(0, first)
        report_progress("Lowering to XNNPACK")
        lowered = to_edge_transform_and_lower(program, partitioner=partitioners)
        data: bytes = lowered.to_executorch().buffer
        return data

    def load(self, job: Job, data: bytes) -> Loaded:
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(data)
        plan = deserialize_pte_binary(data).program.execution_plan[0]
        x, y = (plan.values[values[0]].val for values in (plan.inputs, plan.outputs))
        signature, spec = job.signature, job.projector.spec
        counts = {spec.tokens(*grid) for grid in (signature.traced, *signature.checked)}
        outputs: Dims = (signature.dims[0], "tokens" if len(counts) > 1 else counts.pop(), spec.out)
        memory = sum(plan.non_const_buffer_sizes) / 1e6

        method = program.load_method("forward")

        # The method reads the program's memory but does not keep the program alive.
        def run(x: Tensor, program: object = program) -> Tensor:
            y: Tensor = method.execute([x])[0]
            return y.clone()

        return Loaded(
            run,
            inputs=_bounded(x, signature.dims),
            outputs=_bounded(y, outputs),
            versions={"executorch": version("executorch"), "torch": torch.__version__},
            notes=(f"it reserves {memory:.0f} MB of memory, for the largest input",),
            threads=portable_lib._threadpool_get_thread_count(),
        )


def _quantised(program: ExportedProgram, signature: ExportSignature) -> ExportedProgram:
    """Store the weights of linear layers as int8 per output channel, and quantise their inputs."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    # Only linear layers, which hold nearly all weights: XNNPACK accepts convolutions quantised like
    # this but does not run all of them.
    quantizer = XNNPACKQuantizer()
    for kind in (Linear, nn.Linear):  # it matches the exact class, not subclasses
        quantizer.set_module_type(kind, config)
    prepared: GraphModule = prepare_pt2e(program.module(), quantizer)
    prepared(signature.example(signature.batches[0], signature.traced))
    return dataclasses.replace(signature, module=convert_pt2e(prepared)).trace()


def _bounded(tensor: Any, names: Dims) -> Dims:
    """Return a tensor's axes, with the limit that the file sets for each free one."""
    from executorch.exir.tensor import TensorShapeDynamism

    if tensor.shape_dynamism == TensorShapeDynamism.STATIC:
        return tuple(tensor.sizes)
    return tuple(
        f"{name}<={size}" if isinstance(name, str) else size
        for name, size in zip(names, tensor.sizes, strict=True)
    )


FORMAT = ExecuTorch()
