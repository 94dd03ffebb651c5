"""Projectors side by side: what may be asked for, what is printed, what is refused."""

import json
from typing import Any

import pytest
from helpers.plugins import Site

import mobilevlm
from mobilevlm import (
    PROJECTORS,
    GridError,
    Preset,
    RegistryError,
    SpecError,
    Stack,
    build_projector,
    compare_projectors,
    dump_spec,
    spec_of,
)
from mobilevlm.blocks.pointwise import Pointwise
from mobilevlm.compare import Comparison, VisionCost, vision_cost
from mobilevlm.projectors.tower import Tower

GRID = (8, 8)
CLIP = {"model_type": "clip_vision_model", "hidden_size": 32, "image_size": 64, "patch_size": 8}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
NOTE = (
    "ldp: MobileVLM's released projectors are `ldpnet` and `ldpnetv2`; llama.cpp's `ldp` is "
    "`ldpnet`."
)


def test_whatever_builds_can_be_compared() -> None:
    stack = spec_of("mlp2x_gelu", 32, 64)
    document = json.loads(dump_spec(stack))
    found = compare_projectors(
        [
            "mlp2x_gelu",
            ("mlp", {"depth": 2}),
            ("c-abstractor", {"queries": 16}),
            stack,
            document,
            build_projector(stack, device="meta"),
            ("mine", stack),
            ("theirs", build_projector(stack, device="meta")),
            "mlp2x_gelu",
        ],
        32,
        64,
        grid=GRID,
    )
    assert [(row.name, row.family) for row in found.rows] == [
        ("mlp2x_gelu", "mlp"),
        ("mlp(depth=2)", "mlp"),
        ("c-abstractor(queries=16)", "c-abstractor"),
        ("document", ""),
        ("document #2", ""),
        ("document #3", ""),
        ("mine", ""),
        ("theirs", ""),
        ("mlp2x_gelu #2", "mlp"),
    ]
    assert len({row.parameters for row in found.rows}) == 2
    assert mobilevlm.compare_projectors is compare_projectors


@pytest.mark.parametrize("spec", [7, None, ("ldp", 7), ("ldp",), ["ldp", {}, {}]])
def test_nothing_else_can(spec: Any) -> None:
    with pytest.raises(SpecError) as error:
        compare_projectors([spec], 32, 64, grid=GRID)
    assert error.value.where == "specs"
    assert error.value.expected == "a name, (name, options), a document, a Stack or a Projector"


def test_the_table() -> None:
    specs = ["ldp", "perception-lm", ("internvl", {"merge": 4})]
    found = compare_projectors(specs, 32, 64, grid=[(8, 8), (7, 8)])
    assert str(found) == (
        "projector          grid    tokens  parameters   MACs  MACs as run  activations\n"
        "-----------------  ----  --------  ----------  -----  -----------  -----------\n"
        "ldp                8x8   64 -> 16      11,968  505 k        505 k        21 kB\n"
        "ldp                7x8   56 -> 16      11,968  451 k        451 k      18.4 kB\n"
        "perception-lm      8x8   64 -> 16       6,272  393 k        197 k      14.3 kB\n"
        "perception-lm      7x8   56 -> 12       6,272  344 k        164 k      12.3 kB\n"
        "internvl(merge=4)  8x8    64 -> 4      38,016  147 k        147 k      12.3 kB\n"
        "internvl(merge=4)  7x8          -           -      -            -            -\n"
        "\n"
        "activations: in bfloat16, of one forward, without weights.\n"
        "Pareto front of the fewest tokens and MACs as run, 8x8: internvl(merge=4).\n"
        "Pareto front of the fewest tokens and MACs as run, 7x8: perception-lm.\n"
        f"internvl(merge=4) on 7x8: {found.refused[0].error}\n{NOTE}"
    )


def test_a_language_model_and_a_tower_add_columns() -> None:
    specs = ["ldp", "mlp2x_gelu"]
    found = compare_projectors(specs, 32, grid=GRID, lm=LLAMA)
    header, [ldp, mlp] = found.table()
    assert header[7:] == ["prefill", "KV cache", "saved"]
    # Of one token: four matrices of attention and three of the MLP, in two layers; pairs; logits.
    one, head = 2 * (4 * 64 * 64 + 3 * 64 * 160), 64 * 100
    assert found.rows[0].prefill_macs == 16 * one + 2 * 2 * 64 * 16**2 + head == 1_579_264
    assert found.rows[1].prefill_macs == 64 * one + 2 * 2 * 64 * 64**2 + head == 7_084_288
    assert (ldp[7:], mlp[7:]) == (["1.58 M", "8.19 kB", "78 %"], ["7.08 M", "32.8 kB", "0 %"])
    conventions = [
        "activations: in bfloat16, of one forward, without weights.",
        "prefill: MACs of these tokens alone in the language model; saved: the part of it that is "
        "saved, beside as many tokens as enter; KV cache: in bfloat16.",
    ]
    assert found.notes()[:2] == conventions
    found = compare_projectors(specs, tower=CLIP, lm=LLAMA)
    assert found.table()[0][7:] == ["prefill", "KV cache", "saved", "share"]
    assert found.rows[0].grids == ((8, 8),)  # the tower's
    share = "share: the projector's part of the MACs of tower, projector as run and prefill."
    assert found.notes()[:3] == [*conventions, share]


