"""Mistakes that re-implementations of projectors have made, each as an engine that makes it.

They are written for the proof alone and share nothing with those of which the pack stores samples:
other magnitudes, other places, other ways to the same error. Each has the kinds of cause by which
the checker names it rightly.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from engine import ERF, Array, Case, Engine, Grid
from registered import named, only_last

# ------------------------------------------------------------------------------------ norms


def _eps(name: str, value: float) -> type[Engine]:
    def root(self: Engine, square: Array, eps: float) -> Array:
        return np.sqrt(square + value)

    members = {"__doc__": f"An eps of {value:g}, whatever the family's is.", "root": root}
    return type(name, (Engine,), members)


for _name, _value in (
    ("EpsForgotten", 0.0),
    ("EpsOfBert", 1e-12),
    ("EpsOfNumpy", 1e-8),
    ("EpsOfLlama", 1e-6),
    ("EpsOfTorch", 1e-5),
    ("EpsOfKeras", 1e-3),
):
    named("eps")(_eps(_name, _value))


@only_last("root", "eps-outside", "eps")
@named("eps-outside", "eps")
class EpsAfterRoot(Engine):
    """The eps added to the root, not to what is below it: as large as its root."""

    def root(self, square: Array, eps: float) -> Array:
        return np.sqrt(square) + np.float32(math.sqrt(eps))


@named("norm-kind")
class MeanNotSubtracted(Engine):
    """A root mean square where the family has a LayerNorm."""

    def layer_norm(self, x: Array, eps: float) -> Array:
        return self.rms_norm(x, eps)


@named("norm-kind")
class MeanSubtracted(Engine):
    """A LayerNorm where the family has a root mean square."""

    def rms_norm(self, x: Array, eps: float) -> Array:
        return self.layer_norm(x, eps)


@named("unbiased-variance")
class UnbiasedVariance(Engine):
    """A variance divided by n - 1, as `torch.std` has it."""

    def layer_norm(self, x: Array, eps: float) -> Array:
        c = x.shape[-1]
        x = x - x.mean(-1, keepdims=True)
        return x / self.root(np.square(x).sum(-1, keepdims=True) / max(c - 1, 1), eps)


@named("norm-unit-offset")
class UnitOffsetForgotten(Engine):
    """Gemma's 1 + w read as w."""

    def norm_weight(self, weight: Array, offset: bool) -> Array:
        return weight


@only_last("norm_weight", "norm-unit-offset")
@named("norm-unit-offset")
class UnitOffsetAdded(Engine):
    """A plain w read as Gemma's 1 + w."""

    def norm_weight(self, weight: Array, offset: bool) -> Array:
        return 1 + weight


@only_last("norm_weight", "norm-weight-forgotten")
@named("norm-weight-forgotten")
class NormWeightForgotten(Engine):
    """A norm without its learned scale."""

    def norm_weight(self, weight: Array, offset: bool) -> Array:
        return np.ones_like(weight)


@only_last("norm_bias", "bias-forgotten")
@named("bias-forgotten")
class NormBiasForgotten(Engine):
    """A LayerNorm without its bias."""

    def norm_bias(self, y: Array, bias: Array) -> Array:
        return y


@only_last("norm", "norm-forgotten")
@named("norm-forgotten")
class NormForgotten(Engine):
    """No norm at all."""

    def norm(self, path: str, x: Array, kind: str, eps: float, *, offset: bool = False) -> Array:
        return x


class _NormAndMerge(Engine):
    """Norm and merge in the other order; what stands between the two is not there to compare."""

    first = ""

    def run(self, x: Array, case: Case) -> dict[str, Array]:
        found = super().run(x, case)
        types = [block["type"] for block in self.blocks]
        for i, pair in enumerate(pairwise(types)):
            if {*pair} == {"norm-act", "patch-merge"} and pair[0] == self.first:
                found.pop(f"blocks.{i}")
        return found

    def neighbour(self, path: str, step: int) -> Mapping[str, Any]:
        """The top-level block before or after one."""
        name, _, index = path.removesuffix(".norm").rpartition(".")
        place = int(index) + step if name == "blocks" and index.isdigit() else -1
        return self.blocks[place] if 0 <= place < len(self.blocks) else {"type": ""}


