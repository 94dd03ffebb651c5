"""Reading a tensor's values on the host is refused, by whichever call."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mobilevlm.testing import HostReadError, refuse_host_reads

X = torch.tensor([0, 1, 2])

READS: dict[str, Callable[[], object]] = {
    "item": lambda: X[1].item(),
    "tolist": X.tolist,
    "numpy": X.numpy,
    "asarray": lambda: np.asarray(X),
    "bool": lambda: bool(X[1]),
    "if": lambda: 1 if X[1] > 0 else 2,
    "int": lambda: int(X[1]),
    "float": lambda: float(X[1]),
    "index": lambda: [1, 2, 3][X[1]],
    "range": lambda: range(X[1]),
    "slice": lambda: X[: X[1]],
    "in": lambda: 1 in X,
    "print": lambda: str(X),
    "f-string": lambda: f"{X[1]}",
    "nonzero": X.nonzero,
    "torch.nonzero": lambda: torch.nonzero(X),
    "where": lambda: torch.where(X > 0),
    "mask": lambda: X[X > 0],
    "mask in a tuple": lambda: X[None][:, X > 0],
    "set by mask": lambda: X.clone().__setitem__(X > 0, X[:2]),
    "index by mask": lambda: torch.ops.aten.index(X, [X > 0]),
    "masked_select": lambda: torch.masked_select(X, X > 0),
    "unique": lambda: torch.unique(X),
    "equal": lambda: torch.equal(X, X),
    "allclose": lambda: torch.allclose(X, X),
    "repeat_interleave": lambda: torch.repeat_interleave(X),
    "repeat_interleave of a tensor": lambda: X.repeat_interleave(X),
    "repeat_interleave by keywords": lambda: torch.repeat_interleave(input=X, repeats=X),
    "one_hot": lambda: torch.nn.functional.one_hot(X),
    "combinations": lambda: torch.combinations(X),
    "narrow": lambda: X.narrow(0, X[0], 2),
    "expand": lambda: X[:1].expand(X[2]),
    "a new tensor": lambda: torch.tensor([[X[1], X[2]]]),
    "a shape": lambda: torch.zeros(X[1]),
    "inside an operator": lambda: torch.ops.aten._local_scalar_dense(X[1]),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("read", READS)
def test_each_read_is_refused(read: str, inference: bool) -> None:
    """In inference mode torch shows operators whole that it takes apart elsewhere."""
    with torch.inference_mode(inference):
        with refuse_host_reads(), pytest.raises(HostReadError):
            READS[read]()
        READS[read]()  # and only there


def test_the_error_names_the_call() -> None:
    with refuse_host_reads(), pytest.raises(HostReadError) as caught:
        X.tolist()
    assert str(caught.value) == (
        "tolist reads a tensor's values on the host; expected code that a graph can capture. Work "
        "it out before, from the grids: in a module's pack method."
    )


@pytest.mark.parametrize("inference", [False, True])
def test_a_copy_to_the_cpu_is_refused(inference: bool) -> None:
    away = torch.empty(2, device="meta")
    for copy in (away.cpu, lambda: away.to("cpu"), lambda: torch.empty(2).copy_(away)):
        refused = pytest.raises(HostReadError, match="a copy to the CPU")
        with torch.inference_mode(inference), refuse_host_reads(), refused:
            copy()


@pytest.mark.parametrize("inference", [False, True])
def test_what_a_graph_can_capture_is_not_refused(inference: bool) -> None:
    weight = torch.randn(4, 3)

    def run(index: Tensor) -> Tensor:
        rows = torch.nn.functional.embedding(index, weight)
        rows = rows.masked_fill((index > 1)[:, None], 0)
        rows = torch.where(rows > 0, rows, -rows)
        repeated = torch.repeat_interleave(rows, index, dim=0, output_size=3)
        repeated = torch.repeat_interleave(repeated, 2, dim=0)
        return repeated[0].unsqueeze(0).to(torch.float64)[..., None, 1:]

    with torch.inference_mode(inference), refuse_host_reads():
        y = run(X)
    assert y.shape == (1, 1, 2)