def test_a_tower_is_counted_once_for_each_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    grids: list[Any] = []

    def counted(config: object, grid: Any) -> VisionCost:
        grids.append(grid)
        return vision_cost(config, grid)

    monkeypatch.setattr("mobilevlm.compare.around.vision_cost", counted)
    found = compare_projectors(["ldp", "mlp", "linear"], tower=CLIP, lm=LLAMA, grid=[GRID, (4, 4)])
    assert len({row.tower_macs for row in found.rows}) == 2
    assert grids == [GRID, GRID, (4, 4)]  # the first asks whether it can be counted at all


def test_models_that_only_say_their_width_leave_columns_out() -> None:
    found = compare_projectors(["ldp"], tower=CLIP, lm={"hidden_size": 64})
    assert found.table()[0][7:] == []
    [remark] = found.remarks
    assert remark.startswith("without prefill and KV cache: lm: no 'model_type' or 'text_config'")
    assert remark in str(found)
    tower = Tower(channels=32, grid=GRID, patch=(8, 8))
    found = compare_projectors(["ldp"], tower=tower, lm=LLAMA)
    assert found.table()[0][7:] == ["prefill", "KV cache", "saved"]
    assert found.remarks == (
        "without the share of the whole: tower: a Tower does not say what it costs. Give its config"
        " in place of what read_tower made of it.",
    )
    # Without a language model there is no share, so nothing is missing.
    assert compare_projectors(["ldp"], tower=tower, out=64).remarks == ()


def test_what_does_not_fit_is_a_row_that_says_why() -> None:
    found = compare_projectors(["ldp", "internvl", "identity"], 32, 64, grid=(7, 8))
    assert [row.name for row in found.rows] == ["ldp"]
    assert [(each.name, each.images) for each in found.refused] == [
        ("internvl", "7x8"),
        ("identity", "7x8"),
    ]
    assert "internvl on 7x8: blocks[0] (patch-merge): a grid of 7x8 does not divide" in str(found)
    assert "identity on 7x8: blocks[0] (identity): it ends the chain with 32 channels" in str(found)
    document = spec_of("mlp", 16, 64)
    found = compare_projectors(["ldp", document], 32, 64, grid=GRID)
    assert str(found.refused[0].error) == "in: the document says 16, the call says 32"
    assert found.to_dict()["refused"] == [
        {"name": "document", "grids": ((8, 8),), "error": str(found.refused[0].error)}
    ]


def test_if_nothing_fits_the_call_fails() -> None:
    with pytest.raises(GridError, match="7x8 does not divide into windows of 2x2"):
        compare_projectors(["internvl"], 32, 64, grid=(7, 8))
    with pytest.raises(SpecError) as error:
        compare_projectors(["internvl", "qwen2-vl"], 32, 64, grid=(7, 8))
    first, *reasons = str(error.value).splitlines()
    assert first == "no projector fits. Each is refused:"
    assert [reason.partition(": ")[0] for reason in reasons] == [
        "  internvl on 7x8",
        "  qwen2-vl on 7x8",
    ]


def test_mistakes_of_the_call_are_no_rows() -> None:
    with pytest.raises(RegistryError, match="unknown projector 'lpd'"):
        compare_projectors(["ldp", "lpd"], 32, 64, grid=GRID)
    with pytest.raises(RegistryError) as path:
        compare_projectors(["ldp", "mine.json"], 32, 64, grid=GRID)
    assert path.value.hint == "It is a file that is not there: write load_spec('mine.json')."
    with pytest.raises(SpecError, match="'query'"):
        compare_projectors(["ldp", ("c-abstractor", {"query": 64})], 32, 64, grid=GRID)
    with pytest.raises(SpecError, match="'int8'; expected a floating-point dtype"):
        compare_projectors(["ldp"], 32, 64, grid=GRID, dtype="int8")
    for one in ("ldp", spec_of("mlp", 32, 64), {"in": 32, "out": 64, "blocks": ["pointwise"]}):
        with pytest.raises(SpecError, match="specs: one projector; expected a list of them"):
            compare_projectors(one, 32, 64, grid=GRID)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="there is nothing to compare"):
        compare_projectors([], 32, 64, grid=GRID)
    with pytest.raises(GridError) as error:
        compare_projectors(["ldp"], 32, 64)
    assert str(error.value) == "grid: the grid is missing. Give it: grid=(24, 24)."
    with pytest.raises(GridError, match="is not a grid"):
        compare_projectors(["ldp"], 32, 64, grid=(8, 0))


