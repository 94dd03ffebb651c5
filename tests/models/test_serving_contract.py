"""What vLLM's and SGLang's transformers backends do with a model and its processor.

Neither engine is run. Each step here is what their code does, on a swapped model. Where upstream's
own model does not pass a step either, nothing is asked of the swapped one.

Sources: vllm-project/vllm, ``vllm/model_executor/models/``
``transformers/multimodal.py`` (03e3bc8), ``transformers/base.py`` (03bf3c9) and ``registry.py``
(0002bff); sgl-project/sglang, ``python/sglang/srt/`` ``models/transformers.py`` (0465eeb),
``model_loader/utils.py`` (021ba39) and ``multimodal/processors/transformers_auto.py`` (0698b83).
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.swapped import (
    QUICK,
    SIZES,
    Swapped,
    assert_close,
    image_token,
    inputs_of,
    makers,
    swap,
)
from models_matrix import EVERYWHERE, PROJECTORS
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto import modeling_auto

from mobilevlm import ExportError, load_projector, swap_projector
from mobilevlm.export.formats import Job
from mobilevlm.export.gguf import FORMAT
from mobilevlm.export.signature import export_signature
from mobilevlm.models.classes import SwappedModel
from mobilevlm.models.grids import merged_from
from mobilevlm.models.hosts import HOSTS

# A projector of each kind that suits every host, in turn.
CASES = [(host, EVERYWHERE[i % len(EVERYWHERE)]) for i, host in enumerate(makers())]
EACH = pytest.mark.parametrize(("host", "name"), CASES)
SOME = pytest.mark.quick(*(f"{host}-{name}" for host, name in CASES if host in QUICK))
SEQUENCES = ("flamingo", "c-abstractor")  # queries, and a pool of a fixed size
OWN_ATTENTION = ("qwen3_5", "qwen3_5_moe")  # as upstream's: neither engine can give them its own
MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")


def swapped(host: str, name: str) -> Swapped:
    torch.manual_seed(2048)
    return swap(host, name, **PROJECTORS[name])


def fits(host: str, name: str) -> bool:
    """Return whether a host takes a projector: Qwen 3's need a grid to come out."""
    return name != "flamingo" or not host.startswith("qwen3_vl")


# ------------------------------------------------------------------ the class is found


@EACH
@SOME
def test_they_find_the_class(host: str, name: str, tmp_path: Path) -> None:
    """By ``auto_map``, as transformers has no class of that name; its first entries come first."""
    made = swapped(host, name)
    made.model.save_pretrained(tmp_path)
    made.processor.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    [architecture] = config.architectures
    assert getattr(transformers, architecture, None) is None
    assert [*config.auto_map][:2] == ["AutoConfig", "AutoModel"]
    core = type(made.model.base_model).__name__
    for key in sorted(config.auto_map):
        cls = get_class_from_dynamic_module(config.auto_map[key], str(tmp_path))
        assert cls.__name__.startswith("MobileVLM")
        if key == "AutoModel":
            assert cls.__name__ == f"MobileVLM{core}"
        if key != "AutoConfig":  # vLLM calls the method, SGLang reads the attribute too
            assert cls.is_backend_compatible() == (host not in OWN_ATTENTION)
            assert cls._supports_attention_backend == cls.is_backend_compatible()
    text = config.get_text_config()
    assert config != text  # so it is one of images
    assert {"hidden_size", "num_hidden_layers", "num_attention_heads"} <= {*text.to_dict()}


@pytest.mark.quick(*(host for host in QUICK))
@pytest.mark.parametrize("host", HOSTS)
def test_the_kind_is_found_by_name(host: str) -> None:
    """As `transformers serve` and pipelines look for it."""
    model, _ = makers()[host]()
    swap_projector(model, "mlp")
    for kind in ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM"):
        names = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES")
        assert names[f"mobilevlm-{host}"] == type(model).__name__ == f"MobileVLM{HOSTS[host].head}"
    assert type(model.config) in AutoModelForMultimodalLM._model_mapping


# ------------------------------------------------------------------ it is built and loaded


