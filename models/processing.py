"""The classes of processors that count as a projector does, made when asked for.

``MobileVLMSmolVLMProcessor`` is a subclass of transformers' ``SmolVLMProcessor``, and so on for
each row of ``hosts`` whose own processor cannot be told by an attribute of its own.
"""

from __future__ import annotations

import functools
from typing import Any

from ..projectors.stack import Stack
from .host import KEY, PREFIX, Host
from .hosts import HOSTS, counter_of
from .saved import PROCESSING, write_code
from .upstream import load_class

__all__ = ["SwappedProcessor", "processor_class"]


class SwappedProcessor:
    """What the processors add: the projector's document, by which they count.

    Attributes:
        mobilevlm: ``{"document": ..., "grid": [h, w]}``; the grid is None where images differ.
    """

    mobilevlm: dict[str, Any]

    @functools.cached_property
    def stack(self) -> Stack:
        """The projector's specification."""
        return Stack.parse(self.mobilevlm["document"])

    def per_tile(self) -> int:
        """Return how many tokens one image, or one tile of it, takes."""
        return self.stack.tokens(*self.mobilevlm["grid"])

    def to_dict(self) -> dict[str, Any]:
        """Add the document, and ``auto_map`` for ``trust_remote_code=True``."""
        data: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        if KEY not in self.__dict__:  # transformers logs what it has made before it is given it
            return data
        auto_map = {"AutoProcessor": f"{PROCESSING}.{type(self).__name__}"}
        return {**data, KEY: self.mobilevlm, "auto_map": auto_map}

    def to_json_file(self, json_file_path: Any) -> None:
        """Write the file, and beside it the code that ``auto_map`` names."""
        super().to_json_file(json_file_path)  # type: ignore[misc]
        write_code(json_file_path, PROCESSING, [type(self).__name__])

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Keep the document: transformers passes on only what ``__init__`` takes by position."""
        rest = {key: value for key, value in processor_dict.items() if key != KEY}
        made = super().from_args_and_dict(args, rest, **kwargs)  # type: ignore[misc]
        processor = made[0] if isinstance(made, tuple) else made
        processor.mobilevlm = processor_dict[KEY]
        return made

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoProcessor") -> None:
        """Do nothing: transformers would copy this file beside the weights."""


def processor_class(host: Host) -> type:
    """Return the class of the processor of swapped models: upstream's, where that counts right."""
    base: type = load_class(host.processor)
    mixin = counter_of(host).mixin
    return base if mixin is None else _processor_class(mixin, base)


@functools.cache
def _processor_class(mixin: type, base: type) -> type:
    name = PREFIX + base.__name__
    doc = f"``{base.__name__}`` that counts as the projector of its config does."
    space = {"__module__": __name__, "__qualname__": name, "__doc__": doc}
    return type(name, (mixin, base), space)


def __getattr__(name: str) -> Any:
    for host in HOSTS.values():
        if name == PREFIX + host.processor and counter_of(host).mixin is not None:
            return processor_class(host)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
