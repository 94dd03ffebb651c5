"""The kit: every built-in's rules, and what it says of blocks that break them."""

import logging
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import right_blocks
import torch
import wrong_blocks
from torch import nn

from mobilevlm import BLOCKS, Block, Feature, MobileVLMError, Preset, SpecError, Stack
from mobilevlm.blocks.core.process_state import STATES
from mobilevlm.testing import ConformanceError, check_block, check_projector
from mobilevlm.testing.kit import BLOCK_CHECKS, PROJECTOR_CHECKS
from mobilevlm.testing.world import changes, kept, snapshot

SLOW = ("import", "compile", "export")
STATIC = (
    " Let shapes alone decide shapes and branches: no .item(), .tolist(), nonzero(), mask indexing "
    "or `if` on values, and no Python side effects in forward."
)
COMPILE = "6x4 x 48: torch.compile(fullgraph=True) raises; expected one graph." + STATIC
EXPORT = "6x4 x 48: torch.export with a dynamic batch raises; expected a program." + STATIC
META = " Make tensors on x.device, and let no value decide a shape or a branch."
AGAIN = (
    "6x4 x 48: called again, it gives something else: off; expected the same. Keep no state "
    "between calls; apply dropout and noise in training only."
)
LIE = (
    "; expected the same. One of the two is wrong: flow is what plans, documents and the next "
    "block believe."
)
USE = (
    "; expected a gradient everywhere. Use it in forward, or do not make it; look for detach() "
    "on its way."
)
INPUT = (
    "6x4 x 48: its module changes its input; expected the input as it was: others read it too. "
    "Write x = x + y for x += y, and take the input out of relu_(), inplace=True and x[...] = "
    "y."
)
BUILD = (
    "; expected the same names and shapes. Let build make every parameter, by the fields and "
    "the feature alone."
)
SLOPE = (
    " is wrong: along a random direction it says this, finite differences say that; expected the "
    "derivative of what it computes. Look for detach() on the way of some of it, and for a "
    "backward of your own (torch.autograd.Function) that does not fit its forward."
)
ZERO = (
    " is zero everywhere; expected other numbers. Use it in forward; look for a product with zero "
    "or with a mask of zeros."
)
REGIME = (
    " it gives something else: off; expected the same. Compute alike whether gradients are "
    "recorded or not; hold a fast form to the plain one's numbers."
)
KEEP = (
    " Write nothing to self in forward, nor to a list or a cache elsewhere: a kept tensor holds "
    "its memory and its graph, and threads that share the module write over each other's."
)
USED = " when it is used in evaluation; expected the module as it was." + KEEP
WIDER = (
    " Compute in the wider of fp32 and x.dtype: x.to(torch.promote_types(x.dtype, torch.float32)); "
    "make tensors of x.dtype."
)
NARROW = (
    "6x4 x 48: in fp64 it computes in torch.float32 (wrong_blocks.py); expected torch.float64."
    + WIDER
)
GUARD = (
    "; expected numbers. Add eps before a root or a division, and take the maximum off before exp: "
    "towers give zeros for padding, and a few channels in the hundreds."
)
BESIDE = (
    "6x4 x 48: in training an image gives something else beside another one: off; expected the "
    "same. Normalise over an image's own channels and tokens (LayerNorm, GroupNorm), not over the "
    "batch: how many images that is differs from step to step."
)
LARGE = (
    " Treat large grids like small ones: look for a branch on a side or a number of tokens, and "
    "for tables and tiles that end."
)
CORNER = (
    " tokens are others than those of the same corner alone: off; expected the same, as in 16x16 "
    "and 8x8." + LARGE
)
TOGETHER = (
    "6x4 x 48: alone, an image gives something else than in a batch: off; expected the same. "
    "Compute nothing across the first axis."
)
LOADED = (
    "6x4 x 48: loaded from its state dict, it, called, raises RuntimeError. Make what is computed "
    "once a parameter, a persistent buffer, or compute it in forward: a projector is built on the "
    "meta device before its weights arrive."
)
LEAK = (
    "mixes_tokens is False, but alone, half of the tokens differ: off; expected each token by "
    "itself: packed images would leak into each other. Say mixes_tokens: ClassVar[bool] = True."
)
DTYPE = " Make tensors of x.dtype, and cast back what is computed in fp32."
ALONE = (
    "; expected the process as it was. Pass dtype, device or generator to the calls that need "
    "them; leave switches and variables to the user."
)
FAR = (
    "6x4 x 48: in bf16 it is far away from fp32; expected at most 10%. Compute norms, softmax "
    "and long sums in fp32."
)
EXPECTED: dict[str, dict[str, str]] = {
    "LyingFlow": {
        "flow": ("6x4 x 48: its flow says (2, 6, 4, 96), its module gives (2, 6, 4, 48)" + LIE),
    },
    "LiesAboutOddGrids": {
        "flow": ("5x7 x 48: its flow says (1, 3, 4, 48), its module gives (1, 2, 3, 48)" + LIE),
    },
    "FlowDivides": {
        "flow": (
            "?x? x 48: its flow raises TypeError; expected a Feature, or a SpecError or "
            "GridError. A side may be None; x.resize(lambda side: ...) leaves it so."
        ),
    },
    "FlowGuesses": {
        "flow": (
            "?x? x 48: while the grid is unknown its flow says 24x24 x 48, with the grid 6x4 x "
            "48; expected the same, or sides that are unknown. Give a side as a number only if "
            "it never depends on the grid."
        ),
    },
    "FlowRefusesUnknown": {
        "flow": (
            "?x? x 48: its flow refuses a grid that is not known yet: the grid must be known; "
            "expected a Feature: with the grid, it says 6x4 x 48. A document is checked before "
            "its grid is known; refuse what is known to be wrong."
        ),
    },
    "FlowForgets": {
        "flow": (
            "6x4 x 48: its flow makes ?x? x 48 of 6x4 x 48; expected sides as numbers. Say of "
            "every side what becomes of it; None is for what is not known."
        ),
    },
    "FlowGivesNumbers": {
        "flow": ("6x4 x 48: its flow returns 48; expected a Feature. Return x, or x.replace(...)."),
    },
    "FlowMovesTheEnds": {
        "flow": (
            "6x4 x 48: its flow changes the projector's ends to (1, 1); expected the ends as "
            "they were. Leave ends out of x.replace(...)."
        ),
    },
    "BuildFails": {
        "run": (
            "?x? x 48: its build raises TypeError. A projector is built before its grid is "
            "known, with None for a side: raise a GridError or SpecError if that will not do."
        ),
    },
    "BuildsAFunction": {
        "run": (
            "?x? x 48: its build returns <built-in method sigmoid of type object>; expected a "
            "torch.nn.Module. Put a function into the forward of one."
        ),
    },
    "TakesOnlySevens": {
        "flow": (
            "6x4 x 48, 5x7 x 48, 12x12 x 48, 1x1 x 48, 4x6 x 48, 10 x 48: it takes none of the "
            "usual features: 48 channels; expected a multiple of 7; expected one at least. "
            "Pass features=[Feature(channels=..., grid=(h, w), ends=(in, out)), ...]."
        ),
    },
    "GivesATuple": {
        "run": (
            "6x4 x 48: its module gives a tuple; expected a Tensor. Return the feature, and "
            "nothing else."
        ),
    },
    "GivesNan": {
        "run": (
            "6x4 x 48: its module gives nan or inf; expected numbers. Guard divisions, "
            "logarithms and roots against zero."
        ),
    },
    "GivesIntegers": {
        "run": (
            "6x4 x 48: of torch.float32 its module makes torch.int64; expected the same. Make "
            "tensors of x.dtype, and cast back what is computed in another."
        ),
    },
    "InPlace": {
        "input": INPUT,
    },
    "InPlaceInTraining": {
        "input": INPUT,
    },
    "TrainsOnly": {
        "run": (
            "1x1 x 48: its module raises ValueError. Its flow takes this: run it too, or "
            "refuse it there with a GridError or SpecError."
        ),
    },
    "Counts": {
        "determinism": AGAIN,
    },
    "Remembers": {
        "determinism": AGAIN,
    },
    "Draws": {
        "determinism": AGAIN,
    },
    "BranchesOnValues": {
        "meta": ("6x4 x 48: its module, on meta, raises RuntimeError." + META),
        "compile": COMPILE,
        "export": (
            "6x4 x 48: torch.export with a dynamic batch raises; expected a program." + STATIC
        ),
    },
    "ShapeFromValues": {
        "meta": ("6x4 x 48: its module, on meta, raises NotImplementedError." + META),
        "export": (
            "6x4 x 48: torch.export with a dynamic batch raises; expected a program." + STATIC
        ),
    },
    "FrozenBatch": {
        "export": (
            "6x4 x 48: torch.export with a dynamic batch raises; expected a program." + STATIC
        ),
    },
    "UnusedParameter": {
        "gradients": ("?x? x 48: no gradient reaches parameter 'scale'" + USE),
    },
    "Detached": {
        "gradients": ("6x4 x 48: no gradient reaches the input" + USE),
    },
    "NoGrad": {
        "gradients": (
            "6x4 x 48: no gradient comes back from its output; expected gradients. Look for "
            "detach(), .data, torch.no_grad() and NumPy on the way."
        ),
    },
    "RootOfZero": {
        "gradients": (
            "6x4 x 48: the gradient of the input is nan or inf; expected numbers. Guard "
            "divisions, logarithms and roots against zero."
        ),
        "extremes": "6x4 x 48: the gradient of the input is nan or inf on a token of zeros" + GUARD,
    },
    "HoldsALambda": {
        "pickle": (
            "?x? x 48: pickling its module raises AttributeError. Put classes and functions at "
            "the top of a file; keep no lambda, file or lock."
        ),
    },
    "CopiesNothing": {
        "deepcopy": (
            "?x? x 48: a deep copy shares its parameters; expected its own. Leave __deepcopy__ out."
        ),
    },
    "LosesItsTable": {
        "state-dict": (
            "?x? x 48: buffer 'table' is not in the state dict, and has no values; expected "
            "every value from the state dict. Make what is computed once a parameter, a "
            "persistent buffer, or compute it in forward: a projector is built on the meta "
            "device before its weights arrive."
        ),
    },
    "TiesWeights": {
        "state-dict": (
            "?x? x 48: writing its state dict as safetensors raises RuntimeError. Keep tensors "
            "only, and a tied weight under one name."
        ),
    },
    "GrowsLater": {
        "meta": "6x4 x 48: its module, on meta, raises RuntimeError." + META,
        "parameters": "?x? x 48: 'scale' differs after its first call" + BUILD,
        "state": "6x4 x 48: 'scale' appears, a tensor (48,)," + USED,
        "bf16": "6x4 x 48: in bf16 it gives torch.float32; expected torch.bfloat16." + DTYPE,
    },
    "OnTheProcessor": {
        "meta": ("6x4 x 48: its module, on meta, raises RuntimeError." + META),
        "parameters": (
            "?x? x 48: 'scale' is made on cpu; expected torch's default device. Leave device "
            "out where tensors are made, or pass it on."
        ),
    },
    "RandomWidth": {
        "parameters": ("?x? x 48: 'down.weight' differs between two builds" + BUILD),
        "state-dict": (
            "?x? x 48: loading its own state dict raises RuntimeError. Let build and "
            "nn.Module's own methods decide what is saved and loaded."
        ),
        "bf16": FAR,
    },
    "InFp32": {
        "meta": ("6x4 x 48: its module, on meta, raises RuntimeError." + META),
        "bf16": ("6x4 x 48: in bf16 it gives torch.float32; expected torch.bfloat16." + DTYPE),
    },
    "FailsInBf16": {
        "bf16": "6x4 x 48: its module, in bf16, raises RuntimeError." + DTYPE,
        "fp64": "6x4 x 48: its module, in fp64, raises RuntimeError." + WIDER,
    },
    "Cancels": {
        "bf16": FAR,
    },
    "Reseeds": {
        "globals": ("?x? x 48: building it changes the seed" + ALONE),
    },
    "SetsTheDtype": {
        "globals": ("?x? x 48: building it changes torch's default dtype" + ALONE),
    },
    "SetsThreads": {
        "globals": ("6x4 x 48: running it in evaluation changes torch's number of threads" + ALONE),
        "compile": COMPILE,
    },
    "AcrossTheBatch": {
        "batch": TOGETHER,
        "training-batch": BESIDE,
    },
    "FailsOnNone": {
        "batch": (
            "6x4 x 48: its module, on an empty batch, raises RuntimeError. A rank may have no "
            "image: give sizes for -1, and do not loop over the batch."
        ),
        "export": (
            "6x4 x 48: torch.export with a dynamic batch raises; expected a program." + STATIC
        ),
    },
    "Views": {
        "strides": (
            "6x4 x 48: its module, on an input in memory as channels first, raises "
            "RuntimeError. Write reshape or flatten for view."
        ),
    },
    "ReadsTheGrid": {
        "tokens": (
            "6x4 x 48: needs_grid is False, but in one row the same tokens differ: off; "
            "expected the same on any grid. Leave needs_grid at True."
        ),
    },
    "MixesTokens": {
        "tokens": (
            "6x4 x 48: mixes_tokens is False, but alone, half of the tokens differ: off; "
            "expected each token by itself: packed images would leak into each other. Say "
            "mixes_tokens: ClassVar[bool] = True."
        ),
    },
    "PacksWrongly": {
        "tokens": (
            "6x4 x 48, 5x7 x 48, 12x12 x 48, 1x1 x 48: its forward_packed gives something else "
            "than forward: off; expected the same. Give each image what it gets alone, one "
            "after the other."
        ),
    },
    "DoublesTheGradient": {"gradcheck": "6x4 x 48: the gradient of the input" + SLOPE},
    "DoublesAWeightsGradient": {
        "gradcheck": "6x4 x 48: the gradient of parameter 'weight'" + SLOPE
    },
    "GatesByADetached": {"gradcheck": "6x4 x 48: the gradient of the input" + SLOPE},
    "StraightThrough": {"gradcheck": "6x4 x 48: the gradient of the input" + SLOPE},
    "TimesZero": {"gradients": "?x? x 48: the gradient of parameter 'weight'" + ZERO},
    "InputTimesZero": {"gradients": "?x? x 48: the gradient of the input" + ZERO},
    "OtherUnderNoGrad": {"no-grad": "6x4 x 48: under no_grad" + REGIME},
    "OtherInInference": {"no-grad": "6x4 x 48: under inference_mode" + REGIME, "compile": COMPILE},
    "OtherUnderAutocast": {
        "bf16": (
            "6x4 x 48: under autocast to bf16 it is far away from fp32; expected at most 10%. "
            "Let it choose the dtype of products and nothing else. Compute norms, softmax and "
            "long sums in fp32."
        )
    },
    "CountsItsCalls": {"state": "6x4 x 48: 'calls' changes" + USED},
    "CountsInAnAttribute": {"state": "6x4 x 48: 'calls' appears" + USED},
    "KeepsItsInputs": {"state": "6x4 x 48: 'seen[0]' appears, a tensor (2, 6, 4, 48)," + USED},
    "KeepsItsOutput": {"state": "6x4 x 48: 'last' appears, a tensor (2, 6, 4, 48)," + USED},
    "ReusesItsOutput": {
        "parameters": "?x? x 48: 'out' differs after its first call" + BUILD,
        "state": "6x4 x 48: 'out' changes" + USED,
    },
    "KeepsInAGlobal": {
        "state": "6x4 x 48: after the call its input is still in memory; expected nothing kept."
        + KEEP
    },
    "KeepsItsOutputInAGlobal": {
        "state": "6x4 x 48: after the call its output is still in memory; expected nothing kept."
        + KEEP
    },
    "SwitchesItsMode": {"state": "6x4 x 48: 'training' changes" + USED},
    "InFp32Only": {"fp64": NARROW},
    "DoublesInFp32Only": {
        "gradcheck": "6x4 x 48: the gradient of the input" + SLOPE,
        "fp64": NARROW,
    },
    "FailsInFp64": {"fp64": "6x4 x 48: its module, in fp64, raises RuntimeError." + WIDER},
    "MakesFp64": {
        "run": (
            "6x4 x 48: of torch.float32 its module makes torch.float64; expected the same. Make "
            "tensors of x.dtype, and cast back what is computed in another."
        )
    },
    "GivesFp32OfFp64": {
        "fp64": "6x4 x 48: in fp64 it gives torch.float32; expected torch.float64." + WIDER
    },
    "NanOnZeros": {"extremes": "6x4 x 48: its module gives nan or inf on a token of zeros" + GUARD},
    "NanGradientOnZeros": {
        "extremes": "6x4 x 48: the gradient of the input is nan or inf on a token of zeros" + GUARD
    },
    "NanOnEqualNumbers": {
        "extremes": "6x4 x 48: its module gives nan or inf on a token of zeros" + GUARD
    },
    "OverflowsEarly": {
        "extremes": "6x4 x 48: its module gives nan or inf on numbers a thousand times as large"
        + GUARD
    },
    "BatchStatistics": {"training-batch": BESIDE},
    "MixesManyTokens": {
        "tokens": "33x47 x 48: " + LEAK,
        "large-grids": "64x64 x 48: its first" + CORNER,
    },
    "WrongOnLargeGrids": {"large-grids": "64x64 x 48: its first" + CORNER},
    "WrongInTheSecondTile": {"large-grids": "64x64 x 48: its last" + CORNER},
    "TableEnds": {
        "flow": (
            "33x47 x 48: its module raises IndexError. Its flow takes this: run it too, or "
            "refuse it there with a GridError or SpecError."
        )
    },
    "NanOnLargeGrids": {
        "flow": "33x47 x 48: its module gives nan or inf; expected numbers." + LARGE
    },
    "Drifts": {"determinism": AGAIN},
    "HidesATensor": {
        "state-dict": LOADED,
        "bf16": "6x4 x 48: in bf16 it gives torch.float32; expected torch.bfloat16." + DTYPE,
    },
    "HidesTensorsInAList": {
        "state-dict": LOADED,
        "bf16": "6x4 x 48: in bf16 it gives torch.float32; expected torch.bfloat16." + DTYPE,
    },
    "FlipsTheBatch": {
        "batch": TOGETHER,
        "training-batch": BESIDE,
    },
    "WritesTheEnvironment": {
        "globals": "6x4 x 48: running it in evaluation changes the environment's variables" + ALONE,
        "compile": COMPILE,
    },
    "SetsTheDeviceByHand": {
        "globals": "?x? x 48: building it changes torch's default device" + ALONE
    },
    "SetsTheDevice": {"globals": "?x? x 48: building it changes torch's default device" + ALONE},
    "TunesCudnn": {"globals": "?x? x 48: building it changes cuDNN's switches" + ALONE},
    "TurnsOffOnednn": {
        "globals": "6x4 x 48: running it in evaluation changes oneDNN's switch" + ALONE,
    },
    "InPlaceByData": {"input": INPUT},
    "NoJson": {
        "document": (
            "6x4 x 48: reading and writing it raises SpecError; expected a document. Fields "
            "are plain data; a tuple needs Field(strict=False), for JSON has lists only."
        ),
    },
}


