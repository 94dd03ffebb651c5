"""What a checkpoint holds, worked out without reading a weight."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..blocks.core.dtypes import count_dtypes
from ..projectors.document import parse_spec
from ..projectors.matching import matching_preset
from ..projectors.stack import Stack
from ..registry import MobileVLMError
from .connectors import connectors
from .errors import CheckpointError
from .formats.exported import exported_document
from .hub import is_hub
from .known import Known
from .load import open_projector, other_roots
from .request import ModuleNames, Request, Spec
from .weights import Weights

__all__ = ["Inspection", "inspect_checkpoint", "inspect_known"]


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint holds, worked out without reading a weight.

    Attributes:
        path: The file or folder; of a model on a hub its URI, with the commit.
        family: The preset's name; ``document`` where the file itself holds the specification.
        spec: The specification.
        dtype: The weights' dtype; where they have several, how many have which:
            ``mixed: 2 fp32, 4 bf16``. Empty for an export.
        root: What stands before the projector's keys.
        used: The keys that are the projector's.
        left: How many other tensors there are.
        others: Where other projectors are: the roots that `load_projector` takes.
        layout: What `to_upstream` calls the naming of its keys; empty for a document.
        export: ``GGUF`` or ``ONNX`` for a file of `export_projector`, of which only the document is
            read; else empty.
        unknown: Other modules whose names are those of connectors, which no family describes.
        notes: What contradicts, or may be missing, in sentences without an end.
    """

    path: str
    family: str
    spec: Stack
    dtype: torch.dtype | str
    root: str
    used: tuple[str, ...]
    left: int
    others: tuple[str, ...] = ()
    layout: str = ""
    export: str = ""
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The family; of a document also the name that means the same, ``document (mlp)``."""
        name = matching_preset(self.spec) if self.family == "document" else ""
        return f"{self.family} ({name})" if name else self.family

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "path": self.path,
            "family": self.family,
            "layout": self.layout,
            "in": self.spec.in_,
            "out": self.spec.out,
            "dtype": str(self.dtype).removeprefix("torch.") or None,
            "export": self.export,
            "root": self.root,
            "used": list(self.used),
            "left": self.left,
            "others": list(self.others),
            "unknown": list(self.unknown),
            "notes": list(self.notes),
            "spec": self.spec.model_dump(mode="json"),
        }

    def __str__(self) -> str:
        if self.export:
            widths = f"{self.spec.in_} -> {self.spec.out}"
            return f"{self.path}: {self.title}, {widths}, an export to {self.export}"
        dtype = str(self.dtype).removeprefix("torch.")
        lines = [f"another under {root!r}" for root in self.others]
        lines += [f"a module that is not known under {root!r}" for root in self.unknown]
        lines += [f"note: {note}" for note in self.notes]
        place = f"under {self.root!r}" if self.root else "without a prefix"
        return (
            f"{self.path}: {self.title}, {self.spec.in_} -> "
            f"{self.spec.out}, {dtype}, {len(self.used)} tensors {place}, {self.left} others left"
            + "".join(f"\n  {line}" for line in lines)
        )


def inspect_checkpoint(
    path: str | os.PathLike[str],
    *,
    root: str | None = None,
    family: str | None = None,
    spec: Spec | None = None,
    module_names: ModuleNames | None = None,
    grid: Sequence[int] | None = None,
    prefix_tokens: int | None = None,
    token_order: str | None = None,
    tokens: int | None = None,
    **options: Any,
) -> Inspection:
    """Work out which projector a checkpoint holds; reads headers and config, no weights.

    Args are those of `load_projector`. Of a ``.gguf`` or ``.onnx`` file of `export_projector` the
    document is read.

    Raises:
        CheckpointError: It cannot be read, or holds no projector that is known.
        GridError: The grid is none.
        RegistryError: There is no such family, or its plugin is broken.
        SpecError: The document or an option does not fit.
    """
    request = Request.of(
        root=root,
        family=family,
        spec=spec,
        module_names=module_names,
        grid=grid,
        prefix_tokens=prefix_tokens,
        token_order=token_order,
        tokens=tokens,
        options=options,
    )
    export, document = ("", "") if is_hub(path) else exported_document(Path(path))
    if document:
        try:
            stack = parse_spec(document, "document")
        except MobileVLMError as error:
            place = f"{error.where}: " if error.where else ""
            found = f"its document does not fit: {place}{error.found}"
            raise CheckpointError(found, str(path), error.expected, error.hint) from error
        return Inspection(str(path), "document", stack, "", "", (), 0, export=export)
    weights, known = open_projector(path, request)
    return inspect_known(weights, known)


def inspect_known(weights: Weights, known: Known) -> Inspection:
    """Say what a recognised projector is, and what stands beside it."""
    used = known.used
    dtypes = [weights.stored(key).dtype for key in used]
    floats = [dtype for dtype in dtypes if dtype.is_floating_point]
    dtype: torch.dtype | str = floats[0] if floats else torch.get_default_dtype()
    if len(set(floats)) > 1:
        dtype = f"mixed: {count_dtypes(floats)}"
    others = other_roots(weights, known)
    beside = [key for root in others for key in weights.under(root)]
    return Inspection(
        weights.where,
        known.family,
        known.projector.spec,
        dtype,
        known.root,
        tuple(map(weights.key_in_file, used)),
        len(weights.keys) - len(used),
        others,
        known.layout,
        unknown=tuple(connectors(weights.keys, {*used, *beside})),
        notes=known.notes,
    )
