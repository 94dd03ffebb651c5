"""With zetascale itself: the table is true, and every block of it lives a projector's life."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import zeta_probe
from einops import rearrange
from helpers import torchvision_operators
from torch import Tensor, nn

from mobilevlm import (
    BLOCKS,
    Feature,
    SpecError,
    build_projector,
    load_projector,
    save_projector,
)
from mobilevlm.zeta.load import VERSION, ZetaError, zeta_nn
from mobilevlm.zeta.table import Row, table

ROOT = Path(__file__).parents[3]
ROWS = table().blocks
HELPER = (
    f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); "
    "from helpers import torchvision_operators; torchvision_operators.declare()"
)


def document(name: str) -> dict[str, Any]:
    """A projector with this block in its middle, which needs 64 channels."""
    block = {"type": name, **ROWS[name].example}
    return {"in": 24, "out": 32, "blocks": [{"type": "pointwise", "out": 64}, block, "pointwise"]}


def test_the_table_is_what_the_probe_finds() -> None:
    found = json.loads((ROOT / "zeta" / "table.json").read_text("utf-8"))
    assert zeta_probe.probe() == found, "run: python tools/zeta_probe.py"


def test_the_table_covers_zeta_nn() -> None:
    names = [row.module for row in ROWS.values()] + list(table().others)
    assert sorted(names) == list(zeta_probe.classes())
    assert zeta_nn().__name__ == "zeta.nn"


@pytest.mark.parametrize("name", ROWS)
def test_it_trains_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    projector = build_projector(document(name))
    plan = projector.plan((6, 4))
    assert plan.parameters == sum(p.numel() for p in projector.parameters())
    assert plan.macs is not None  # its module ran on the meta device, as its flow says
    x, goal = torch.randn(2, 24, 24), torch.randn(2, plan.tokens_out or 0, 32)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=1e-3)
    before = projector.eval()(x, grid=(6, 4)).sub(goal).square().mean().item()
    for _ in range(6):
        optimizer.zero_grad()
        projector.train()(x, grid=(6, 4)).sub(goal).square().mean().backward()
        optimizer.step()
    assert projector.eval()(x, grid=(6, 4)).sub(goal).square().mean().item() < before
    save_projector(projector, tmp_path)
    loaded = load_projector(tmp_path).eval()
    assert loaded.spec == projector.spec
    with torch.no_grad():
        y = projector(x, grid=(6, 4))
        assert torch.equal(loaded(x, grid=(6, 4)), y)
        # Images of different sizes in one go are each what it is alone.
        packed = torch.cat([x[0], x[1, :16]])
        alone = [projector(x[:1], grid=(6, 4)), projector(x[1:, :16], grid=(4, 4))]
        both = projector(packed, grid=[(6, 4), (4, 4)])
        torch.testing.assert_close(both, torch.cat(alone, 1)[0], rtol=1e-4, atol=1e-5)


def by_hand(row: Row, module: nn.Module, x: Tensor) -> Tensor:
    """What zeta's own module makes of a feature, with the layout changed in another way."""
    h, w = x.shape[1:3]
    there = {"tokens": "b (h w) c", "lines": "b c (h w)", "map": "b c h w", "video": "b c 1 h w"}
    pattern = there[row.layout]
    given = rearrange(x, f"b h w c -> {pattern}").contiguous()
    y = module(*[given] * row.inputs)
    y = y[0] if row.first else y
    sides = {"h": h, "w": w} if row.layout in ("tokens", "lines") else {}
    return rearrange(y, f"{pattern} -> b h w c", **sides)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("grid", [(6, 4), (8, 8)], ids=str)
@pytest.mark.parametrize("name", ROWS)
def test_it_is_zetas_module(name: str, grid: tuple[int, int], scale: float) -> None:
    row = ROWS[name]
    torch.manual_seed(0)
    block = BLOCKS.get(name)(**row.example)
    x = Feature(channels=64, grid=grid, ends=(64, 40))
    mine = block.build(x).eval()
    arguments = {
        **row.example,
        **dict.fromkeys(row.widths, 64),
        **({row.out: 40} if row.out else {}),
    }
    theirs = getattr(zeta_nn(), row.module)(**arguments).eval()
    assert list(mine.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(mine.state_dict())
    tensor = torch.randn(2, *grid, 64) * scale
    with torch.no_grad():
        expected = by_hand(row, theirs, tensor)
        assert torch.equal(mine(tensor), expected)
    after = block.flow(x)
    assert expected.shape == (2, *after.grid, after.channels)


@pytest.mark.parametrize("name", ROWS)
def test_it_is_one_graph(name: str) -> None:
    torch.compiler.reset()
    projector = build_projector(document(name)).eval()
    compiled = torch.compile(projector, fullgraph=True, backend="eager")
    x = torch.randn(2, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, grid=(6, 4)), projector(x, grid=(6, 4)))