def test_tokens_sets_the_option_of_each() -> None:
    specs = ["internvl", ("c-abstractor", {"tokens": 4}), "ldp", spec_of("mlp", 32, 64)]
    found = compare_projectors(specs, 32, 64, grid=[(8, 8), (12, 12)], tokens=16)
    assert [(row.name, row.images, row.tokens_out) for row in found.rows] == [
        ("internvl(merge=2)", "8x8", 16),
        ("internvl(merge=3)", "12x12", 16),
        ("c-abstractor(queries=4)", "8x8", 4),
        ("c-abstractor(queries=4)", "12x12", 4),
        ("ldp", "8x8", 16),
    ]
    assert [str(each.error) for each in found.refused] == [
        "tokens: ldp gives 36; expected 16. Leave out tokens.",
        *[
            "tokens: 16 for a document; expected a registered name with it. A document says"
            " everything itself: edit its blocks."
        ]
        * 2,
    ]
    packed = compare_projectors(
        ["internvl", "flamingo"], 32, 64, grid=[(8, 8), (12, 12)], tokens=16, packed=True
    )
    assert [(row.name, row.tokens_out) for row in packed.rows] == [("flamingo(queries=16)", 32)]
    assert str(packed.refused[0].error) == (
        "tokens: images of several sizes do not all give 16. Give the option itself."
    )


def test_the_pareto_front_is_of_each_grid() -> None:
    specs = ["mlp2x_gelu", "internvl", "ldp", ("internvl", {"merge": 4}), "linear"]
    found = compare_projectors(specs, 32, 64, grid=[(8, 8), (12, 12)])
    front = found.pareto()
    for row in found.rows:
        beaten = any(
            other.grids == row.grids
            and other.tokens_out <= row.tokens_out
            and other.macs_run <= row.macs_run
            and (other.tokens_out, other.macs_run) != (row.tokens_out, row.macs_run)
            for other in found.rows
        )
        assert (row in front) != beaten
    assert [row["pareto"] for row in found.to_dict()["rows"]] == [
        row in front for row in found.rows
    ]
    same = compare_projectors(["linear", "linear"], 32, 64, grid=GRID)
    assert len(same.pareto()) == 2  # neither beats the other


def test_a_projector_of_ones_own() -> None:
    class Wide(Preset):
        """A wide one.

        Note: it is not a narrow one.
        """

        times: int = 4

        def expand(self, in_: int, out: int) -> Stack:
            return Stack(in_=in_, out=out, blocks=(Pointwise(out=self.times * out), Pointwise()))

    PROJECTORS.register("wide", Wide)
    try:
        [row] = compare_projectors([("wide", {"times": 2})], 32, 64, grid=GRID).rows
    finally:
        PROJECTORS.unregister("wide")
    assert (row.name, row.family, row.note) == ("wide(times=2)", "wide", "it is not a narrow one.")
    assert row.parameters == 33 * 128 + 129 * 64


def test_a_plugins_projector(site: Site) -> None:
    source = """
from mobilevlm import Preset, spec_of

class Wide(Preset):
    times: int = 4

    def expand(self, in_, out):
        return spec_of("mlp", in_, out, hidden=self.times * out)
"""
    entry_points = "[mobilevlm.projectors]\nwide = north_tools:Wide\n"
    site.install("north-tools", "1.0", entry_points, {"north_tools.py": source})
    PROJECTORS.refresh()
    found = compare_projectors(["wide", ("north-tools/wide", {"times": 2})], 32, 64, grid=GRID)
    assert [(row.name, row.family) for row in found.rows] == [
        ("wide", "north-tools/wide"),
        ("north-tools/wide(times=2)", "north-tools/wide"),
    ]
    assert found.rows[1].parameters == 33 * 128 + 129 * 64


def test_what_is_counted_otherwise_is_said() -> None:
    specs = ["qwen-vl", "token-packer", ("qwen-vl", {"queries": 16})]
    found = compare_projectors(specs, 32, 64, grid=[GRID, (4, 4)])
    assert found.notes()[-2:] == [
        "qwen-vl, qwen-vl(queries=16): its authors count 0.08 B parameters, without the last norm "
        "and the last layer.",
        "token-packer: its input is four levels of the tower joined on channels, four times the "
        "width that others read; with `levels=1` it reads one.",
    ]


def test_it_is_json() -> None:
    found = compare_projectors(["ldp", "internvl"], 32, 64, grid=(7, 8))
    assert json.loads(json.dumps(found.to_dict())).keys() == {
        "rows",
        "refused",
        "left_out",
        "notes",
    }
    assert isinstance(found, Comparison)
