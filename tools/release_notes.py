"""Print what CHANGELOG.md says of a release; fail where its tag is not the version.

python tools/release_notes.py v0.2.0
"""

import argparse
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(tag: str, version: str, changelog: str) -> str:
    """Return the section of a version.

    Raises:
        SystemExit: The tag is not ``v`` and the version, or the changelog has no such version.
    """
    if tag != f"v{version}":
        raise SystemExit(f"the tag is {tag}; pyproject.toml says version {version}")
    heading = rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)"
    section = re.search(heading, changelog, re.MULTILINE | re.DOTALL)
    if section is None:
        raise SystemExit(f"CHANGELOG.md has no dated section of {version}")
    return section[1].strip() + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print what the changelog says of a release.")
    parser.add_argument("tag", metavar="TAG")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    print(notes(parser.parse_args().tag, version, changelog), end="")