def refused(block: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        build_projector({"in": 64, "out": 32, "blocks": [block, "pointwise"]})
    return str(caught.value)


def test_values_that_zeta_refuses() -> None:
    """When it is built, or when it is run once on paper; before anything is allocated."""
    grouped = {"type": "zeta-multi-grouped-query-attn", "query_heads": 7, "kv_heads": 1}
    assert refused(grouped) == (
        "zeta.nn.MultiGroupedQueryAttn(query_heads=7, kv_heads=1, dropout=0.0, bias=True, "
        "layer_norm=True, layer_norm_eps=1e-05, gamma_init=1.0, dim=64): ValueError: dim (64) must "
        "be divisible by query_heads (7) and kv_heads (1). Its signature is "
        "MultiGroupedQueryAttn(dim, query_heads, kv_heads, dropout=0.0, bias=True, "
        "layer_norm=True, layer_norm_eps=1e-05, gamma_init=1.0, device=None, dtype=None)."
    )
    assert refused({"type": "zeta-multi-query-attention", "heads": 7}) == (
        "zeta.nn.MultiQueryAttention(heads=7, clip_qkv=None, softmax_scale=None, "
        "norm_type='low_precision_layernorm', verbose=0, dim=64): EinopsError: Error while "
        'processing rearrange-reduction pattern "b s (h d) -> b h s d". Input tensor shape: '
        "torch.Size([1, 64, 64]). Additional info: {'h': 7}. Shape mismatch, can't divide axis of "
        "length 64 in chunks of 7. Its signature is MultiQueryAttention(dim, heads, "
        "attn_impl='torch', clip_qkv=None, qk_ln=False, softmax_scale=None, attn_pdrop=0.0, "
        "norm_type='low_precision_layernorm', fc_type='torch', verbose=0, device=None)."
    )
    assert refused({"type": "zeta-pseudo-conv3d", "kernel_size": 4}) == (
        "zeta.nn.PseudoConv3d(kernel_size=4, temporal_kernel_size=None, dim=64, dim_out=32): an "
        "input of (1, 64, 8, 8) gives (1, 32, 9, 9); expected (1, 32, 8, 8). Its signature is "
        "PseudoConv3d(dim, dim_out=None, kernel_size=3, temporal_kernel_size=None)."
    )


def fresh(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False
    )


def test_it_is_imported_late_and_leaves_the_process_alone() -> None:
    """Started in the clone, where the first `zeta` on the path is our own folder."""
    code = f"""
{HELPER}
import json, logging, os, warnings
def world():
    root, environment = logging.getLogger(), {{key: value for key, value in os.environ.items()
        if key.startswith(("NUMEXPR", "TF_"))}}
    return warnings.filters[:], root.level, root.handlers[:], environment
import mobilevlm
stack = mobilevlm.load_spec({document("zeta-feed-forward")!r})
names, tokens = mobilevlm.BLOCKS.names(), stack.tokens(4, 4)
assert not [name for name in sys.modules if name.partition(".")[0] == "zeta"]
before = world()
projector = mobilevlm.build_projector(stack)
assert world() == before, (before, world())
assert "zetascale" not in sys.modules["zeta"].__file__ and "table" not in dir(sys.modules["zeta"])
print(projector.tokens(4, 4))
"""
    result = fresh(code, ROOT)
    assert (result.returncode, result.stdout) == (0, "16\n"), result.stderr


def test_a_torchvision_that_does_not_fit_is_named(tmp_path: Path) -> None:
    if torchvision_is_whole():
        pytest.skip("torchvision and torch fit each other here")
    code = f"import mobilevlm; mobilevlm.build_projector({document('zeta-swiglu')!r})"
    result = fresh(code, tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"mobilevlm.zeta.load.ZetaError: zeta.nn.SwiGLU: zetascale {VERSION} is installed, but its "
        "import fails: RuntimeError: operator torchvision::nms does not exist. The installed "
        "torchvision does not match torch: install a matching pair."
    )
    assert issubclass(ZetaError, ImportError)


def torchvision_is_whole() -> bool:
    return torchvision_operators.declare()


def test_the_example(tmp_path: Path) -> None:
    path = ROOT / "examples" / "with_zeta.py"
    code = f"{HELPER}; import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    result = fresh(code, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Read back, it gives the same: True" in result.stdout
    assert list(tmp_path.iterdir()) == []
