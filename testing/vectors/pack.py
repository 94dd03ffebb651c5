"""The files and the manifest's row of one entry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ...blocks.core.block import Block, bodies, label
from ...checkpoints.mapping import to_upstream
from ...checkpoints.names import WEIGHTS
from ...checkpoints.save import weights_and_config
from ...projectors.docstrings import paragraph, paragraphs
from ...projectors.document import dump_spec
from ...projectors.errors import CheckpointError
from ...projectors.projector import Projector
from ...registry import describe_error
from .cases import Case, cases
from .entries import Entry
from .errors import VectorsError
from .mistakes import Wrong, find_mistakes
from .random_numbers import Numbers, fill
from .trace import trace

__all__ = ["MARK", "EntryFiles", "entry_files"]

MARK = "mobilevlm-vectors"
"""The metadata key by which files of test vectors are known."""

_SAMPLE = 64  # values of a wrong output that are kept


@dataclass(frozen=True)
class EntryFiles:
    """What is written of an entry.

    Attributes:
        files: The files, by their paths in the pack.
        row: What the manifest says.
        blocks: What each type of block computes.
        hidden: The mistakes that can be made and show in no case.
    """

    files: Mapping[str, bytes]
    row: Mapping[str, Any]
    blocks: Mapping[str, str]
    hidden: tuple[str, ...]


def entry_files(entry: Entry) -> EntryFiles:
    """Compute the weights, inputs and right and wrong outputs of an entry.

    Raises:
        MobileVLMError: Its projector cannot be built, takes no small grid, or fails on it.
    """
    projector = Projector(entry.stack, grid=entry.grid, dtype="fp32").eval()
    fill(projector.blocks, Numbers(f"weights of {entry.name}"))
    weights, vectors = f"{entry.name}/weights.safetensors", f"{entry.name}/vectors.safetensors"
    files = {weights: weights_and_config(projector)[WEIGHTS]}
    upstream = {}
    for layout, data in _upstream(projector, entry):
        upstream[layout] = f"{entry.name}/upstream-{layout}.safetensors"
        files[upstream[layout]] = data

    tensors = _Tensors()
    rows, hidden, shown = [], dict[str, None](), set[str]()
    modules = [*projector.double().blocks]
    for case in cases(entry, modules):
        row, without_effect = _case(entry.name, case, modules, tensors)
        rows.append(row)
        hidden.update(dict.fromkeys(without_effect))
        shown.update(mistake["name"] for mistake in row["mistakes"])
    files[vectors] = save(tensors.all, {MARK: entry.name})

    preset = entry.preset
    document = json.loads(dump_spec(entry.stack))
    row = {
        "family": entry.family,
        "options": dict(entry.options),
        "in": entry.stack.in_,
        "out": entry.stack.out,
        "grid": None if entry.grid is None else [*entry.grid],  # that it is built for
        "document": document,
        "chain": [
            {
                "path": f"blocks.{place}",
                "type": block["type"],
                "options": {key: value for key, value in block.items() if key != "type"},
            }
            for place, block in enumerate(document["blocks"])
        ],
        "traps": paragraph(type(preset), "Traps"),
        "source": paragraph(type(preset), "Source"),
        "weights": weights,
        "upstream": upstream,
        "vectors": vectors,
        "cases": rows,
    }
    said = {
        label(block): "\n\n".join(paragraphs(type(block))) for block in _all(entry.stack.blocks)
    }
    return EntryFiles(files, row, said, tuple(name for name in hidden if name not in shown))


def _all(blocks: tuple[Block, ...]) -> Iterator[Block]:
    """Yield blocks and those inside them."""
    for block in blocks:
        yield block
        for body in bodies(block).values():
            yield from _all(body)


def _upstream(projector: Projector, entry: Entry) -> Iterator[tuple[str, bytes]]:
    """Yield the weights under upstream's names, by layout: all that fit, of a further entry one."""
    layouts = {each.layout: each.names for each in reversed(type(entry.preset).upstream)}
    for layout in dict.fromkeys(each.layout for each in type(entry.preset).upstream):
        try:
            state = to_upstream(projector, layouts[layout])
        except CheckpointError:  # of other options
            continue
        yield layout, save(state, {MARK: layout})
        if entry.further:
            return


class _Tensors:
    """The tensors of a file; one that is there already gets no second name."""

    def __init__(self) -> None:
        self.all: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def add(self, name: str, tensor: Tensor) -> str:
        """Add a tensor, and return the name that it has."""
        tensor = tensor.contiguous().clone()
        bits = tensor.view(torch.uint8).numpy().tobytes()
        found = self._names.setdefault((tensor.dtype, tensor.shape, bits), name)
        if found == name:
            self.all[name] = tensor
        return found


def _case(
    entry: str, case: Case, modules: list[nn.Module], tensors: _Tensors
) -> tuple[dict[str, Any], list[str]]:
    """Return a case's row, and the names of mistakes that make no difference in it."""
    stored = case.images.x.to(case.dtype)
    images = case.images
    case = replace(case, images=replace(images, x=stored.double()))
    try:
        right = trace(modules, case.images)
    except Exception as error:  # of a plugin's block
        found = f"computing it in fp64 failed: {describe_error(error)}"
        raise VectorsError(found, f"{entry}, case {case.name!r}") from error
    wrong, without_effect = find_mistakes(modules, case, right)
    outputs = [
        {
            "path": path,
            "tensor": tensors.add(f"{case.name}.{path}", y.float()),
            "shape": [*y.shape],
        }
        for path, y in right.items()
    ]
    last = [*right.values()][-1]
    row = {
        "name": case.name,
        "purpose": case.purpose,
        "grids": [[*grid] for grid in images.grids],
        "packed": images.packed,
        "batch": 1 if images.packed else len(stored),
        "token_order": case.stack.token_order,
        "prefix_tokens": images.prefix_tokens,
        "dtype": str(case.dtype).removeprefix("torch."),
        "scale": case.scale,
        "input": tensors.add(f"{case.name}.input", stored),
        "shape": [*stored.shape],
        "outputs": outputs,
        "output": outputs[-1]["tensor"],
        "output_shape": [*(last if images.packed else last.flatten(1, 2)).shape],
        "tolerance": {"relative": case.tolerance.relative, "absolute": case.tolerance.absolute},
        "mistakes": [_mistake(case.name, each, tensors) for each in wrong],
    }
    return row, without_effect


def _mistake(case: str, wrong: Wrong, tensors: _Tensors) -> dict[str, Any]:
    mistake = wrong.mistake
    name = f"{case}.mistakes.{mistake.name}"
    return {
        "name": mistake.name,
        "cause": mistake.cause,
        "kind": mistake.kind,
        "block": wrong.block,
        "at_block": tensors.add(f"{name}.block", _sample(wrong.at_block)),
        "at_output": tensors.add(f"{name}.output", _sample(wrong.at_output)),
        "shape_at_block": [*wrong.at_block.shape],
        "shape_at_output": [*wrong.at_output.shape],
    }


def _sample(y: Tensor) -> Tensor:
    """Return values at places that are evenly spaced, as the checker takes them."""
    where = np.linspace(0, y.numel() - 1, min(_SAMPLE, y.numel())).round().astype(int)
    return y.flatten()[torch.from_numpy(where)].float()
