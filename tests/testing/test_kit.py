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
from mobilevlm.testing import ConformanceError, check_block, check_projector
from mobilevlm.testing.global_state import STATES, changes, preserve_global_state, snapshot
from mobilevlm.testing.kit import BLOCK_CHECKS, PROJECTOR_CHECKS

SLOW = ("import", "compile", "export")
STATIC = (
    " Shapes and branches may depend on shapes only: no .item(), .tolist(), nonzero(), mask "
    "indexing or `if` on values, and no Python side effects in forward."
)
COMPILE = "6x4 x 48: torch.compile(fullgraph=True) raises; expected one graph." + STATIC
EXPORT = "6x4 x 48: torch.export with a dynamic batch raises; expected a program." + STATIC
META = " Create tensors on x.device; no shape or branch may depend on values."
AGAIN = (
    "6x4 x 48: a second call gives a different output: off; expected the same. Keep no "
    "state between calls; apply dropout and noise only in training."
)
LIE = "; expected the same. Fix the wrong one: plans, documents and the next block rely on flow."
USE = (
    "; expected a gradient. Use it in forward, or do not create it; look for detach() on its path."
)
INPUT = (
    "6x4 x 48: its module modifies its input; expected an unchanged input: other modules "
    "read it too. Write x = x + y instead of x += y, and do not apply relu_(), inplace=True "
    "or x[...] = y to the input."
)
BUILD = (
    "; expected the same names and shapes. Create every parameter in build, from the fields "
    "and the feature only."
)
SLOPE = (
    " is wrong: along a random direction it is this, by finite differences that; expected "
    "the derivative of its output. Look for detach() in part of the computation, and for a "
    "torch.autograd.Function whose backward does not match its forward."
)
ZERO = (
    " is zero everywhere; expected non-zero values. Use it in forward; look for a product "
    "with zero or with a mask of zeros."
)
REGIME = (
    " it gives a different output: off; expected the same. Compute the same whether or not "
    "gradients are recorded; a fast path must give the plain path's numbers."
)
KEEP = (
    " Do not write to self, a list or a cache in forward: a stored tensor keeps its memory "
    "and graph alive, and threads that share the module overwrite each other's values."
)
USED = " when it runs in evaluation; expected an unchanged module." + KEEP
WIDER = (
    " Compute in the wider of fp32 and x.dtype: x.to(torch.promote_types(x.dtype, "
    "torch.float32)); create tensors in x.dtype."
)
NARROW = (
    "6x4 x 48: in fp64 it computes in torch.float32 (wrong_blocks.py); expected torch.float64."
    + WIDER
)
GUARD = (
    "; expected finite values. Add eps before a root or a division, and subtract the "
    "maximum before exp: towers give zeros for padding, and values in the hundreds in a few "
    "channels."
)
BESIDE = (
    "6x4 x 48: in training an image's output changes with the rest of its batch: off; "
    "expected the same. Normalise over an image's own channels and tokens (LayerNorm, "
    "GroupNorm), not over the batch, whose size differs from step to step."
)
LARGE = (
    " Treat large grids like small ones: look for branches on a side or a token count, and "
    "for tables and tiles of limited size."
)
CORNER = (
    " tokens differ from those of the same corner alone: off; expected the same, as between "
    "16x16 and 8x8."
) + LARGE
TOGETHER = (
    "6x4 x 48: an image alone gives a different output than in a batch: off; expected the "
    "same. Do not compute across the first axis."
)
LOADED = (
    "6x4 x 48: calling the module loaded from its state dict raises RuntimeError. Store "
    "computed values as parameters or persistent buffers, or compute them in forward: a "
    "projector is built on the meta device before its weights are loaded."
)
LEAK = (
    "mixes_tokens is False, but half of the tokens alone give a different output: off; "
    "expected independent tokens: otherwise packed images leak into each other. Set "
    "mixes_tokens: ClassVar[bool] = True."
)
DTYPE = " Create tensors in x.dtype, and cast back what is computed in fp32."
ALONE = (
    "; expected unchanged global state. Pass dtype, device or generator to the calls that "
    "need them; leave settings and environment variables to the user."
)
FAR = (
    "6x4 x 48: in bf16 it differs from fp32; expected at most 10%. Compute norms, softmax "
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
            "GridError. A side may be None; x.resize(lambda side: ...) keeps it None."
        ),
    },
    "FlowGuesses": {
        "flow": (
            "?x? x 48: while the grid is unknown its flow returns 24x24 x 48, and 6x4 x 48 "
            "once it is known; expected the same, or unknown sides. Return a number for a "
            "side only if it never depends on the grid."
        ),
    },
    "FlowRefusesUnknown": {
        "flow": (
            "?x? x 48: its flow refuses an unknown grid: the grid must be known; expected a "
            "Feature: with the grid known, it returns 6x4 x 48. A document is checked "
            "before its grid is known; refuse only what must be wrong."
        ),
    },
    "FlowForgets": {
        "flow": (
            "6x4 x 48: its flow returns ?x? x 48 for 6x4 x 48; expected known sides. "
            "Compute every output side whose input side is known."
        ),
    },
    "FlowGivesNumbers": {
        "flow": ("6x4 x 48: its flow returns 48; expected a Feature. Return x, or x.replace(...)."),
    },
    "FlowMovesTheEnds": {
        "flow": (
            "6x4 x 48: its flow changes the projector's ends to (1, 1); expected unchanged "
            "ends. Leave ends out of x.replace(...)."
        ),
    },
    "BuildFails": {
        "run": (
            "?x? x 48: its build raises TypeError. A projector is built before its grid is "
            "known, so sides may be None: raise a GridError or SpecError if build needs "
            "them."
        ),
    },
    "BuildsAFunction": {
        "run": (
            "?x? x 48: its build returns <built-in method sigmoid of type object>; expected "
            "a torch.nn.Module. Put the function into a module's forward."
        ),
    },
    "TakesOnlySevens": {
        "flow": (
            "6x4 x 48, 5x7 x 48, 12x12 x 48, 1x1 x 48, 4x6 x 48, 10 x 48: it accepts none "
            "of the usual features: 48 channels; expected a multiple of 7; expected at "
            "least one. Pass features=[Feature(channels=..., grid=(h, w), ends=(in, out)), "
            "...]."
        ),
    },
    "GivesATuple": {
        "run": (
            "6x4 x 48: its module gives a tuple; expected a Tensor. Return the feature and "
            "nothing else."
        ),
    },
    "GivesNan": {
        "run": (
            "6x4 x 48: its module gives nan or inf; expected finite values. Guard "
            "divisions, logarithms and roots against zero."
        ),
    },
    "GivesIntegers": {
        "run": (
            "6x4 x 48: given torch.float32 its module returns torch.int64; expected the "
            "same dtype. Create tensors in x.dtype, and cast back what is computed in "
            "another."
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
            "1x1 x 48: its module raises ValueError. Its flow accepts this input: support "
            "it, or refuse it in flow with a GridError or SpecError."
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
            "6x4 x 48: its output does not require gradients; expected gradients. Look for "
            "detach(), .data, torch.no_grad() and NumPy in forward."
        ),
    },
    "RootOfZero": {
        "gradients": (
            "6x4 x 48: the gradient of the input is nan or inf; expected finite values. "
            "Guard divisions, logarithms and roots against zero."
        ),
        "extremes": "6x4 x 48: the gradient of the input is nan or inf on a token of zeros" + GUARD,
    },
    "HoldsALambda": {
        "pickle": (
            "?x? x 48: pickling its module raises AttributeError. Define classes and "
            "functions at the top level of a file; store no lambda, file or lock."
        ),
    },
    "CopiesNothing": {
        "deepcopy": (
            "?x? x 48: a deep copy shares parameters with the original; expected parameters "
            "of its own. Do not define __deepcopy__."
        ),
    },
    "LosesItsTable": {
        "state-dict": (
            "?x? x 48: buffer 'table' is not in the state dict, and has no values; expected "
            "all values in the state dict. Store computed values as parameters or "
            "persistent buffers, or compute them in forward: a projector is built on the "
            "meta device before its weights are loaded."
        ),
    },
    "TiesWeights": {
        "state-dict": (
            "?x? x 48: writing its state dict as safetensors raises RuntimeError. Store "
            "tensors only, and each tied weight under one name."
        ),
    },
    "GrowsLater": {
        "meta": "6x4 x 48: its module, on meta, raises RuntimeError." + META,
        "parameters": "?x? x 48: 'scale' differs after its first call" + BUILD,
        "state": "6x4 x 48: 'scale' changes" + USED,
        "bf16": "6x4 x 48: in bf16 it gives torch.float32; expected torch.bfloat16." + DTYPE,
    },
    "OnTheProcessor": {
        "meta": ("6x4 x 48: its module, on meta, raises RuntimeError." + META),
        "parameters": (
            "?x? x 48: 'scale' is created on cpu; expected torch's default device. Do not "
            "set device where tensors are created, or pass it on."
        ),
    },
    "RandomWidth": {
        "parameters": ("?x? x 48: 'down.weight' differs between two builds" + BUILD),
        "state-dict": (
            "?x? x 48: loading its own state dict raises RuntimeError. Leave saving and "
            "loading to nn.Module's own methods."
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
            "6x4 x 48: its module, on an empty batch, raises RuntimeError. A rank may have "
            "no images: write sizes instead of -1, and do not loop over images."
        ),
        "export": (
            "6x4 x 48: torch.export with a dynamic batch raises; expected a program." + STATIC
        ),
    },
    "Views": {
        "strides": (
            "6x4 x 48: its module, on a channels-first view, raises RuntimeError. Use "
            "reshape or flatten instead of view."
        ),
    },
    "ReadsTheGrid": {
        "tokens": (
            "6x4 x 48: needs_grid is False, but the same tokens in one row give a different "
            "output: off; expected the same on any grid. Leave needs_grid at True."
        ),
    },
    "MixesTokens": {
        "tokens": (
            "6x4 x 48: mixes_tokens is False, but half of the tokens alone give a different "
            "output: off; expected independent tokens: otherwise packed images leak into "
            "each other. Set mixes_tokens: ClassVar[bool] = True."
        ),
    },
    "PacksWrongly": {
        "tokens": (
            "6x4 x 48, 5x7 x 48, 12x12 x 48, 1x1 x 48: packed images give a different "
            "output: off; expected the outputs of the single images, concatenated. For each "
            "image, compute what forward computes for it alone."
        ),
    },
    "ReadsAtABudget": {
        "tokens": (
            "6x4 x 48, 5x7 x 48, 12x12 x 48, 1x1 x 48: its forward_packed at a budget raises "
            "HostReadError"
        ),
    },
    "SpreadsPadding": {
        "tokens": (
            "6x4 x 48, 5x7 x 48, 12x12 x 48, 1x1 x 48: packed images give a different "
            "output: off; expected the outputs of the single images, concatenated. For each "
            "image, compute what forward computes for it alone."
        ),
    },
    "PacksUnpadded": {
        "tokens": (
            "6x4 x 48, 5x7 x 48, 12x12 x 48, 1x1 x 48: what its pack returns at a budget has other "
            "shapes for fewer images; expected those of the budget, so that one captured graph "
            "serves all images within it. Pad with Packing.padded."
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
            "6x4 x 48: under autocast to bf16 it differs from fp32; expected at most 10%. "
            "Let autocast choose the dtype of matrix products only. Compute norms, softmax "
            "and long sums in fp32."
        )
    },
    "CountsItsCalls": {"state": "6x4 x 48: 'calls' changes" + USED},
    "CountsInAnAttribute": {"state": "6x4 x 48: 'calls' changes" + USED},
    "KeepsItsInputs": {"state": "6x4 x 48: 'seen[0]' changes" + USED},
    "KeepsItsOutput": {"state": "6x4 x 48: 'last' changes" + USED},
    "ReusesItsOutput": {
        "parameters": "?x? x 48: 'out' differs after its first call" + BUILD,
        "state": "6x4 x 48: 'out' changes" + USED,
    },
    "KeepsInAGlobal": {
        "state": (
            "6x4 x 48: after the call its input is still in memory; expected no reference to it."
        )
        + KEEP
    },
    "KeepsItsOutputInAGlobal": {
        "state": (
            "6x4 x 48: after the call its output is still in memory; expected no reference to it."
        )
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
            "6x4 x 48: given torch.float32 its module returns torch.float64; expected the "
            "same dtype. Create tensors in x.dtype, and cast back what is computed in "
            "another."
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
        "extremes": "6x4 x 48: its module gives nan or inf on values a thousand times as large"
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
            "33x47 x 48: its module raises IndexError. Its flow accepts this input: support "
            "it, or refuse it in flow with a GridError or SpecError."
        )
    },
    "NanOnLargeGrids": {
        "flow": "33x47 x 48: its module gives nan or inf; expected finite values." + LARGE
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
            "6x4 x 48: writing and reading it as JSON raises SpecError; expected a "
            "document. Use plain data in fields; a tuple needs Field(strict=False): JSON "
            "has only lists."
        ),
    },
}


