"""Write what configs of transformers may leave out, for `mobilevlm.compare`.

python tools/config_defaults.py           # write compare/defaults.json
python tools/config_defaults.py --check   # fail if it is out of date
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import torchvision_operators

torchvision_operators.declare()

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from mobilevlm import SpecError
from mobilevlm.compare import lm_families, vision_families
from mobilevlm.compare.defaults import DEFAULTS
from mobilevlm.compare.lm import read_lm
from mobilevlm.compare.vision import vision_cost
from mobilevlm.projectors.model_config import ModelConfig


def config_class(model_type: str) -> Any:
    return transformers.CONFIG_MAPPING[model_type]


@contextmanager
def asked(into: set[str]) -> Iterator[None]:
    """Note each key that is asked of a config."""
    plain = ModelConfig.get

    def get(self: ModelConfig, key: str) -> Any:
        into.add(key)
        return plain(self, key)

    ModelConfig.get = get  # type: ignore[method-assign]
    try:
        yield
    finally:
        ModelConfig.get = plain  # type: ignore[method-assign]


def raw(model_type: str) -> dict[str, Any]:
    """Return the values that a class has for its keys, before it works out others from them."""
    found = {}
    for field in fields(config_class(model_type)):
        if field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
        elif field.default is not MISSING:
            found[field.name] = field.default
    return found


def models() -> dict[str, dict[str, Any]]:
    """Return the values that the classes of all types have for whatever is asked of any of them."""
    readers: dict[str, Callable[[Any], object]] = dict.fromkeys(lm_families.FAMILIES, read_lm)
    readers |= dict.fromkeys(vision_families.FAMILIES, lambda x: vision_cost(x, (16, 16)))
    keys: set[str] = set()
    with asked(keys):
        for kind, read in readers.items():
            for values in (raw(kind), config_class(kind)().to_dict()):
                with suppress(SpecError):
                    read({**values, "model_type": kind})
    keys -= {"model_type"}
    return {
        kind: {k: v for k, v in raw(kind).items() if k in keys and v is not None}
        for kind in sorted(readers)
    }


def hosts() -> dict[str, dict[str, Any]]:
    """Return the language models of all whole models with a tower."""
    found: dict[str, dict[str, Any]] = {}
    known = {*lm_families.FAMILIES, *lm_families.REFUSED}
    for kind in sorted(CONFIG_MAPPING_NAMES):  # its own, not what others have registered
        try:
            config = config_class(kind)()
        except Exception:  # some cannot be made without arguments
            continue
        text = getattr(config, "text_config", None)
        if text is None or not {"vision_config", "audio_config"} & set(config.sub_configs):
            continue
        if text.model_type in known:
            found[kind] = {"text": text.model_type}
            with suppress(AttributeError):  # it holds a whole language model, which says so itself
                found[kind]["tie_word_embeddings"] = config.tie_word_embeddings
    return found


def text() -> str:
    """Return the text of the file: one line for each type."""
    parts = []
    for name, table in {"models": models(), "hosts": hosts()}.items():
        rows = ",\n".join(f"{json.dumps(kind)}: {json.dumps(row)}" for kind, row in table.items())
        parts.append(f'"{name}": {{\n{rows}\n}}')
    return "{" + ",\n".join(parts) + "}\n"


def main() -> None:
    """Write the file, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if not given.check:
        DEFAULTS.write_text(text(), "utf-8")
    elif DEFAULTS.read_text("utf-8") != text():
        parser.exit(1, f"{DEFAULTS} is out of date: run python tools/config_defaults.py\n")


if __name__ == "__main__":
    main()
