"""The checker of test vectors, on small packs written by hand."""

import ast
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from mobilevlm.testing.vectors import check
from mobilevlm.testing.vectors.check import Pack, compare, read_tensors, summarise

SOURCE = Path(check.__file__)
Array = Any


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


def sample(y: Array) -> Array:
    places = np.linspace(0, y.size - 1, min(64, y.size)).round().astype(int)
    return np.ascontiguousarray(y.ravel()[places])


SQUARE = {
    "input": random(2, 16, 9, seed=1),
    "blocks.0": random(2, 4, 4, 9, seed=2),
    "blocks.1": random(2, 4, 4, 9, seed=3),
    "blocks.2": random(2, 2, 2, 36, seed=4),
}
PACKED = {"input": random(20, 9), "blocks.0": random(20, 9, seed=5), "blocks.1": random(20, 9)}
PACKED["blocks.2"] = random(5, 36, seed=6)
# A mistake of blocks.1 and one of blocks.2, and one that leaves a token too many.
EPS = {
    "block": SQUARE["blocks.1"] + random(2, 4, 4, 9, seed=8),
    "output": SQUARE["blocks.2"] + random(2, 2, 2, 36),
}
POOL = {"block": SQUARE["blocks.2"] - 0.1 * random(2, 2, 2, 36, seed=9)}
POOL["output"] = POOL["block"]
CLASS = {"block": random(2, 1, 17, 9), "output": random(2, 1, 5, 36)}
MISTAKES = {
    "eps": ("eps 1e-3 where it is 1e-5", "blocks.1", EPS),
    "pool": ("the largest value of a window, not its mean", "blocks.2", POOL),
    "class-token-left-in": ("the class token is not dropped", "blocks.0", CLASS),
}


def case(name: str, values: dict[str, Array], tensors: dict[str, Array], **facts: Any) -> Any:
    """Return a case's part of the manifest, and add its tensors."""
    tensors.update({f"{name}.{path}": value for path, value in values.items()})
    mistakes = []
    for kind, (cause, block, wrong) in MISTAKES.items() if name == "square" else ():
        row: dict[str, Any] = {"name": kind, "kind": kind, "cause": cause, "block": block}
        for at, value in wrong.items():
            tensors[f"{name}.{kind}.{at}"] = sample(value)
            row |= {f"at_{at}": f"{name}.{kind}.{at}", f"shape_at_{at}": [*value.shape]}
        mistakes.append(row)
    paths = [path for path in values if path != "input"]
    return {
        "name": name,
        "purpose": f"The {name} one.",
        "packed": name == "packed",
        "token_order": "raster",
        "prefix_tokens": 0,
        "dtype": "float32",
        "input": f"{name}.input",
        "outputs": [{"path": path, "tensor": f"{name}.{path}"} for path in paths],
        "output": f"{name}.{paths[-1]}",
        "tolerance": {"relative": 1e-5, "absolute": 1e-9},
        "mistakes": mistakes,
        **facts,
    }