@named("norm-after-merge", "norm-order")
class NormAfterMerge(_NormAndMerge):
    """All that a window holds normalised at once, where each token should be (vLLM #40095)."""

    first = "norm-act"

    def norm(self, path: str, x: Array, kind: str, eps: float, *, offset: bool = False) -> Array:
        merge = self.neighbour(path, 1)
        if merge["type"] != "patch-merge":
            return super().norm(path, x, kind, eps, offset=offset)
        (p, q), (b, h, w, c) = merge["size"], x.shape
        x = x.reshape(b, h // p, p, w // q, q, c).transpose(0, 1, 3, 2, 4, 5)
        y = np.empty_like(x)
        wide = x.reshape(*x.shape[:3], -1)
        y = (self.layer_norm if kind == "layer" else self.rms_norm)(wide, eps).reshape(x.shape)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        weight, bias = self.w.get(f"{path}.weight"), self.w.get(f"{path}.bias")
        y = y if weight is None else y * self.norm_weight(weight, offset)
        return y if bias is None else y + bias


@named("norm-after-merge", "norm-order")
class NormBeforeMerge(_NormAndMerge):
    """Each token normalised by itself, where all that a window holds should be at once."""

    first = "patch-merge"

    def norm(self, path: str, x: Array, kind: str, eps: float, *, offset: bool = False) -> Array:
        merge = self.neighbour(path, -1)
        if merge["type"] != "patch-merge":
            return super().norm(path, x, kind, eps, offset=offset)
        area, shape = math.prod(merge["size"]), x.shape
        if merge["order"] == "hwc":
            each, axis = x.reshape(*shape[:3], area, -1), -1
        else:
            each, axis = x.reshape(*shape[:3], -1, area).swapaxes(-1, -2), -1
        y = (self.layer_norm if kind == "layer" else self.rms_norm)(each, eps)
        y = (y if merge["order"] == "hwc" else y.swapaxes(-1, axis - 1)).reshape(shape)
        weight, bias = self.w.get(f"{path}.weight"), self.w.get(f"{path}.bias")
        y = y if weight is None else y * self.norm_weight(weight, offset)
        return y if bias is None else y + bias


@named("norm-axis")
class NormOverImage(Engine):
    """Statistics over the whole image, as a GroupNorm of one group has them on maps."""

    def layer_norm(self, x: Array, eps: float) -> Array:
        axes = tuple(range(1, x.ndim))
        x = x - x.mean(axes, keepdims=True)
        return x / self.root(np.square(x).mean(axes, keepdims=True), eps)


# ------------------------------------------------------------------------------ activations


@only_last("act_gelu", "gelu-tanh")
@named("gelu-tanh")
class TanhForErf(Engine):
    """The tanh form of GELU where the family has the exact one."""

    def act_gelu(self, x: Array) -> Array:
        return x * (1 + np.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x**2))) / 2


@named("gelu-tanh")
class ErfForTanh(Engine):
    """The exact GELU where the family has its tanh form."""

    def act_gelu_tanh(self, x: Array) -> Array:
        return self.act_gelu(x)


@only_last("act_gelu", "quick-gelu")
@named("quick-gelu")
class QuickForErf(Engine):
    """CLIP's quick GELU where the family has the exact one."""

    def act_gelu(self, x: Array) -> Array:
        return x / (1 + np.exp(-1.702 * x))


@only_last("act_gelu", "activation")
@named("activation")
class SiluForGelu(Engine):
    """SiLU where the family has GELU."""

    def act_gelu(self, x: Array) -> Array:
        return x / (1 + np.exp(-x))


