"""What a plan and a projector say of themselves, in a line and in a notebook."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from helpers.html import parse, unstyled
from safetensors.torch import save_file
from torch import nn

from mobilevlm import (
    LDP,
    Plan,
    build_projector,
    build_vision_projector,
    load_projector,
    plan_projector,
    spec_of,
    to_upstream,
)

DOCUMENT = {"in": 8, "out": 16, "blocks": ["pointwise"]}


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (
            plan_projector("ldp", 1024, 2048, grid=(24, 18)),
            "Plan(ldp, 1024 -> 2048, 432 -> 108 tokens on 24x18)",
        ),
        (
            plan_projector("mlp2x_gelu", 8, 16),
            "Plan(mlp2x_gelu, 8 -> 16, e.g. 576 -> 576 tokens on 24x24)",
        ),
        (plan_projector("blip2", 8, 16), "Plan(blip2, 8 -> 16, 32 tokens)"),
        (plan_projector(DOCUMENT, grid=(2, 3)), "Plan(8 -> 16, 6 -> 6 tokens on 2x3)"),
        (Plan(spec_of("pooler", 8, 16), (4, 4)), "Plan(8 -> 16, 16 -> 4 tokens on 4x4)"),
        (plan_projector("token-packer", 8, 16), "Plan(token-packer, 8 -> 16, e.g. 576 -> 144"),
        (
            plan_projector({"in": 8, "out": 8, "blocks": [{"type": "pool", "stride": 5}]}),
            "Plan(8 -> 8, e.g. 576 -> ",
        ),
    ],
)
def test_a_plan_in_a_line(plan: Plan, expected: str) -> None:
    assert repr(plan).startswith(expected)
    assert repr(plan).endswith(")")
    assert "\n" not in repr(plan)
    assert str(plan).startswith("block ")


def test_a_plan_that_takes_no_usual_grid() -> None:
    block = {"type": "patch-merge", "size": [5, 5]}
    plan = plan_projector({"in": 8, "out": 16, "blocks": [block, "pointwise"]})
    assert repr(plan) == "Plan(8 -> 16)"


def test_a_plan_in_a_notebook_shows_what_print_shows() -> None:
    plan = plan_projector("ldpnetv2", 8, 16, grid=(24, 24))
    root = parse(plan._repr_html_())
    unstyled(root)
    header, rows = plan.table()
    shown = [[cell.words() for cell in row.all("th", "td")] for row in root.all("tr")]
    assert shown == [header, *rows]
    title, *notes = (each.words() for each in root.all("p"))
    assert title == "Plan: ldpnetv2, 8 -> 16, 576 -> 144 tokens on 24x24"
    assert notes == [*plan.remarks]
    assert notes


def test_a_plan_in_a_notebook_is_escaped() -> None:
    plan = Plan(spec_of("mlp", 8, 16), name="<b>&\x1b[31m")
    text = plan._repr_html_()
    assert "<b>" not in text
    assert "\x1b" not in text
    assert parse(text).all("p")[0].words().startswith("Plan: <b>&\\x1b[31m, 8 -> 16")


PRINTED = """\
Projector(
  ldp, 6 -> 10, 16 -> 4 tokens on 4x4
  (blocks): Chain(
    (0): Linear(in_features=6, out_features=10, bias=True)
    (1): NormActModule(
      (act): GELU(approximate='none')
    )
    (2): DepthwiseResidualConv(10, 10, kernel=3, stride=1, groups=10, bias=True)
    (3): Linear(in_features=10, out_features=10, bias=True)
    (4): NormActModule(
      (norm): LayerNorm((10,), eps=1e-05, elementwise_affine=True, bias=True)
      (act): GELU(approximate='none')
    )
    (5): DepthwiseResidualConv(10, 10, kernel=3, stride=2, groups=10, bias=True)
    (6): Linear(in_features=10, out_features=10, bias=True)
    (7): NormActModule(
      (norm): LayerNorm((10,), eps=1e-05, elementwise_affine=True, bias=True)
    )
  )
)"""


def test_a_projector() -> None:
    projector = build_projector("ldp", 6, 10, grid=(4, 4))
    assert repr(projector) == PRINTED
    assert repr(copy.deepcopy(projector)) == PRINTED
    assert repr(pickle.loads(pickle.dumps(projector))) == PRINTED
    assert repr(projector.unloaded()) == PRINTED
    assert repr(projector.plan()) == "Plan(ldp, 6 -> 10, 16 -> 4 tokens on 4x4)"
    assert nn.Module.__repr__(projector).count("Identity()") == 2


def test_what_has_nothing_but_identities() -> None:
    branches = [["identity"], ["pointwise"]]
    document = {"in": 8, "out": 8, "blocks": [{"type": "parallel", "branches": branches}]}
    text = repr(build_projector(document))
    assert "Identity" not in text
    assert "        (0): Chain()\n" in text


def test_drop_ins() -> None:
    config = {"mm_projector_type": "linear", "mm_hidden_size": 8, "hidden_size": 16}
    linear = build_vision_projector(config)
    said = "linear, 8 -> 16, e.g. 576 -> 576 tokens on 24x24"
    assert repr(linear) == f"LinearProjector({said})"
    mobile = build_vision_projector({**config, "mm_projector_type": "ldpnet"})
    assert repr(mobile).startswith("LDPNetProjector(\n  ldpnet, 8 -> 16, e.g. 576 -> 144 tokens")
    assert "Identity" not in repr(mobile)
    assert repr(mobile.native()).startswith("Projector(\n  ldpnet, 8 -> 16")
    assert repr(LDP(8, 16)).startswith("LDP(\n  ldp, 8 -> 16, e.g. 576 -> 144 tokens on 24x24\n")


def test_inside_a_model_and_compiled() -> None:
    projector = build_projector("mlp", 4, 8, grid=(2, 2))
    model = nn.ModuleDict({"tower": nn.Identity(), "connector": projector})
    text = repr(model)
    assert "  (tower): Identity()\n" in text  # the model's own
    assert "  (connector): Projector(\n    mlp, 4 -> 8, 4 -> 4 tokens on 2x2\n" in text
    assert text.count("Identity()") == 1
    assert "mlp, 4 -> 8, 4 -> 4 tokens on 2x2" in repr(torch.compile(projector))


def test_one_whose_grid_was_set_to_one_that_does_not_fit() -> None:
    projector = build_projector("internvl", 8, 16)
    projector.grid = (3, 5)
    said = "\n  internvl, 8 -> 16, e.g. 576 -> 144 tokens on 24x24, grid=(3, 5)\n"
    assert said in repr(projector)


def test_one_that_was_pickled_before_there_were_names() -> None:
    projector = build_projector("mlp", 4, 8)
    del projector.name
    old = pickle.loads(pickle.dumps(projector))
    assert repr(old).startswith("Projector(\n  4 -> 8, e.g. 576 -> 576 tokens on 24x24\n")


def test_a_recognised_checkpoint_has_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mm_projector.safetensors"
    upstream = to_upstream(build_projector("mlp2x_gelu", 4, 8), "mlp")
    save_file({f"model.mm_projector.{key}": value for key, value in upstream.items()}, path)
    projector = load_projector(path)
    assert projector.name == "mlp"
    assert repr(load_projector(path, dtype="bf16")) == repr(projector)