def entry() -> tuple[dict[str, Any], dict[str, Array]]:
    """Return an entry's part of the manifest, and its tensors."""
    tensors: dict[str, Array] = {}
    facts = {
        "in": 9,
        "out": 36,
        "options": {"merge": 2},
        "traps": "The norm comes first.",
        "weights": "toy/weights.safetensors",
        "upstream": {"org": "toy/upstream-org.safetensors"},
        "vectors": "toy/vectors.safetensors",
        "chain": [
            {"path": "blocks.0", "type": "pointwise", "options": {"bias": True}},
            {"path": "blocks.1", "type": "norm-act", "options": {"norm": "layer", "eps": 1e-05}},
            {"path": "blocks.2", "type": "patch-merge", "options": {"order": "hwc"}},
        ],
        "cases": [
            case("square", SQUARE, tensors, grids=[[4, 4]]),
            case("packed", PACKED, tensors, grids=[[4, 2], [2, 6]]),
        ],
    }
    return facts, tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pack."""
    facts, tensors = entry()
    pack = tmp_path / "pack"
    (pack / "toy").mkdir(parents=True)
    manifest = {"format": 1, "mobilevlm": "0.1.0", "entries": {"toy": facts}}
    (pack / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    safetensors.numpy.save_file(tensors, pack / "toy/vectors.safetensors")
    weights = {"blocks.0.weight": random(9, 9)}
    safetensors.numpy.save_file(weights, pack / "toy/weights.safetensors")
    upstream = {"proj.weight": random(9, 9)}
    safetensors.numpy.save_file(upstream, pack / "toy/upstream-org.safetensors")
    return pack


@pytest.fixture
def square(folder: Path) -> check.Case:
    return Pack(folder)["toy"].cases["square"]


@pytest.fixture
def packed(folder: Path) -> check.Case:
    return Pack(folder)["toy"].cases["packed"]


# ---------------------------------------------------------------------- imports


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def test_it_imports_numpy_and_the_standard_library_only() -> None:
    tree = ast.parse(SOURCE.read_text("utf-8"), feature_version=(3, 9))
    others = {name.partition(".")[0] for name in imported(tree)} - sys.stdlib_module_names
    assert others == {"numpy"}


def test_it_runs_where_there_is_nothing_but_numpy(folder: Path, tmp_path: Path) -> None:
    """A finder of modules refuses all that comes neither with Python nor with numpy."""
    copy = folder / "check.py"
    copy.write_bytes(SOURCE.read_bytes())
    outputs(tmp_path / "out", square=SQUARE, packed=PACKED)
    code = (
        "import runpy, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] not in {*sys.stdlib_module_names, 'numpy'}:\n"
        "            raise ModuleNotFoundError(f'refused: {name}')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"sys.argv = ['check.py', 'check', {str(tmp_path / 'out')!r}]\n"
        f"runpy.run_path({str(copy)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.endswith("2 of 2 cases are right; 1 of 1 entries compared\n")
    refused = code.replace("import runpy", "import runpy, json").replace("'numpy'", "'none'")
    done = subprocess.run([sys.executable, "-c", refused], capture_output=True, text=True)
    assert "refused: numpy" in done.stderr  # so the finder does refuse


# ---------------------------------------------------------------------- comparing


def outputs(folder: Path, **cases: dict[str, Array]) -> None:
    """Write a candidate's files."""
    (folder / "toy").mkdir(parents=True)
    for name, values in cases.items():
        given = {path: value for path, value in values.items() if path != "input"}
        given.setdefault("output", given["blocks.2"])
        safetensors.numpy.save_file(given, folder / f"toy/{name}.safetensors")


def test_what_is_right(square: check.Case, packed: check.Case) -> None:
    assert list(square.expected) == ["blocks.0", "blocks.1", "blocks.2", "output"]
    np.testing.assert_array_equal(square.input, SQUARE["input"])
    right = SQUARE["blocks.2"]
    for shape in ((2, 2, 2, 36), (2, 4, 36), (8, 36), (288,)):
        result = compare(square, {"output": right.reshape(shape)})
        assert (result.ok, result.error, result.causes) == (True, 0.0, ())
    assert compare(packed, {"output": PACKED["blocks.2"]}).ok
    near = right * (1 + np.float32(1e-6))
    result = compare(square, {"output": near, "blocks.0": SQUARE["blocks.0"]})
    assert result.ok
    assert result.error == pytest.approx(1e-6, rel=0.1)


def test_the_tolerance_is_of_the_largest_value(square: check.Case) -> None:
    largest = np.abs(SQUARE["blocks.2"]).max()
    for share, ok in ((0.99e-5, True), (1.01e-5, False)):
        output = SQUARE["blocks.2"].astype(float)
        output[0, 0, 0, 0] += share * largest
        assert compare(square, {"output": output}).ok is ok


def test_the_first_block_that_differs_is_named(square: check.Case) -> None:
    wrong = SQUARE["blocks.1"].copy()
    wrong[1, 2, 3, 4] += 1
    given = {"output": SQUARE["blocks.2"] + 1, "blocks.1": wrong, "blocks.0": SQUARE["blocks.0"]}
    result = compare(square, given)
    at = SQUARE["blocks.1"][1, 2, 3, 4]
    assert (result.ok, result.path) == (False, "blocks.1")
    assert result.problem == (
        "1 of 288 values differ (only images 1; tokens 11; channels 4), most at image 1, row 2, "
        f"column 3, channel 4: {at + 1:.4g} where {at:.4g} is expected; relative error "
        f"{1 / np.abs(SQUARE['blocks.1']).max():.1e}, allowed 1e-05"
    )


