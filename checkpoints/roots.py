"""Where in a model's keys a module's tensors stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Roots"]


class Roots:
    """The roots in a model's keys: what stands before a tensor, empty or ending with a dot.

    >>> roots = Roots(["m.fc.weight", "m.fc.bias", "fc.weight"])
    >>> roots.of("fc.weight"), roots.of_all(["fc.weight", "fc.bias"])
    (['m.', ''], ['m.'])

    Args:
        keys: The keys.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = list(keys)
        self._known = set(self._keys)
        # By the number of dots in a tensor's name, so that many names cost one pass over the keys.
        self._by_dots: dict[int, dict[str, list[str]]] = {}

    def of(self, tensor: str) -> list[str]:
        """Return the roots at which a tensor stands, in the order of the keys."""
        dots = tensor.count(".")
        if dots not in self._by_dots:
            table: dict[str, list[str]] = {}
            for key in self._keys:
                parts = key.rsplit(".", dots + 1)
                if len(parts) > dots:
                    root = f"{parts[0]}." if len(parts) > dots + 1 else ""
                    table.setdefault(key[len(root) :], []).append(root)
            self._by_dots[dots] = table
        return self._by_dots[dots].get(tensor, [])

    def of_all(self, tensors: Sequence[str]) -> list[str]:
        """Return the roots at which all of some tensors stand."""
        return [root for root in self.of(tensors[0]) if self.hold(root, tensors)]

    def hold(self, root: str, tensors: Iterable[str]) -> bool:
        """Return whether all of some tensors stand at a root."""
        return all(root + tensor in self._known for tensor in tensors)