@named("activation")
class GeluForSilu(Engine):
    """GELU where the family has SiLU."""

    def act_silu(self, x: Array) -> Array:
        return x * (1 + ERF(x / math.sqrt(2))) / 2


@named("activation")
class ReluForGelu(Engine):
    """ReLU where the family has GELU."""

    def act_gelu(self, x: Array) -> Array:
        return np.maximum(x, 0)


@named("activation")
class LeakyForGelu(Engine):
    """A leaky ReLU where the family has GELU."""

    def act_gelu(self, x: Array) -> Array:
        return np.where(x > 0, x, 0.01 * x)


@named("activation")
class SiluForHardswish(Engine):
    """SiLU where the family has its hard form."""

    def act_hardswish(self, x: Array) -> Array:
        return x / (1 + np.exp(-x))


@named("activation")
class SigmoidForHardSigmoid(Engine):
    """A sigmoid where the family's gate has its hard form, or has x + 3 outside its limits."""

    def act_hardsigmoid(self, x: Array) -> Array:
        return 1 / (1 + np.exp(-x))


@only_last("activate", "activation-forgotten")
@named("activation-forgotten")
class ActivationForgotten(Engine):
    """No activations."""

    def activate(self, name: str, x: Array) -> Array:
        return x if name not in ("sigmoid", "hardsigmoid", "softmax") else super().activate(name, x)


@named("activation-added")
class ActivationAtTheEnd(Engine):
    """One activation too many: after the last linear layer."""

    def run_images(self, x: Array, grid: Grid, case: Case) -> dict[str, Array]:
        found = super().run_images(x, grid, case)
        if self.blocks[-1]["type"] == "pointwise":
            last = f"blocks.{len(self.blocks) - 1}"
            found[last] = self.act_gelu(found[last])
            found["output"] = self.tokens(found[last])
        return found


@named("gate-and-value")
class GateSwapped(Engine):
    """The activation on the value of a gated unit, not on its gate."""

    def gate(self, act: str, gate: Array, value: Array) -> Array:
        return gate * self.activate(act, value)


@named("limit-forgotten")
class LimitForgotten(Engine):
    """A gated unit whose values are not clamped."""

    def gated(self, path: str, x: Array, act: str, limit: float | None = None) -> Array:
        return super().gated(path, x, act)


# ---------------------------------------------------------------------- linear layers, skips


@only_last("add_bias", "bias-forgotten")
@named("bias-forgotten")
class BiasForgotten(Engine):
    """No biases in linear layers and convolutions."""

    def add_bias(self, path: str, y: Array, bias: Array) -> Array:
        return y


@named("weight-transposed")
class SquareWeightsTransposed(Engine):
    """(in, out) read as (out, in), which only square matrices allow."""

    def weight(self, name: str, value: Array) -> Array:
        square = name.endswith(".weight") and value.ndim == 2 and len({*value.shape}) == 1
        return super().weight(name, value.T if square else value)


