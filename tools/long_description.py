"""Make the links of README.md absolute, for the page that a package index makes of it.

``python tools/long_description.py https://github.com/OWNER/NAME TAG`` rewrites README.md in place:
on an index nothing lies beside it. The release workflow does so before it builds.
"""

import argparse
import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_RELATIVE = r"""(?!\w+:|\#)(?P<path>[^)"\s]+)"""
# Images first: one may stand inside a link.
_KINDS = {
    "raw": re.compile(rf"""(?P<before>!\[[^\]]*\]\(|\b(?:src|srcset)="){_RELATIVE}"""),
    "blob": re.compile(
        rf"""(?P<before>(?<!!)\[(?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*\]\(|\bhref="){_RELATIVE}"""
    ),
}


def absolute(text: str, repository: str, tag: str) -> str:
    """Return Markdown whose relative links lead to a tag of a repository on GitHub.

    >>> absolute("[a](docs/zoo.md#ldp), ![b](c.svg), [d](#e)", "https://github.com/O/N", "v1.0.0")
    '[a](https://github.com/O/N/blob/v1.0.0/docs/zoo.md#ldp), ![b](https://github.com/O/N/raw/v1.0.0/c.svg), [d](#e)'
    """  # noqa: E501

    def prose(text: str) -> str:
        for kind, target in _KINDS.items():
            text = target.sub(rf"\g<before>{repository}/{kind}/{tag}/\g<path>", text)
        return text

    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [prose(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, prose(text[end:])])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the links of README.md absolute.")
    parser.add_argument("repository", metavar="ADDRESS")
    parser.add_argument("tag", metavar="TAG")
    options = parser.parse_args()
    text = README.read_text("utf-8")
    README.write_text(absolute(text, options.repository, options.tag), "utf-8")