def told(name: str, finding: MobileVLMError) -> str:
    """Return a finding without what depends on the machine and on torch's version."""
    found = re.sub(r" at 0x\w+", "", finding.found)
    found = re.sub(r"off by up to \S+ where the values reach \S+", "off", found)
    found = re.sub(r" by \d+%", "", found)
    found = re.sub(
        r"it is \S+ by finite differences \S+", "it is this, by finite differences that", found
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


@pytest.mark.quick(*[*EXPECTED][::4])
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
        "Wrong(module='SetsThreads'): 1 of 23 properties does not hold\n\nglobals, on 6x4 x "
        "48\n  found: running it in evaluation changes torch's number of threads\n  "
        "expected: unchanged global state\n  hint: Pass dtype, device or generator to the "
        "calls that need them; leave settings and environment variables to the user."
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
    with preserve_global_state():
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
        "importing {} prints 'hello'; expected no output. Use logging, and only in calls.",
    ),
    "changes": (
        "import random; random.seed(0); torch.rand(1); torch.set_default_dtype(torch.bfloat16)",
        "importing {} changes Python's random state, torch's random state, torch's default dtype"
        + ALONE,
    ),
    "fails": (
        "import no_such_module",
        (
            "importing {} in a new interpreter fails: ModuleNotFoundError: No module named "
            "'no_such_module'; expected an import that works on its own"
        ),
    ),
}


