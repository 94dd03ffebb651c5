"""ExecuTorch: a program for phones, its linear layers, convolutions and sums run by XNNPACK."""

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
from .door import BATCH, Door
from .errors import ExportError
from .rewrites import with_sliced_merges
from .target import Job, Loaded, Target, Tell

if TYPE_CHECKING:
    from torch.fx import GraphModule

__all__ = ["TARGET"]

MAX_BATCH = 4


class ExecuTorch(Target):
    """``.pte``, lowered to XNNPACK."""

    extra = "executorch"
    packages = ("executorch", "torchao")
    tolerance: ClassVar = {"f32": 1e-5, "int8": 0.1}
    options = ("max_batch",)

    def door(self, door: Door, options: Mapping[str, Any]) -> Door:
        """Bound the free axes: memory is planned for the largest input."""
        most = options.get("max_batch", MAX_BATCH)
        if type(most) is not int or most < 1:
            raise ExportError(quote(most), "max_batch", "a number from 1 on")
        grids = (door.traced, *door.checked)
        home = door.checked[0]
        height, width = (max(2 * home[axis], *(grid[axis] for grid in grids)) for axis in (0, 1))
        tokens = door.prefix + height * width
        longest = {BATCH: most, "height": height, "width": width, "tokens": tokens}
        dims = (1, *door.dims[1:]) if most == 1 else door.dims
        return dataclasses.replace(door, dims=dims, longest=longest)

    def write(self, job: Job, tell: Tell) -> bytes:
        from executorch.backends.xnnpack.partition.config.xnnpack_config import (
            ConfigPrecisionType,
        )
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        door = job.door
        if job.dynamic_grid:
            door = dataclasses.replace(door, module=with_sliced_merges(door.module))
        tell("Tracing")
        program = door.trace()
        partitioners = [XnnpackPartitioner()]
        if job.weights == "int8":
            tell("Quantising")
            program = _quantised(program, door)
            # Apart from the rest: among other operations XNNPACK's reader loses the quantisation
            # of an input that is a sum (1.5.1).
            dynamic = ConfigPrecisionType.DYNAMIC_QUANT
            first = XnnpackPartitioner(config_precisions=dynamic, per_op_mode=True)
            partitioners = [first, *partitioners]
        tell("Lowering to XNNPACK")
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
        door, spec = job.door, job.projector.spec
        counts = {spec.tokens(*grid) for grid in (door.traced, *door.checked)}
        outputs: Dims = (door.dims[0], "tokens" if len(counts) > 1 else counts.pop(), spec.out)
        memory = sum(plan.non_const_buffer_sizes) / 1e6

        method = program.load_method("forward")

        # The method reads the program's memory, and does not keep it.
        def run(x: Tensor, kept: object = program) -> Tensor:
            found: Tensor = method.execute([x])[0]
            return found.clone()

        return Loaded(
            run,
            inputs=_bounded(x, door.dims),
            outputs=_bounded(y, outputs),
            versions={"executorch": version("executorch"), "torch": torch.__version__},
            notes=(f"it sets {memory:.0f} MB aside, for the largest input",),
            threads=portable_lib._threadpool_get_thread_count(),
        )


def _quantised(program: ExportedProgram, door: Door) -> ExportedProgram:
    """Keep the weights of linear layers as int8, per output channel, and quantise what enters."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    # Linear layers alone, which hold nearly all weights: XNNPACK takes convolutions quantised so,
    # and does not run all of them.
    quantizer = XNNPACKQuantizer()
    for kind in (Linear, nn.Linear):  # it looks for the very class, not for what derives from it
        quantizer.set_module_type(kind, config)
    prepared: GraphModule = prepare_pt2e(program.module(), quantizer)
    prepared(door.example(door.batches[0], door.traced))
    return dataclasses.replace(door, module=convert_pt2e(prepared)).trace()


def _bounded(tensor: Any, names: Dims) -> Dims:
    """Return a tensor's axes; the file knows how long a free one may be."""
    from executorch.exir.tensor import TensorShapeDynamism

    if tensor.shape_dynamism == TensorShapeDynamism.STATIC:
        return tuple(tensor.sizes)
    return tuple(
        f"{name}<={size}" if isinstance(name, str) else size
        for name, size in zip(names, tensor.sizes, strict=True)
    )


TARGET = ExecuTorch()
