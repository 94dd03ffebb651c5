"""A model's config, whatever holds it: a mapping, an object, a model or a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import MAX_WIDTH, Grid
from ..registry import quote
from .json_file import JsonReader

__all__ = ["ModelConfig", "open_config", "token_grid"]

_FILE = "config.json"
_READER = JsonReader(SpecError, 16_000_000, hint="Download it again.")


class ModelConfig:
    """The values of a config, and errors that say where they were looked for.

    Args:
        source: A mapping, or an object that has the keys as attributes.
        where: What messages call it: ``tower``, a path, ``tower.vision_config``.
        defaults: What stands for keys that it leaves out.
    """

    def __init__(
        self, source: object, where: str, defaults: Mapping[str, object] | None = None
    ) -> None:
        self.source = source
        self.where = where
        self._defaults = defaults or {}

    def with_defaults(self, defaults: Mapping[str, object]) -> ModelConfig:
        """Return the same config with what stands for keys that it leaves out."""
        return ModelConfig(self.source, self.where, defaults)

    def completed(self, defaults: Mapping[str, object]) -> ModelConfig:
        """Return the same config with values for keys that are not there; null is a value too."""
        there = self.source if isinstance(self.source, Mapping) else dir(self.source)
        missing = {key: value for key, value in defaults.items() if key not in there}
        return self.with_defaults({**missing, **self._defaults})

    @property
    def model_type(self) -> str:
        """What it says that the model is; empty if it does not say."""
        found = self.get("model_type")
        return found if isinstance(found, str) else ""

    def get(self, key: str) -> Any:
        """Return the value of a key, or what stands for it; None if there is neither."""
        if isinstance(self.source, Mapping):
            value = self.source.get(key)
        else:
            value = getattr(self.source, key, None)
        return self._defaults.get(key) if value is None else value

    def child(self, *keys: str) -> ModelConfig | None:
        """Return the config under the first of these keys that is there, if one is."""
        for key in keys:
            value = self.get(key)
            if value is not None:
                return ModelConfig(_checked(value, where := f"{self.where}.{key}"), where)
        return None

    def layer(self, index: int) -> ModelConfig:
        """Return the config of one layer, for which ``per_layer_config`` may say other things.

        Raises:
            SpecError: It is there, and is no mapping of layers to what they change.
        """
        layers = self.get("per_layer_config")
        if layers is None:
            return self
        if not isinstance(self.source, Mapping):  # each layer's config, with what it changes
            return ModelConfig(layers[index], self.where, self._defaults)
        changes = layers.get(str(index), {}) if isinstance(layers, Mapping) else layers
        if not isinstance(changes, Mapping):
            where = f"{self.where}.per_layer_config"
            raise SpecError(quote(changes), where, "a mapping of layers to mappings")
        return self.with_changes(changes)

    def with_changes(self, changes: Mapping[str, object]) -> ModelConfig:
        """Return the same config with other values of some keys."""
        source = self.source if isinstance(self.source, Mapping) else vars(self.source)
        return ModelConfig({**source, **changes}, self.where, self._defaults)

    def width(self, *keys: str) -> int:
        """Return the number under the first of these keys that is there.

        Raises:
            SpecError: None is, or it is no number from 1 to `MAX_WIDTH`.
        """
        for key in keys:
            if (value := self.get(key)) is not None:
                return self._number(value, key)
        raise self.missing(*keys)

    def count(self, *keys: str) -> int:
        """Return the number under the first of these keys that is there; 0 if none is.

        Raises:
            SpecError: It is no number from 0 to 1024.
        """
        key = next((key for key in keys if self.get(key) is not None), None)
        if key is None:
            return 0
        value = self.get(key)
        if type(value) is int and 0 <= value <= 1024:
            return value
        raise SpecError(quote(value), f"{self.where}.{key}", "a number from 0 to 1024")

    def ratio(self, key: str) -> float:
        """Return the number under a key, which need not be whole.

        Raises:
            SpecError: It is no number above 0, up to 64.
        """
        value = self.get(key)
        if type(value) not in (int, float) or not 0 < value <= 64:
            raise SpecError(quote(value), f"{self.where}.{key}", "a number above 0, up to 64")
        return float(value)

    def items(self, key: str, least: int = 0) -> Sequence[Any]:
        """Return the list under a key.

        Raises:
            SpecError: It is missing, or is no list of `least` to 100 items.
        """
        items = self.get(key)
        if items is None:
            raise self.missing(key)
        if not isinstance(items, list | tuple) or not least <= len(items) <= 100:
            expected = f"a list of {least} to 100 items"
            raise SpecError(quote(items), f"{self.where}.{key}", expected)
        return items

    def widths(self, key: str) -> list[int]:
        """Return the list of numbers under a key.

        Raises:
            SpecError: It is missing, or is no such list.
        """
        return [self._number(value, key) for value in self.items(key, 1)]

    def sides(self, key: str) -> Grid:
        """Return the height and width under a key, of which one number means both.

        Raises:
            SpecError: It is missing, or is neither one number nor two.
        """
        value = self.get(key)
        if isinstance(value, list | tuple):
            if len(value) != 2:
                raise SpecError(quote(value), f"{self.where}.{key}", "a number, or two")
            return self._number(value[0], key), self._number(value[1], key)
        side = self.width(key)
        return side, side

    def missing(self, *keys: str) -> SpecError:
        """Return the error of a config that has none of these keys."""
        of = f" in a config of model type {quote(self.model_type)}" if self.model_type else ""
        found = f"no {' or '.join(map(repr, keys))}{of}"
        return SpecError(found, self.where, hint="Give the widths by hand: in_=1024, out=2048.")

    def _number(self, value: object, key: str) -> int:
        if type(value) is int and 1 <= value <= MAX_WIDTH:
            return value
        raise SpecError(quote(value), f"{self.where}.{key}", f"a number from 1 to {MAX_WIDTH}")


def open_config(source: object, argument: str) -> ModelConfig:
    """Return the config that an argument gives.

    Args:
        source: A mapping; an object with the keys as attributes; a model that has its config as
            ``config``; or the path of a model's folder or of its ``config.json``.
        argument: The argument's name, for messages.

    Raises:
        SpecError: It is none of these, or the file cannot be read.
    """
    if not isinstance(source, str | os.PathLike):
        own = None if isinstance(source, Mapping) else getattr(source, "config", None)
        return ModelConfig(_checked(source if own is None else own, argument), argument)
    if source == "":
        raise SpecError("empty", argument, _EXPECTED)
    path = Path(source)
    try:
        if path.is_dir():
            path /= _FILE
    except (OSError, ValueError):  # too long for a path, or with a NUL
        raise SpecError(quote(str(source)), argument, _EXPECTED) from None
    hint = f"{argument} is the path of a model's folder, with a {_FILE}; nothing is downloaded."
    return ModelConfig(_READER.read(path, missing=hint), str(path))


_EXPECTED = "a config, a mapping, or the path of a model's folder"


def _checked(value: object, where: str) -> object:
    """Return what can be a config: not a number, a text or a list."""
    if value is None or isinstance(value, bool | int | float | str | bytes | list | tuple | set):
        raise SpecError(quote(value), where, _EXPECTED)
    return value


def token_grid(image: Sequence[int], patch: Grid, *, whole: bool) -> Grid | None:
    """Return how many patches an image has in height and width.

    Args:
        image: The height and width of the image, in pixels.
        patch: Those of a patch.
        whole: Whether to return None for a part of a patch at the border, which some towers that
            halve their grid several times drop and some pad; other towers drop it.
    """
    if whole and (image[0] % patch[0] or image[1] % patch[1]):
        return None
    return image[0] // patch[0], image[1] // patch[1]
