"""Read HTML strictly, to look at what notebooks are given."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["Element", "parse", "unstyled"]


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    inside: list["Element"] = field(default_factory=list)

    def all(self, *tags: str) -> list["Element"]:
        """Return the elements of these tags inside of it, in order."""
        found = [self] if self.tag in tags else []
        return found + [each for inner in self.inside for each in inner.all(*tags)]

    def words(self) -> str:
        return self.text + "".join(inner.words() for inner in self.inside)


class Strict(HTMLParser):
    """Reads elements, each of which has to be closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        assert len(element.attributes) == len(attrs)
        self.open[-1].inside.append(element)
        self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].text += data


def parse(text: str) -> Element:
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.open == [parser.root]
    return parser.root


def unstyled(root: Element) -> None:
    """Check that a page has the colours and fonts of the notebook, and only plain elements."""
    allowed = {"root", "div", "table", "thead", "tbody", "tr", "th", "td", "em", "p"}
    elements = [root]
    for element in elements:
        elements += element.inside
        assert element.tag in allowed
        assert element.attributes.keys() <= {"style", "scope"}
        style = element.attributes.get("style") or ""
        rules = dict(rule.strip().split(": ") for rule in style.split(";") if rule)
        assert rules.pop("color", "inherit") == "inherit"
        assert not {"background", "font-family"} & rules.keys()
