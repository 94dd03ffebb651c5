"""An engine by somebody else: every block in numpy, from the manifest of the test vectors alone.

It knows nothing of this package. Each step that others have got wrong is a method of its own, so
that `mistakes` says in a few lines what they did instead.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ERF", "Array", "Case", "Engine", "Grid"]

Array = NDArray[Any]
Case = Mapping[str, Any]
Grid = tuple[int, int]
ERF = np.vectorize(math.erf, otypes=[np.float32])


class Engine:
    """A family's computation; features are ``(b, h, w, c)``, sequences ``(b, 1, n, c)``.

    Args:
        document: The chain with all its options, as the manifest has it.
        weights: The weights under the names of that document.
    """

    prefix_tokens = 0

    def __init__(self, document: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        self.blocks: Sequence[Mapping[str, Any]] = document["blocks"]
        self.w = {name: self.weight(name, each) for name, each in weights.items()}

    def weight(self, name: str, value: Array) -> Array:
        """Read one tensor."""
        return value.astype(np.float32)

    # ---------------------------------------------------------------------- the whole

    def run(self, x: Array, case: Case) -> dict[str, Array]:
        """Return the feature after each block, and the output."""
        if case["packed"]:
            return self.run_packed(x, case)
        return self.run_images(x, self.grid(case["grids"][0]), case)

    def run_images(self, x: Array, grid: Grid, case: Case) -> dict[str, Array]:
        """Images of one size, ``(b, n, c)``."""
        x = self.enter(self.drop_prefix(x, case["prefix_tokens"]), grid, case["token_order"])
        found = {"entry": x}
        for i, block in enumerate(self.blocks):
            x = found[f"blocks.{i}"] = self.block(f"blocks.{i}", x, block)
        found["output"] = self.leave(x)
        return found

    def run_packed(self, x: Array, case: Case) -> dict[str, Array]:
        """Images of several sizes, one after the other, ``(rows, c)``."""
        parts, start = [], 0
        for grid in map(self.grid, case["grids"]):
            end = start + grid[0] * grid[1]
            parts.append(self.run_images(x[None, start:end], grid, case | {"prefix_tokens": 0}))
            start = end
        return {
            path: np.concatenate([part[path].reshape(-1, part[path].shape[-1]) for part in parts])
            for path in parts[0]
        }

    def grid(self, sides: Iterable[int]) -> Grid:
        h, w = sides
        return h, w

    def drop_prefix(self, x: Array, count: int) -> Array:
        return x[:, count:]

    def enter(self, x: Array, grid: Grid, order: str) -> Array:
        """Tokens ``(b, n, c)`` as a feature, row by row."""
        b, n, c = x.shape
        side = {"raster": 1, "blocked": 2}.get(order) or int(order[-1])
        if side > 1:
            x = self.from_blocks(x, grid, side)
        return x.reshape(b, grid[0], n // grid[0], c)

    def from_blocks(self, x: Array, grid: Grid, side: int) -> Array:
        (b, n, c), (h, w) = x.shape, grid
        x = x.reshape(b, h // side, w // side, side, side, c)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, n, c)

    def leave(self, x: Array) -> Array:
        return self.tokens(x)

    def tokens(self, x: Array) -> Array:
        """A feature as tokens ``(b, n, c)``."""
        return x.reshape(len(x), -1, x.shape[-1])

    def block(self, path: str, x: Array, block: Mapping[str, Any]) -> Array:
        options = {name: value for name, value in block.items() if name != "type"}
        compute = getattr(self, "block_" + block["type"].replace("-", "_"))
        return self.store(compute(path, x, **options))

    def store(self, x: Array) -> Array:
        """What leaves a block, in the precision in which it is kept."""
        return x

    def chain(self, path: str, x: Array, blocks: Sequence[Mapping[str, Any]]) -> Array:
        for i, block in enumerate(blocks):
            x = self.block(f"{path}.{i}", x, block)
        return x

    # ------------------------------------------------------------------ token by token

    def linear(self, path: str, x: Array) -> Array:
        y = x @ self.w[f"{path}.weight"].T
        bias = self.w.get(f"{path}.bias")
        return y if bias is None else self.add_bias(path, y, bias)

    def add_bias(self, path: str, y: Array, bias: Array) -> Array:
        return y + bias

    def block_pointwise(self, path: str, x: Array, **_: Any) -> Array:
        return self.linear(path, x)

    def block_identity(self, path: str, x: Array) -> Array:
        return x

    def block_norm_act(
        self, path: str, x: Array, *, norm: str, eps: float, weight: str, act: str, **_: Any
    ) -> Array:
        if norm != "none":
            x = self.norm(f"{path}.norm", x, norm, eps, offset=weight == "offset")
        return self.activate(act, x)

    def norm(self, path: str, x: Array, kind: str, eps: float, *, offset: bool = False) -> Array:
        weight, bias = self.w.get(f"{path}.weight"), self.w.get(f"{path}.bias")
        y = self.layer_norm(x, eps) if kind == "layer" else self.rms_norm(x, eps)
        if weight is not None:
            y = y * self.norm_weight(weight, offset)
        return y if bias is None else self.norm_bias(y, bias)

    def layer_norm(self, x: Array, eps: float) -> Array:
        x = x - x.mean(-1, keepdims=True)
        return x / self.root(np.square(x).mean(-1, keepdims=True), eps)

    def rms_norm(self, x: Array, eps: float) -> Array:
        return x / self.root(np.square(x).mean(-1, keepdims=True), eps)

    def root(self, square: Array, eps: float) -> Array:
        return np.sqrt(square + eps)

    def norm_weight(self, weight: Array, offset: bool) -> Array:
        return 1 + weight if offset else weight

    def norm_bias(self, y: Array, bias: Array) -> Array:
        return y + bias

    def activate(self, name: str, x: Array) -> Array:
        return getattr(self, "act_" + name.replace("-", "_"))(x)

    def act_none(self, x: Array) -> Array:
        return x

    def act_gelu(self, x: Array) -> Array:
        return x * (1 + ERF(x * math.sqrt(0.5))) / 2

    def act_gelu_tanh(self, x: Array) -> Array:
        return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2

    def act_quick_gelu(self, x: Array) -> Array:
        return x * self.act_sigmoid(1.702 * x)

    def act_silu(self, x: Array) -> Array:
        return x * self.act_sigmoid(x)

    def act_sigmoid(self, x: Array) -> Array:
        return (1 + np.tanh(x / 2)) / 2

    def act_hardsigmoid(self, x: Array) -> Array:
        return np.clip(x + 3, 0, 6) / 6

    def act_hardswish(self, x: Array) -> Array:
        return x * self.act_hardsigmoid(x)

    def act_relu(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def act_relu2(self, x: Array) -> Array:
        return np.square(self.act_relu(x))

    def act_softmax(self, x: Array) -> Array:
        y = np.exp(x - x.max(-1, keepdims=True))
        return y / y.sum(-1, keepdims=True)

    def block_glu(self, path: str, x: Array, *, act: str, limit: float | None, **_: Any) -> Array:
        return self.gated(path, x, act, limit)

    def gated(self, path: str, x: Array, act: str, limit: float | None = None) -> Array:
        gate, value = self.linear(f"{path}.gate", x), self.linear(f"{path}.value", x)
        if limit is not None:
            gate, value = np.minimum(gate, limit), np.clip(value, -limit, limit)
        return self.gate(act, gate, value)

    def gate(self, act: str, gate: Array, value: Array) -> Array:
        return self.activate(act, gate) * value

    def block_scale(self, path: str, x: Array, *, by: float | str, standardize: bool) -> Array:
        x = self.scale(x, x.shape[-1] ** 0.5 if isinstance(by, str) else by)
        if standardize:
            x = (x - self.w[f"{path}.bias"]) * self.w[f"{path}.scale"]
        return x

    def scale(self, x: Array, factor: float) -> Array:
        return x * factor

    def block_pad_channels(self, path: str, x: Array, *, count: int) -> Array:
        return np.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, count)])

    def block_take_channels(self, path: str, x: Array, *, first: int, count: int) -> Array:
        return x[..., first : first + count]

    # ------------------------------------------------------------------ blocks of blocks

    def block_residual(self, path: str, x: Array, *, body: Any) -> Array:
        return self.skip(x, self.chain(f"{path}.body", x, body))

    def skip(self, x: Array, y: Array) -> Array:
        return x + y

    def block_repeat(self, path: str, x: Array, *, times: int, body: Any) -> Array:
        for i in range(times):
            x = self.chain(f"{path}.{i}.body", x, body)
        return x

    def block_parallel(self, path: str, x: Array, *, branches: Any, join: str) -> Array:
        parts = [self.chain(f"{path}.branches.{i}", x, branch) for i, branch in enumerate(branches)]
        return self.join(join, parts)

    def join(self, how: str, parts: Sequence[Array]) -> Array:
        if how == "cat":
            return np.concatenate(parts, -1)
        return np.prod(parts, 0) if how == "mul" else np.sum(parts, 0)

    # ----------------------------------------------------------------------- on the grid

    def block_depthwise(self, path: str, x: Array, *, stride: int, **_: Any) -> Array:
        return self.conv(path, x, stride)

    def block_conv(self, path: str, x: Array, *, stride: int, **_: Any) -> Array:
        return self.conv(path, x, stride)

    def block_depthwise_residual(self, path: str, x: Array, *, stride: int, **_: Any) -> Array:
        return self.skip(self.skipped(x, stride), self.conv(path, x, stride))

    def skipped(self, x: Array, stride: int) -> Array:
        return x if stride == 1 else self.average(x, stride, ceil=True)

    def conv(self, path: str, x: Array, stride: int) -> Array:
        """A convolution, depthwise where the kernel has one input channel."""
        kernel, bias = self.kernel(self.w[f"{path}.weight"]), self.w.get(f"{path}.bias")
        k = kernel.shape[-1]
        h, w = (-(-side // stride) for side in x.shape[1:3])
        x = self.conv_pad(x, k, stride)
        y = np.float32(0)
        for i in range(k):
            for j in range(k):
                seen = x[:, i : i + (h - 1) * stride + 1 : stride]
                seen = seen[:, :, j : j + (w - 1) * stride + 1 : stride]
                tap = kernel[:, :, i, j]
                y = y + (seen * tap[:, 0] if self.depthwise(kernel, x) else seen @ tap.T)
        return y if bias is None else self.add_bias(path, y, bias)

    def depthwise(self, kernel: Array, x: Array) -> bool:
        return kernel.shape[1] == 1 and x.shape[-1] == len(kernel)

    def kernel(self, weight: Array) -> Array:
        return weight

    def conv_pad(self, x: Array, kernel: int, stride: int) -> Array:
        side = (kernel - 1) // 2
        return np.pad(x, [(0, 0), (side, side), (side, side), (0, 0)])

    def block_squeeze_excite(self, path: str, x: Array, *, act: str, gate: str, **_: Any) -> Array:
        y = self.activate(act, self.linear(f"{path}.fc1", self.squeeze(x)))
        return x * self.activate(gate, self.linear(f"{path}.fc2", y))

    def squeeze(self, x: Array) -> Array:
        return x.mean((1, 2), keepdims=True)

    def block_patch_merge(
        self, path: str, x: Array, *, size: Sequence[int], order: str, odd: str, transpose: bool
    ) -> Array:
        p, q = size
        if odd == "drop":
            x = self.merge_drop(x, p, q)
        elif odd == "pad":
            x = self.merge_pad(x, -x.shape[1] % p, -x.shape[2] % q)
        b, h, w, c = x.shape
        windows = x.reshape(b, h // p, p, w // q, q, c).transpose(0, 1, 3, 2, 4, 5)
        if self.column_by_column(transpose):
            windows = windows.transpose(0, 2, 1, 3, 4, 5)
        windows = self.inside_window(windows, order)
        return windows.reshape(*windows.shape[:3], -1)

    def column_by_column(self, transpose: bool) -> bool:
        return transpose

    def inside_window(self, windows: Array, order: str) -> Array:
        """Put a window's ``(p, q, c)`` in its order."""
        return windows if order == "hwc" else windows.transpose(0, 1, 2, 5, 3, 4)

    def merge_drop(self, x: Array, p: int, q: int) -> Array:
        return x[:, : x.shape[1] // p * p, : x.shape[2] // q * q]

    def merge_pad(self, x: Array, down: int, across: int) -> Array:
        return np.pad(x, [(0, 0), (0, down), (0, across), (0, 0)])

    def block_pool(
        self,
        path: str,
        x: Array,
        *,
        mode: str,
        stride: int | None,
        ceil: bool,
        size: Sequence[int] | None,
    ) -> Array:
        h, w = x.shape[1:3]
        if mode == "adaptive":
            return self.adaptive(x, *(size or (h // (stride or 1), w // (stride or 1))))
        step = stride or 1
        if mode == "bilinear":
            return self.bilinear(x, -(-h // step), -(-w // step))
        if mode == "avg":
            return self.average(x, step, ceil=ceil)
        return self.maximum(x, step, ceil=ceil)

    def average(self, x: Array, stride: int, *, ceil: bool) -> Array:
        return self.windowed(np.mean, x, stride, ceil)

    def maximum(self, x: Array, stride: int, *, ceil: bool) -> Array:
        return self.windowed(np.max, x, stride, ceil)

    def windowed(self, reduce: Any, x: Array, stride: int, ceil: bool) -> Array:
        """Reduce windows; those cut off by the border hold fewer tokens."""
        tops, lefts = (self.starts(side, stride, ceil) for side in x.shape[1:3])
        rows = [[reduce(x[:, i : i + stride, j : j + stride], (1, 2)) for j in lefts] for i in tops]
        return np.stack([np.stack(row, 1) for row in rows], 1)

    def starts(self, side: int, stride: int, ceil: bool) -> range:
        return range(0, side if ceil else side // stride * stride, stride)

    def adaptive(self, x: Array, h: int, w: int) -> Array:
        return self.along_both(x, self.cover, h, w)

    def cover(self, side: int, new: int) -> Array:
        """The share of each place in each of the windows that cover a side evenly."""
        shares = np.zeros((new, side), np.float32)
        for i in range(new):
            first, end = i * side // new, -(-(i + 1) * side // new)
            shares[i, first:end] = 1 / (end - first)
        return shares

    def bilinear(self, x: Array, h: int, w: int) -> Array:
        return self.along_both(x, lambda *sides: self.scaled(*sides, self.triangle, 2), h, w)

    def bicubic(self, x: Array, h: int, w: int) -> Array:
        return self.along_both(x, lambda *sides: self.scaled(*sides, self.cubic, 4), h, w)

    def scaled(self, side: int, new: int, kernel: Any, reach: int) -> Array:
        """The share of each place in each of a scaled side."""
        shares = np.zeros((new, side), np.float32)
        for i in range(new):
            at = self.place(i, side, new, clip=reach == 2)
            for k in range(1 - reach // 2, 1 + reach // 2):
                near = math.floor(at) + k
                shares[i, min(max(near, 0), side - 1)] += kernel(abs(at - near))
        return shares

    def place(self, i: int, side: int, new: int, *, clip: bool) -> float:
        at = (i + 0.5) * side / new - 0.5
        return max(at, 0.0) if clip else at

    def triangle(self, distance: float) -> float:
        return max(0.0, 1 - distance)

    def cubic(self, d: float) -> float:
        a = -0.75
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4)

    def along_both(self, x: Array, shares: Any, h: int, w: int) -> Array:
        """Apply what `shares` says of a side and a scaled one, downwards and then across."""
        down, across = shares(x.shape[1], h), shares(x.shape[2], w)
        x = np.tensordot(down, x, (1, 1)).swapaxes(0, 1)
        return np.moveaxis(np.tensordot(across, x, (1, 2)), 0, 2)

    # ----------------------------------------------------------------- places and tokens

    def block_newline(self, path: str, x: Array) -> Array:
        column = np.broadcast_to(self.w[f"{path}.token"], (*x.shape[:2], 1, x.shape[3]))
        return self.add_newline(x, column)

    def add_newline(self, x: Array, column: Array) -> Array:
        return np.concatenate([x, column], 2)

    def block_extra_tokens(self, path: str, x: Array, *, at: str, kind: str, **_: Any) -> Array:
        tokens = self.tokens(x)
        if kind == "mean":
            extra = tokens.mean(1, keepdims=True)
        else:
            learned = self.w[f"{path}.tokens"]
            extra = np.broadcast_to(learned, (len(x), *learned.shape))
        return self.add_tokens(tokens, extra, at)[:, None]

    def add_tokens(self, tokens: Array, extra: Array, at: str) -> Array:
        return np.concatenate([extra, tokens] if at == "begin" else [tokens, extra], 1)

    def block_position(self, path: str, x: Array, *, kind: str, join: str, **_: Any) -> Array:
        h, w, c = x.shape[1:]
        if kind == "learned":
            return self.add_position(x, self.w[f"{path}.table"].reshape(h, w, c))
        if kind == "sincos":
            return self.add_position(x, self.sincos(h, w, c))
        if kind == "frame":
            return self.add_position(x, np.broadcast_to(np.arange(c) % 2, (h, w, c)))
        rows, columns = self.w[f"{path}.rows"], self.w[f"{path}.columns"]
        return self.add_position(x, self.axes(rows[:h, None], columns[None, :w], join))

    def add_position(self, x: Array, position: Array) -> Array:
        return (x + position).astype(np.float32)

    def axes(self, rows: Array, columns: Array, join: str) -> Array:
        if join == "add":
            return rows + columns
        h, w = len(rows), columns.shape[1]
        parts = [np.broadcast_to(each, (h, w, each.shape[-1])) for each in (columns, rows)]
        return np.concatenate(parts, -1)

    def sincos(self, h: int, w: int, c: int) -> Array:
        """A quarter each: sines and cosines of the column, sines and cosines of the row."""
        column, row = (self.waves(np.arange(side), c // 2) for side in (w, h))
        parts = [np.broadcast_to(column[None], (h, w, c // 2))]
        parts += [np.broadcast_to(row[:, None], (h, w, c // 2))]
        return np.concatenate(parts, -1)

    def waves(self, numbers: Array, channels: int) -> Array:
        angle = numbers[:, None] * self.frequencies(channels // 2)
        return np.concatenate([np.sin(angle), np.cos(angle)], -1).astype(np.float32)

    def frequencies(self, count: int) -> Array:
        return 1 / 10000 ** (np.arange(count) / count)

    # ------------------------------------------------------------------------- attention

    def attention(self, path: str, q: Array, k: Array, v: Array, heads: int) -> Array:
        """Queries ``(b, n, c)`` on keys and values ``(b, m, d)``, which may have fewer heads."""
        q = self.linear(f"{path}.q_proj", q)
        k, v = self.linear(f"{path}.k_proj", k), self.linear(f"{path}.v_proj", v)
        width = q.shape[-1] // heads
        q, k, v = (self.heads(each, each.shape[-1] // width) for each in (q, k, v))
        if f"{path}.q_norm.weight" in self.w:
            q, k = (
                self.norm(f"{path}.{n}_norm", x, "layer", 1e-5) for n, x in (("q", q), ("k", k))
            )
        k, v = self.share_heads(k, heads), self.share_heads(v, heads)
        scores = q @ k.swapaxes(2, 3) * self.softmax_scale(width, heads)
        y = self.act_softmax(scores) @ v
        return self.linear(f"{path}.out_proj", self.join_heads(y))

    def heads(self, x: Array, heads: int) -> Array:
        b, n, c = x.shape
        return x.reshape(b, n, heads, c // heads).swapaxes(1, 2)

    def join_heads(self, x: Array) -> Array:
        b, heads, n, width = x.shape
        return x.swapaxes(1, 2).reshape(b, n, heads * width)

    def share_heads(self, x: Array, heads: int) -> Array:
        return np.repeat(x, heads // x.shape[1], 1)

    def softmax_scale(self, width: int, heads: int) -> float:
        return width**-0.5

    def feed_forward(self, path: str, x: Array, kind: str, gate: str = "silu") -> Array:
        if kind == "swiglu":
            y = self.gated(f"{path}.up", x, gate)
        else:
            y = self.activate(kind, self.linear(f"{path}.up", x))
        return self.linear(f"{path}.down", y)

    def queries(self, path: str, x: Array) -> Array:
        return np.broadcast_to(self.w[path], (len(x), *self.w[path].shape))

    def block_cross_attention(
        self, path: str, x: Array, *, heads: int, self_keys: bool, **_: Any
    ) -> Array:
        q, x = self.queries(f"{path}.queries", x), self.tokens(x)
        k = self.keys(x, q) if self_keys else x
        return self.attention(f"{path}.attention", q, k, k, heads)[:, None]

    def keys(self, x: Array, q: Array) -> Array:
        """What queries see if they see themselves too."""
        return np.concatenate([x, q], 1)

    def block_resampler(
        self, path: str, x: Array, *, depth: int, heads: int, norm: str, eps: float, **options: Any
    ) -> Array:
        z, x = self.queries(f"{path}.latents", x), self.tokens(x)
        for i in range(self.depth(depth)):
            layer = f"{path}.layers.{i}"
            q = self.norm(f"{layer}.latents_norm", z, norm, eps)
            k = self.keys(self.norm(f"{layer}.context_norm", x, norm, eps), q)
            z = self.skip(z, self.attention(f"{layer}.attention", q, k, k, heads))
            y = self.norm(f"{layer}.ffn_norm", z, norm, eps)
            z = self.skip(z, self.feed_forward(f"{layer}.ffn", y, options["ffn"], options["gate"]))
        return self.norm(f"{path}.norm", z, norm, eps)[:, None]

    def depth(self, depth: int) -> int:
        return depth

    def block_qformer(
        self,
        path: str,
        x: Array,
        *,
        depth: int,
        heads: int,
        cross_every: int,
        eps: float,
        act: str,
        **_: Any,
    ) -> Array:
        q, x = self.queries(f"{path}.queries", x), self.tokens(x)
        q = self.norm(f"{path}.norm", q, "layer", eps)
        for i in range(self.depth(depth)):
            layer = f"{path}.layers.{i}"
            y = self.skip(q, self.attention(f"{layer}.self_attention", q, q, q, heads))
            q = self.norm(f"{layer}.self_norm", y, "layer", eps)
            if i % cross_every == 0:
                y = self.skip(q, self.attention(f"{layer}.cross_attention", q, x, x, heads))
                q = self.norm(f"{layer}.cross_norm", y, "layer", eps)
            y = self.skip(q, self.feed_forward(f"{layer}.ffn", q, act))
            q = self.norm(f"{layer}.ffn_norm", y, "layer", eps)
        return q[:, None]

    def block_query_resampler(
        self, path: str, x: Array, *, heads: int, places: str, **_: Any
    ) -> Array:
        if f"{path}.context_proj.weight" in self.w:
            x = self.linear(f"{path}.context_proj", x)
        x = self.norm(f"{path}.context_norm", x, "layer", 1e-6)
        q = self.norm(f"{path}.queries_norm", self.queries(f"{path}.queries", x), "layer", 1e-6)
        h, w, c = x.shape[1:]
        position, table = self.sincos(h, w, c), self.w.get(f"{path}.places.table")
        if table is not None:
            q = self.add_position(q, table)
            side = math.isqrt(len(table))
            if places == "resized":
                position = self.bicubic(table.reshape(1, side, side, c), h, w)[0]
        keys, values = self.placed_keys(x, self.add_position(x, position))
        y = self.attention(f"{path}.attention", q, self.tokens(keys), self.tokens(values), heads)
        return self.linear(f"{path}.proj", self.norm(f"{path}.norm", y, "layer", 1e-6))[:, None]

    def placed_keys(self, plain: Array, placed: Array) -> tuple[Array, Array]:
        """Keys and values: only the keys have positions."""
        return placed, plain

    def block_attention_pool(
        self, path: str, x: Array, *, stride: int, heads: int, ceil: bool, **_: Any
    ) -> Array:
        """Each window's mean attends to its tokens."""
        tops, lefts = (self.starts(side, stride, ceil) for side in x.shape[1:3])
        out = []
        for i in tops:
            for j in lefts:
                window = self.tokens(x[:, i : i + stride, j : j + stride])
                mean = self.window_query(window)
                out.append(self.attention(f"{path}.attention", mean, window, window, heads))
        return np.concatenate(out, 1).reshape(len(x), len(tops), len(lefts), -1)

    def block_region_attention(
        self,
        path: str,
        x: Array,
        *,
        query: Any,
        key: Any,
        value: Any,
        stride: int,
        heads: int,
    ) -> Array:
        """Each token of a coarse grid attends to its window of a fine one."""
        q, k, v = (
            self.chain(f"{path}.{name}", x, chain)
            for name, chain in (("query", query), ("key", key), ("value", value))
        )
        (b, h, w, d), s = q.shape, stride

        def windows(y: Array) -> Array:
            y = y.reshape(b, h, s, w, s, y.shape[-1]).swapaxes(2, 3)
            return y.reshape(b * h * w, s * s, y.shape[-1])

        y = self.attention(f"{path}.attention", q.reshape(-1, 1, d), windows(k), windows(v), heads)
        return y.reshape(b, h, w, -1)

    def window_query(self, window: Array) -> Array:
        return window.mean(1, keepdims=True)