@pytest.mark.quick(next(iter(IMPORTS)))
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
        "3x5 x 9: it refuses the feature: 9 channels; expected a multiple of 7; expected "
        "features that it accepts"
    )
    with pytest.raises(ConformanceError) as caught:
        check_block(block, features=[Feature(channels=7, ends=(7, 28))])
    assert told("flow", caught.value.findings["flow"]) == (
        "?x? x 7: its grid is not known; expected features with a known grid"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: check_block(wrong_blocks.Named),
            "Named: key 'name' is missing",
        ),
        (
            lambda: check_block(nn.Linear),  # type: ignore[arg-type]
            "check_block: <class 'torch.nn.modules.linear.Linear'>; expected a block, or its class",
        ),
        (
            lambda: check_block(wrong("InPlace"), skip=("complie",)),
            "check_block(skip=...): no property is named 'complie'; expected one of "
            f"{', '.join(BLOCK_CHECKS)}. Did you mean 'compile'?",
        ),
        (
            lambda: check_projector("ldp", skip="compiled"),
            "check_projector(skip=...): no property is named 'compiled'; expected one of "
            f"{', '.join(PROJECTOR_CHECKS)}. Did you mean 'compile'?",
        ),
        (
            lambda: check_projector(Fixed(), colour="red"),
            (
                "unknown option 'colour'. Options belong to a registered name; a document says "
                "everything itself."
            ),
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
        (Fickle(), "document", "expanding it twice gives different stacks; expected the same"),
        (
            Stubborn(),
            "flow",
            (
                "6x4 x 48, 12x16 x 48, 12x12 x 48, 5x7 x 48: it accepts none of the usual "
                "grids: blocks[0] (pool): a grid of 6x4 holds no window of 50x50. Set ceil=True "
                "to keep windows cut off by the border. It is given 6x4 x 48 by the input; "
                "expected at least one. Pass grids=[(h, w), ...]."
            ),
        ),
        (
            Fixed(block="BranchesOnValues"),
            "meta",
            "6x4 x 48: its module, on meta, raises RuntimeError." + META,
        ),
        (
            Fixed(block="MixesTokens"),
            "tokens",
            (
                "6x4 x 48, 12x16 x 48, 12x12 x 48, 5x7 x 48: packed images give a different "
                "output: off; expected the outputs of the single images, concatenated. Run "
                "check_block on its blocks: one of them reads more than its needs_grid or "
                "mixes_tokens says."
            ),
        ),
        (
            Fixed(block="LiesAboutOddGrids"),
            "flow",
            (
                "5x7 x 48: the flow of blocks[0] (under-test-0) says (2, 3, 4, 48), its module "
                "gives (2, 2, 3, 48); expected the same. Run check_block on it."
            ),
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