def test_with_the_output_alone_more_is_asked_for(square: check.Case, packed: check.Case) -> None:
    result = compare(square, {"output": SQUARE["blocks.2"] + 1})
    assert result.problem.endswith(
        "allowed 1e-05. Give what leaves each block too, to see which is the first."
    )
    result = compare(packed, {"output": PACKED["blocks.2"][:3]})
    assert result.problem == (
        "shape [3, 36] where [5, 36] is expected. Give what leaves each block too, to see which is "
        "the first."
    )
    wrong = PACKED["blocks.2"].copy()
    wrong[3, 7] = np.inf
    result = compare(packed, {"output": wrong, "blocks.1": PACKED["blocks.1"]})
    assert result.problem == (
        "1 of 180 values differ (only tokens 3; channels 7), most at token 3, channel 7: inf where "
        f"{PACKED['blocks.2'][3, 7]:.4g} is expected; relative error nan, allowed 1e-05"
    )
    assert result.error is None


def test_names_that_the_case_does_not_have(square: check.Case) -> None:
    result = compare(square, {"output": SQUARE["blocks.2"], "block.0": random(2)})
    assert (result.ok, result.ignored) == (True, ["block.0"])
    result = compare(square, {"out": SQUARE["blocks.2"], "blocks.0": SQUARE["blocks.0"]})
    assert (result.ok, result.problem) == (False, "there is no 'output' among ['blocks.0', 'out']")


# ---------------------------------------------------------------------- causes


def first(result: check.Result) -> tuple[str, str]:
    assert not result.ok
    return result.causes[0].kind, result.causes[0].text


def test_a_stored_mistake_is_named(square: check.Case) -> None:
    result = compare(square, {"output": EPS["output"], "blocks.0": SQUARE["blocks.0"]})
    assert first(result) == ("eps", "eps 1e-3 where it is 1e-5 (explains 100%)")
    result = compare(square, {"output": EPS["output"], "blocks.1": EPS["block"]})
    assert result.path == "blocks.1"
    assert first(result) == ("eps", "eps 1e-3 where it is 1e-5 (explains 100%)")


def test_a_mistake_of_another_size_is_named(square: check.Case) -> None:
    right = SQUARE["blocks.2"]
    output = right + 0.1 * (EPS["output"] - right)
    text = "eps 1e-3 where it is 1e-5 (explains 100%, at 0.1 times its size)"
    assert first(compare(square, {"output": output})) == ("eps", text)
    opposite = right - 0.1 * (EPS["output"] - right)
    assert compare(square, {"output": opposite}).causes == []


def test_a_mistake_of_another_shape_is_named(square: check.Case) -> None:
    result = compare(square, {"output": CLASS["output"]})
    kind, text = "class-token-left-in", "the class token is not dropped (explains 100%)"
    assert first(result) == (kind, text)
    assert first(compare(square, {"output": CLASS["output"][:, 0]})) == (kind, text)


def test_mistakes_before_the_last_right_block_are_not_named(square: check.Case) -> None:
    given = {"output": EPS["output"], "blocks.1": SQUARE["blocks.1"]}
    assert compare(square, given).causes == []
    result = compare(square, {**given, "output": POOL["output"]})
    text = "the largest value of a window, not its mean (explains 100%)"
    assert first(result) == ("pool", text)


def rounded(values: Array, dtype: torch.dtype) -> Array:
    return torch.from_numpy(values).to(dtype).float().numpy()