def told(name: str, finding: MobileVLMError) -> str:
    """Return a finding without what depends on the machine and on torch's version."""
    found = re.sub(r" at 0x\w+", "", finding.found)
    found = re.sub(r"off by up to \S+ where the values reach \S+", "off", found)
    found = re.sub(r"\d+% away", "far away", found)
    found = re.sub(
        r"says \S+ finite differences say \S+", "says this, finite differences say that", found
    )
    found = re.sub(r"\.py:\d+", ".py", found)
    found = re.sub(r"(raises \w+): .*", r"\1", found)
    if name in ("compile", "export"):
        found = re.sub(r"raises \w+", "raises", found)
    return str(MobileVLMError(found, finding.where, finding.expected, finding.hint))


def wrong(name: str) -> Block:
    """Return the block of that name, or one with the module of that name."""
    cls = getattr(wrong_blocks, name)
    block: Block = cls() if issubclass(cls, Block) else wrong_blocks.Wrong(module=name)
    return block


@pytest.mark.parametrize("name", EXPECTED)
def test_a_wrong_block_is_told_what_is_wrong(name: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_block(wrong(name), skip=("import",))
    found = {name: told(name, finding) for name, finding in caught.value.findings.items()}
    assert found == EXPECTED[name]
    assert isinstance(caught.value, AssertionError)


def test_every_property_is_broken_by_some_block() -> None:
    assert {name for found in EXPECTED.values() for name in found} == set(BLOCK_CHECKS) - {"import"}


def test_the_report_reads_like_a_review() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_block(wrong("SetsThreads"), skip=SLOW)
    assert str(caught.value) == (
        "Wrong(module='SetsThreads'): 1 of 23 properties does not hold\n\n"
        "globals, on 6x4 x 48\n"
        "  happened: running it in evaluation changes torch's number of threads\n"
        "  expected: the process as it was\n"
        "  to mend: Pass dtype, device or generator to the calls that need them; leave switches "
        "and variables to the user."
    )
    with pytest.raises(ConformanceError) as caught:
        check_block(wrong("InPlace"))
    assert str(caught.value).splitlines()[0] == (
        "Wrong(module='InPlace'): 1 of 26 properties does not hold; 24 are checked once it does"
    )
    with pytest.raises(ConformanceError) as caught:
        check_block(wrong("OnTheProcessor"), skip=SLOW)
    report = str(caught.value)
    assert report.startswith("Wrong(module='OnTheProcessor'): 2 of 23 properties do not hold\n\n")
    assert re.search(r"is not on the expected device meta! \(wrong_blocks.py:\d+\)\n", report)


def test_the_error_behind_a_finding_is_kept() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_block(wrong("FlowDivides"))
    assert isinstance(caught.value.findings["flow"].__cause__, TypeError)
    assert caught.value.__suppress_context__


LEFT_BEHIND = [
    "Reseeds",
    "SetsTheDtype",
    "SetsTheDevice",
    "SetsTheDeviceByHand",
    "SetsThreads",
    "TunesCudnn",
    "TurnsOffOnednn",
    "WritesTheEnvironment",
    "Draws",
    "FlowDivides",
]


@pytest.mark.parametrize(
    ("name", "device"), [*((name, None) for name in LEFT_BEHIND), ("SetsTheDevice", "cpu")]
)
def test_the_kit_leaves_the_process_as_it_was(
    name: str, device: str | None, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: torch.set_default_device(None))
    torch.set_default_device(device)
    torch.manual_seed(7)
    before, entries = snapshot(), BLOCKS.entries()
    modes = torch.overrides._get_current_function_mode_stack()
    with pytest.raises(ConformanceError):
        check_block(wrong(name), skip=("import",))
    assert changes(before) == []
    assert BLOCKS.entries() == entries
    after = torch.overrides._get_current_function_mode_stack()
    assert [type(mode) for mode in after] == [type(mode) for mode in modes]


CHANGES: dict[str, Any] = {
    "Python's random state": lambda: random.random(),
    "NumPy's random state": lambda: np.random.rand(),
    "torch's random state": lambda: torch.rand(1),
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("cpu"),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's grad mode": lambda: torch.set_grad_enabled(False),
    "torch's autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "torch's deterministic mode": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch's matmul precision": lambda: torch.set_float32_matmul_precision("high"),
    "cuDNN's switches": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "oneDNN's switch": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "the environment's variables": lambda: os.environ.update(BLOCK_WAS_HERE="1"),
}
# CUDA's cannot be tried without one; the other two cannot be put back.
UNTRIED = {"CUDA's random state", "whether CUDA is in use", "torch's number of inter-op threads"}


@pytest.mark.parametrize("name", [state.name for state in STATES if state.name not in UNTRIED])
def test_every_state_is_seen_and_put_back(name: str) -> None:
    before = snapshot()
    with kept():
        CHANGES[name]()
        assert changes(before) == [name]
    assert changes(before) == []
    assert torch.overrides._len_torch_function_stack() == 0


@pytest.mark.parametrize("name", [name for name in vars(right_blocks) if name.startswith("Right")])
def test_a_right_block_is_not_told_off(name: str) -> None:
    """Kinks, noise, dropout, tables: what a finite difference or a comparison could trip over."""
    check_block(getattr(right_blocks, name), skip=SLOW)


IMPORTS = {
    "prints": (
        "print('hello')",
        "importing {} prints 'hello'; expected silence. Use logging, and only when called.",
    ),
    "changes": (
        "import random; random.seed(0); torch.rand(1); torch.set_default_dtype(torch.bfloat16)",
        "importing {} changes Python's random state, torch's random state, torch's default dtype"
        + ALONE,
    ),
    "fails": (
        "import no_such_module",
        "importing {} in a fresh interpreter fails: "
        "ModuleNotFoundError: No module named 'no_such_module'; "
        "expected an import that needs nothing else",
    ),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_what_an_import_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, message = IMPORTS[name]
    module = f"block_that_{name}"
    source = (
        "import torch\nfrom torch import nn\nfrom mobilevlm import Block\n"
        "class Quiet(Block):\n    def build(self, x):\n        return nn.GELU()\n"
    )
    file = tmp_path / f"{module}.py"
    file.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    block = __import__(module).Quiet
    file.write_text(source + line)  # what a fresh interpreter gets to see
    others = set(BLOCK_CHECKS) - {"import"}
    with pytest.raises(ConformanceError) as caught:
        check_block(block, skip=others)
    [finding] = caught.value.findings.values()
    assert str(finding) == message.format(module)


def test_a_class_without_a_file_needs_none() -> None:
    class Here(Block):
        needs_grid = False

        def build(self, x: Feature) -> nn.Module:
            return nn.Linear(x.channels, x.channels)

    check_block(Here)
    namespace: dict[str, type[Block]] = {"__name__": "__main__"}
    exec(
        "from mobilevlm import Block\nfrom torch import nn\n"
        "class There(Block):\n    def build(self, x):\n        return nn.GELU()\n",
        namespace,
    )
    check_block(namespace["There"])


def test_features_of_ones_own() -> None:
    block = wrong("TakesOnlySevens")
    check_block(block, features=[Feature(channels=14, grid=(3, 5), ends=(7, 28))], skip=("import",))
    with pytest.raises(ConformanceError) as caught:
        check_block(block, features=[Feature(channels=9, grid=(3, 5), ends=(7, 28))])
    assert told("flow", caught.value.findings["flow"]) == (
        "3x5 x 9: it refuses the feature: 9 channels; expected a multiple of 7; "
        "expected features that it takes"
    )
    with pytest.raises(ConformanceError) as caught:
        check_block(block, features=[Feature(channels=7, ends=(7, 28))])
    assert told("flow", caught.value.findings["flow"]) == (
        "?x? x 7: its grid is not known; expected features with a grid to try"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: check_block(wrong_blocks.Named),
            "Named: name must be given; expected an instance. Write check_block(Named(name=...)).",
        ),
        (
            lambda: check_block(nn.Linear),  # type: ignore[arg-type]
            "check_block: <class 'torch.nn.modules.linear.Linear'>; expected a block, or its class",
        ),
        (
            lambda: check_block(wrong("InPlace"), skip=("complie",)),
            "check_block(skip=...): no property is called 'complie'; expected some of "
            f"{', '.join(BLOCK_CHECKS)}. Did you mean 'compile'?",
        ),
        (
            lambda: check_projector("ldp", skip="compiled"),
            "check_projector(skip=...): no property is called 'compiled'; expected some of "
            f"{', '.join(PROJECTOR_CHECKS)}. Did you mean 'compile'?",
        ),
        (
            lambda: check_projector(Fixed(), colour="red"),
            "check_projector: unknown option 'colour'. "
            "Options belong to a registered name or to a preset's class.",
        ),
    ],
)
def test_a_wrong_call(call: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        call()
    assert str(caught.value) == message


class Fixed(Preset):
    """A preset with a block that no package offers."""

    block: str = "Linear"

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (wrong(self.block), {"type": "pointwise", "out": "out"})
        return Stack.parse({"in": in_, "out": out, "blocks": blocks})


class Fickle(Preset):
    def expand(self, in_: int, out: int) -> Stack:
        inner = 8 + next(wrong_blocks.CALLS)
        blocks = [{"type": "pointwise", "out": inner}, "pointwise"]
        return Stack.parse({"in": in_, "out": out, "blocks": blocks})


class Stubborn(Preset):
    def expand(self, in_: int, out: int) -> Stack:
        blocks = [{"type": "pool", "mode": "avg", "stride": 50}, "pointwise"]
        return Stack.parse({"in": in_, "out": out, "blocks": blocks})


def test_presets_documents_and_stacks() -> None:
    check_projector(Fixed, skip=("import",))
    check_projector(Fixed, 6, 10, grids=[(3, 5)], skip=SLOW, block="Linear")
    document = {"in": 6, "out": 10, "blocks": ["pointwise", "newline"]}
    check_projector(document, skip=SLOW)
    check_projector(Stack.parse(document), skip=SLOW)
    check_projector({**document, "token_order": "blocked"}, skip=SLOW)
    check_projector("linear", prefix_tokens=1, skip=SLOW)


@pytest.mark.parametrize(
    ("preset", "name", "message"),
    [
        (Fickle(), "document", "expanded twice, it gives two stacks; expected the same"),
        (
            Stubborn(),
            "flow",
            "6x4, 12x16, 12x12, 5x7: it takes none of the usual grids: blocks[0] (pool): a grid of "
            "6x4 holds no window of 50x50. Set ceil=True to keep windows cut off by the border. It "
            "is given 6x4 x 48 by the input; expected one at least. Pass grids=[(h, w), ...].",
        ),
        (
            Fixed(block="BranchesOnValues"),
            "meta",
            "6x4 x 48: its module, on meta, raises RuntimeError." + META,
        ),
        (
            Fixed(block="MixesTokens"),
            "tokens",
            "6x4 x 48, 12x16 x 48, 12x12 x 48, 5x7 x 48: packed images give something else: off; "
            "expected the images' outputs one after the other. "
            "Run check_block on its blocks: one says too little of what it reads.",
        ),
        (
            Fixed(block="LiesAboutOddGrids"),
            "flow",
            "5x7 x 48: the flow of blocks[0] (under-test-0) says (2, 3, 4, 48), its module gives "
            "(2, 2, 3, 48); expected the same. Run check_block on it.",
        ),
    ],
)
def test_a_wrong_projector(preset: Preset, name: str, message: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_projector(preset, skip=SLOW)
    assert told(name, caught.value.findings[name]) == message


def test_compiling_is_silent(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    trace = logging.getLogger("torch.__trace")
    before = (trace.level, logging.root.manager.disable)
    with pytest.raises(ConformanceError):
        check_block(wrong("BranchesOnValues"), skip=set(BLOCK_CHECKS) - {"compile", "export"})
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert (trace.level, logging.root.manager.disable) == before
