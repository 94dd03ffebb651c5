"""What is known of a class of transformers that holds a projector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["KEY", "PREFIX", "TYPE_PREFIX", "Host"]

KEY = "mobilevlm"  # of the configs of models and processors: the projector's document
PREFIX = "MobileVLM"  # of the names of classes whose projector has been swapped
TYPE_PREFIX = "mobilevlm-"  # of their model types


@dataclass(frozen=True, kw_only=True)
class Host:
    """One class of transformers: where its projector stands, and what happens around it.

    Attributes:
        model_type: Its model type.
        tower: The model type of its vision tower, in a further row for a class that calls its
            projector in another way with this tower.
        names: What the names of its classes begin with; ``Llava`` of ``LlavaConfig``.
        slot: Where its projector stands in the base model.
        form: How the model calls its projector, a class of ``forms``: ``module:Class``.
        processor: The class of its processor.
        counter: How its processor counts, a class of ``counters``: ``module:Class``.
        length: Fields of its config, and of its processor, that say how many tokens an image, or
            a tile of it, takes.
        switches: Fields of its config, with the values that switch off what the model does to
            the features before its projector.
    """

    model_type: str
    tower: str = ""
    names: str
    slot: str = "multi_modal_projector"
    form: str = "tokens:Tokens"
    processor: str
    counter: str
    length: tuple[str, ...] = ()
    switches: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def config(self) -> str:
        """The name of its config class."""
        return f"{self.names}Config"

    @property
    def base(self) -> str:
        """The name of its class without a head."""
        return f"{self.names}Model"

    @property
    def head(self) -> str:
        """The name of its class that generates text."""
        return f"{self.names}ForConditionalGeneration"