@named("weight-transposed")
class LastSquareWeightTransposed(Engine):
    """The same in the last square matrix only."""

    def __init__(self, document: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        super().__init__(document, weights)
        square = [
            name
            for name, w in self.w.items()
            if w.ndim == 2 and len({*w.shape}) == 1 and name.endswith(".weight")
        ]
        if square:
            self.w[max(square)] = self.w[max(square)].T


@only_last("skip", "residual-forgotten")
@named("residual-forgotten")
class ResidualForgotten(Engine):
    """No skip connections (llama.cpp #6364)."""

    def skip(self, x: Array, y: Array) -> Array:
        return y


@named("residual-added")
class ResidualAdded(Engine):
    """A skip around the last linear layer, where its widths allow one."""

    def block_pointwise(self, path: str, x: Array, **options: Any) -> Array:
        y = super().block_pointwise(path, x, **options)
        return x + y if path == f"blocks.{len(self.blocks) - 1}" and x.shape == y.shape else y


@named("pool")
class CornerForMean(Engine):
    """The skip of a strided convolution as each window's first token, not its mean."""

    def skipped(self, x: Array, stride: int) -> Array:
        return x[:, ::stride, ::stride]


@named("copies")
class DepthOffByOne(Engine):
    """The last of several layers or copies left out."""

    def depth(self, depth: int) -> int:
        return max(depth - 1, 1)

    def block_repeat(self, path: str, x: Array, *, times: int, body: Any) -> Array:
        return super().block_repeat(path, x, times=max(times - 1, 1), body=body)


@named("scale")
class ScaleForgotten(Engine):
    """No multiplication by the constant."""

    def scale(self, x: Array, factor: float) -> Array:
        return x


@named("scale")
class ScaleTwice(Engine):
    """The constant multiplied twice."""

    def scale(self, x: Array, factor: float) -> Array:
        return x * factor**2


@named("scale")
class OutputScaled(Engine):
    """The output multiplied by the root of its width, as Gemma does with embeddings of text."""

    def leave(self, x: Array) -> Array:
        return self.tokens(x) * x.shape[-1] ** 0.5


@named("scale")
class ScaleInverted(Engine):
    """Division by the constant."""

    def scale(self, x: Array, factor: float) -> Array:
        return x / factor


# ---------------------------------------------------------------------------- order of tokens


@named("chw")
class ChannelsFirst(Engine):
    """A window's values channel by channel, where its tokens follow one another."""

    def inside_window(self, windows: Array, order: str) -> Array:
        return np.moveaxis(windows, 5, 3)


@named("chw")
class ChannelsLast(Engine):
    """A window's tokens one after the other, where its channels do (a convolution's weights)."""

    def inside_window(self, windows: Array, order: str) -> Array:
        return windows


@named("channels")
class FirstLevelForLast(Engine):
    """Of the levels of a tower that are joined, the first in place of the last."""

    def block_take_channels(self, path: str, x: Array, *, first: int, count: int) -> Array:
        return x[..., :count]


@named("window-transposed")
class WindowColumnFirst(Engine):
    """A window's tokens read column by column."""

    def inside_window(self, windows: Array, order: str) -> Array:
        return super().inside_window(windows.swapaxes(3, 4), order)


@named("merge-transposed", "transposed")
class WindowsTransposed(Engine):
    """Windows column by column, as InternVL's first version returned them, or no longer so."""

    def column_by_column(self, transpose: bool) -> bool:
        return not transpose


@named("transposed")
class GridSwapped(Engine):
    """Width and height swapped (Megatron-LM #6255: a pixel shuffle right for squares only)."""

    def grid(self, sides: Any) -> Grid:
        w, h = sides
        return h, w


@named("transposed")
class TokensColumnByColumn(Engine):
    """The tokens of a map flattened column by column."""

    def enter(self, x: Array, grid: Grid, order: str) -> Array:
        (b, n, c), (h, w) = x.shape, grid
        if n == h * w and order == "raster":
            x = x.reshape(b, w, h, c).swapaxes(1, 2).reshape(b, n, c)
        return super().enter(x, grid, order)


@named("raster-for-block-major", "block-major-for-raster")
class BlockMajorAsRaster(Engine):
    """Block-major tokens read as rows (vLLM #52932: fluent output, 50 points of ChartQA lost)."""

    def from_blocks(self, x: Array, grid: Grid, side: int) -> Array:
        return x


@named("block-major-for-raster", "raster-for-block-major")
class RasterAsBlockMajor(Engine):
    """Rows of tokens read as block-major."""

    def enter(self, x: Array, grid: Grid, order: str) -> Array:
        return super().enter(x, grid, "blocked" if order == "raster" else order)


@named("raster-for-block-major", "block-major-for-raster")
class BlocksUndoneBackwards(Engine):
    """The permutation that makes blocks of rows, where the one that makes rows is needed."""

    def from_blocks(self, x: Array, grid: Grid, side: int) -> Array:
        (b, n, c), (h, w) = x.shape, grid
        x = x.reshape(b, h // side, side, w // side, side, c)
        return x.swapaxes(2, 3).reshape(b, n, c)


@named("class-token-left-in")
class ClassTokenLeftIn(Engine):
    """All tokens projected, the class token too."""

    def drop_prefix(self, x: Array, count: int) -> Array:
        return x

    def enter(self, x: Array, grid: Grid, order: str) -> Array:
        fits = x.shape[1] == math.prod(grid)
        return super().enter(x, grid if fits else (1, x.shape[1]), order)


@named("class-token-dropped-twice")
class ClassTokenDroppedTwice(Engine):
    """A class token dropped that the tower has dropped already."""

    def drop_prefix(self, x: Array, count: int) -> Array:
        return x[:, count + 1 :]

    def enter(self, x: Array, grid: Grid, order: str) -> Array:
        return super().enter(x, (1, x.shape[1]), order)


@named("class-token-last")
class ClassTokenTakenForLast(Engine):
    """The last tokens dropped in place of the first (llama.cpp #25814)."""

    def drop_prefix(self, x: Array, count: int) -> Array:
        return x[:, : x.shape[1] - count]


@named("layout")
class ViewForPermute(Engine):
    """A tower's map (b, c, h, w) viewed as tokens, not permuted."""

    def enter(self, x: Array, grid: Grid, order: str) -> Array:
        return super().enter(x.swapaxes(1, 2).reshape(x.shape), grid, order)


@named("layout")
class MapForTokens(Engine):
    """The output handed over as a map (b, d, h, w)."""

    def leave(self, x: Array) -> Array:
        return self.tokens(x).swapaxes(1, 2)

    def run_packed(self, x: Array, case: Case) -> dict[str, Array]:
        raise ValueError("images of several sizes are no map")


@named("packed", "images-joined")
class PackedAsOneImage(Engine):
    """Packed images read as one, as wide as the first."""

    def run_packed(self, x: Array, case: Case) -> dict[str, Array]:
        w = case["grids"][0][1]
        rows = len(x) // w
        found = self.run_images(x[None, : rows * w], (rows, w), case | {"prefix_tokens": 0})
        return {path: y.reshape(-1, y.shape[-1]) for path, y in found.items()}


@named("packed")
class PackedAllLikeTheFirst(Engine):
    """Packed images cut as if all had the first one's grid."""

    def run_packed(self, x: Array, case: Case) -> dict[str, Array]:
        h, w = case["grids"][0]
        x = x[: len(x) // (h * w) * h * w].reshape(-1, h * w, x.shape[-1])
        found = self.run_images(x, (h, w), case | {"prefix_tokens": 0})
        return {path: y.reshape(-1, y.shape[-1]) for path, y in found.items()}


@named("image-order", "packed")
class PackedReversed(Engine):
    """Packed images given back in the reverse order."""

    def run_packed(self, x: Array, case: Case) -> dict[str, Array]:
        y = super().run_packed(x, case)["output"]
        h, w = case["grids"][0]
        first = super().run_packed(x[: h * w], case | {"grids": [(h, w)]})["output"]
        return {"output": np.concatenate([y[len(first) :], first])}


@named("image-order")
class FirstImageForAll(Engine):
    """The first image of a batch in place of all."""

    def run_images(self, x: Array, grid: Grid, case: Case) -> dict[str, Array]:
        return super().run_images(np.broadcast_to(x[:1], x.shape), grid, case)


@named("flipped")
class UpsideDown(Engine):
    """The rows from the bottom to the top, as in bitmaps."""

    def enter(self, x: Array, grid: Grid, order: str) -> Array:
        return super().enter(x, grid, order)[:, ::-1]


@named("window-transposed")
class WindowSidesSwapped(Engine):
    """Windows of 4x1 where they are 1x4."""

    def block_patch_merge(self, path: str, x: Array, *, size: Any, **options: Any) -> Array:
        return super().block_patch_merge(path, x, size=size[::-1], **options)


# ----------------------------------------------------------------------- pools, convolutions


@named("pool")
class MaximumForMean(Engine):
    """The maximum of a window, not its mean."""

    def average(self, x: Array, stride: int, *, ceil: bool) -> Array:
        return self.windowed(np.max, x, stride, ceil)


@named("pool")
class SumForMean(Engine):
    """The sum of a window, not its mean."""

    def average(self, x: Array, stride: int, *, ceil: bool) -> Array:
        return self.windowed(np.sum, x, stride, ceil)


@named("pool", "odd-sides")
class BorderRoundedOtherWay(Engine):
    """Windows cut off by the border kept where they are dropped, or dropped where they are kept."""

    def average(self, x: Array, stride: int, *, ceil: bool) -> Array:
        return super().average(x, stride, ceil=not ceil)


@named("pool")
class PaddingCounted(Engine):
    """A window cut off by the border divided by its whole area (`count_include_pad`)."""

    def average(self, x: Array, stride: int, *, ceil: bool) -> Array:
        if ceil:
            x = self.merge_pad(x, -x.shape[1] % stride, -x.shape[2] % stride)
        return super().average(x, stride, ceil=False)


@named("pool")
class PlainWindowsForAdaptive(Engine):
    """Windows of one size where adaptive ones overlap."""

    def cover(self, side: int, new: int) -> Array:
        shares, step = np.zeros((new, side), np.float32), max(side // new, 1)
        for i in range(new):
            shares[i, i * step : (i + 1) * step] = 1 / step
        return shares


@named("half-pixel")
class CornersAligned(Engine):
    """`align_corners=True`."""

    def place(self, i: int, side: int, new: int, *, clip: bool) -> float:
        return i * (side - 1) / max(new - 1, 1)


@named("half-pixel")
class HalfPixelForgotten(Engine):
    """Pixels taken for points at their corners (ONNX's `asymmetric`)."""

    def place(self, i: int, side: int, new: int, *, clip: bool) -> float:
        return i * side / new


@named("half-pixel")
class NearestNeighbour(Engine):
    """No interpolation."""

    def scaled(self, side: int, new: int, kernel: Any, reach: int) -> Array:
        return np.eye(side, dtype=np.float32)[[i * side // new for i in range(new)]]


@named("padding")
class PaddedBelow(Engine):
    """TensorFlow's `SAME`: with a stride, padding goes below and to the right first."""

    def conv_pad(self, x: Array, kernel: int, stride: int) -> Array:
        margins = []
        for side in x.shape[1:3]:
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            margins.append((total // 2, total - total // 2 + stride))
        return np.pad(x, [(0, 0), *margins, (0, 0)])


@named("padding")
class BorderRepeated(Engine):
    """The border repeated, where zeros should be."""

    def conv_pad(self, x: Array, kernel: int, stride: int) -> Array:
        side = (kernel - 1) // 2
        return np.pad(x, [(0, 0), (side, side), (side, side), (0, 0)], "edge")


@named("odd-sides")
class MergePaddedAbove(Engine):
    """An odd side padded above and to the left."""

    def merge_pad(self, x: Array, down: int, across: int) -> Array:
        return np.pad(x, [(0, 0), (down, 0), (across, 0), (0, 0)])


@named("kernel")
class KernelFlipped(Engine):
    """A true convolution: the kernel turned by 180 degrees."""

    def kernel(self, weight: Array) -> Array:
        return weight[:, :, ::-1, ::-1]


@named("kernel")
class KernelUpsideDown(Engine):
    """The kernel's rows in the reverse order."""

    def kernel(self, weight: Array) -> Array:
        return weight[:, :, ::-1]


@named("kernel")
class KernelTransposed(Engine):
    """The kernel's rows and columns swapped."""

    def kernel(self, weight: Array) -> Array:
        return weight.swapaxes(2, 3)


@named("squeeze")
class SqueezedOverBatch(Engine):
    """The squeeze by the mean over all images."""

    def squeeze(self, x: Array) -> Array:
        return np.broadcast_to(x.mean((0, 1, 2), keepdims=True), (len(x), 1, 1, x.shape[-1]))


@named("squeeze")
class SqueezedByMaximum(Engine):
    """The squeeze by the maximum over the grid, not by the mean."""

    def squeeze(self, x: Array) -> Array:
        return x.max((1, 2), keepdims=True)


# --------------------------------------------------------------------------------- attention


@named("heads")
class HeadsInterleaved(Engine):
    """Channels read as (width, heads), not as (heads, width)."""

    def heads(self, x: Array, heads: int) -> Array:
        b, n, c = x.shape
        return x.reshape(b, n, c // heads, heads).transpose(0, 3, 1, 2)


@named("heads")
class HeadsTiled(Engine):
    """Fewer heads of keys repeated as a whole, not each by itself."""

    def share_heads(self, x: Array, heads: int) -> Array:
        return np.concatenate([x] * (heads // x.shape[1]), 1)


@named("heads")
class HeadsNotPutTogether(Engine):
    """The heads' outputs flattened without moving the heads behind the tokens."""

    def join_heads(self, x: Array) -> Array:
        b, heads, n, width = x.shape
        return x.reshape(b, n, heads * width)


@named("heads")
class OneHead(Engine):
    """One head as wide as all."""

    def attention(self, path: str, q: Array, k: Array, v: Array, heads: int) -> Array:
        alike = self.w[f"{path}.q_proj.weight"].shape[0] == self.w[f"{path}.k_proj.weight"].shape[0]
        return super().attention(path, q, k, v, 1 if alike else heads)


@named("attention-scale")
class SoftmaxNotScaled(Engine):
    """No scale before the softmax."""

    def softmax_scale(self, width: int, heads: int) -> float:
        return 1.0


@named("attention-scale")
class SoftmaxScaledByChannels(Engine):
    """The scale of all channels, not of a head's."""

    def softmax_scale(self, width: int, heads: int) -> float:
        return float((width * heads) ** -0.5)


@named("queries-and-keys")
class KeysForQueries(Engine):
    """The weights of queries and keys swapped, where they have one shape."""

    def weight(self, name: str, value: Array) -> Array:
        return super().weight(name, value)

    def attention(self, path: str, *args: Any, **options: Any) -> Array:
        swapped = self._swap(path)
        result = super().attention(path, *args, **options)
        if swapped:
            self._swap(path)
        return result

    def _swap(self, path: str) -> bool:
        one, two = f"{path}.q_proj.weight", f"{path}.k_proj.weight"
        if self.w[one].shape != self.w[two].shape:
            return False
        self.w[one], self.w[two] = self.w[two], self.w[one]
        return True


@named("queries-as-keys")
class QueriesNotAmongKeys(Engine):
    """Queries that see the image only, where they should see each other too."""

    def keys(self, x: Array, q: Array) -> Array:
        return x


@named("attention-scale")
class SoftmaxScaledTwice(Engine):
    """The scale of a head in queries and in scores."""

    def softmax_scale(self, width: int, heads: int) -> float:
        return 1 / width


@named("softmax-axis")
class SoftmaxOverQueries(Engine):
    """Shares of all queries in a key, not of all keys in a query."""

    def act_softmax(self, x: Array) -> Array:
        if x.shape[1:3] == (x.shape[1], 1) or x.ndim < 4:
            return super().act_softmax(x)
        return super().act_softmax(x.swapaxes(-1, -2)).swapaxes(-1, -2)


# ----------------------------------------------------------------------------- added tokens


@named("position-transposed", "position-halves")
class PositionsSwapped(Engine):
    """Rows' positions for columns and columns' for rows."""

    def sincos(self, h: int, w: int, c: int) -> Array:
        return super().sincos(w, h, c).swapaxes(0, 1)

    def axes(self, rows: Array, columns: Array, join: str) -> Array:
        if join == "add":
            n = min(len(rows), columns.shape[1])
            if n < max(len(rows), columns.shape[1]):
                raise IndexError("a row for each column")
            return super().axes(columns.swapaxes(0, 1), rows.swapaxes(0, 1), join)
        found = super().axes(rows, columns, join)
        half = found.shape[-1] // 2
        return np.concatenate([found[..., half:], found[..., :half]], -1)


@named("position-interleaved")
class WavesInterleaved(Engine):
    """Sines and cosines by turns, not one half after the other."""

    def waves(self, numbers: Array, channels: int) -> Array:
        sines, cosines = np.split(super().waves(numbers, channels), 2, -1)
        return np.stack([sines, cosines], -1).reshape(len(numbers), channels)


@named("position-from-one")
class PositionsFromOne(Engine):
    """Rows and columns counted from 1."""

    def waves(self, numbers: Array, channels: int) -> Array:
        return super().waves(numbers + 1, channels)


@named("position-frequencies")
class FrequenciesToTheEnd(Engine):
    """Frequencies that reach 1/10,000, where they end before."""

    def frequencies(self, count: int) -> Array:
        return 1 / 10000 ** (np.arange(count) / max(count - 1, 1))


@named("position-forgotten")
class PositionsForgotten(Engine):
    """No position embeddings."""

    def add_position(self, x: Array, position: Array) -> Array:
        return x


@named("position-in-values")
class ValuesPlaced(Engine):
    """Positions added to the values too, not to the keys only."""

    def placed_keys(self, plain: Array, placed: Array) -> tuple[Array, Array]:
        return placed, placed


@named("newline")
class NewlineInFront(Engine):
    """The newline token at the start of each row."""

    def add_newline(self, x: Array, column: Array) -> Array:
        return np.concatenate([column, x], 2)


@named("newline")
class NewlineOnce(Engine):
    """One newline token for the image, not one for each row."""

    def block_newline(self, path: str, x: Array) -> Array:
        if self.blocks[-1]["type"] != "newline":
            return super().block_newline(path, x)
        token = np.broadcast_to(self.w[f"{path}.token"], (len(x), 1, x.shape[-1]))
        return np.concatenate([self.tokens(x), token], 1)[:, None]


@named("newline")
class NewlineForgotten(Engine):
    """No newline tokens."""

    def add_newline(self, x: Array, column: Array) -> Array:
        return x


@named("extra-tokens")
class ExtraTokensAtOtherEnd(Engine):
    """Added tokens at the end where they should begin, or the other way round."""

    def add_tokens(self, tokens: Array, extra: Array, at: str) -> Array:
        return super().add_tokens(tokens, extra, "end" if at == "begin" else "begin")


@named("extra-tokens")
class ExtraTokensForgotten(Engine):
    """No added tokens."""

    def add_tokens(self, tokens: Array, extra: Array, at: str) -> Array:
        return tokens


# ---------------------------------------------------------------------------- half precision


@named("half-precision", "not-finite")
class NormInHalf(Engine):
    """Squares summed in fp16, which overflow beyond 255 (vLLM #40290)."""

    def root(self, square: Array, eps: float) -> Array:
        with np.errstate(over="ignore"):
            return super().root(square.astype(np.float16).astype(np.float32), eps)


@named("half-precision", "not-finite")
class StoredInHalf(Engine):
    """Every block's output kept in fp16, which ends at 65504."""

    def store(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float32)


def _bfloat16(x: Array) -> Array:
    """Round to the nearest number of bfloat16, of two to the even one."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return bits.astype(np.uint32).view(np.float32)


@named("half-precision")
class StoredInBfloat16(Engine):
    """Every block's output kept in bf16, where fp32 is asked for."""

    def store(self, x: Array) -> Array:
        return _bfloat16(x)
