"""Checks of every module that a block or a projector builds."""

from __future__ import annotations

import copy as copying
import math
import pickle as pickling

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from .cases import ACCEPTS, Subject, Variant, difference, expect_finite, expect_same
from .derivatives import seed
from .report import Finding, attempt

__all__ = [
    "batch",
    "bf16",
    "deepcopy",
    "determinism",
    "extremes",
    "gradients",
    "input_",
    "meta",
    "no_grad",
    "parameters",
    "pickle",
    "run",
    "state_dict",
    "strides",
    "training_batch",
]

_EXTREMES = ("a token of zeros", "zeros", "ones", "values a thousand times as large")
_LARGE = 1000  # a few channels of a tower reach the hundreds
_GUARD_EXTREMES = (
    "Add eps before a root or a division, and subtract the maximum before exp: towers give zeros "
    "for padding, and values in the hundreds in a few channels."
)
_GUARD = "Guard divisions, logarithms and roots against zero."
_PRECISE = "Compute norms, softmax and long sums in fp32."
_AUTOCAST = f"Let autocast choose the dtype of matrix products only. {_PRECISE}"
_BF16 = 0.1  # rounding of the weights, through many layers
_VALUES = (
    "Store computed values as parameters or persistent buffers, or compute them in forward: "
    "a projector is built on the meta device before its weights are loaded."
)


def run(subject: Subject) -> None:
    """It builds and runs in training and evaluation, and gives finite values."""
    for variant in subject.variants:
        module = variant.build()
        for case in variant.cases:
            for training in (True, False):
                y = case.run(module.train(training), case.input(), hint=ACCEPTS)
                if y.dtype != torch.float32:
                    hint = "Create tensors in x.dtype, and cast back what is computed in another."
                    found = f"given torch.float32 its module returns {y.dtype}"
                    raise Finding(found, case.where, "the same dtype", hint)
                expect_finite(y, "its module gives", case.where, _GUARD)


def meta(subject: Subject) -> None:
    """It runs on the meta device and gives the same shapes."""
    hint = "Create tensors on x.device; no shape or branch may depend on values."
    for variant in subject.variants:
        module = variant.build("meta").eval()
        for case in variant.cases:
            y = case.run(module, case.input().to("meta"), "its module, on meta,", hint)
            if tuple(y.shape[1:]) != case.predicted:
                found = f"on meta its module gives {tuple(y.shape)}"
                raise Finding(found, case.where, f"{(2, *case.predicted)}", hint)


def parameters(subject: Subject) -> None:
    """Its parameters have the same names and shapes on meta as in the real build."""
    for variant in subject.variants:
        meta, real = variant.build("meta"), variant.build()
        sizes = _sizes(real)
        for name, tensor in meta.state_dict().items():
            if not tensor.is_meta:
                hint = "Do not set device where tensors are created, or pass it on."
                found = f"{name!r} is created on {tensor.device}"
                raise Finding(found, variant.where, "torch's default device", hint)
        case = variant.cases[0]
        case.run(real, case.input())
        for other, when in ((meta, "between two builds"), (real, "after its first call")):
            changed = sizes.items() ^ _sizes(other).items()
            if changed:
                hint = "Create every parameter in build, from the fields and the feature only."
                found = f"{min(changed)[0]!r} differs {when}"
                raise Finding(found, variant.where, "the same names and shapes", hint)


def _sizes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def state_dict(subject: Subject) -> None:
    """Its state dict, saved and loaded into a module built on meta, gives the same numbers."""
    for variant in subject.variants:
        module = variant.module()
        hint = "Store tensors only, and each tied weight under one name."
        with attempt("writing its state dict as safetensors", variant.where, hint=hint):
            tensors = {name: t.contiguous() for name, t in module.state_dict().items()}
            state = load(save(tensors))
        other = variant.build("meta").eval()
        hint = "Leave saving and loading to nn.Module's own methods."
        with attempt("loading its own state dict", variant.where, hint=hint):
            other.load_state_dict(state, strict=True, assign=True)
        for name, buffer in other.named_buffers():
            if buffer.is_meta:
                found = f"buffer {name!r} is not in the state dict, and has no values"
                raise Finding(found, variant.where, "all values in the state dict", _VALUES)
        _expect_equal(variant, module, other, "the module loaded from its state dict", _VALUES)


