"""What tools/serving.py counts, and that it fails where something is wrong."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import serving
import torch
from torch import Tensor

from mobilevlm import GridError
from mobilevlm.blocks.patch_merge import PatchMergeModule


def table(text: str) -> dict[str, list[str]]:
    rows = [line.split() for line in text.splitlines() if line]
    return {row[0]: row[1:] for row in rows}


def test_each_budget_compiles_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--batches", "6", "--budgets", "256", "1024", "--device", "cpu"]
    assert serving.main([*words, "mlp", "internvl", "llava-onevision-video"]) == 0
    rows = table(capsys.readouterr().out)
    for name in ("mlp", "internvl"):
        batches, again, reads, difference = rows[name]
        assert (batches, again, reads) == ("6", "0", "0")
        assert float(difference) < 1e-5


def test_a_value_read_on_the_host_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = PatchMergeModule.forward_packed

    def reads(self: PatchMergeModule, x: Tensor, index: object) -> Tensor:
        if not torch.compiler.is_compiling():
            x[0].tolist()
        return plain(self, x, index)

    monkeypatch.setattr(PatchMergeModule, "forward_packed", reads)
    words = ["--batches", "2", "--budgets", "256", "--device", "cpu", "internvl"]
    assert serving.main(words) == 1
    found = capsys.readouterr()
    assert table(found.out)["internvl"][:3] == ["2", "0", "2"]
    assert "internvl: tolist reads a tensor's values on the host" in found.err


@pytest.mark.parametrize("wrong", [lambda y: y.flip(-1), lambda y: y * float("nan")])
def test_other_numbers_fail(
    wrong: Callable[[Tensor], Tensor],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = PatchMergeModule.forward_packed

    def packed(self: PatchMergeModule, x: Tensor, index: Any) -> Tensor:
        y = plain(self, x, index)
        return wrong(y) if len(x) == 256 else y

    monkeypatch.setattr(PatchMergeModule, "forward_packed", packed)
    words = ["--batches", "1", "--budgets", "256", "--device", "cpu", "internvl"]
    assert serving.main(words) == 1
    assert float(table(capsys.readouterr().out)["internvl"][3]) > 1e-3


def test_a_family_that_does_not_run_at_a_budget_is_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--batches", "1", "--budgets", "256", "--device", "cpu", "internvl"]
    with monkeypatch.context() as patch:
        patch.delattr(PatchMergeModule, "forward_packed")
        assert serving.main(words) == 0
    assert "internvl                not at a budget: blocks.0: " in capsys.readouterr().out


def test_what_is_refused_later_is_no_reason_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: PatchMergeModule, x: Tensor, index: Any) -> Tensor:
        raise GridError("a bug")

    monkeypatch.setattr(PatchMergeModule, "forward_packed", refuses)
    with pytest.raises(GridError, match="a bug"):
        serving.main(["--batches", "1", "--budgets", "256", "--device", "cpu", "internvl"])


def test_random_grids_fit_their_budget() -> None:
    chosen = random.Random(1)
    for patches in (256, 1024, 4096):
        for _ in range(200):
            grids = serving.random_grids(chosen, patches)
            assert 1 <= len(grids) <= serving.IMAGES
            assert sum(h * w for h, w in grids) <= patches
