"""The roads back to a saved model: which lead to what was saved, and which to a refusal.

Each is tried in a process in which nobody has imported this library yet.
"""

import copy
import filecmp
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import vlms
from helpers.apart import WITHOUT_US, Ran, run_apart
from helpers.checkpoints import same
from helpers.swapped import QUICK, Swapped, assert_close, makers, swap
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from mobilevlm import inspect_checkpoint, load_projector, swap_projector
from mobilevlm.models.hosts import HOSTS, counter_of

# One whose own processor counts right once it is told, and one whose processor is of our class.
TOLD, OURS = "llava", "smolvlm"
OPTIONS: dict[str, Any] = {"queries": 4, "hidden": 32, "depth": 1}

LOAD = """
import torch, transformers
from helpers import vlms
model = transformers.AutoModelForImageTextToText.from_pretrained({folder!r}{flag})
processor = transformers.AutoProcessor.from_pretrained({folder!r}{flag})
base = transformers.AutoModel.from_pretrained({folder!r}{flag})
torch.save(
    {{
        "logits": vlms.logits(model, processor),
        "classes": [type(each).__name__ for each in (model, processor, base)],
        "base": [each(**vlms.batch(processor))[0] for each in (model.model, base)],
    }},
    {out!r},
)
"""
US = "import mobilevlm.models\n"
REMOTE = ", trust_remote_code=True"
EXPLICIT = """
import torch, transformers
from helpers import vlms
model = transformers.LlavaForConditionalGeneration.from_pretrained({folder!r})
print(type(model.model.multi_modal_projector).__name__)
from mobilevlm.models import check_image_tokens
check_image_tokens(model, transformers.AutoProcessor.from_pretrained({folder!r}))
"""
AUTO = "import transformers\nprint('got', transformers.{auto}.from_pretrained({folder!r}{flag}))"
PIPELINE = """
import transformers
from helpers import vlms
ask = transformers.pipeline("image-text-to-text", {folder!r}, trust_remote_code=True)
[said] = ask(images=vlms.pictures((48, 48)), text={text!r}, max_new_tokens=3, min_new_tokens=3)
print(type(ask.model).__name__, said["generated_text"] == {said!r})
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Tensor]]:
    """A folder of each host's swapped model with its processor, and what the model says."""
    found = {}
    for host in (TOLD, OURS):
        torch.manual_seed(2048)
        swapped = swap(host, "c-abstractor", **OPTIONS)
        folder = tmp_path_factory.mktemp("saved") / host
        write(swapped, folder)
        found[host] = folder, vlms.logits(swapped.model, swapped.processor).detach()
    return found


def write(swapped: Swapped, folder: Path, **options: Any) -> None:
    swapped.model.save_pretrained(folder, **options)
    swapped.processor.save_pretrained(folder)


