"""The values in test vectors: what is right, and what mistakes made elsewhere lead to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mobilevlm import PROJECTORS, Preset, Projector, Stack, fast_paths, load_spec
from mobilevlm.testing.vectors import check, write_vectors
from mobilevlm.testing.vectors.mistakes import attention, layers, norms, order, tokens, windows
from mobilevlm.testing.vectors.random_numbers import Numbers


class Pack:
    """A pack that was written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        text = (folder / "manifest.json").read_text("utf-8")
        self.entries: dict[str, dict[str, Any]] = json.loads(text)["entries"]
        self.tensors = {
            name: load_file(folder / entry["vectors"]) for name, entry in self.entries.items()
        }

    def case(self, entry: str, name: str) -> dict[str, Any]:
        [found] = [case for case in self.entries[entry]["cases"] if case["name"] == name]
        return found

    def mistake(self, entry: str, case: str, name: str) -> dict[str, Any]:
        [found] = [each for each in self.case(entry, case)["mistakes"] if each["name"] == name]
        return found

    def tensor(self, entry: str, name: str) -> Tensor:
        return self.tensors[entry][name]

    def projector(self, entry: str, case: Mapping[str, Any], **document: Any) -> Projector:
        """Build an entry's projector for a case, or one whose document is changed."""
        facts = {key: case[key] for key in ("prefix_tokens", "token_order")}
        spec = load_spec({**self.entries[entry]["document"], **facts, **document})
        projector = Projector(spec, grid=self.entries[entry]["grid"]).eval()
        projector.load_state_dict(load_file(self.folder / self.entries[entry]["weights"]))
        return projector

    def run(self, entry: str, name: str, **document: Any) -> Tensor:
        """Compute a case's output in fp32."""
        case = self.case(entry, name)
        x = self.tensor(entry, case["input"]).float()
        return forward(self.projector(entry, case, **document), x, case)


def forward(projector: Projector, x: Tensor, case: Mapping[str, Any]) -> Tensor:
    with torch.no_grad():
        return projector(x, grid=case["grids"] if case["packed"] else case["grids"][0])


def error(found: Tensor, right: Tensor) -> float:
    """Return the largest error, relative to the largest right value."""
    assert found.numel() == right.numel()
    difference = found.double().flatten() - right.double().flatten()
    return float(difference.abs().max() / right.double().abs().max())


@pytest.fixture(scope="module")
def pack(small_pack: Path) -> Pack:
    return Pack(small_pack)


@pytest.fixture(scope="module")
def full(full_pack: Path) -> Pack:
    return Pack(full_pack)


# ---------------------------------------------------------------------- what is right


def check_outputs(pack: Pack) -> None:
    """Compare with projectors in fp32, block by block and as a whole; in bf16 too."""
    for entry, row in pack.entries.items():
        for case in row["cases"]:
            where = f"{entry}, {case['name']}"
            x = pack.tensor(entry, case["input"])
            projector = pack.projector(entry, case).to(x.dtype)
            assert projector.tokens(case["grids"]) is not None
            right = pack.tensor(entry, case["output"])
            limit = case["tolerance"]["relative"] * (0.7 if x.dtype == torch.bfloat16 else 0.5)
            for fast in (True, False):
                with fast_paths(fast):
                    y = forward(projector, x, case)
                assert [*y.shape] == case["output_shape"], where
                assert error(y, right) < limit, where
            for path, y in hooked(projector, x, case).items():
                [output] = [each for each in case["outputs"] if each["path"] == path]
                assert [*y.shape] == output["shape"], (where, path)
                assert error(y, pack.tensor(entry, output["tensor"])) < limit, (where, path)


