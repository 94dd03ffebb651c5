"""The messages of docs/faq.md are those that are raised, word for word, and its commands work."""

import io
import logging
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import einops
import pytest
import torch
from helpers import vlms
from helpers.apart import run_apart
from helpers.command import run
from helpers.pages import FENCE
from helpers.plugins import Site
from readme import DOCS
from safetensors.torch import load_file, save_file
from torch import nn

import mobilevlm
from mobilevlm import (
    BLOCKS,
    build_projector,
    export_projector,
    find_nonfinite,
    load_projector,
    load_spec,
    save_projector,
    swap_projector,
)
from mobilevlm.models import check_image_tokens, load_model
from mobilevlm.models.upstream import load_class

[PAGE] = [page for page in DOCS if page.name == "faq.md"]
MESSAGE = re.compile(r"\n\n((?:    .*\n)+)")


class Entry(NamedTuple):
    title: str
    message: str
    answer: str


def words(text: str) -> str:
    """Return a text without its indents and colours, in which white space does not matter."""
    return " ".join(re.sub(r"\x1b\[\d*m", "", text).split())


def entries() -> list[Entry]:
    found = []
    for part in PAGE.read_text("utf-8").split("\n### ")[1:]:
        title, rest = part.split("\n", 1)
        message = MESSAGE.match("\n" + rest)
        shown = message[1] if message else ""
        found.append(Entry(title, shown, rest[len(shown) + 1 :].split("\n## ")[0]))
    return found


ENTRIES = {entry.title: entry for entry in entries()}
RAISES: dict[str, Callable[[], object]] = {}