@pytest.fixture(scope="module")
def ran(
    saved: dict[str, tuple[Path, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Ran]:
    codes = {}
    for host, (path, _) in saved.items():
        folder = str(path)
        for road, before, flag in (("registered", US, ""), ("remote", "", REMOTE)):
            out = f"{folder}-{road}.pt"
            codes[f"{host} {road}"] = before + LOAD.format(folder=folder, flag=flag, out=out)
        for auto in ("AutoModelForImageTextToText", "AutoModel", "AutoProcessor"):
            for road, before, flag in (("neither", "", ""), ("without us", WITHOUT_US, REMOTE)):
                code = before + AUTO.format(auto=auto, folder=folder, flag=flag)
                codes[f"{host} {road} {auto}"] = code
    codes["explicit"] = EXPLICIT.format(folder=str(saved[TOLD][0]))
    return run_apart(codes, tmp_path_factory.mktemp("roads") / "run")


def test_there_is_a_host_of_each_kind() -> None:
    assert counter_of(HOSTS[TOLD]).mixin is None
    assert counter_of(HOSTS[OURS]).mixin is not None


@pytest.mark.parametrize("road", ["registered", "remote"])
@pytest.mark.parametrize("host", [TOLD, OURS])
def test_it_says_what_was_saved(
    host: str, road: str, saved: dict[str, tuple[Path, Tensor]], ran: dict[str, Ran]
) -> None:
    run = ran[f"{host} {road}"]
    assert run.status == 0, run.err
    folder, logits = saved[host]
    found = torch.load(f"{folder}-{road}.pt")
    assert_close(found["logits"], logits)
    assert torch.equal(*found["base"])
    names = HOSTS[host]
    processor = ("MobileVLM" if host == OURS else "") + names.processor
    assert found["classes"] == [f"MobileVLM{names.head}", processor, f"MobileVLM{names.base}"]


@pytest.mark.parametrize("auto", ["AutoModelForImageTextToText", "AutoModel"])
@pytest.mark.parametrize("host", [TOLD, OURS])
def test_on_neither_road_nothing_is_loaded(host: str, auto: str, ran: dict[str, Ran]) -> None:
    run = ran[f"{host} neither {auto}"]
    assert run.status == 1
    assert "got" not in run.out
    assert "Please pass the argument `trust_remote_code=True`" in run.err.splitlines()[-1]


def test_on_neither_road_a_processor_counts_wrong(ran: dict[str, Ran]) -> None:
    """Upstream's own is loaded where it counts right, and nothing where it would not."""
    told, ours = (ran[f"{host} neither AutoProcessor"] for host in (TOLD, OURS))
    assert (told.status, ours.status) == (0, 1)
    assert "got LlavaProcessor" in told.out
    assert "got" not in ours.out
    assert "Please pass the argument `trust_remote_code=True`" in ours.err.splitlines()[-1]


@pytest.mark.parametrize("auto", ["AutoModelForImageTextToText", "AutoModel", "AutoProcessor"])
@pytest.mark.parametrize("host", [TOLD, OURS])
def test_where_this_library_is_not_installed(host: str, auto: str, ran: dict[str, Ran]) -> None:
    run = ran[f"{host} without us {auto}"]
    assert run.status == 1
    assert run.err.splitlines()[-1] == (
        "ImportError: this model's projector needs the library mobilevlm with its extra 'models'. "
        'In a clone of its repository, run: pip install ".[models]". '
        "A package of that name on an index may be another library."
    )
    assert "This modeling file requires" not in run.err  # which names a package of another library


def test_the_original_class_cannot_be_stopped(ran: dict[str, Ran]) -> None:
    """It has a projector of its own with random weights, which only the check finds."""
    run = ran["explicit"]
    assert "LlavaMultiModalProjector" in run.out.splitlines(), run.err
    assert run.err.splitlines()[-1] == (
        "mobilevlm.projectors.errors.ModelError: model: a LlavaForConditionalGeneration, whose "
        "LlavaMultiModalProjector has random weights: its folder holds another projector; "
        "expected a MobileVLMLlavaForConditionalGeneration. Load the folder "
        "that a MobileVLM class saved, with mobilevlm.models.load_model or an Auto class."
    )
    assert "multi_modal_projector.linear_1.weight" in run.err
    assert "MISSING" in run.err


@pytest.mark.slow
def test_a_pipeline_answers(saved: dict[str, tuple[Path, Tensor]], tmp_path: Path) -> None:
    """Also one that loads a folder where nobody has imported this library."""
    codes = {}
    for host, (folder, _) in saved.items():
        model = AutoModelForImageTextToText.from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)
        text = vlms.prompt(processor)
        ask = pipeline("image-text-to-text", model=model, processor=processor)
        asked = {"images": vlms.pictures((48, 48)), "text": text}
        [said] = ask(**asked, max_new_tokens=3, min_new_tokens=3)
        codes[host] = PIPELINE.format(folder=str(folder), text=text, said=said["generated_text"])
    for host, run in run_apart(codes, tmp_path / "run").items():
        assert run.status == 0, run.err
        assert run.out.splitlines()[-1] == f"MobileVLM{HOSTS[host].head} True"


@pytest.mark.parametrize("host", [TOLD, OURS])
def test_the_projector_alone(host: str, saved: dict[str, tuple[Path, Tensor]]) -> None:
    folder, _ = saved[host]
    model = AutoModelForImageTextToText.from_pretrained(folder)
    inside = model.base_model.get_submodule(HOSTS[host].slot)
    projector = load_projector(folder)
    assert projector.spec == inside.spec
    x = torch.randn(2, 36, 48)
    assert_close(projector(x, grid=(6, 6)), inside(x, grid=(6, 6)))
    found = inspect_checkpoint(folder)
    assert found.spec == projector.spec
    where = f"33 tensors under 'model.{HOSTS[host].slot}.'"
    assert f"{folder}: document, 48 -> 64, float32, {where}, " in str(found)


@pytest.mark.parametrize("host", [TOLD, OURS])
def test_saved_again_it_is_the_same(
    host: str, saved: dict[str, tuple[Path, Tensor]], tmp_path: Path
) -> None:
    folder, _ = saved[host]
    again = [tmp_path / "first", tmp_path / "second"]
    for source, target in itertools.pairwise([folder, *again]):
        model = AutoModelForImageTextToText.from_pretrained(source)
        processor = AutoProcessor.from_pretrained(source)
        write(Swapped(model, processor, model.base_model), target)
    # What transformers loads, it writes in full: the dtype of each part, settings of the tokenizer.
    assert differences(folder, again[0]) <= {"config.json", "tokenizer_config.json"}
    assert differences(*again) == set()
    assert ("processing_mobilevlm.py" in files(folder)) == (host == OURS)


def differences(a: Path, b: Path) -> set[str]:
    """Return the names of files that are not the same in two folders."""
    both = files(a) & files(b)
    _, *different = filecmp.cmpfiles(a, b, both, shallow=False)
    return (files(a) ^ files(b)).union(*different)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_in_shards(saved: dict[str, tuple[Path, Tensor]], tmp_path: Path) -> None:
    folder, logits = saved[TOLD]
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text("utf-8"))
    assert len(set(index["weight_map"].values())) > 2
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert_close(vlms.logits(again, AutoProcessor.from_pretrained(folder)), logits)
    assert same(load_projector(tmp_path), model.model.multi_modal_projector)


