"""Checkpoints with something wrong: files, weights, configs, folders and indexes."""

import errno
import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import INDEX, WEIGHTS, header, hf_mlp, mlp, refusal, same
from safetensors.torch import save, save_file
from torch import Tensor

from mobilevlm import RegistryError, SpecError, build_projector
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.formats import index as index_file
from mobilevlm.checkpoints.formats.safetensors import SafetensorsFile
from mobilevlm.checkpoints.inspection import inspect_checkpoint
from mobilevlm.checkpoints.load import load_projector
from mobilevlm.checkpoints.mapping import to_upstream

PICKLE = "X: a pickle (PyTorch's own format); expected a safetensors file. A pickle can run code, "
PICKLE += "so it is not loaded. Convert it: convert_checkpoint('X', 'projector', from_pickle=True)"
CUT = "It is cut off, or something else: download or save it again."


def of_zip() -> bytes:
    buffer = io.BytesIO()
    torch.save(mlp(), buffer)
    return buffer.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "git-lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
        "X: a git-lfs pointer; expected a safetensors file. Run: git lfs pull",
    ),
    "html": (
        lambda: b"\n<!DOCTYPE html><html><title>404</title></html>",
        "X: a web page; expected a safetensors file. Download the file itself.",
    ),
    "pickle, zip": (of_zip, PICKLE),
    **{
        f"pickle, raw, of protocol {protocol}": (partial(pickle.dumps, {"a": 1}, protocol), PICKLE)
        for protocol in (2, 3, 4, 5)
    },
    "gguf": (
        lambda: b"GGUF\x03" + bytes(99),
        "X: a GGUF file; expected a safetensors file. Use the model it was converted from.",
    ),
    "empty": (bytes, f"X: the file is empty. {CUT}"),
    "truncated": (
        lambda: save(mlp())[:-100],
        f"X: the file is 4,260 bytes, its header promises 4,360. {CUT}",
    ),
    "truncated header": (
        lambda: save(mlp())[:100],
        f"X: the file is 100 bytes, its header promises 328. {CUT}",
    ),
    "appended": (
        lambda: save(mlp()) + b"more",
        "X: the file is 4,364 bytes, its header promises 4,360. Something was appended to it: "
        "save it again.",
    ),
    "cut by one byte": (
        lambda: header("{}")[:-1],
        f"X: the file is 9 bytes, its header promises 10. {CUT}",
    ),
    "huge header": (
        lambda: b"\xff" * 99,
        f"X: a header of 18,446,744,073,709,551,615 bytes; expected a safetensors file. {CUT}",
    ),
    "not JSON": (
        lambda: header("{'a': 1}"),
        "X: header: not JSON: Expecting property name enclosed in double quotes at line 1, "
        "column 2. Download or save it again.",
    ),
    "deep": (
        lambda: header("[" * 100_000),
        "X: header: nested too deep. Download or save it again.",
    ),
    "list": (
        lambda: header("[]"),
        "X: header: a JSON list; expected a JSON object. Download or save it again.",
    ),
    "duplicate": (
        lambda: header(
            '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            1,
        ),
        "X: header: key 'a' is given twice. Leave one of them out.",
    ),
    "metadata": (
        lambda: header('{"__metadata__":{"a":1}}'),
        "X: its metadata is not text to text. Download or save it again.",
    ),
    "metadata of another kind": (
        lambda: header('{"__metadata__":[]}'),
        "X: its metadata is not text to text. Download or save it again.",
    ),
    "no entry": (
        lambda: header('{"a":1}'),
        "X['a']: not a tensor's entry; expected dtype, shape and data_offsets. "
        "Download or save it again.",
    ),
    "dtype of another kind": (
        lambda: header('{"a":{"dtype":[],"shape":[1],"data_offsets":[0,1]}}', 1),
        "X['a']: dtype []; expected a name, such as BF16. Download or save it again.",
    ),
    **{
        f"a span of {span}": (
            lambda span=span: header(
                f'{{"a":{{"dtype":"U8","shape":[0],"data_offsets":{span}}}}}', 1
            ),
            f"X['a']: shape [0] at {span} does not make sense. Download or save it again.",
        )
        for span in ([0], [0, 0, 0], [0, 0.5], 3)
    },
    "a span that ends before it begins": (
        lambda: header('{"a":{"dtype":"U8","shape":[0],"data_offsets":[1,0]}}', 1),
        "X['a']: -1 bytes; expected 0 for U8 of (0,). Download or save it again.",
    ),
    "dtype": (
        lambda: header('{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}', 1),
        "X: no projector that is known, among 1 tensors, none of which looks like a connector's. "
        "Describe it as a document, and name its modules in order of use: "
        "load_projector('X', spec=document, module_names=[...]).",
    ),
    "a dtype, and a span that ends before it begins": (
        lambda: header('{"a":{"dtype":"F4","shape":[0],"data_offsets":[1,0]}}', 1),
        "X['a']: -1 bytes; expected 0 for F4 of (0,). Download or save it again.",
    ),
    "a dtype, and a hole": (
        lambda: header('{"a":{"dtype":"F4","shape":[1],"data_offsets":[1,2]}}', 2),
        "X: its tensors leave a hole at byte 1. Download or save it again.",
    ),
    "a dtype of the projector's": (
        lambda: with_unknown_dtype("mm_projector.0.weight", mlp()),
        "X['mm_projector.0.weight']: a tensor of (48, 16), of the dtype 'F6_E2M3', which is not "
        "known; expected a tensor of its own numbers. Save it again in one of BF16, F16, F32, F64 "
        "and the like.",
    ),
    "fields": (
        lambda: header('{"a":{"dtype":"U8","shape":[1]}}', 1),
        "X['a']: not a tensor's entry; expected dtype, shape and data_offsets. "
        "Download or save it again.",
    ),
    "negative": (
        lambda: header('{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', 1),
        "X['a']: shape [-1] at [0, 1] does not make sense. Download or save it again.",
    ),
    "true": (
        lambda: header('{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', 1),
        "X['a']: shape [True] at [0, 1] does not make sense. Download or save it again.",
    ),
    "huge": (
        lambda: header(
            '{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,1]}}', 1
        ),
        "X['a']: shape [4294967296, 4294967296] at [0, 1] does not make sense. "
        "Download or save it again.",
    ),
    "bytes": (
        lambda: header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[1,5]}}', 5),
        "X['a']: 4 bytes; expected 8 for F32 of (2,). Download or save it again.",
    ),
    "letters": (
        lambda: header('{"a":{"dtype":"U8","shape":["\\u0430"],"data_offsets":["\\u0430"]}}', 1),
        "X['a']: shape ['\\u0430'] at ['\\u0430'] does not make sense. Download or save it again.",
    ),
    "65 axes": (
        lambda: header(f'{{"a":{{"dtype":"U8","shape":{[1] * 65},"data_offsets":[0,1]}}}}', 1),
        f"X['a']: shape [{'1, ' * 25}1... at [0, 1] does not make sense. Download or save it "
        "again.",
    ),
    "huge in many axes": (
        lambda: header(f'{{"a":{{"dtype":"U8","shape":{[9] * 64},"data_offsets":[0,1]}}}}', 1),
        f"X['a']: shape [{'9, ' * 25}9... at [0, 1] does not make sense. Download or save it "
        "again.",
    ),
    "overlap": (
        lambda: header(
            '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},'
            '"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
            3,
        ),
        "X: its tensors overlap at byte 1. Download or save it again.",
    ),
    "hole": (
        lambda: header('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 2),
        "X: its tensors leave a hole at byte 1. Download or save it again.",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_something_else(name: str, tmp_path: Path) -> None:
    make, message = FILES[name]
    (tmp_path / "x.safetensors").write_bytes(make())
    assert refusal(tmp_path / "x.safetensors") == message


def edited(**tensors: Tensor | None) -> dict[str, Tensor]:
    """Return LLaVA's MLP with tensors replaced; None takes one away; `_` stands for a dot."""
    state = mlp()
    for name, tensor in tensors.items():
        key = f"mm_projector.{name.replace('_', '.').removeprefix('.')}"
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    return state


def turned_depthwise() -> dict[str, Tensor]:
    state = to_upstream(build_projector("ldpnet", 16, 24), "ldpnet")
    state = {f"mm_projector.{key}": tensor for key, tensor in state.items()}
    key = next(key for key, tensor in state.items() if tensor.shape == (24, 1, 3, 3))
    state[key] = state[key][:, 0].permute(1, 0, 2).contiguous()
    return state


ONE = torch.zeros(1)
STATES: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "zero-3": (
        lambda: edited(_0_weight=torch.empty(0)),
        "X['mm_projector.0.weight']: an empty tensor of (0,), a DeepSpeed ZeRO-3 placeholder; "
        "expected the gathered weights. Save inside deepspeed.zero.GatheredParameters, or run "
        "zero_to_fp32.py first.",
    ),
    "zero-3, a bias of another name": (
        lambda: edited(_z=torch.zeros(5), _zbias=torch.empty(0)),
        "X['mm_projector.zbias']: an empty tensor of (0,), a DeepSpeed ZeRO-3 placeholder; "
        "expected the gathered weights. Save inside deepspeed.zero.GatheredParameters, or run "
        "zero_to_fp32.py first.",
    ),
    "4-bit": (
        lambda: edited(_0_weight=torch.zeros(192, 1, dtype=torch.uint8)),
        "X['mm_projector.0.weight']: a tensor of (192, 1) and torch.uint8, weights packed in "
        "4 bits; expected floating-point weights. Load the model without 4-bit quantisation and "
        "save it again.",
    ),
    "missing and extra": (
        lambda: edited(_2_bias=None, _4_scale=torch.zeros(3)),
        "X: 1 tensor missing and 1 left over for mlp\n"
        "  missing  mm_projector.2.bias (24,)\n"
        "  extra    mm_projector.4.scale (3,). "
        "The file is of another family or incomplete.",
    ),
    "transposed": (
        lambda: edited(_0_weight=torch.zeros(16, 24)),
        "X['mm_projector.0.weight']: a tensor of (16, 24) beside a bias of 24; expected (24, 16). "
        "It looks transposed or flattened. Save it as upstream does.",
    ),
    "missing": (
        lambda: edited(_2_bias=None),
        "X: 1 tensor missing and 0 left over for mlp\n  missing  mm_projector.2.bias (24,). The "
        "file is of another family or incomplete.",
    ),
    "missing first": (
        lambda: edited(_0_bias=None),
        "X: 1 tensor missing and 0 left over for mlp\n  missing  mm_projector.0.bias (24,). The "
        "file is of another family or incomplete.",
    ),
    "12 extra": (
        lambda: edited(**{f"_9_x{n:02}": torch.zeros(1) for n in range(12)}),
        "X: 0 tensors missing and 12 left over for mlp"
        + "".join(f"\n  extra    mm_projector.9.x{n:02} (1,)" for n in range(12))
        + ". The file is of another family or incomplete.",
    ),
    "13 extra": (
        lambda: edited(**{f"_9_x{n:02}": torch.zeros(1) for n in range(13)}),
        "X: 0 tensors missing and 13 left over for mlp"
        + "".join(f"\n  extra    mm_projector.9.x{n:02} (1,)" for n in range(12))
        + "\n  .... The file is of another family or incomplete.",
    ),
    "with an axis more": (
        lambda: edited(_2_bias=torch.zeros(1, 24)),
        "X['mm_projector.2.bias']: a tensor of (1, 24); expected (24,). "
        "Its family or its widths do not match those of the other tensors.",
    ),
    "axes in another order": (
        turned_depthwise,
        "X['mm_projector.mb_block.1.block.0.0.weight']: a tensor of (3, 24, 3); expected "
        "(24, 1, 3, 3). Its family or its widths do not match those of the other tensors.",
    ),
    "bytes": (
        lambda: edited(_0_bias=torch.zeros(24, dtype=torch.uint8)),
        "X['mm_projector.0.bias']: a tensor of torch.uint8; expected floating-point weights "
        "of 16 bits or more. Load the model without quantisation and save it again.",
    ),
    "bytes as numbers": (
        lambda: edited(_0_weight=torch.zeros(24, 16, dtype=torch.uint8)),
        "X['mm_projector.0.weight']: a tensor of torch.uint8; expected floating-point weights "
        "of 16 bits or more. Load the model without quantisation and save it again.",
    ),
    "another height": (
        lambda: edited(_2_weight=torch.zeros(20, 20)),
        "X['mm_projector.0.weight']: a tensor of (24, 16); expected (20, 16). "
        "Its family or its widths do not match those of the other tensors.",
    ),
    "twice the height": (
        lambda: edited(_0_weight=torch.zeros(48, 16)),
        "X['mm_projector.0.weight']: a tensor of (48, 16); expected (24, 16). "
        "Its family or its widths do not match those of the other tensors.",
    ),
    "flattened, of another size": (
        lambda: edited(_2_weight=torch.zeros(100)),
        "X: 2.weight: a tensor of (100,); expected two axes (out, in)",
    ),
    **{
        word: (
            lambda word=word: {f"{n}.w": torch.zeros(2) for n in range(5)} | {f"z.{word}.w": ONE},
            f"X: no projector that is known, among 6 tensors; 'z.{word}' looks like one. Describe "
            "it as a document, and name its modules in order of use: load_projector('X', "
            f"root='z.{word}.', spec=document, module_names=[...]).",
        )
        for word in ("connector", "mlp1", "aligner", "merger")
    },
    "nothing likely": (
        lambda: {f"{n}.w": torch.zeros(2) for n in range(5)},
        "X: no projector that is known, among 5 tensors, none of which looks like a connector's. "
        "Describe it as a document, and name its modules in order of use: load_projector('X', "
        "spec=document, module_names=[...]).",
    ),
    "much that is likely": (
        lambda: {f"my_projector.{n}.w": torch.zeros(2) for n in range(5)},
        "X: no projector that is known, among 5 tensors; 'my_projector' looks like one. Describe "
        "it as a document, and name its modules in order of use: load_projector('X', "
        "root='my_projector.', spec=document, module_names=[...]).",
    ),
    "flattened": (
        lambda: edited(_0_weight=torch.zeros(384)),
        "X['mm_projector.0.weight']: a tensor of (384,) beside a bias of 24; expected (24, 16). "
        "It looks transposed or flattened. Save it as upstream does.",
    ),
    "another width": (
        lambda: edited(_2_weight=torch.zeros(24, 20)),
        "X['mm_projector.2.weight']: a tensor of (24, 20); expected (24, 24). "
        "Its family or its widths do not match those of the other tensors.",
    ),
    "int8": (
        lambda: edited(_0_weight=torch.zeros(24, 16, dtype=torch.int8)),
        "X['mm_projector.0.weight']: a tensor of torch.int8; expected floating-point weights "
        "of 16 bits or more. Load the model without quantisation and save it again.",
    ),
    "fp8": (
        lambda: edited(_0_weight=torch.zeros(24, 16, dtype=torch.float8_e4m3fn)),
        "X['mm_projector.0.weight']: a tensor of torch.float8_e4m3fn; expected floating-point "
        "weights of 16 bits or more. Load the model without quantisation and save it again.",
    ),
    "two": (
        lambda: {**mlp(), **{f"model.{key}": tensor for key, tensor in mlp().items()}},
        "X: more than one projector fits: mlp under 'mm_projector.', mlp under "
        "'model.mm_projector.'. Say which one, as root='mm_projector.'.",
    ),
    "none": (
        lambda: {"lm_head.weight": torch.zeros(2, 2), "my_projector.w": torch.zeros(2)},
        "X: no projector that is known, among 2 tensors; 'my_projector' looks like one. Describe "
        "it as a document, and name its modules in order of use: load_projector('X', "
        "root='my_projector.', spec=document, module_names=[...]).",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_weights_that_do_not_fit(name: str, tmp_path: Path) -> None:
    make, message = STATES[name]
    save_file(make(), tmp_path / "x.safetensors")
    assert refusal(tmp_path / "x.safetensors") == message


CONFIGS: dict[str, tuple[str, str]] = {
    "unknown": (
        '{"model_type": "strange_vl"}',
        "X: no projector that is known of model type 'strange_vl', among 4 tensors; "
        "'multi_modal_projector' looks like one. The tensors fit mlp (16 -> 24), internvl "
        "(4 -> 24), perception-lm (16 -> 24); ask for the one that the model computes: "
        "load_projector('X', family='mlp').",
    ),
    "another family": (
        '{"model_type": "aya_vision"}',
        "X['multi_modal_projector.linear_2.weight']: a tensor of (24, 24); expected (24, 12). "
        "Its family or its widths do not match those of the other tensors.",
    ),
    "activation": (
        '{"model_type": "llava", "projector_hidden_act": "os.system"}',
        "X: config.json: projector_hidden_act: 'os.system'; expected one of "
        "gelu, gelu_accurate, gelu_fast, gelu_new, gelu_python, gelu_python_tanh, "
        "gelu_pytorch_tanh, hardswish, leaky_relu, linear, mish, quick_gelu, relu, relu2, sigmoid, "
        "silu, swish, tanh. Describe the projector as a document, with a block of your own if need "
        "be: load_projector('X', root='multi_modal_projector.', spec=document, "
        "module_names='llava').",
    ),
    "merge": (
        '{"model_type": "internvl", "downsample_ratio": "half"}',
        'X: config.json: cannot be read as internvl: "unsupported operand type(s) for /: '
        "'int' and 'str'\". Compare config.json with the model it is of.",
    ),
    "not JSON": (
        "{,}",
        "config.json: not JSON: Expecting property name enclosed in double quotes at line 1, "
        "column 2. Download it again.",
    ),
    "a list": ("[]", "config.json: a JSON list; expected a JSON object. Download it again."),
    "twice": (
        '{"model_type": "llava", "model_type": "vipllava"}',
        "config.json: key 'model_type' is given twice. Leave one of them out.",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_do_not_fit(name: str, tmp_path: Path) -> None:
    config, message = CONFIGS[name]
    save_file(hf_mlp(), tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text(config)
    assert refusal(tmp_path) == message


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": model_type, **fields}
        for model_type in ("llava", "internvl", "gemma3", "qwen2_vl", "mistral3", "aya_vision")
        for fields in (
            {"downsample_ratio": 0, "downsample_factor": 0, "spatial_merge_size": 0},
            {"vision_config": [1], "text_config": "x", "downsample_factor": [2]},
            {"vision_config": {"image_size": [1], "patch_size": 0}, "downsample_factor": 1e400},
            {"projector_hidden_act": ["gelu"], "downsample_factor": "2"},
        )
    ],
    ids=str,
)
def test_strange_configs_are_refused_or_have_no_say(config: dict[str, Any], tmp_path: Path) -> None:
    save_file(hf_mlp(), tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text(json.dumps(config))
    try:
        found = inspect_checkpoint(tmp_path).family
    except CheckpointError:
        return
    assert (config["model_type"], found) in {("llava", "mlp")}


def test_a_refusal_keeps_its_cause(own: Path, tmp_path: Path) -> None:
    save_file(hf_mlp(), tmp_path / WEIGHTS)
    for name, cause in (("activation", CheckpointError), ("merge", TypeError)):
        (tmp_path / "config.json").write_text(CONFIGS[name][0])
        with pytest.raises(CheckpointError) as caught:
            load_projector(tmp_path)
        assert type(caught.value.__cause__) is cause
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path / "none")
    assert type(caught.value.__cause__) is FileNotFoundError


def test_an_error_of_the_preset_keeps_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = SpecError("a found", "mlp.act", "an expectation of " + 300 * "x", "A hint.")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr("mobilevlm.checkpoints.attempt.to_stack", refuse)
    save_file(hf_mlp(), tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path)
    assert caught.value.found == error.found
    assert caught.value.where == f"{tmp_path}: mlp.act"
    assert (caught.value.expected, caught.value.hint) == (error.expected, error.hint)


def test_the_root_of_the_first_of_several_that_fit_is_named(tmp_path: Path) -> None:
    state = hf_mlp()
    save_file(
        {**state, **{f"a.{key}": each + 1 for key, each in state.items()}}, tmp_path / WEIGHTS
    )
    (tmp_path / "config.json").write_text('{"model_type": "strange_vl"}')
    assert refusal(tmp_path).endswith(
        "; ask for the one that the model computes: load_projector('X', "
        "root='a.multi_modal_projector.', family='mlp')."
    )


def with_unknown_dtype(key: str, state: dict[str, Tensor]) -> bytes:
    """Tensors in safetensors, with one of a dtype that nobody knows."""
    described = {"dtype": "F6_E2M3", "shape": [48, 16], "data_offsets": [0, 576]}
    rest = {name: tensor for name, tensor in state.items() if name != key}
    entries, data = {key: described}, bytes(576)
    for name, tensor in rest.items():
        span = [len(data), len(data) + tensor.nbytes]
        entries[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": span}
        data += tensor.numpy().tobytes()
    return header(json.dumps(entries)) + data


def test_a_dtype_that_nobody_knows_spoils_only_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    state = mlp()  # once: threads share the random numbers
    path.write_bytes(with_unknown_dtype("language_model.weight", state))
    assert (inspect_checkpoint(path).family, inspect_checkpoint(path).left) == ("mlp", 1)
    save_file(state, tmp_path / "y.safetensors")
    assert same(load_projector(path), load_projector(tmp_path / "y.safetensors"))
    with pytest.raises(CheckpointError, match="of the dtype 'F6_E2M3', which is not known"):
        SafetensorsFile(path).read(["language_model.weight"])


def test_five_files_and_no_index(tmp_path: Path) -> None:
    for name in "edcba":
        save_file(mlp(), tmp_path / f"{name}.safetensors")
    assert refusal(tmp_path) == (
        f"X: 5 safetensors files and no {INDEX}. Name one of them: a.safetensors, b.safetensors, "
        "c.safetensors, d.safetensors."
    )


def test_the_first_of_many_pickles_is_named(tmp_path: Path) -> None:
    for name in "hgfedcba":
        (tmp_path / f"{name}.bin").write_bytes(of_zip())
    assert refusal(tmp_path).startswith(
        f"X: no weights in this folder; expected {WEIGHTS}. a.bin is a pickle,"
    )


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    hint = "Name the file or the folder that holds them."
    assert refusal(tmp_path) == f"X: no weights in this folder; expected {WEIGHTS}. {hint}"
    (tmp_path / "mm_projector.bin").write_bytes(of_zip())
    assert refusal(tmp_path) == (
        f"X: no weights in this folder; expected {WEIGHTS}. mm_projector.bin is a pickle, which "
        "can run code, so it is not loaded. "
        "Convert it: convert_checkpoint('X', 'projector', from_pickle=True)"
    )
    assert refusal(tmp_path / "mm_projector.bin") == PICKLE
    assert refusal(tmp_path / "none.safetensors") == (
        "X: cannot be read: No such file or directory. Look at the path; nothing is downloaded."
    )
    (tmp_path / "x.safetensors").mkdir()
    assert refusal(tmp_path) == (
        "x.safetensors: cannot be read: a folder, not a file. Name another path."
    )
    assert refusal(tmp_path / "x.safetensors") == (
        f"X: no weights in this folder; expected {WEIGHTS}. {hint}"
    )
    save_file(mlp(), tmp_path / "a.safetensors")
    assert refusal(tmp_path) == (
        f"X: 2 safetensors files and no {INDEX}. Name one of them: a.safetensors, x.safetensors."
    )


@pytest.mark.thread_unsafe  # it counts the process's open files
def test_what_is_no_regular_file_is_refused_and_left_closed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    irregular = "X: cannot be read: not a regular file. Name another path."
    opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert refusal(tmp_path / "pipe") == irregular
    assert refusal(Path("/dev/null")) == irregular
    if opened:
        assert len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "", ".", "..", "a\\b", "a/b"])
def test_shards_outside_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    assert refusal(tmp_path) == (
        f"{INDEX}: shard {name!r} is not a plain file name. Shards stand beside their index."
    )


def test_indexes_that_do_not_fit(tmp_path: Path) -> None:
    index = tmp_path / INDEX
    os.mkfifo(index)
    assert (
        refusal(tmp_path) == f"{INDEX}: cannot be read: not a regular file; expected a JSON object"
    )
    index.unlink()
    for value in (
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "a.safetensors", "b": 1}}',
    ):
        index.write_text(value)
        assert refusal(tmp_path) == (
            f"{INDEX}: no weight_map; expected a mapping of keys to file names. {JSON_HINT}"
        )
    save_file(mlp(), tmp_path / "a.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    homes = dict.fromkeys(mlp(), "a.safetensors")
    homes["mm_projector.2.bias"] = "b.safetensors"
    index.write_text(json.dumps({"weight_map": homes}))
    assert refusal(tmp_path) == (
        f"{INDEX}: 'b.safetensors' does not hold 'mm_projector.2.bias'. Index and shards are of "
        "different models: download them again."
    )
    (tmp_path / "b.safetensors").unlink()
    assert refusal(tmp_path) == (
        "b.safetensors: cannot be read: No such file or directory. Look at the path; nothing is "
        "downloaded."
    )


def test_the_first_of_many_bad_shards_is_named(tmp_path: Path) -> None:
    homes = {str(index): f"../{name}" for index, name in enumerate("hgfedcba")}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": homes}))
    assert refusal(tmp_path) == (
        f"{INDEX}: shard '../a' is not a plain file name. Shards stand beside their index."
    )


def test_json_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / INDEX
    index.write_text("[" * 100_000)
    assert refusal(tmp_path) == f"{INDEX}: nested too deep. {JSON_HINT}"
    with index.open("wb") as file:
        file.truncate(100_000_001)
    assert refusal(tmp_path) == f"{INDEX}: too long; expected at most 100,000,000 bytes"
    homes = json.dumps({"weight_map": dict.fromkeys(mlp(), "a.safetensors")})
    index.write_text(homes)
    save_file(mlp(), tmp_path / "a.safetensors")
    with monkeypatch.context() as patch:
        exactly = replace(index_file.INDEX, limit=len(homes))
        patch.setattr(index_file, "INDEX", exactly)
        assert inspect_checkpoint(tmp_path).family == "mlp"

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    assert refusal(tmp_path) == (
        f"{INDEX}: cannot be read: Input/output error; expected a JSON object"
    )
    with pytest.raises(CheckpointError) as caught:
        inspect_checkpoint(tmp_path)
    assert type(caught.value.__cause__) is OSError


def test_a_config_is_no_longer_than_a_document(tmp_path: Path) -> None:
    save_file(mlp(), tmp_path / "model.safetensors")
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(16_000_001)
    assert refusal(tmp_path) == "config.json: too long; expected at most 16,000,000 bytes"


JSON_HINT = "Download it again."


def test_values_are_checked_on_request(tmp_path: Path) -> None:
    state = mlp()
    state["mm_projector.2.weight"][3, 4] = torch.nan
    save_file(state, tmp_path / "x")
    assert load_projector(tmp_path / "x").state_dict()["blocks.2.weight"].isnan().sum() == 1
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path / "x", check_values=True)
    assert str(caught.value) == (
        f"{tmp_path}/x['mm_projector.2.weight']: NaN or infinite values; expected finite weights. "
        "Take an earlier checkpoint: a projector with these gives NaN."
    )


def test_values_on_the_meta_device_cannot_overflow(tmp_path: Path) -> None:
    save_file(mlp(), tmp_path / "x")
    loaded = load_projector(tmp_path / "x", device="meta", dtype=torch.float16, check_values=True)
    assert all(each.is_meta for each in loaded.parameters())


@pytest.mark.parametrize(
    "page", ["https://huggingface.co/org/model", "huggingface.co/org/model", "org/model"]
)
def test_the_address_of_a_page_is_answered_with_that_of_the_model(page: str) -> None:
    with pytest.raises(CheckpointError, match="If it is a model of a hub, write: hf://org/model"):
        load_projector(page)


def test_a_name_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_projector("llava-hf/llava-1.5-7b-hf")
    assert str(caught.value) == (
        "llava-hf/llava-1.5-7b-hf: cannot be read: No such file or directory. If it is a model of "
        "a hub, write: hf://llava-hf/llava-1.5-7b-hf"
    )
    with pytest.raises(CheckpointError) as caught:
        load_projector(Path("hf://org/model"))
    assert str(caught.value) == (
        "hf:/org/model: cannot be read: No such file or directory. Give hf:// as text: a path "
        "makes one slash of the two."
    )
    for path in ("nope", "a/b.safetensors", "a/b/c"):
        with pytest.raises(CheckpointError, match="Look at the path; nothing is downloaded"):
            load_projector(path)
    for name in ("a" * 5000, "a\0b"):
        with pytest.raises(RegistryError, match="unknown projector"):
            build_projector(name, 1, 1)