def to_blocks(y: Array, s: int) -> Array:
    b, h, w, c = y.shape
    return y.reshape(b, h // s, s, w // s, s, c).swapaxes(2, 3).reshape(y.shape)


def from_blocks(y: Array, s: int) -> Array:
    b, h, w, c = y.shape
    return y.reshape(b, h // s, w // s, s, s, c).swapaxes(2, 3).reshape(y.shape)


def moved(y: Array) -> Array:
    return y[:, [1, 0, 2, 3]][:, :, [2, 1, 0, 3]]


FIRST = SQUARE["blocks.0"]
EXTRA = random(2, 3, 9, seed=7)
TOKENS = FIRST.reshape(2, 16, 9)
START = SQUARE["input"].reshape(2, 4, 4, 9)
SEEN: dict[str, tuple[Array, str, str]] = {
    "zeros": (0 * FIRST, "zeros", "all values are zero: nothing was written (explains 100%)"),
    "map": (
        FIRST.transpose(0, 3, 1, 2),
        "layout",
        "right values in another layout: (b, c, h, w) (explains 100%)",
    ),
    "sequence first": (
        TOKENS.transpose(1, 0, 2),
        "layout",
        "right values in another layout: (n, b, c) (explains 100%)",
    ),
    "scale": (
        FIRST * 0.125,
        "scale",
        "all values are 0.125 times what they should be (explains 100%)",
    ),
    "transposed": (
        FIRST.swapaxes(1, 2),
        "transposed",
        "the tokens are in another order, column by column (explains 100%)",
    ),
    "block-major": (
        to_blocks(FIRST, 2),
        "raster-for-block-major",
        "the tokens are in another order, block by block (2x2) where they should come row by row "
        "(explains 100%)",
    ),
    "images": (
        FIRST[::-1],
        "image-order",
        "the images are in another order: image 0 is what image 1 should be (explains 100%)",
    ),
    "tokens": (
        moved(FIRST),
        "token-order",
        "the tokens are in another order: token 0 is what token 6 should be (explains 100%)",
    ),
    "channels": (
        FIRST[..., [0, 3, 6, 1, 4, 7, 2, 5, 8]],
        "channel-order",
        "the channels are in another order: channel 1 is what channel 3 should be (explains 100%)",
    ),
    "a token before": (
        np.concatenate([EXTRA[:, :1], TOKENS], 1),
        "class-token-left-in",
        "+1 tokens at the beginning, +0 at the end (explains 100%)",
    ),
    "tokens after": (
        np.concatenate([TOKENS, EXTRA], 1),
        "extra-tokens",
        "+0 tokens at the beginning, +3 at the end (explains 100%)",
    ),
    "the first is missing": (
        TOKENS[:, 1:],
        "class-token-dropped-twice",
        "-1 tokens at the beginning, +0 at the end (explains 100%)",
    ),
    "the last are missing": (
        TOKENS[:, :-2],
        "extra-tokens",
        "+0 tokens at the beginning, -2 at the end (explains 100%)",
    ),
    "another activation": (
        FIRST * (FIRST > 0),
        "activation-added",
        "a ReLU follows (explains 100%)",
    ),
    "an activation": (
        torch.nn.functional.gelu(torch.from_numpy(FIRST)).numpy(),
        "activation-added",
        "a GELU or the like follows (explains 99%)",
    ),
    "a residual": (
        FIRST + START,
        "residual-added",
        "the block's input is added to what comes out (explains 100%)",
    ),
    "no residual": (
        FIRST - START,
        "residual-forgotten",
        "the block's input is not added (explains 100%)",
    ),
    "no block": (
        START,
        "block-forgotten",
        "the block did nothing: this is its input (explains 100%)",
    ),
    "the last token dropped": (
        np.concatenate([EXTRA[:, :1], TOKENS[:, :-1]], 1),
        "class-token-last",
        "+1 tokens at the beginning, -1 at the end (explains 100%)",
    ),
    "stored in bfloat16": (
        rounded(FIRST, torch.bfloat16),
        "half-precision",
        "the values are rounded to bfloat16 (explains 100%)",
    ),
    "stored in float16": (
        rounded(FIRST, torch.float16),
        "half-precision",
        "the values are rounded to float16 (explains 100%)",
    ),
    "computed in float16": (
        FIRST * (1 + 3e-4 * random(*FIRST.shape)),
        "half-precision",
        "the error is as large as that of float16 or TF32",
    ),
    "computed in bfloat16": (
        FIRST * (1 + 3e-3 * random(*FIRST.shape)),
        "half-precision",
        "the error is as large as that of bfloat16",
    ),
    "not written": (
        np.where(FIRST > 2, np.nan, FIRST),
        "not-finite",
        "7 values are NaN or infinite: a division by zero (an eps left out), or memory that was "
        "not written",
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_what_the_values_show_without_a_stored_mistake(name: str, square: check.Case) -> None:
    output, *cause = SEEN[name]
    result = compare(square, {"blocks.0": output, "output": SQUARE["blocks.2"]})
    assert result.path == "blocks.0"
    assert first(result) == tuple(cause)


def test_random_values_have_no_cause(square: check.Case) -> None:
    assert compare(square, {"output": random(2, 2, 2, 36, seed=8)}).causes == []
    assert compare(square, {"output": random(7, 5)}).causes == []
    assert compare(square, {"output": random(7, 36)}).causes == []
    assert compare(square, {"output": np.zeros((0, 36))}).causes == []
    assert compare(square, {"output": np.float32(1)}).causes == []


def with_case(folder: Path, expected: dict[str, Array], **facts: Any) -> check.Case:
    """Return a case beside those of the pack."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    tensors = dict(read_tensors(folder / "toy/vectors.safetensors"))
    facts = {"grids": [[4, 6]], **facts}
    manifest["entries"]["toy"]["cases"].append(case("more", expected, tensors, **facts))
    safetensors.numpy.save_file(tensors, folder / "toy/vectors.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return Pack(folder)["toy"].cases["more"]


def test_the_order_of_tokens_where_sides_differ(folder: Path) -> None:
    y = random(1, 4, 6, 9)
    more = with_case(folder, {"input": y, "blocks.0": y})
    texts = {
        "column by column": y.swapaxes(1, 2),
        "as if the grid were (w, h)": y.reshape(1, 6, 4, 9).swapaxes(1, 2),
        "block by block (2x2) where they should come row by row": to_blocks(y, 2),
        "as if they came block by block (2x2), and they came row by row": from_blocks(y, 2),
    }
    for text, found in texts.items():
        cause = first(compare(more, {"output": found}))
        assert cause[1] == f"the tokens are in another order, {text} (explains 100%)"
    # Nor does it need the grid in the shape.
    more = with_case(folder, {"input": y, "blocks.0": y.reshape(1, 24, 9)})
    assert first(compare(more, {"output": y.swapaxes(1, 2)}))[0] == "transposed"


def test_the_order_of_tokens_of_packed_images(packed: check.Case) -> None:
    first_image, second = PACKED["blocks.0"][:8], PACKED["blocks.0"][8:]
    wrong = np.concatenate(
        [
            to_blocks(first_image.reshape(1, 4, 2, 9), 2).reshape(8, 9),
            to_blocks(second.reshape(1, 2, 6, 9), 2).reshape(12, 9),
        ]
    )
    assert first(compare(packed, {"blocks.0": wrong}))[0] == "raster-for-block-major"
    swapped = np.concatenate([second, first_image])
    text = "the tokens are in another order: token 0 is what token 8 should be (explains 100%)"
    assert first(compare(packed, {"blocks.0": swapped})) == ("token-order", text)


def test_a_pattern_is_seen_through_other_small_differences(square: check.Case) -> None:
    noisy = FIRST.swapaxes(1, 2) * (1 + 0.01 * random(*FIRST.shape))
    kind, text = first(compare(square, {"blocks.0": noisy}))
    assert (kind, text) == (
        "transposed",
        "the tokens are in another order, column by column (explains 99%)",
    )


def test_a_mistake_made_for_one_image_is_named(square: check.Case) -> None:
    output = EPS["output"].copy()
    output[0] = SQUARE["blocks.2"][0]
    text = "eps 1e-3 where it is 1e-5 (explains 90%)"
    assert first(compare(square, {"output": output})) == ("eps", text)


def test_what_is_said_of_packed_images_where_nothing_is_seen(packed: check.Case) -> None:
    result = compare(packed, {"output": PACKED["blocks.2"] + random(5, 36)})
    text = "if only packed images are wrong, they are mixed up"
    assert first(result) == ("packed", text)


def test_half_precision_is_no_mistake_where_it_is_asked(folder: Path) -> None:
    y = random(2, 4, 6, 9)
    limits = {"relative": 1e-5, "absolute": 0}
    more = with_case(folder, {"input": y, "blocks.0": y}, dtype="bfloat16", tolerance=limits)
    assert compare(more, {"output": rounded(y, torch.bfloat16)}).causes == []


def test_an_overflow_of_float16(folder: Path) -> None:
    y = 300 * random(1, 4, 6, 9)
    more = with_case(folder, {"input": y, "blocks.0": y})
    largest = float(np.abs(y).max())
    found = y.copy()
    found[0, 0, 0, :2] = np.inf, np.nan
    assert first(compare(more, {"output": found})) == (
        "half-precision",
        f"2 values are NaN or infinite: float16 overflows: values reach {largest:.3g}, their "
        f"squares {largest**2:.3g}",
    )


def test_packed_images_are_mixed_up_only_if_no_other_case_is_wrong() -> None:
    packed = check.Result("packed", "wrong", causes=[check.Cause("packed", "mixed up", 0.3)])
    assert [each.kind for each in summarise([packed, check.Result("square")])] == ["packed"]
    assert summarise([packed, check.Result("square", "wrong")]) == []


def test_causes_over_several_cases() -> None:
    cause, other = check.Cause("eps", "a", 0.8), check.Cause("pool", "b", 0.9)
    same = check.Cause("eps", "c", 0.9)
    results = [
        check.Result("one", "wrong", causes=[cause]),
        check.Result("two", "wrong", causes=[other, same]),
        check.Result("three"),
    ]
    found = [(each.kind, each.text, round(each.share, 2)) for each in summarise(results)]
    assert found == [("eps", "c", 0.85), ("pool", "b", 0.45)]
    assert summarise(results[2:]) == []


# ---------------------------------------------------------------------- commands


def change(folder: Path, **facts: Any) -> None:
    """Change what the manifest says of the entry."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["entries"]["toy"].update(facts)
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def run(*arguments: str | Path) -> int:
    return check.main([*map(str, arguments)])


def test_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--pack", folder) == 0
    assert capsys.readouterr().out == "toy: square, packed\n"


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "toy", "--pack", folder) == 0
    assert (
        capsys.readouterr().out
        == """\
toy: 9 -> 36, merge=2
Traps: The norm comes first.
blocks.0: pointwise, bias=true
blocks.1: norm-act, norm="layer", eps=1e-05
blocks.2: patch-merge, order="hwc"

toy/weights.safetensors
  blocks.0.weight [9, 9]

toy/upstream-org.safetensors
  proj.weight [9, 9]

square: The square one.
  grids=[[4, 4]], packed=false, token_order="raster", prefix_tokens=0, dtype="float32", \
tolerance={"relative": 1e-05, "absolute": 1e-09}
  input [2, 16, 9]
  blocks.0 [2, 4, 4, 9]
  blocks.1 [2, 4, 4, 9]
  blocks.2 [2, 2, 2, 36]
  output [2, 2, 2, 36]

packed: The packed one.
  grids=[[4, 2], [2, 6]], packed=true, token_order="raster", prefix_tokens=0, dtype="float32", \
tolerance={"relative": 1e-05, "absolute": 1e-09}
  input [20, 9]
  blocks.0 [20, 9]
  blocks.1 [20, 9]
  blocks.2 [5, 36]
  output [5, 36]
"""
    )


def test_show_of_an_entry_without_options_and_traps(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = [{"path": "blocks.0", "type": "pointwise", "options": {}}]
    change(folder, options={}, traps="", chain=chain)
    assert run("show", "toy", "--pack", folder) == 0
    out = capsys.readouterr().out
    assert out.startswith("toy: 9 -> 36\nblocks.0: pointwise\n\ntoy/weights.safetensors\n")


def test_an_output_that_takes_no_more(folder: Path) -> None:
    """A full disk; and a reader that has gone, as with head."""
    reader, pipe = os.pipe()
    os.close(reader)
    message = b"error: cannot write: No space left on device\n"
    for output, expected in ((os.open("/dev/full", os.O_WRONLY), (2, message)), (pipe, (141, b""))):
        command = [sys.executable, SOURCE, "show", "toy", "--pack", folder]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE)
        os.close(output)
        assert (done.returncode, done.stderr) == expected


def test_check(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    outputs(out, square={**SQUARE, "blocks.1": EPS["block"], "blocks.9": random(2)}, packed=PACKED)
    assert run("check", out, "--pack", folder) == 1
    wrong = compare(
        Pack(folder)["toy"].cases["square"],
        {"blocks.1": EPS["block"], "output": SQUARE["blocks.2"]},
    )
    assert (
        capsys.readouterr().out
        == f"""\
toy
  square: WRONG at blocks.1 (norm-act, norm="layer", eps=1e-05)
    {wrong.problem}
    likely: eps 1e-3 where it is 1e-5 (explains 100%)
    not compared: blocks.9
  packed: ok, relative error 0.0e+00
  likely, over all wrong cases: eps 1e-3 where it is 1e-5 (explains 100%)
1 of 2 cases are right; 1 of 1 entries compared
"""
    )
    assert run("check", out, "--pack", folder, "--case", "pack*", "--entry", "t*") == 0
    assert capsys.readouterr().out.endswith("1 of 1 cases are right; 1 of 1 entries compared\n")


def test_check_in_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (out / "toy").mkdir(parents=True)
    np.save(out / "toy/square.npy", np.full((2, 2, 2, 36), np.nan))
    assert run("check", out, "--pack", folder, "--json") == 1

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    square, packed = found["entries"]["toy"].pop("cases")
    assert found == {
        "ok": False,
        "entries": {"toy": {"causes": [{**square["causes"][0], "share": 0.5}]}},
    }
    assert {key: square[key] for key in ("case", "path", "error", "ignored")} == {
        "case": "square",
        "path": "output",
        "error": None,
        "ignored": [],
    }
    assert packed["problem"] == f"there is no {out}/toy/packed.safetensors, .npz or .npy"


PORT = """\
import json, sys
from pathlib import Path
import numpy as np
weights, upstream, again, inputs, output, entry, case, manifest = sys.argv[1:]
assert Path(weights).name == "weights.safetensors"
assert Path(upstream).name == Path(again).name == "upstream-org.safetensors"
assert json.loads(Path(manifest).read_text())["entries"][entry]
assert np.load(inputs).dtype == np.float32
if case == "packed":
    print("about to fail", file=sys.stderr)
    sys.exit("no packed images here")
np.savez(output, output=np.load(%r))
"""
PLACES = "{weights} {upstream} {upstream.org} {input} {output} {entry} {case} {manifest}"


def test_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "answer.npy", SQUARE["blocks.2"])
    port = tmp_path / "a port.py"
    port.write_text(PORT % str(tmp_path / "answer.npy"), "utf-8")
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(port))} {PLACES}"
    assert run("run", command, "--pack", folder) == 1
    assert (
        capsys.readouterr().out
        == """\
toy
  square: ok, relative error 0.0e+00
  packed: WRONG
    the command ended with 1: no packed images here
1 of 2 cases are right; 1 of 1 entries compared
"""
    )
    assert run("run", command, "--pack", folder, "--case", "square") == 0


def test_run_of_a_command_that_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"{shlex.quote(sys.executable)} -c pass {{output}}"
    assert run("run", command, "--pack", folder, "--case", "square") == 1
    assert "WRONG\n    the command wrote nothing to {output}\n" in capsys.readouterr().out


def test_run_for_upstreams_names_that_there_are_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "port {upstream.gro}", "--pack", folder, "--case", "square") == 1
    out = capsys.readouterr().out
    assert "WRONG\n    there is no {upstream.gro}; upstream's names: org\n" in out
    change(folder, upstream={})
    assert run("run", "port {upstream}", "--pack", folder, "--case", "square") == 1
    out = capsys.readouterr().out
    assert "WRONG\n    there is no {upstream}; upstream's names: none\n" in out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert run(*arguments) == 2
    _, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