@pytest.mark.parametrize("host", [TOLD, OURS])
def test_a_copy_and_a_pickle_say_the_same(host: str) -> None:
    swapped = swap(host, "ldp")
    buffer = io.BytesIO()
    torch.save(swapped.model, buffer)
    buffer.seek(0)
    read = torch.load(buffer, weights_only=False)
    logits = vlms.logits(swapped.model, swapped.processor)
    for other in (copy.deepcopy(swapped.model), read):
        assert type(other) is type(swapped.model)
        assert_close(vlms.logits(other, swapped.processor), logits)
        with torch.no_grad():  # its projector is its own
            for parameter in other.base_model.get_submodule(HOSTS[host].slot).parameters():
                parameter.zero_()
        assert not torch.equal(vlms.logits(other, swapped.processor), logits)
    assert torch.equal(vlms.logits(swapped.model, swapped.processor), logits)
    processor = copy.deepcopy(swapped.processor)
    assert torch.equal(vlms.logits(swapped.model, processor), logits)


@pytest.mark.quick(*QUICK)
@pytest.mark.parametrize("host", makers())
def test_a_second_swap_leaves_nothing_of_the_first(host: str) -> None:
    """Neither its counts, nor its hooks, nor what it wrote in a config."""
    twice = swap(host, "c-abstractor", **OPTIONS)
    swap_projector(twice.model, "ldp", processor=twice.processor)
    once = swap(host, "ldp")
    once.model.load_state_dict(twice.model.state_dict())
    assert_close(*(vlms.logits(each.model, each.processor) for each in (once, twice)))
    assert twice.model.config.to_dict() == once.model.config.to_dict()
    assert twice.processor.to_dict() == once.processor.to_dict()


@pytest.mark.quick(*QUICK)
@pytest.mark.parametrize("host", makers())
def test_swapped_back_it_says_what_it_said(host: str, tmp_path: Path) -> None:
    model, processor = makers()[host]()
    before = vlms.logits(model, processor)
    model.save_pretrained(tmp_path)
    swap_projector(model, "c-abstractor", processor=processor, **OPTIONS)
    assert not torch.equal(vlms.logits(model, processor), before)
    swap_projector(model, load_projector(tmp_path), processor=processor)
    assert_close(vlms.logits(model, processor), before)
