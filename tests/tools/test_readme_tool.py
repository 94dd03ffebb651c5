"""The tool that runs the pages' examples: alone in the README, in turn elsewhere."""

from pathlib import Path

import pytest
from readme import run_alone, run_together

PAGE = """\
# A page

```python
from pathlib import Path

answer = 42
print(Path("there").write_text("x"))
```

```text
{first}```

```python
try:
    print(answer)
except NameError as error:
    print(error)
```

```text
{second}```

```console
$ ls
{third}```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(first="", second="not so\n", third=""))
    return page


def test_in_turn_an_example_sees_what_those_above_it_made(page: Path) -> None:
    expected = {"first": "1\n", "second": "42\n", "third": "examples\nthere\n"}
    assert run_together(page) == PAGE.format(**expected)


def test_alone_it_sees_nothing_of_them(page: Path) -> None:
    expected = {"first": "1\n", "second": "name 'answer' is not defined\n", "third": ""}
    assert run_alone(page) == PAGE.format(**expected)


def test_a_traceback_names_the_line_of_the_page(page: Path) -> None:
    page.write_text("# A page\n\n```python\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run_together(page)
    last = caught.traceback[-1]
    assert (Path(last.path), last.lineno + 1) == (page, 4)


def test_an_output_stands_below_code(page: Path) -> None:
    page.write_text("# A page\n\n```text\n1\n```\n")
    with pytest.raises(ValueError, match="without code before it"):
        run_alone(page)