def hooked(projector: Projector, x: Tensor, case: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what leaves each block, as hooks see it: they keep the order written."""
    found: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Any:
        return lambda module, args, y: found.setdefault(path, []).append(y)

    for place, module in enumerate(projector.blocks):
        module.register_forward_hook(keep(f"blocks.{place}"))
    if not case["packed"]:
        forward(projector, x, case)
        return {path: y for path, [y] in found.items()}
    ends = np.cumsum([h * w for h, w in case["grids"]])
    for part, grid in zip(x.tensor_split(ends[:-1].tolist()), case["grids"], strict=True):
        with torch.no_grad():
            projector(part[None], grid=grid)
    return {path: torch.cat([y.flatten(0, 2) for y in parts]) for path, parts in found.items()}


def test_projectors_compute_what_is_right(pack: Pack) -> None:
    check_outputs(pack)


@pytest.mark.slow
def test_projectors_of_all_families_compute_what_is_right(full: Pack) -> None:
    check_outputs(full)


def test_the_checker_finds_them_right(pack: Pack) -> None:
    written = check.Pack(pack.folder)
    for entry, row in pack.entries.items():
        for case in row["cases"]:
            y = pack.run(entry, case["name"]).numpy()
            result = check.compare(written[entry].cases[case["name"]], {"output": y})
            assert result.ok, (entry, case["name"], result.problem)


def test_bf16_and_fp16_hold_all_weights_and_inputs(pack: Pack) -> None:
    for entry, row in pack.entries.items():
        held = load_file(pack.folder / row["weights"])
        held |= {
            case["name"]: pack.tensor(entry, case["input"])
            for case in row["cases"]
            if case["name"] != "scale-1e-3"
        }
        for key, tensor in held.items():
            for dtype in (torch.bfloat16, torch.float16):
                assert torch.equal(tensor.to(dtype).float(), tensor.float()), (entry, key, dtype)
        bf16 = pack.case(entry, "bf16")
        square = pack.case(entry, "square")
        assert bf16["output"] == square["output"]
        same = pack.tensor(entry, bf16["input"]).float() == pack.tensor(entry, square["input"])
        assert same.all()


def test_numbers_are_the_same_everywhere() -> None:
    numbers = Numbers("these")
    assert (numbers(5) * 128).tolist() == [-76.0, -1.0, -32.0, 14.0, -43.0]
    found = numbers.with_outliers(100, 32)
    channels = found.abs().amax(0)
    assert sorted(channels > 2).count(True) == 2
    near = numbers.near(1000, limit=2.0**16)
    assert near.abs().min() == 0.75 * 2**16
    assert near.abs().max() == 65024
    assert near.sign().unique().tolist() == [-1, 1]


def test_block_major_tokens_are_the_raster_ones_reordered(pack: Pack) -> None:
    square, raster = (pack.case("minimax-m3-vl", name) for name in ("square", "raster"))
    assert (square["token_order"], raster["token_order"]) == ("blocked", "raster")
    assert square["outputs"][0]["path"] == "entry"
    [(h, w)] = square["grids"]
    rows = pack.tensor("minimax-m3-vl", raster["input"])
    blocks = rows.view(2, h // 2, 2, w // 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(rows.shape)
    assert torch.equal(pack.tensor("minimax-m3-vl", square["input"]), blocks)
    entry = pack.tensor("minimax-m3-vl", square["outputs"][0]["tensor"])
    assert torch.equal(entry, rows.view(2, h, w, -1))
    assert [row["tensor"] for row in square["outputs"][1:]] == [
        row["tensor"] for row in raster["outputs"]
    ]


def check_hazards(pack: Pack) -> set[str]:
    """Check that the plain form leaves fp16's range and fp32 does not; return what says so."""
    found = set()
    for entry, row in pack.entries.items():
        for case in row["cases"]:
            if case["name"] != "fp16-hazard":
                continue
            x = pack.tensor(entry, case["input"])
            assert x.half().isfinite().all()
            projector = pack.projector(entry, case)
            assert forward(projector, x, case).isfinite().all()
            largest = max(float(y.abs().max()) for y in hooked(projector, x, case).values())
            if "the squares" in case["purpose"]:
                assert largest < 65504
                assert not x.half().square().isfinite().all()
                found.add("squares")
            else:
                assert largest > 65504
                assert f"up to {largest:,.0f}"[:8] == case["purpose"].split("becomes ")[1][:8]
                with fast_paths(False):
                    outputs = hooked(projector.half(), x.half(), case)
                assert not all(y.isfinite().all() for y in outputs.values()), entry
                found.add("values")
    return found


def test_the_hazard_overflows_in_fp16_alone(pack: Pack) -> None:
    assert check_hazards(pack) == {"squares", "values"}


@pytest.mark.slow
def test_the_hazards_of_all_families_overflow_in_fp16_alone(full: Pack) -> None:
    assert check_hazards(full) == {"squares", "values"}
    without = [
        entry
        for entry, row in full.entries.items()
        if "fp16-hazard" not in [case["name"] for case in row["cases"]]
    ]
    assert without == ["identity"]


# ---------------------------------------------------------------------- what is wrong


def sample(y: Tensor) -> Tensor:
    where = np.linspace(0, y.numel() - 1, min(64, y.numel())).round().astype(int)
    return y.flatten()[torch.from_numpy(where)]


def edited(pack: Pack, entry: str, place: int, **options: Any) -> list[dict[str, Any]]:
    """Return the blocks of an entry's document, one of which has other options."""
    blocks = [dict(block) for block in pack.entries[entry]["document"]["blocks"]]
    blocks[place].update(options)
    return blocks


def test_a_wrong_projector_gives_what_is_stored(pack: Pack) -> None:
    """Projectors that are built otherwise, not changed by the code that wrote the mistakes."""

    def expect(entry: str, case: str, mistake: str, kind: str, block: str, **document: Any) -> None:
        found = pack.mistake(entry, case, mistake)
        assert (found["kind"], found["block"]) == (kind, block)
        y = pack.run(entry, case, **document)
        assert error(sample(y), pack.tensor(entry, found["at_output"])) < 1e-5, mistake

    def blocks(entry: str, place: int, **options: Any) -> dict[str, Any]:
        return {"blocks": edited(pack, entry, place, **options)}

    gemma, ldp = "gemma3", "ldpnetv2"
    expect(gemma, "scale-1e-3", "eps-1e-05", "eps", "blocks.1", **blocks(gemma, 1, eps=1e-5))
    expect(gemma, "wide", "max-for-average", "pool", "blocks.0", **blocks(gemma, 0, mode="max"))
    plain = blocks(gemma, 1, weight="plain")
    expect(gemma, "square", "norm-unit-offset", "norm-unit-offset", "blocks.1", **plain)
    tanh = blocks(ldp, 1, act="gelu-tanh")
    expect(ldp, "tall", "gelu-tanh-for-gelu", "gelu-tanh", "blocks.1", **tanh)
    alone = blocks(ldp, 4, type="depthwise")
    expect(ldp, "odd", "skip-forgotten", "residual-forgotten", "blocks.4", **alone)
    expect(ldp, "packed", "skip-forgotten", "residual-forgotten", "blocks.4", **alone)
    mini, kind = "minimax-m3-vl", "raster-for-block-major"
    expect(mini, "wide", kind, kind, "entry", token_order="raster")
    expect(mini, "packed", kind, kind, "entry", token_order="raster")
    chw = blocks(mini, 3, order="chw")
    expect(mini, "class-token", "chw-for-hwc", "chw", "blocks.3", **chw)
    queries = blocks("kosmos-2", 1, self_keys=False)
    name = "queries-among-keys"
    expect("kosmos-2", "square", name, "queries-as-keys", "blocks.1", **queries)


def test_a_wrong_input_gives_what_is_stored(pack: Pack) -> None:
    case = pack.case("gemma3", "class-token")
    x = pack.tensor("gemma3", case["input"])
    right = pack.projector("gemma3", case, prefix_tokens=0)
    found = pack.mistake("gemma3", "class-token", "class-token-last")
    assert found["block"] == "entry"
    y = forward(right, x[:, :-1], case)
    assert error(sample(y), pack.tensor("gemma3", found["at_output"])) < 1e-5
    [(h, w)] = case["grids"]
    for name, turned, grid in (
        ("transposed", x[:, 1:].view(1, h, w, -1).transpose(1, 2).flatten(1, 2), (w, h)),
        ("sides-swapped", x[:, 1:], (w, h)),
    ):
        with torch.no_grad():
            y = right(turned, grid=grid)
        found = pack.mistake("gemma3", "class-token", name)
        assert found["kind"] == "transposed"
        assert error(sample(y), pack.tensor("gemma3", found["at_output"])) < 1e-5
    # Left in, it is one token more, which those take that do not read the grid.
    found = pack.mistake("kosmos-2", "class-token", "class-token-left-in")
    tokens = pack.case("kosmos-2", "class-token")["shape"][1]
    assert (found["block"], found["shape_at_block"][:3]) == ("entry", [1, 1, tokens])


def test_packed_images_are_not_one_image(pack: Pack) -> None:
    found = pack.mistake("kosmos-2", "packed", "images-joined")
    case = pack.case("kosmos-2", "packed")
    assert case["shape"][0] == sum(h * w for h, w in case["grids"])
    assert (found["block"], found["shape_at_output"]) == ("blocks.1", [4, 12])
    x = pack.tensor("kosmos-2", case["input"])
    with torch.no_grad():
        y = pack.projector("kosmos-2", case)(x[None])
    assert error(sample(y), pack.tensor("kosmos-2", found["at_output"])) < 1e-5


def test_the_newline_and_its_shapes(pack: Pack) -> None:
    case = pack.case("phi-3-vision", "wide")
    [(h, w)] = case["grids"]
    shapes = {
        each["name"]: each["shape_at_block"]
        for each in case["mistakes"]
        if each["kind"] == "newline"
    }
    width = pack.entries["phi-3-vision"]["in"] * 4
    assert shapes == {
        "newline-first": [1, h // 2, w // 2 + 1, width],
        "newline-forgotten": [1, h // 2, w // 2, width],
        "newline-once": [1, 1, h * w // 4 + 1, width],
    }


def test_a_mistake_in_several_blocks_is_made_in_all_and_in_each(pack: Pack) -> None:
    names = {each["name"]: each for each in pack.case("minimax-m3-vl", "square")["mistakes"]}
    everywhere = [name for name in names if name.startswith("gelu-tanh-for-gelu")]
    assert everywhere == [f"gelu-tanh-for-gelu{end}" for end in ("", "-1", "-5")]
    assert [names[name]["block"] for name in everywhere] == ["blocks.1", "blocks.1", "blocks.5"]
    assert names["gelu-tanh-for-gelu-5"]["cause"] == "gelu-tanh in place of gelu in blocks.5"
    # Where it first shows it is the same mistake.
    assert len({names[name]["at_block"] for name in everywhere[:2]}) == 1
    assert len({names[name]["at_output"] for name in everywhere}) == 3


# What no built-in family has, or cannot get wrong.
OF_OTHERS = {
    *("branches-reversed", "quick-gelu-forgotten", "silu-for-quick-gelu"),
    *("gelu-for-quick-gelu", "gelu-tanh-for-quick-gelu"),
}


class Joined(Preset):
    def expand(self, in_: int, out: int) -> Stack:
        branches = [["depthwise"], [{"type": "norm-act", "act": "quick-gelu"}]]
        both = {"type": "parallel", "branches": branches, "join": "cat"}
        return Stack.parse({"in": in_, "out": out, "blocks": [both, "pointwise"]})


def test_mistakes_in_what_no_family_has(registries: None, tmp_path: Path) -> None:
    PROJECTORS.register("joined", Joined)
    write_vectors(tmp_path, ["joined"])
    shown = {each["name"] for each in Pack(tmp_path).case("joined", "square")["mistakes"]}
    assert shown >= OF_OTHERS


def check_mistakes(pack: Pack) -> dict[str, set[str]]:
    """Check that each mistake shows; return the names of each kind."""
    kinds: dict[str, set[str]] = {}
    missed = count = 0
    for entry, row in pack.entries.items():
        for case in row["cases"]:
            right = {each["path"]: pack.tensor(entry, each["tensor"]) for each in case["outputs"]}
            *_, last = right
            for each in case["mistakes"]:
                kinds.setdefault(each["kind"], set()).add(each["name"])
                for key, path in (("block", each["block"]), ("output", last)):
                    count += 1
                    if torch.Size(each[f"shape_at_{key}"]).numel() != right[path].numel():
                        continue
                    limit = case["tolerance"]["relative"] * right[path].abs().max()
                    wrong = pack.tensor(entry, each[f"at_{key}"])
                    missed += not (wrong - sample(right[path])).abs().max() > limit
    # What is just beyond the tolerance may be so at a place that the sample leaves out.
    assert missed < count / 200
    return kinds


def test_each_mistake_shows(pack: Pack) -> None:
    kinds = check_mistakes(pack)
    assert {"eps", "chw", "pool", "transposed", "residual-forgotten", "newline"} <= kinds.keys()


@pytest.mark.slow
def test_each_mistake_of_all_families_shows_somewhere(full: Pack) -> None:
    kinds = check_mistakes(full)
    shown = set.union(*kinds.values())
    tables = (norms.NORMS, layers.LAYERS, windows.WINDOWS, windows.RASTER_WINDOWS)
    tables += (tokens.TOKENS, attention.ATTENTION, order.ORDER, tuple(norms.activations()))
    possible = {each.name for table in tables for each in table}
    assert possible - shown == OF_OTHERS
    # Those that the field has made.
    assert kinds.keys() >= {
        *("eps", "gelu-tanh", "quick-gelu", "norm-after-merge", "chw", "raster-for-block-major"),
        *("class-token-left-in", "class-token-last", "residual-forgotten", "norm-unit-offset"),
        *("half-pixel", "transposed", "activation-forgotten", "bias-forgotten", "pool", "heads"),
    }