def test_what_cannot_be_used(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--pack", folder)
    message = refused(capsys, "list", "--pack", tmp_path)
    assert message == f"{tmp_path}/manifest.json: No such file or directory"
    assert refused(capsys, "show", "tyo", *at) == "there is no entry 'tyo'; try toy"
    message = refused(capsys, "check", tmp_path, *at)
    assert message == f"{tmp_path}: has no folder with the name of an entry"
    message = refused(capsys, "check", tmp_path, *at, "--entry", "x", "--entry", "toy")
    assert message == "there is no entry 'x'; try toy"
    message = refused(capsys, "check", tmp_path, *at, "--entry", "toy")
    assert message == f"{tmp_path}: has no folder with the name of an entry"
    (tmp_path / "toy").mkdir()
    message = refused(capsys, "check", tmp_path, *at, "--entry", "toy", "--case", "squares")
    assert message == "there is no case 'squares'; try square"
    assert refused(capsys, "run", "no-such-command", *at) == (
        "no-such-command: No such file or directory"
    )
    for command in ("", "'a"):
        with pytest.raises(SystemExit) as caught:
            run("run", command, *at)
        assert caught.value.code == 2


def test_a_damaged_candidate(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs(tmp_path / "out", square=SQUARE, packed=PACKED)
    path = tmp_path / "out/toy/square.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert run("check", tmp_path / "out", "--pack", folder) == 1
    square, found, packed, *_ = capsys.readouterr().out.splitlines()[1:]
    assert (square, packed) == ("  square: WRONG", "  packed: ok, relative error 0.0e+00")
    assert found.startswith(f"    {path}['output']: ends at byte ")


def test_another_format(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "manifest.json").write_text('{"format": 2, "entries": {}}', "utf-8")
    assert refused(capsys, "list", "--pack", folder) == (
        "manifest.json: format 2; expected 1. Use the check.py that came with it."
    )


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container inside a value of JSON, with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


DAMAGES: dict[str, Callable[[Any], Any]] = {
    "null": lambda value: None,
    "large": lambda value: 1 << 70,
    "text": lambda value: "nowhere",
    "list": lambda value: [value],
    "empty": lambda value: type(value)() if isinstance(value, dict | list | str) else value,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_manifest_damaged_anywhere(
    damage: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused in one line, or the damage is where nothing reads; never a traceback."""
    outputs(tmp_path / "out", square={**SQUARE, "blocks.1": EPS["block"]}, packed=PACKED)
    path = folder / "manifest.json"
    text = path.read_text("utf-8")
    manifest = json.loads(text)
    statuses = []
    for holder, key in places(manifest):
        was = holder[key]
        holder[key] = DAMAGES[damage](was)
        path.write_text(json.dumps(manifest), "utf-8")
        holder[key] = was
        for command in (["check", tmp_path / "out"], ["show", "toy"]):
            statuses.append(run(*command, "--pack", folder))
            _, err = capsys.readouterr()
            assert (statuses[-1] == 2) == err.startswith("error: "), (key, err)
            assert err.count("\n") <= 1
    assert statuses.count(2) > len(statuses) / 5
    assert json.loads(text) == manifest


def test_a_field_less_in_the_manifest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["entries"]["toy"]["cases"][0]["tolerance"]["relative"]
    path.write_text(json.dumps(manifest), "utf-8")
    assert refused(capsys, "show", "toy", "--pack", folder) == (
        "manifest.json: toy: cases: tolerance: has no 'relative'"
    )


def test_a_tensor_less_in_the_pack(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors.numpy.save_file({"a": random(2)}, folder / "toy/vectors.safetensors")
    assert refused(capsys, "show", "toy", "--pack", folder) == (
        "toy/vectors.safetensors: has no 'square.input'. Write the pack again."
    )


def test_the_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert 'check.py run "python port.py {weights} {input} {output}" --entry "ldp*"' in out
    assert "0 all right; 1 some wrong; 2 a file" in out
    assert math.isclose(check.FP16_MAX, torch.finfo(torch.float16).max)
