"""Each family of the zoo is compared with its original, and its source is where it says."""

import importlib.util
import re
from pathlib import Path

from family_facts import PLAIN, TRANSFORMERS, compared, sources
from index import families


def test_every_family_is_compared_with_something() -> None:
    for name in families():
        references = compared(name)
        assert references, f"no test compares {name} with its original"
        for what in references:
            assert re.fullmatch(rf"`\w+`|golden vectors|(its description in )?{PLAIN}", what), what


def test_every_family_names_its_source() -> None:
    """What is said to be in transformers is there."""
    transformers = importlib.util.find_spec("transformers")
    assert transformers is not None
    assert transformers.origin is not None
    for cls in families().values():
        found = sources(cls)
        assert found
        for source in found:
            if isinstance(source, str) or source["repository"] != TRANSFORMERS:
                continue
            text = (Path(transformers.origin).parent / source["path"]).read_text("utf-8")
            for name in source["names"].replace("`", "").split(", "):
                first, _, method = name.partition(".")
                assert f"\nclass {first}(" in text, name
                assert not method or f"\n    def {method}(" in text, name