def raises(title: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Mark what raises the message of an entry, in an empty folder."""

    def remember(provoke: Callable[[], object]) -> Callable[[], object]:
        assert RAISES.setdefault(title, provoke) is provoke
        return provoke

    return remember


def mlp(in_: int, inner: int, device: str = "meta") -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_, inner, device=device), nn.GELU(), nn.Linear(inner, inner, device=device)
    )


class LlavaLlamaForCausalLM(nn.Module):
    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"mm_projector": projector})


@raises("size mismatch for model.mm_projector.0.weight")
def _() -> None:
    trained = LlavaLlamaForCausalLM(mlp(1664, 4096)).state_dict()
    LlavaLlamaForCausalLM(mlp(1024, 4096)).load_state_dict(trained)


@raises("the shape in current model is torch.Size([0])")
def _() -> None:
    sharded = mlp(1152, 896, "cpu")
    for parameter in sharded.parameters():
        parameter.data = torch.empty(0)
    sharded.load_state_dict(mlp(1152, 896).state_dict())


@raises("an empty tensor of (0,), a DeepSpeed ZeRO-3 placeholder")
def _() -> None:
    keys = ("0.weight", "0.bias", "2.weight", "2.bias")
    save_file({f"model.mm_projector.{key}": torch.empty(0) for key in keys}, "zero.safetensors")
    load_projector("zero.safetensors")


@raises("the shape in current model is torch.Size([2097152, 1])")
def _() -> None:
    packed = nn.Linear(1024, 4096, device="meta")
    packed.weight = nn.Parameter(
        torch.empty(2097152, 1, dtype=torch.uint8, device="meta"), requires_grad=False
    )
    trained = LlavaLlamaForCausalLM(nn.Linear(1024, 4096, device="meta")).state_dict()
    LlavaLlamaForCausalLM(packed).load_state_dict(trained)


@raises('Missing key(s) in state_dict: "weight", "bias"')
def _() -> None:
    nn.Linear(8, 4).load_state_dict(mlp(8, 4).state_dict())


@raises('Missing key(s) in state_dict: "blocks.0.weight"')
def _() -> None:
    build_projector("mlp2x_gelu", 64, 96).load_state_dict(mlp(64, 96).state_dict())


@raises("Weights only load failed")
def _() -> None:
    torch.save({"model.mm_projector.weight": torch.zeros(2), "args": Namespace()}, "all.bin")
    torch.load("all.bin")


@raises("a pickle (PyTorch's own format); expected a safetensors file")
def _() -> None:
    torch.save({"model.mm_projector.weight": torch.zeros(2)}, "mm_projector.bin")
    load_projector("mm_projector.bin")


@raises("Unsupported global: GLOBAL mobilevlm.projectors.projector.Projector")
def _() -> None:
    torch.save(build_projector("linear", 8, 4), "whole.pt")
    torch.load("whole.pt")


@raises("Error while deserializing header: header too large")
def _() -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    Path("model.safetensors").write_text(pointer, "utf-8")
    with pytest.raises(mobilevlm.CheckpointError) as said:
        load_projector("model.safetensors")
    assert str(said.value).removeprefix("model.safetensors: ") in words(
        ENTRIES["Error while deserializing header: header too large"].answer
    )
    load_file("model.safetensors")


@raises("cannot be read: No such file or directory. If it is a model of a hub")
def _() -> None:
    load_projector("llava-hf/llava-1.5-7b-hf")


@raises("no projector that is known, among 2 tensors")
def _() -> None:
    weights = {"weight": torch.zeros(96, 64), "bias": torch.zeros(96)}
    save_file({f"vision.adapter.{key}": weights[key] for key in weights}, "mine.safetensors")
    load_projector("mine.safetensors")


@raises("already there, and nothing in it says that this library wrote it")
def _() -> None:
    Path("other").mkdir()
    save_file({"lm_head.weight": torch.zeros(2)}, "other/model.safetensors")
    save_projector(build_projector("linear", 8, 4), "other")


@raises("unknown projector 'smolvlm'")
def _() -> None:
    build_projector("smolvlm", 64, 96)


@raises("mat1 and mat2 shapes cannot be multiplied")
def _() -> None:
    nn.Linear(4096, 1024)(torch.randn(1, 576, 1024))


@raises("577 tokens; expected a square number of tokens, or a grid")
def _() -> None:
    build_projector("ldp", 64, 96)(torch.randn(1, 577, 64))


@raises("shape '[1, -1, 24, 24]' is invalid for input of size")
def _() -> None:
    torch.zeros(1, 577, 1024).permute(0, 2, 1).reshape(1, -1, 24, 24)


@raises("Shape mismatch, can't divide axis of length 27 in chunks of 2")
def _() -> None:
    x = torch.zeros(1, 27, 27, 8)
    einops.rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=2, q=2)


@raises("a grid of 27x27 does not divide into windows of 2x2")
def _() -> None:
    build_projector("internvl", 64, 96)(torch.randn(1, 27 * 27, 64))


@raises("It looks channels-last")
def _() -> None:
    build_projector("ldp", 64, 96)(torch.randn(1, 24, 24, 64))


@raises("mat1 and mat2 must have the same dtype")
def _() -> None:
    nn.Linear(8, 4)(torch.randn(2, 8).half())


@raises("the input is torch.float16, the parameters are torch.float32")
def _() -> None:
    build_projector("ldp", 64, 96)(torch.randn(1, 576, 64).half())


@raises("The loss is NaN from the first step on")
def _() -> None:
    projector = build_projector("mlp2x_gelu", 64, 96, dtype=torch.float16)
    nn.init.ones_(projector.get_parameter("blocks.0.weight"))
    with find_nonfinite(projector):
        projector(torch.full((1, 4, 64), 60000.0).half())


@raises("Only Tensors of floating point and complex dtype can require gradients")
def _() -> None:
    nn.Linear(8, 4).weight = nn.Parameter(torch.zeros(4, 8, dtype=torch.int8))


@raises("element 0 of tensors does not require grad and does not have a grad_fn")
def _() -> None:
    build_projector("linear", 8, 4).requires_grad_(False)(torch.randn(1, 4, 8)).sum().backward()


@raises("Expected to have finished reduction in the prior iteration")
def _() -> None:
    model = nn.ModuleDict({"projector": nn.Linear(2, 2), "text": nn.Linear(2, 2)})
    model.forward = model["text"].forward
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{Path('store').absolute()}", rank=0, world_size=1
    )
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            parallel(torch.ones(1, 2)).sum().backward()
    finally:
        torch.distributed.destroy_process_group()


@raises("unknown block: it comes from a package that is not installed")
def _() -> None:
    load_spec({"in": 64, "out": 96, "blocks": ["acme-blocks/gate"]})


@raises("My own block is unknown in another process")
def _() -> None:
    BLOCKS.get("gate")


@raises("unknown key 'kernal'")
def _() -> None:
    load_spec({"in": 64, "out": 96, "blocks": [{"type": "depthwise", "kernal": 5}]})


@raises("a document of a newer version")
def _() -> None:
    load_spec({"schema": 2, "in": 64, "out": 96, "blocks": ["pointwise"]})


@raises("the grid is not known; expected (height, width)")
def _() -> None:
    export_projector(build_projector("ldp", 64, 96).eval(), "ldp.pt2")


def check(title: str, said: str) -> None:
    """Find an entry's message in the text of an error or a warning; ``...`` stands for any."""
    shown = words(ENTRIES[title].message)
    assert shown
    assert all(part in words(said) for part in shown.split(" ... ")), said


def text_of(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}: {error}"


@pytest.mark.parametrize("title", RAISES)
def test_the_message_is_the_one_that_is_raised(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - check says which
        RAISES[title]()
    check(title, text_of(caught.value))


PLUGIN = "the plugin cannot be imported"
ONNX = ".onnx needs onnx, onnxruntime, onnxscript"
COUNT = "Image features and image tokens do not match"
LOST = "LOAD REPORT: multi_modal_projector MISSING"
CUSTOM = "contains custom code which must be executed to correctly load the model"
NO_COMMAND = "mobilevlm: command not found"
STRANGER = "ImportError: cannot import name 'build_projector' from 'mobilevlm'"
NO_TRANSFORMERS = "No module named 'transformers'"
OTHERWISE = {PLUGIN, ONNX, COUNT, LOST, CUSTOM, NO_COMMAND, STRANGER, NO_TRANSFORMERS}


def test_a_plugin_that_cannot_be_imported(site: Site) -> None:
    site.install("north-tools", "1.0", "[mobilevlm.blocks]\nsway = north_tools:Sway\n")
    with pytest.raises(mobilevlm.RegistryError) as caught:
        BLOCKS.get("sway")
    check(PLUGIN, text_of(caught.value))


def test_an_export_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(mobilevlm.ExportError) as caught:
        export_projector(build_projector("ldp", 64, 96).eval(), "ldp.onnx", grid=(24, 24))
    check(ONNX, text_of(caught.value))


@pytest.fixture(scope="module")
def swapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of LLaVA with another projector, and its processor."""
    folder = tmp_path_factory.mktemp("faq") / "swapped"
    model, processor = vlms.llava()
    swap_projector(model, "ldp", processor=processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_projector_that_was_replaced_by_hand() -> None:
    model, processor = vlms.llava()
    inputs = vlms.batch(processor, [(48, 48)] * 4)
    own = model.model.multi_modal_projector
    model.model.multi_modal_projector = build_projector("ldp", 48, 64)
    with torch.no_grad(), pytest.raises(ValueError, match="tokens") as caught:
        model(**inputs)
    check(COUNT, text_of(caught.value))
    model.model.multi_modal_projector = own
    swap_projector(model, "ldp", processor=processor)
    check_image_tokens(model, processor)
    with torch.no_grad():
        assert model(**vlms.batch(processor)).logits.isfinite().all()


def test_a_projector_that_is_lost_by_the_original_class(
    swapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = type(vlms.llava()[0])
    monkeypatch.chdir(swapped.parent)
    logger, log = logging.getLogger("transformers"), io.StringIO()
    handler = logging.StreamHandler(log)
    logger.addHandler(handler)
    try:
        lost = original.from_pretrained("swapped")
    finally:
        logger.removeHandler(handler)
    check(LOST, log.getvalue())
    model, processor = load_model("swapped")
    assert type(model.model.multi_modal_projector) is mobilevlm.Projector
    with pytest.raises(mobilevlm.MobileVLMError, match="random weights"):
        check_image_tokens(lost, processor)


@pytest.mark.slow
def test_an_auto_class_without_this_library(swapped: Path, tmp_path: Path) -> None:
    code = f"from transformers import AutoConfig; AutoConfig.from_pretrained({str(swapped)!r})"
    ran = run_apart(
        {"alone": code, "imported": f"import mobilevlm.models; {code}"}, tmp_path / "run"
    )
    check(CUSTOM, ran["alone"].err.replace(str(swapped), "swapped"))
    assert ran["imported"].status == 0


def test_transformers_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError) as caught:
        load_class("AutoModel")
    check(NO_TRANSFORMERS, text_of(caught.value))


def test_another_package_of_this_name(tmp_path: Path) -> None:
    (tmp_path / "mobilevlm").mkdir()
    (tmp_path / "mobilevlm" / "__init__.py").touch()
    without_packages = [sys.executable, "-S", "-c", "from mobilevlm import build_projector"]
    said = subprocess.run(
        without_packages, capture_output=True, text=True, cwd=tmp_path, check=False
    ).stderr
    check(STRANGER, said)


def test_a_command_that_is_not_on_the_path(tmp_path: Path) -> None:
    shell = subprocess.run(
        ["/bin/bash", "-c", "mobilevlm list"],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path)},
        check=False,
    )
    check(NO_COMMAND, shell.stderr)
    assert run("list")[0] == 0


def test_the_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those that install, and the export to ONNX, which tests/extras/export runs."""
    monkeypatch.chdir(tmp_path)
    state = mlp(64, 96, "cpu").state_dict()
    torch.save({f"model.mm_projector.{key}": state[key] for key in state}, "mm_projector.bin")
    save_projector(build_projector("mlp", 64, 96), "projector")
    fences = FENCE.findall(PAGE.read_text("utf-8"))
    lines = "".join(body for kind, body in fences if kind == "sh").splitlines()
    commands = [line.split("mobilevlm ")[1] for line in lines if not line.startswith("pip ")]
    assert len(commands) == 4
    for command in commands:
        if not command.startswith("export"):
            status, _, error = run(*command.split())
            assert (status, error) == (0, ""), command


def test_every_message_is_raised_here_or_says_where_it_was_seen() -> None:
    proven = RAISES.keys() | OTHERWISE
    assert proven <= ENTRIES.keys()
    for title, entry in ENTRIES.items():
        assert title in proven or "](https://" in entry.answer, title


def test_every_entry_has_a_cause_and_more_to_read_or_to_run() -> None:
    assert len(ENTRIES) > 40
    for title, entry in ENTRIES.items():
        prose = FENCE.sub("", entry.answer).strip()
        assert len(prose.split()) > 15, title
        assert "](" in entry.answer or "`" in entry.answer, title
