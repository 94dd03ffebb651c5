"""Names of the floating dtypes; imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

__all__ = ["FLOATS", "count_dtypes", "dtype_name", "short_name"]

# torch's name, then its other names, of which file formats use the first.
FLOATS = {
    "bfloat16": ("bf16",),
    "float16": ("f16", "fp16", "half"),
    "float32": ("f32", "fp32", "float"),
    "float64": ("f64", "fp64", "double"),
}
_NAMES = {other: name for name, others in FLOATS.items() for other in (name, *others)}


def dtype_name(text: str) -> str | None:
    """Return torch's name of a floating dtype from any of its names; None if it is not one.

    >>> dtype_name("bf16"), dtype_name("torch.float16"), dtype_name("FP32"), dtype_name("int8")
    ('bfloat16', 'float16', 'float32', None)
    """
    return _NAMES.get(text.lower().removeprefix("torch."))


def short_name(text: str) -> str:
    """Return the name of a floating dtype in file formats; anything else unchanged.

    >>> short_name("bfloat16"), short_name("half"), short_name("q8_0")
    ('bf16', 'f16', 'q8_0')
    """
    name = dtype_name(text)
    return text if name is None else FLOATS[name][0]


def count_dtypes(dtypes: Iterable[object]) -> str:
    """Return how many tensors are of each dtype, for a message.

    >>> count_dtypes(["torch.float32", "torch.bfloat16", "torch.bfloat16"])
    '1 fp32, 2 bf16'
    """
    names = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    counts = Counter(name.replace("bfloat", "bf").replace("float", "fp") for name in names)
    return ", ".join(f"{count} {name}" for name, count in counts.items())