@contextmanager
def init_on_device_without_buffers(device: str) -> Iterator[None]:
    """Build parameters on a device, and buffers where they are, as accelerate and vLLM do."""
    register = nn.Module.register_parameter

    def moved(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            own = module._parameters[name]
            assert own is not None
            module._parameters[name] = type(own)(own.to(device), requires_grad=own.requires_grad)

    nn.Module.register_parameter = moved  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class ReplicatedLinear(nn.Module):
    """A layer of the engine's own, in the place of a linear layer: another class and attributes."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.input_size, self.output_size = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def replace_linear(module: nn.Module) -> int:
    """Replace all linear layers below a module; return how many."""
    count = 0
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, ReplicatedLinear(child))
            count += 1
        else:
            count += replace_linear(child)
    return count


def names_in(core: Any, keys: Sequence[str]) -> dict[str, str]:
    """Return where vLLM puts the tensors of a file: name in the file -> name below ``model.``."""
    renamings = [
        mapping
        for mapping in get_model_conversion_mapping(core)
        if isinstance(mapping, WeightRenaming)
    ]
    children = "|".join(name for name, _ in core.named_children())
    rules = [
        (rf"^{core.base_model_prefix}\.(.+)", r"model.\1"),
        (rf"^(?!model\.)(({children}).*)", r"model.\1"),
        (rf"^(model\.)((?!{children}).+)", r"\2"),
        (r"^model\.(.+\.)*(lm_head.+)", r"\2"),
    ]
    found = {}
    for key in keys:
        name = key
        for mapping in renamings:
            name, _ = mapping.rename_source_key(name)
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[key] = name
    return found


@EACH
@SOME
def test_it_is_built_on_meta_and_its_weights_have_their_names(
    host: str, name: str, tmp_path: Path
) -> None:
    """Then all linear layers are replaced, and it makes the features that it made before."""
    made = swapped(host, name)
    made.model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.get_text_config()._attn_implementation = "sdpa"
    with init_on_device_without_buffers("meta"):
        core = AutoModel.from_config(config, dtype=torch.float32)
    assert isinstance(core, type(made.model.base_model))
    assert isinstance(core, SwappedModel)
    assert all(parameter.is_meta for parameter in core.parameters())
    replaced = replace_linear(core)
    assert replaced > 0
    assert not any(type(module) is nn.Linear for module in core.modules())

    expected = {f"model.{key}" for key in core.state_dict()}
    tensors = load_file(tmp_path / "model.safetensors")
    places = names_in(core, [*tensors])
    slot = f"model.{HOSTS[made.model.config.model_type.removeprefix('mobilevlm-')].slot}."
    own = {place for place in places.values() if place.startswith(slot)}
    assert own == {key for key in expected if key.startswith(slot)}
    assert len(own) == len(made.projector.state_dict())
    # The rest is upstream's, and has upstream's names in memory.
    whole = made.model.base_model.state_dict()
    core.load_state_dict(whole, assign=True)
    for module, built in zip(core.modules(), made.model.base_model.modules(), strict=True):
        module._buffers.update(built._buffers)
    for place, key in ((place, key) for key, place in places.items() if place in own):
        assert torch.equal(core.get_parameter(place.removeprefix("model.")), tensors[key])
    core.eval()
    for mine, theirs in zip(
        embed(core, made.processor, SIZES[0]),
        embed(made.model.base_model, made.processor, SIZES[0]),
        strict=True,
    ):
        assert_close(mine, theirs)


@pytest.mark.quick(*QUICK)
@pytest.mark.parametrize("host", makers())
def test_what_they_ask_of_the_base_model(host: str) -> None:
    """Methods and attributes, with the values that upstream's own model has."""
    upstream = makers()[host]()[0].base_model
    core = swapped(host, "mlp").model.base_model
    for ask in (
        lambda model: type(model.get_decoder()),
        lambda model: type(model.get_encoder(modality="image")),
        lambda model: type(model.get_input_embeddings()),
        lambda model: model.base_model_prefix,
        lambda model: model._keys_to_ignore_on_load_unexpected,
        lambda model: model.supports_pp_plan,
        lambda model: getattr(model, "language_model", None) is not None,
        lambda model: hasattr(model, "get_rope_index"),
        lambda model: {k: v for k, v in model.tp_plan.items() if "projector" not in k},
    ):
        assert ask(core) == ask(upstream)
    core.set_input_embeddings(nn.Embedding(7, 64))
    assert core.get_input_embeddings().num_embeddings == 7


# ------------------------------------------------------------------ images are counted

FORMER = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


def embed(core: Any, processor: Any, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the features of each image, split as vLLM's backend does.

    Raises:
        AssertionError: They do not belong to the images one by one.
    """
    inputs = inputs_of(processor, sizes)
    counted = processor._get_num_multimodal_tokens(image_sizes=[list(size) for size in sizes])
    grid = inputs.get("image_grid_thw")
    patches = counted["num_image_patches"] if grid is None else grid.prod(-1).tolist()
    kwargs = {key: value for key, value in inputs.items() if key not in FORMER}
    pixels = kwargs.pop("pixel_values")
    sizes_of = kwargs.get("image_sizes")
    if isinstance(pixels, Tensor):
        joined = pixels.ndim > 1 and pixels.shape[0] != sum(patches) == pixels.shape[1]
        assert pixels.shape[int(joined)] == sum(patches), "rows that belong to no image"
        if isinstance(sizes_of, Tensor) and pixels.ndim == 4 and len(pixels) == len(sizes_of):
            maxima = sizes_of.max(dim=0).values.tolist()
            if maxima == list(pixels.shape[-2:]):  # each without its padding
                pixels = [
                    x[..., :h, :w] for x, (h, w) in zip(pixels, sizes_of.tolist(), strict=True)
                ]
    if isinstance(pixels, Tensor):
        return split(features_of(core, pixels, **kwargs), patches)
    found = []
    for i, item in enumerate(pixels):
        own = {
            key: value[i : i + 1]
            if isinstance(value, Tensor | list) and len(value) == len(pixels)
            else value
            for key, value in kwargs.items()
        }
        made = features_of(core, item[None], **own)
        made = made if isinstance(made, Tensor) else torch.cat(list(made))
        found += split(made, [patches[i]])
    return found


def features_of(core: Any, pixels: Tensor, **kwargs: Any) -> Any:
    with torch.no_grad():
        made = core.get_image_features(pixels, **kwargs)
    return made[0] if isinstance(made, tuple) else made.pooler_output


def split(features: Any, patches: Sequence[int]) -> list[Tensor]:
    if not isinstance(features, Tensor):
        return list(features)
    features = features.reshape(-1, features.shape[-1])
    each, rest = divmod(len(features), sum(patches))
    assert not rest, "as many for each tile"
    return list(features.split([n * each for n in patches]))


def prompted(processor: Any, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the tokens that stand for each image, structure and features, as vLLM finds them."""
    inputs = inputs_of(processor, sizes, return_text_replacement_offsets=True)
    [offsets] = inputs["text_replacement_offsets"]
    encode = processor.tokenizer
    ids = [encode(each["replacement"], add_special_tokens=False)["input_ids"] for each in offsets]
    return [torch.tensor(each) for each in ids]


def check_images(model: Any, processor: Any, sizes: Sequence[tuple[int, int]]) -> None:
    """Assert that the prompt has a place for each feature of each image, and was foretold."""
    places = prompted(processor, sizes)
    tokens = [each.mode().values for each in places]  # which are repeated: those of features
    counts = [int((each == token).sum()) for each, token in zip(places, tokens, strict=True)]
    assert {int(token) for token in tokens} == {image_token(model)}
    assert [len(each) for each in embed(model.base_model, processor, sizes)] == counts
    if len(sizes) == 1:  # of several some make less, which no size can tell
        counted = processor._get_num_multimodal_tokens(image_sizes=[list(sizes[0])])
        assert counted["num_image_tokens"][0] in (len(places[0]), counts[0])


def holds(check: Any, *args: Any) -> bool:
    """Return whether upstream's own model passes a check."""
    try:
        check(*args)
    except (AssertionError, AttributeError, RuntimeError, ValueError):
        return False
    return True


# Upstream has no count: it was not to be served there. Ours are.
UNCOUNTED = {"smolvlm", "got_ocr2", "lfm2_vl"}
# And several images in one prompt cannot be told apart in what these models return.
ONE = {"idefics3", "smolvlm", "perception_lm", "got_ocr2"}


@pytest.mark.quick(*(f"{name}-{host}" for host in QUICK for name in ("own", *SEQUENCES)))
@pytest.mark.parametrize("host", makers())
@pytest.mark.parametrize("name", ["own", *SEQUENCES])
def test_each_image_gets_its_features(host: str, name: str) -> None:
    own = makers()[host]()
    if name == "own":
        name = dict(CASES)[host]
    elif not fits(host, name):
        name = "oryx"
    made = swapped(host, name)
    for sizes in SIZES:
        if len(sizes) > 1 and host in ONE:
            assert not holds(check_images, *own, sizes), "upstream's own"
            continue
        assert holds(check_images, *own, sizes) == (host not in UNCOUNTED), "upstream's own"
        check_images(made.model, made.processor, sizes)


@pytest.mark.quick(*QUICK)
@pytest.mark.parametrize("host", makers())
def test_counts_before_there_is_an_image(host: str) -> None:
    """Both ask for the largest that an image takes: by the processor's bounds, and a huge one."""
    for name in (dict(CASES)[host], *SEQUENCES):
        if not fits(host, name):
            continue
        made = swapped(host, name)
        huge = made.processor._get_num_multimodal_tokens(image_sizes=([10_000, 10_000],))
        assert huge["num_image_tokens"][0] > 0
        assert huge["num_image_patches"][0] > 0
        if not hasattr(made.processor, "video_processor"):
            continue
        try:
            counted = made.processor._get_num_multimodal_tokens(video_sizes=([2, 96, 96],))
        except AttributeError:  # then images alone are served
            continue
        assert counted["num_video_tokens"] is None or counted["num_video_tokens"][0] > 0


def test_a_video_that_is_refused_leaves_images_to_be_served() -> None:
    made = swapped("llava_onevision", "flamingo")
    counted = made.processor._get_num_multimodal_tokens([(48, 48)], [(2, 96, 96)])
    assert counted["num_video_tokens"] is None
    assert counted["num_image_tokens"] == [8]


@pytest.mark.quick(*QUICK)
@pytest.mark.parametrize("host", makers())
def test_sglang_finds_as_many_tokens_as_features(host: str) -> None:
    """It calls the model by name with all that the processor makes, and joins what comes out."""
    made = swapped(host, dict(CASES)[host])
    core = made.model.base_model
    assert "pixel_values" in inspect.signature(core.get_image_features).parameters
    for sizes in SIZES[:3]:
        inputs = inputs_of(made.processor, sizes)
        kwargs = {key: value for key, value in inputs.items() if key not in FORMER}
        with torch.no_grad():
            output = core.get_image_features(**kwargs).pooler_output
        if isinstance(output, tuple | list):
            output = torch.cat([x.reshape(-1, x.shape[-1]) for x in output])
        rows = len(output.reshape(-1, output.shape[-1]))
        assert rows == int((inputs["input_ids"] == image_token(made.model)).sum())


# ------------------------------------------------------------------ positions


@pytest.mark.quick("qwen2_5_vl-mlp", "qwen3_vl-c-abstractor")
@pytest.mark.parametrize("name", ["mlp", "qwen2-vl", "c-abstractor"])
@pytest.mark.parametrize("host", MROPE)
def test_vllm_asks_the_model_for_positions(host: str, name: str) -> None:
    made = swapped(host, name)
    core = made.model.base_model
    inputs = inputs_of(made.processor, SIZES[3], return_mm_token_type_ids=True)
    parameters = inspect.signature(core.get_rope_index).parameters
    kinds = {"mm_token_type_ids": inputs["mm_token_type_ids"]}
    positions, delta = core.get_rope_index(
        input_ids=inputs["input_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        video_grid_thw=None,
        **{key: value for key, value in kinds.items() if key in parameters},
    )
    length = inputs["input_ids"].shape[1]
    assert positions.shape == (3, 1, length)
    assert int(delta[0]) == int(positions.max()) + 1 - length
    # Those of an image are the rows and columns that come out of the projector.
    first = (inputs["input_ids"][0] == image_token(made.model)).nonzero().flatten()
    h, w = (int(side) for side in inputs["image_grid_thw"][0, 1:])
    rows, columns = made.projector.spec.walk((h, w))[-1].y.grid
    own = positions[1:, 0, first[: rows * columns]]
    expected = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).T
    assert torch.equal(own - own[:, :1], expected)


SQUARE = torch.tensor([[1, 6, 6]])


@pytest.mark.parametrize("name", PROJECTORS)
def test_sglang_computes_positions_as_of_a_merge_of_2x2(name: str) -> None:
    """So, of a model with M-RoPE, it serves only projectors that make such a grid."""
    if name in ("h-reducer", "minicpmv", "blip2", "flamingo"):
        return  # refused, or queries in one row
    made = swapped("qwen2_vl", name)
    fits_there = torch.equal(merged_from(made.projector.spec, SQUARE), SQUARE)
    assert fits_there == (made.projector.tokens(6, 6) == 9)
    assert fits_there == (name not in ("linear", "mlp", "oryx", "c-abstractor"))
    assert made.model.config.vision_config.spatial_merge_size == 2  # which is what it reads


# ------------------------------------------------------------------ attention


@pytest.mark.quick(*QUICK)
@pytest.mark.parametrize("host", makers())
def test_the_language_model_runs_with_the_engines_attention(host: str) -> None:
    """It is set on the text config, and gets what the engine passes through the model."""
    seen = []

    def probe(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kw: Any) -> Any:
        seen.append(kw["attention_instances"])
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **kw)

    ALL_ATTENTION_FUNCTIONS.register("probe", probe)
    made = swapped(host, dict(CASES)[host])
    core = made.model.base_model
    core.config.get_text_config()._attn_implementation = "probe"
    tokens = torch.arange(4, 10)[None]
    with torch.no_grad():
        hidden = core(
            inputs_embeds=core.get_input_embeddings()(tokens),
            position_ids=torch.arange(6)[None],
            use_cache=False,
            return_dict=False,
            attention_instances={},
        )[0]
    assert hidden.shape[:2] == (1, 6)
    assert seen, host


# ------------------------------------------------------------------ llama.cpp


# How the page words what the export says.
WHY_NOT = {
    "vision_feature_layer: [": "no: features of several layers",
    "vision_feature_layer: none": "no: its config names no layer of the tower",
    "tensors named": "no: another tower than CLIP or SigLIP",
    "expected (n, 3, n, n)": "no: another tower than CLIP or SigLIP",
}


def mmproj(host: str, folder: Path) -> str:
    """Return whether a swapped model can become an mmproj file, or why not."""
    made = swapped(host, "mlp")
    made.model.save_pretrained(folder)
    made.processor.save_pretrained(folder)
    projector = load_projector(folder)
    options = {"tower": folder}
    try:
        signature = export_signature(projector, FORMAT.grid(None, options), dynamic_grid=False)
        FORMAT.refuse(
            Job(projector, FORMAT.restrict(signature, options), False, "f16", "", options)
        )
    except ExportError as error:
        [why] = [why for part, why in WHY_NOT.items() if part in str(error)]
        return why
    return "yes"


@pytest.mark.quick(*QUICK)
@pytest.mark.parametrize("host", makers())
def test_the_page_says_which_models_become_an_mmproj(host: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    _, _, rows = page.partition("| mmproj | of these model types |\n|---|---|\n")
    said = {}
    for line in rows.partition("\n\n")[0].splitlines():
        verdict, hosts = line.strip("| ").split(" | ")
        said |= dict.fromkeys((name.strip("`") for name in hosts.split(", ")), verdict)
    assert sorted(said) == sorted(makers())
    assert said[host] == mmproj(host, tmp_path)
