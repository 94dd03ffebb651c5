"""An MLP with a gate before its last layer."""

from __future__ import annotations

from mobilevlm import Preset, Stack
from mobilevlm.projectors.upstream import Checkpoint, Match, Upstream

from .gate import Gate

__all__ = ["GatedMlp"]


def _read(checkpoint: Checkpoint) -> Match:
    """Return the widths and the options of a projector, from its tensors and its config."""
    out, in_ = checkpoint.matrix("fc1.weight")
    return Match(in_, out, {"bias": "fc1.bias" in checkpoint.shapes})


class GatedMlp(Preset):
    """Linear, GELU, gate, linear, on every token; ``(b, n, in) -> (b, n, out)``.

    Attributes:
        bias: Whether the linear layers and the gate have biases.
    """

    bias: bool = True

    def expand(self, in_: int, out: int) -> Stack:
        """Return the four blocks: mobilevlm's as in a document, our own as an instance."""
        linear = {"type": "pointwise", "bias": self.bias}
        gelu = {"type": "norm-act", "norm": "none", "act": "gelu"}
        blocks = [linear, gelu, Gate(bias=self.bias), linear]
        return Stack.parse({"in": in_, "out": out, "blocks": blocks})

    # How the model that it comes from saves it: load_projector then reads that model's folders.
    upstream = (
        Upstream(
            "gated-mlp",
            ("fc1", "gate", "fc2"),  # the modules that hold parameters, in order of use
            prefix="gated_projector",
            read=_read,
            model_types=("acme_blocks",),  # of its config.json
        ),
    )