def gradients(subject: Subject) -> None:
    """Gradients reach every parameter and the input; they are finite and not all zero."""
    for variant in subject.variants:
        module = variant.module().train()
        reached = False
        for case in variant.cases:
            leaf = case.input().requires_grad_()
            y = case.run(module, leaf * 1.0)  # may be written to: `input` reports that
            if not y.requires_grad:
                hint = "Look for detach(), .data, torch.no_grad() and NumPy in forward."
                found = "its output does not require gradients"
                raise Finding(found, case.where, "gradients", hint)
            with attempt("its backward", case.where):
                y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))  # type: ignore[no-untyped-call]
            _check_gradient("the input", leaf, case.where)
            reached |= bool(leaf.grad.any())  # type: ignore[union-attr]
        gradients = {
            f"parameter {name!r}": parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        for name, parameter in gradients.items():
            _check_gradient(name, parameter, variant.where)
        # A single token has nothing to attend to, and is its own mean.
        if all(math.prod(case.shape[:-1]) == 1 for case in variant.cases):
            continue
        zero = [] if reached else ["the input"]
        zero += [name for name, each in gradients.items() if not each.grad.any()]  # type: ignore[union-attr]
        if zero:
            hint = "Use it in forward; look for a product with zero or with a mask of zeros."
            found = f"the gradient of {zero[0]} is zero everywhere"
            raise Finding(found, variant.where, "non-zero values", hint)


def _check_gradient(name: str, tensor: Tensor, where: str) -> None:
    if tensor.grad is None:
        hint = "Use it in forward, or do not create it; look for detach() on its path."
        raise Finding(f"no gradient reaches {name}", where, "a gradient", hint)
    expect_finite(tensor.grad, f"the gradient of {name} is", where, _GUARD)


def input_(subject: Subject) -> None:
    """It does not modify its input."""
    hint = (
        "Write x = x + y instead of x += y, and do not apply relu_(), inplace=True or x[...] = y "
        "to the input."
    )
    expected = "an unchanged input: other modules read it too"
    for module, case in subject.modules():
        for training in (True, False):
            x = case.input()
            case.run(module.train(training), x)
            if not torch.equal(x, case.input()):
                raise Finding("its module modifies its input", case.where, expected, hint)


def determinism(subject: Subject) -> None:
    """In evaluation the same input gives the same output, whatever ran before."""
    hint = "Keep no state between calls; apply dropout and noise only in training."
    for module, case in subject.modules():
        x = case.input()
        first = case.run(module, x).clone()
        case.run(module, case.input(seed=1))
        found = "a second call gives a different output"
        expect_same(case.run(module, x), first, found, case.where, hint)


def batch(subject: Subject) -> None:
    """An image's output does not depend on the other images of its batch, which may be empty."""
    for module, case in subject.modules():
        x = case.input(3)
        together = case.run(module, x)
        for index in range(3):
            alone = case.run(module, x[index : index + 1])
            found = "an image alone gives a different output than in a batch"
            hint = "Do not compute across the first axis."
            expect_same(alone, together[index : index + 1], found, case.where, hint)
        hint = "A rank may have no images: write sizes instead of -1, and do not loop over images."
        y = case.run(module, x[:0], "its module, on an empty batch,", hint)
        if y.shape != (0, *case.predicted):
            found = f"an empty batch gives {tuple(y.shape)}"
            raise Finding(found, case.where, f"{(0, *case.predicted)}", hint)


def training_batch(subject: Subject) -> None:
    """In training, too, an image's output does not depend on the other images of its batch."""
    hint = (
        "Normalise over an image's own channels and tokens (LayerNorm, GroupNorm), not over the "
        "batch, whose size differs from step to step."
    )
    for module, case in subject.modules(2):
        x = case.input()
        other = torch.cat([x[:1], case.input(seed=1)[1:]])
        outputs = []
        for each in (x, other, x):
            seed()
            outputs.append(case.run(module.train(), each))
        first, mixed, again = outputs
        # Noise that no seed controls, such as a generator of its own, proves nothing.
        if not difference(again, first):
            found = "in training an image's output changes with the rest of its batch"
            expect_same(mixed[:1], first[:1], found, case.where, hint)


def no_grad(subject: Subject) -> None:
    """It gives the same numbers when no gradients are recorded."""
    hint = (
        "Compute the same whether or not gradients are recorded; a fast path must give the plain "
        "path's numbers."
    )
    for variant in (*subject.variants, *subject.large):  # fast paths only run on large inputs
        modes = (torch.no_grad, torch.inference_mode)[: 1 if variant in subject.large else 2]
        module = variant.module()
        for case in variant.cases:
            x = case.input()
            expected = case.run(module, x)
            for mode in modes:
                with mode():
                    y = case.run(module, x, f"its module, under {mode.__name__},")
                found = f"under {mode.__name__} it gives a different output"
                expect_same(y, expected, found, case.where, hint)


def extremes(subject: Subject) -> None:
    """Zeros, equal values and large values give finite outputs and gradients."""
    for module, case in subject.modules(2):
        x = case.input(4)
        x.flatten(1, -2)[0, 0] = 0
        x[1], x[2] = 0, 1
        x[3] *= _LARGE
        leaf = x.requires_grad_()
        y = case.run(module.train(), leaf * 1.0)
        _check_images("its module gives", y, case.where)
        if y.requires_grad:
            y.sum().backward()  # type: ignore[no-untyped-call]
        if leaf.grad is not None:
            _check_images("the gradient of the input is", leaf.grad, case.where)


def _check_images(what: str, images: Tensor, where: str) -> None:
    for name, image in zip(_EXTREMES, images, strict=True):
        expect_finite(image, what, where, _GUARD_EXTREMES, f" on {name}")


def strides(subject: Subject) -> None:
    """The memory layout of its input does not matter."""
    for module, case in subject.modules():
        x = case.input()
        last = x.ndim - 1
        views = {
            "a channels-first view": x.movedim(last, 1).contiguous().movedim(1, last),
            "a sliced view": torch.cat([x, x], last)[..., : x.shape[last]],
        }
        expected = case.run(module, x)
        for name, view in views.items():
            hint = "Use reshape or flatten instead of view."
            y = case.run(module, view, f"its module, on {name},", hint)
            found = f"{name} of the same input gives a different output"
            expect_same(y, expected, found, case.where)


def deepcopy(subject: Subject) -> None:
    """A deep copy gives the same numbers and shares no parameters with the original."""
    for variant in subject.variants:
        module = variant.module()
        with attempt("copying its module", variant.where):
            other = copying.deepcopy(module)
        _expect_equal(variant, module, other, "a deep copy")
        shared = {id(p) for p in module.parameters()} & {id(p) for p in other.parameters()}
        if shared:
            hint = "Do not define __deepcopy__."
            found = "a deep copy shares parameters with the original"
            raise Finding(found, variant.where, "parameters of its own", hint)


def pickle(subject: Subject) -> None:
    """It can be pickled, as data and as a module."""
    if subject.home is None:  # a class of a notebook or a function cannot be imported
        return
    with attempt("pickling it", hint="Use fields that are plain data."):
        other = pickling.loads(pickling.dumps(subject.spec))
    if other != subject.spec:
        raise Finding(f"unpickled, it is {other!r}", expected="the same")
    hint = "Define classes and functions at the top level of a file; store no lambda, file or lock."
    for variant in subject.variants:
        module = variant.module()
        with attempt("pickling its module", variant.where, hint=hint):
            copy = pickling.loads(pickling.dumps(module))
        _expect_equal(variant, module, copy, "the unpickled module")


def _expect_equal(
    variant: Variant, module: nn.Module, other: nn.Module, which: str, hint: str = ""
) -> None:
    """Compare two modules on the first input.

    Raises:
        Finding: They give different outputs.
    """
    case = variant.cases[0]
    x = case.input()
    y = case.run(other, x, f"calling {which}", hint)
    expect_same(y, case.run(module, x), f"{which} gives a different output", case.where, hint)


def bf16(subject: Subject) -> None:
    """In bf16 it gives bf16, close to fp32; under autocast it is close to fp32, too."""
    hint = "Create tensors in x.dtype, and cast back what is computed in fp32."
    for variant in subject.variants:
        module = variant.module()
        half = variant.module().bfloat16()
        for case in variant.cases:
            x = case.input()
            expected = case.run(module, x)
            y = case.run(half, x.bfloat16(), "its module, in bf16,", hint)
            if y.dtype != torch.bfloat16:
                raise Finding(f"in bf16 it gives {y.dtype}", case.where, "torch.bfloat16", hint)
            _check_close(y, expected, "in bf16", case.where, _PRECISE)
            with torch.autocast("cpu", torch.bfloat16):
                y = case.run(module, x, "its module, under autocast to bf16,", hint)
            _check_close(y, expected, "under autocast to bf16", case.where, _AUTOCAST)


def _check_close(y: Tensor, expected: Tensor, mode: str, where: str, hint: str) -> None:
    off = (y.float() - expected).norm() / expected.norm().clamp(min=1e-6)
    if not off <= _BF16:
        found = f"{mode} it differs from fp32 by {off:.0%}"
        raise Finding(found, where, f"at most {_BF16:.0%}", hint)
