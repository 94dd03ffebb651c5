"""What holds of every module that a block or a projector builds."""

from __future__ import annotations

import copy as copying
import math
import pickle as pickling

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from .derivatives import seed
from .report import Finding, attempt
from .subject import TAKES, Case, Subject, Target, difference

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

_EXTREMES = ("a token of zeros", "zeros", "ones", "numbers a thousand times as large")
_LARGE = 1000  # a tower's few outlying channels reach hundreds
_GUARD_EXTREMES = (
    "Add eps before a root or a division, and take the maximum off before exp: towers give zeros "
    "for padding, and a few channels in the hundreds."
)
_GUARD = "Guard divisions, logarithms and roots against zero."
_PRECISE = "Compute norms, softmax and long sums in fp32."
_AUTOCAST = f"Let it choose the dtype of products and nothing else. {_PRECISE}"
_BF16 = 0.1  # rounding of the weights, through many layers
_VALUES = (
    "Make what is computed once a parameter, a persistent buffer, or compute it in forward: "
    "a projector is built on the meta device before its weights arrive."
)


def run(subject: Subject) -> None:
    """It builds and runs, in training and in evaluation, and gives finite numbers."""
    for target in subject.targets:
        module = target.build()
        for case in target.cases:
            for training in (True, False):
                y = case.run(module.train(training), case.input(), hint=TAKES)
                if y.dtype != torch.float32:
                    hint = "Make tensors of x.dtype, and cast back what is computed in another."
                    found = f"of torch.float32 its module makes {y.dtype}"
                    raise Finding(found, case.where, "the same", hint)
                if not y.isfinite().all():
                    raise Finding("its module gives nan or inf", case.where, "numbers", _GUARD)


def meta(subject: Subject) -> None:
    """On the meta device it runs too, and gives the same shapes."""
    hint = "Make tensors on x.device, and let no value decide a shape or a branch."
    for target in subject.targets:
        module = target.build("meta").eval()
        for case in target.cases:
            y = case.run(module, case.input().to("meta"), "its module, on meta,", hint)
            if tuple(y.shape[1:]) != case.said:
                found = f"on meta its module gives {tuple(y.shape)}"
                raise Finding(found, case.where, f"{(2, *case.said)}", hint)


def parameters(subject: Subject) -> None:
    """As many parameters, of the same names and shapes, on meta as in the real build."""
    for target in subject.targets:
        meta, real = target.build("meta"), target.build()
        sizes = _sizes(real)
        for name, tensor in meta.state_dict().items():
            if not tensor.is_meta:
                raise Finding(
                    f"{name!r} is made on {tensor.device}",
                    target.where,
                    "torch's default device",
                    "Leave device out where tensors are made, or pass it on.",
                )
        case = target.cases[0]
        case.run(real, case.input())
        for other, when in ((meta, "between two builds"), (real, "after its first call")):
            odd = sizes.items() ^ _sizes(other).items()
            if odd:
                raise Finding(
                    f"{min(odd)[0]!r} differs {when}",
                    target.where,
                    "the same names and shapes",
                    "Let build make every parameter, by the fields and the feature alone.",
                )


def _sizes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def state_dict(subject: Subject) -> None:
    """Its state dict, through a file and into a module built on meta, gives the same numbers."""
    for target in subject.targets:
        module = target.module()
        hint = "Keep tensors only, and a tied weight under one name."
        with attempt("writing its state dict as safetensors", target.where, hint=hint):
            kept = {name: t.contiguous() for name, t in module.state_dict().items()}
            state = load(save(kept))
        other = target.build("meta").eval()
        hint = "Let build and nn.Module's own methods decide what is saved and loaded."
        with attempt("loading its own state dict", target.where, hint=hint):
            other.load_state_dict(state, strict=True, assign=True)
        for name, buffer in other.named_buffers():
            if buffer.is_meta:
                found = f"buffer {name!r} is not in the state dict, and has no values"
                raise Finding(found, target.where, "every value from the state dict", _VALUES)
        same(target, module, other, "loaded from its state dict, it", _VALUES)


