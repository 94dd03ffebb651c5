"""The example documents: families as data alone, each against its original."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.case import D, blocked, randomize
from reference.documents import CASES, DocumentCase
from torch import nn
from typer.testing import CliRunner

from mobilevlm import PROJECTORS, build_projector, load_spec, plan_projector
from mobilevlm.cli.app import app

DOCUMENTS = Path(__file__).parents[3] / "examples" / "documents"

NUMBERS = ("out", "queries", "heads", "size")  # what a small copy has fewer of


def small(case: DocumentCase, document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with small widths, and nothing else changed."""

    def shrink(node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            return {key: shrink(value, key) for key, value in node.items()}
        if isinstance(node, list):
            return [shrink(value, key) for value in node]
        return case.inner.get(node, node) if key in NUMBERS else node

    first, *rest = shrink(document["blocks"])
    first = {**({"type": first} if isinstance(first, str) else first), **case.edits}
    return {**document, "in": case.in_, "out": D, "blocks": [first, *rest]}


def read(name: str) -> dict[str, Any]:
    path = DOCUMENTS / f"{CASES[name].document or name}.json"
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


def epsilons(module: nn.Module) -> list[float]:
    """What the norms add, in order: behind a bias even small inputs do not show it."""
    norms = [part for part in module.modules() if re.search("Norm$", type(part).__name__)]
    return [getattr(norm, "eps", None) or norm.variance_epsilon for norm in norms]


@pytest.mark.parametrize("name", CASES)
def test_equals_the_original(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    original = case.build().eval()
    randomize(original)
    ours = build_projector(small(case, read(name))).eval()
    with torch.no_grad():
        pairs = zip(ours.parameters(), case.weights(original), strict=True)
        for parameter, weight in pairs:
            parameter.copy_(weight.reshape(parameter.shape))
    assert epsilons(ours) == epsilons(original)
    for grid in case.grids:
        for batch in (1, 3):
            for scale in (1.0, 1e-3):
                x = scale * torch.randn(batch, case.prefix + grid[0] * grid[1], case.in_)
                with torch.inference_mode():
                    expected = case.run(original, x[:, case.prefix :], grid)
                    if case.blocked:
                        x = torch.stack([blocked(image, grid) for image in x])
                    y = ours(x, grid=grid)
                assert y.shape == expected.shape == (batch, ours.tokens(*grid), D)
                error = (y - expected).abs().max() / expected.abs().max()
                assert error < 1e-5, (grid, batch, scale, error)


def test_every_document_is_compared_and_is_no_preset() -> None:
    documents = {path.stem for path in DOCUMENTS.iterdir()}
    assert {case.document or name for name, case in CASES.items()} == documents
    assert not documents & set(PROJECTORS.names())


@pytest.mark.parametrize("path", sorted(DOCUMENTS.iterdir()), ids=lambda path: path.stem)
def test_documents_hold_widths_of_released_models(path: Path) -> None:
    plan = plan_projector(load_spec(path), grid=(24, 24))
    assert plan.stack.in_ >= 256
    assert plan.stack.out >= 512
    assert plan.tokens_out
    assert plan.parameters > 500_000


def test_the_command_checks_them_all() -> None:
    paths = sorted(map(str, DOCUMENTS.iterdir()))
    result = CliRunner().invoke(app, ["check", *paths])
    assert result.exit_code == 0
    assert result.stdout.count(": ok, ") == len(paths)
