"""mobilevlm: a zoo and a registry of vision-language projectors, each of them data."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blocks import BLOCKS as BLOCKS
    from .blocks.core.adapt import adapt as adapt
    from .blocks.core.block import Block as Block
    from .blocks.core.block import Blocks as Blocks
    from .blocks.core.errors import GridError as GridError
    from .blocks.core.errors import SpecError as SpecError
    from .blocks.core.fast import fast_paths as fast_paths
    from .blocks.core.feature import Feature as Feature
    from .blocks.core.feature import Width as Width
    from .checkpoints.convert import convert_checkpoint as convert_checkpoint
    from .checkpoints.inspection import inspect_checkpoint as inspect_checkpoint
    from .checkpoints.llava import build_vision_projector as build_vision_projector
    from .checkpoints.load import load_projector as load_projector
    from .checkpoints.mapping import to_upstream as to_upstream
    from .checkpoints.push import push_projector as push_projector
    from .checkpoints.save import save_projector as save_projector
    from .checkpoints.values import inspect_values as inspect_values
    from .compare.comparison import compare_projectors as compare_projectors
    from .export.errors import ExportError as ExportError
    from .export.export import export_projector as export_projector
    from .models.swap import swap_projector as swap_projector
    from .projectors import PROJECTORS as PROJECTORS
    from .projectors.build import build_projector as build_projector
    from .projectors.build import plan_projector as plan_projector
    from .projectors.build import spec_of as spec_of
    from .projectors.document import dump_spec as dump_spec
    from .projectors.document import load_spec as load_spec
    from .projectors.errors import CheckpointError as CheckpointError
    from .projectors.errors import ModelError as ModelError
    from .projectors.nonfinite import NonFiniteError as NonFiniteError
    from .projectors.nonfinite import find_nonfinite as find_nonfinite
    from .projectors.plan import Plan as Plan
    from .projectors.preset import Preset as Preset
    from .projectors.projector import Projector as Projector
    from .projectors.search import list_projectors as list_projectors
    from .projectors.stack import Stack as Stack
    from .projectors.zoo.ldp import LDP as LDP
    from .registry.errors import MobileVLMError as MobileVLMError
    from .registry.errors import RegistryError as RegistryError

# Where each public name lives: loaded on first use, so that importing costs next to nothing. Type
# checkers need the imports above too; a test keeps the two equal.
_HOMES = {
    "BLOCKS": "blocks",
    "LDP": "projectors.zoo.ldp",
    "NonFiniteError": "projectors.nonfinite",
    "PROJECTORS": "projectors",
    "Block": "blocks.core.block",
    "Blocks": "blocks.core.block",
    "CheckpointError": "projectors.errors",
    "ExportError": "export.errors",
    "Feature": "blocks.core.feature",
    "GridError": "blocks.core.errors",
    "MobileVLMError": "registry.errors",
    "ModelError": "projectors.errors",
    "Plan": "projectors.plan",
    "Preset": "projectors.preset",
    "Projector": "projectors.projector",
    "RegistryError": "registry.errors",
    "SpecError": "blocks.core.errors",
    "Stack": "projectors.stack",
    "Width": "blocks.core.feature",
    "adapt": "blocks.core.adapt",
    "build_projector": "projectors.build",
    "build_vision_projector": "checkpoints.llava",
    "compare_projectors": "compare.comparison",
    "convert_checkpoint": "checkpoints.convert",
    "dump_spec": "projectors.document",
    "export_projector": "export.export",
    "fast_paths": "blocks.core.fast",
    "find_nonfinite": "projectors.nonfinite",
    "inspect_checkpoint": "checkpoints.inspection",
    "inspect_values": "checkpoints.values",
    "list_projectors": "projectors.search",
    "load_projector": "checkpoints.load",
    "load_spec": "projectors.document",
    "plan_projector": "projectors.build",
    "push_projector": "checkpoints.push",
    "save_projector": "checkpoints.save",
    "spec_of": "projectors.build",
    "swap_projector": "models.swap",
    "to_upstream": "checkpoints.mapping",
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604

# Functions whose room cannot be imported without what an extra installs. They are here without it
# too, for those who import or list all names, and say what to install when they are called.
_OF_EXTRAS = {"swap_projector"}

# Data that spans rooms. A room never names a higher one, so `blocks` takes from here where its
# built-ins in higher rooms live, and where the registry of projectors is. Nothing is imported for
# it: these are names of modules, which the registry of blocks imports when they are needed.
_BLOCKS_ELSEWHERE = {"preset": "mobilevlm.projectors.nested:NestedPreset"}
_BLOCK_TABLES = ("mobilevlm.zeta.names:ZETA",)
_PROJECTORS = "mobilevlm.projectors:PROJECTORS"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from .registry.requirements import own_version

        value: Any = own_version()
    elif name in _HOMES:
        try:
            value = _load(name)
        except ImportError:
            if name not in _OF_EXTRAS:
                raise
            return functools.partial(_load_and_call, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _load(name: str) -> Any:
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def _load_and_call(name: str, *args: Any, **kwargs: Any) -> Any:
    return _load(name)(*args, **kwargs)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