def gradients(subject: Subject) -> None:
    """Gradients reach every parameter and the input, are finite and not all zero."""
    for target in subject.targets:
        module = target.module().train()
        reached = False
        for case in target.cases:
            leaf = case.input().requires_grad_()
            y = case.run(module, leaf * 1.0)  # what is no leaf may be written to: another finding
            if not y.requires_grad:
                raise Finding(
                    "no gradient comes back from its output",
                    case.where,
                    "gradients",
                    "Look for detach(), .data, torch.no_grad() and NumPy on the way.",
                )
            with attempt("going backward", case.where):
                y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))  # type: ignore[no-untyped-call]
            _check_gradient("the input", leaf, case.where)
            reached |= bool(leaf.grad.any())  # type: ignore[union-attr]
        gradients = {
            f"parameter {name!r}": parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        for name, parameter in gradients.items():
            _check_gradient(name, parameter, target.where)
        # A single token has nobody to attend to, and is its own mean.
        if all(math.prod(case.shape[:-1]) == 1 for case in target.cases):
            continue
        zero = [] if reached else ["the input"]
        zero += [name for name, each in gradients.items() if not each.grad.any()]  # type: ignore[union-attr]
        if zero:
            raise Finding(
                f"the gradient of {zero[0]} is zero everywhere",
                target.where,
                "other numbers",
                "Use it in forward; look for a product with zero or with a mask of zeros.",
            )


def _check_gradient(name: str, tensor: Tensor, where: str) -> None:
    if tensor.grad is None:
        raise Finding(
            f"no gradient reaches {name}",
            where,
            "a gradient everywhere",
            "Use it in forward, or do not make it; look for detach() on its way.",
        )
    if not tensor.grad.isfinite().all():
        raise Finding(f"the gradient of {name} is nan or inf", where, "numbers", _GUARD)


def input_(subject: Subject) -> None:
    """Its input is the same afterwards."""
    for target in subject.targets:
        module = target.module()
        for case in target.cases:
            for training in (True, False):
                x = case.input()
                case.run(module.train(training), x)
                if not torch.equal(x, case.input()):
                    raise Finding(
                        "its module changes its input",
                        case.where,
                        "the input as it was: others read it too",
                        "Write x = x + y for x += y, and take the input out of relu_(), "
                        "inplace=True and x[...] = y.",
                    )


def determinism(subject: Subject) -> None:
    """In evaluation the same input gives the same output, whatever came before."""
    for target in subject.targets:
        module = target.module()
        for case in target.cases:
            x = case.input()
            first = case.run(module, x).clone()
            case.run(module, case.input(seed=1))
            off = difference(case.run(module, x), first)
            if off:
                raise Finding(
                    f"called again, it gives something else: {off}",
                    case.where,
                    "the same",
                    "Keep no state between calls; apply dropout and noise in training only.",
                )


def batch(subject: Subject) -> None:
    """An image's output does not depend on the others of its batch; there may be none at all."""
    for target in subject.targets:
        module = target.module()
        for case in target.cases:
            x = case.input(3)
            together = case.run(module, x)
            for index in range(3):
                alone = case.run(module, x[index : index + 1])
                off = difference(alone, together[index : index + 1])
                if off:
                    raise Finding(
                        f"alone, an image gives something else than in a batch: {off}",
                        case.where,
                        "the same",
                        "Compute nothing across the first axis.",
                    )
            hint = "A rank may have no image: give sizes for -1, and do not loop over the batch."
            y = case.run(module, x[:0], "its module, on an empty batch,", hint)
            if y.shape != (0, *case.said):
                found = f"an empty batch gives {tuple(y.shape)}"
                raise Finding(found, case.where, f"{(0, *case.said)}", hint)


def training_batch(subject: Subject) -> None:
    """In training too, an image's output does not depend on the others of its batch."""
    for target in subject.targets:
        module = target.module().train()
        for case in target.cases[:2]:
            x = case.input()
            other = torch.cat([x[:1], case.input(seed=1)[1:]])
            first, beside, again = (_drawn(case, module, each) for each in (x, other, x))
            off = difference(beside[:1], first[:1])
            # What no seed reaches, such as a generator of its own, tells nothing.
            if off and not difference(again, first):
                raise Finding(
                    f"in training an image gives something else beside another one: {off}",
                    case.where,
                    "the same",
                    "Normalise over an image's own channels and tokens (LayerNorm, GroupNorm), not "
                    "over the batch: how many images that is differs from step to step.",
                )


def _drawn(case: Case, module: nn.Module, x: Tensor) -> Tensor:
    """Run a module that draws the same noise each time."""
    seed()
    return case.run(module, x)


def no_grad(subject: Subject) -> None:
    """Where no gradients are recorded it gives the same numbers."""
    for target in (*subject.targets, *subject.large):  # fast forms run where the work is worth it
        modes = (torch.no_grad, torch.inference_mode)[: 1 if target in subject.large else 2]
        module = target.module()
        for case in target.cases:
            x = case.input()
            expected = case.run(module, x)
            for mode in modes:
                with mode():
                    y = case.run(module, x, f"its module, under {mode.__name__},")
                off = difference(y, expected)
                if off:
                    raise Finding(
                        f"under {mode.__name__} it gives something else: {off}",
                        case.where,
                        "the same",
                        "Compute alike whether gradients are recorded or not; hold a fast form to "
                        "the plain one's numbers.",
                    )


def extremes(subject: Subject) -> None:
    """Zeros, equal numbers and large ones give finite numbers and gradients."""
    for target in subject.targets:
        module = target.module().train()
        for case in target.cases[:2]:
            x = case.input(4)
            x.flatten(1, -2)[0, 0] = 0
            x[1], x[2] = 0, 1
            x[3] *= _LARGE
            leaf = x.requires_grad_()
            y = case.run(module, leaf * 1.0)
            _check_images("its module gives", y, case.where)
            if y.requires_grad:
                y.sum().backward()  # type: ignore[no-untyped-call]
            if leaf.grad is not None:
                _check_images("the gradient of the input is", leaf.grad, case.where)


def _check_images(what: str, images: Tensor, where: str) -> None:
    for name, image in zip(_EXTREMES, images, strict=True):
        if not image.isfinite().all():
            raise Finding(f"{what} nan or inf on {name}", where, "numbers", _GUARD_EXTREMES)


def strides(subject: Subject) -> None:
    """How its input lies in memory does not matter."""
    for target in subject.targets:
        module = target.module()
        for case in target.cases:
            x = case.input()
            last = x.ndim - 1
            views = {
                "channels first": x.movedim(last, 1).contiguous().movedim(1, last),
                "a slice": torch.cat([x, x], last)[..., : x.shape[last]],
            }
            expected = case.run(module, x)
            for name, view in views.items():
                with attempt(
                    f"its module, on an input in memory as {name},",
                    case.where,
                    hint="Write reshape or flatten for view.",
                ):
                    off = difference(module(view, *case.args), expected)
                if off:
                    found = f"in memory as {name}, the same input gives something else: {off}"
                    raise Finding(found, case.where, "the same")


def deepcopy(subject: Subject) -> None:
    """A deep copy gives the same numbers and shares nothing with the original."""
    for target in subject.targets:
        module = target.module()
        with attempt("copying its module", target.where):
            other = copying.deepcopy(module)
        same(target, module, other, "a deep copy")
        shared = {id(p) for p in module.parameters()} & {id(p) for p in other.parameters()}
        if shared:
            hint = "Leave __deepcopy__ out."
            raise Finding("a deep copy shares its parameters", target.where, "its own", hint)


def pickle(subject: Subject) -> None:
    """It survives pickling, as data and as a module."""
    if subject.home is None:  # a class of a notebook or a function has no address
        return
    with attempt("pickling it", hint="Keep to fields that are plain data."):
        other = pickling.loads(pickling.dumps(subject.spec))
    if other != subject.spec:
        raise Finding(f"pickled, it becomes {other!r}", expected="itself")
    hint = "Put classes and functions at the top of a file; keep no lambda, file or lock."
    for target in subject.targets:
        module = target.module()
        with attempt("pickling its module", target.where, hint=hint):
            copy = pickling.loads(pickling.dumps(module))
        same(target, module, copy, "pickled, it")


def same(target: Target, module: nn.Module, other: nn.Module, which: str, hint: str = "") -> None:
    """Compare two modules on the first input.

    Raises:
        Finding: They give different numbers.
    """
    case = target.cases[0]
    x = case.input()
    with attempt(f"{which}, called,", case.where, hint=hint):
        off = difference(other(x, *case.args), case.run(module, x))
    if off:
        raise Finding(f"{which} gives something else: {off}", case.where, "the same", hint)


def bf16(subject: Subject) -> None:
    """In bf16 it gives bf16, close to fp32; under autocast its numbers are close too."""
    hint = "Make tensors of x.dtype, and cast back what is computed in fp32."
    for target in subject.targets:
        module = target.module()
        half = target.module().bfloat16()
        for case in target.cases:
            x = case.input()
            expected = case.run(module, x)
            with attempt("its module, in bf16,", case.where, hint=hint):
                y = half(x.bfloat16(), *case.args)
            if y.dtype != torch.bfloat16:
                raise Finding(f"in bf16 it gives {y.dtype}", case.where, "torch.bfloat16", hint)
            _near(y, expected, "in bf16", case.where, _PRECISE)
            with (
                attempt("its module, under autocast to bf16,", case.where, hint=hint),
                torch.autocast("cpu", torch.bfloat16),
            ):
                y = module(x, *case.args)
            _near(y, expected, "under autocast to bf16", case.where, _AUTOCAST)


def _near(y: Tensor, expected: Tensor, regime: str, where: str, hint: str) -> None:
    off = (y.float() - expected).norm() / expected.norm().clamp(min=1e-6)
    if not off <= _BF16:
        raise Finding(
            f"{regime} it is {off:.0%} away from fp32",
            where,
            f"at most {_BF16:.0%}",
            hint,
        )
