"""Idefics2's connector in numpy, with upstream's weights.

The checker of the test vectors runs it, as docs/porting.md says: ``python check.py run "python
idefics2.py {manifest} {entry} {case} {upstream} {input} {output}" --entry idefics2``.
"""

import json
import sys

import numpy as np
from safetensors.numpy import load_file


def linear(x, name):
    """Mix channels, without a bias; ``(..., c) -> (..., d)``."""
    return x @ w[f"{name}.weight"].T


def norm(x, name):
    """Divide by the root mean square."""
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + options["eps"]) * w[f"{name}.weight"]


def gated(x, name):
    """Multiply ``up_proj`` by the SiLU of ``gate_proj``."""
    gate = linear(x, f"{name}.gate_proj")
    return gate / (1 + np.exp(-gate)) * linear(x, f"{name}.up_proj")


def attention(q, k, name):
    """Attend; keys and values have fewer heads, each for several of the queries' in a row."""
    heads, kv_heads, width = options["heads"], options["kv_heads"], options["head_dim"]
    k, v = (
        linear(k, f"{name}.{part}_proj").reshape(-1, kv_heads, width).repeat(heads // kv_heads, 1)
        for part in "kv"
    )
    q = linear(q, f"{name}.q_proj").reshape(-1, heads, width)
    scores = np.einsum("qhd,khd->hqk", q, k) / width**0.5
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    y = np.einsum("hqk,khd->qhd", shares, v)
    return linear(y.reshape(len(q), -1), f"{name}.o_proj")


def resample(x):
    """Let the latents read the tokens, ``(n, c) -> (queries, c)``."""
    z = w["perceiver_resampler.latents"]
    for i in range(options["depth"]):
        layer = f"perceiver_resampler.layers.{i}"
        q = norm(z, f"{layer}.input_latents_norm")
        k = np.concatenate([norm(x, f"{layer}.input_context_norm"), q])
        z = z + attention(q, k, f"{layer}.self_attn")
        y = gated(norm(z, f"{layer}.post_attention_layernorm"), f"{layer}.mlp")
        z = z + linear(y, f"{layer}.mlp.down_proj")
    return norm(z, "perceiver_resampler.norm")


def project(x):
    """Return what leaves each block, for the tokens of one image ``(n, c)``."""
    inner = gated(x, "modality_projection")
    tokens = linear(inner, "modality_projection.down_proj")
    return inner, tokens, resample(tokens)


path, name, case_name, weights, source, target = sys.argv[1:]
with open(path) as file:
    entry = json.load(file)["entries"][name]
options = entry["chain"][2]["options"]  # of the resampler
case = next(case for case in entry["cases"] if case["name"] == case_name)
w, x = load_file(weights), np.load(source)
if case["packed"]:  # one image's rows after the other's
    images = np.split(x, np.cumsum([h * w for h, w in case["grids"]])[:-1])
else:
    images = x[:, case["prefix_tokens"] :]
blocks = [np.concatenate(rows) for rows in zip(*map(project, images), strict=True)]
np.savez(target, output=blocks[-1], **{f"blocks.{i}": rows for i, rows in enumerate(blocks)})
