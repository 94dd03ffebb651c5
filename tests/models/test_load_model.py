"""`load_model`, and `check_image_tokens` by itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.swapped import QUICK, makers
from helpers.vlms import gemma3, idefics3, internvl, llava, logits, paligemma
from safetensors.torch import load_file, save_file

from mobilevlm import ModelError, Projector, load_projector, swap_projector
from mobilevlm.models import check_image_tokens, load_model
from mobilevlm.models.classes import SwappedModel

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A swapped LLaVA, saved."""
    path = tmp_path_factory.mktemp("models") / "swapped"
    model, processor = llava()
    swap_projector(model, "c-abstractor", processor=processor, queries=9, hidden=16)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    path: Path = shutil.copytree(folder, tmp_path / "copy")
    return path


# ---------------------------------------------------------------------------------- load_model


def test_it_loads_what_was_saved(folder: Path) -> None:
    model, processor = load_model(folder)
    assert isinstance(model, SwappedModel)
    assert not model.training
    own = load_projector(folder)
    assert model.model.multi_modal_projector.spec == own.spec
    for key, tensor in own.state_dict().items():
        assert torch.equal(model.model.multi_modal_projector.state_dict()[key], tensor), key
    assert logits(model, processor).isfinite().all()


def test_it_passes_arguments_on(folder: Path) -> None:
    model, _ = load_model(str(folder), dtype=torch.bfloat16, local_files_only=True)
    assert {p.dtype for p in model.model.multi_modal_projector.parameters()} == {torch.bfloat16}
    with pytest.raises(TypeError, match="no_such_argument"):
        load_model(folder, no_such_argument=1)


def test_it_loads_a_model_that_was_not_swapped(tmp_path: Path) -> None:
    model, processor = internvl()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    read, other = load_model(tmp_path)
    assert type(read) is type(model)
    with torch.no_grad():
        assert torch.equal(logits(read, other), logits(model, processor))


@pytest.mark.quick(*QUICK)
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # PaliGemma's, of numpy
@pytest.mark.parametrize("model_type", makers())
def test_a_model_that_was_read_from_files_before(model_type: str, tmp_path: Path) -> None:
    """Upstream's class then saves it by the names that older files have."""
    made, processor = makers()[model_type]()
    made.save_pretrained(tmp_path / "own")
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "own")
    swap_projector(model, "mlp", processor=processor)
    model.save_pretrained(tmp_path / "swapped")
    processor.save_pretrained(tmp_path / "swapped")
    read, other = load_model(tmp_path / "swapped")
    with torch.no_grad():
        assert torch.equal(logits(read, other), logits(model, processor))
    again = tmp_path / "again"  # as it is after loading
    read.save_pretrained(again)
    other.save_pretrained(again)
    load_model(again)


def test_the_auto_class_without_a_head_has_the_projector(folder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(folder)
    whole, processor = load_model(folder)
    assert type(model).__name__ == "MobileVLMLlavaModel"
    assert isinstance(model.multi_modal_projector, Projector)
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = torch.stack(whole.model.get_image_features(pixels).pooler_output)
        assert torch.equal(torch.stack(model.get_image_features(pixels).pooler_output), expected)
    assert expected.shape == (2, 9, 64)
    check_image_tokens(model, processor)


def test_a_folder_without_a_processor(copied: Path) -> None:
    for path in copied.glob("*token*"):
        path.unlink()
    (copied / "processor_config.json").unlink()
    with pytest.raises(ModelError) as error:
        load_model(copied)
    assert str(error.value).startswith(f"{copied}: the processor cannot be loaded: ")
    assert str(error.value).endswith("Save it beside the model: processor.save_pretrained(folder).")


def test_a_truncated_file(copied: Path) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError) as error:
        load_model(copied)
    assert str(error.value).startswith(f"{copied}: the model cannot be loaded: SafetensorError: ")
    assert "all files of weights are there, whole." in str(error.value)


def test_weights_that_are_missing(copied: Path) -> None:
    """Transformers makes them at random, and says so in a table only."""
    file = copied / "model.safetensors"
    state = load_file(file)
    kept = {key: tensor for key, tensor in state.items() if "projector.blocks.0" not in key}
    assert 0 < len(kept) < len(state) - 1
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ModelError) as error:
        load_model(copied)
    assert f"{copied}: no weights for model.multi_modal_projector.blocks.0" in str(error.value)
    assert f" and {len(state) - len(kept) - 1} more, which would be random" in str(error.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the model cannot be loaded: OSError"):
        load_model(tmp_path / "nowhere")


def test_a_damaged_document(copied: Path) -> None:
    path = copied / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["mobilevlm"]["blocks"] = ["nonsense"]
    path.write_text(json.dumps(config), "utf-8")
    with pytest.raises(Exception, match="unknown block 'nonsense'"):
        load_model(copied)


# -------------------------------------------------------------------------- check_image_tokens


@pytest.mark.quick(*QUICK)
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # PaliGemma's, of numpy
@pytest.mark.parametrize("model_type", makers())
def test_models_agree_with_their_processors(model_type: str) -> None:
    model, processor = makers()[model_type]()
    check_image_tokens(model, processor)
    swap_projector(model, "mlp", processor=processor)
    check_image_tokens(model.train(), processor)
    assert model.training


def message(model: Any, processor: Any) -> str:
    with pytest.raises(ModelError) as error:
        check_image_tokens(model, processor)
    return str(error.value)


def test_a_processor_that_was_not_swapped() -> None:
    model, processor = llava()
    projector = swap_projector(model, "c-abstractor", queries=9, hidden=16)
    assert message(model, processor) == (
        "an image of 48x48 pixels: 36 image tokens in the prompt, 9 features; expected as many of "
        "both. swap_projector(model, model.get_submodule('model.multi_modal_projector'), "
        "processor=processor) tells the model's own processor what the projector makes."
    )
    place = model.get_submodule("model.multi_modal_projector")
    assert swap_projector(model, place, processor=processor) is projector
    assert model.model.multi_modal_projector is projector
    check_image_tokens(model, processor)


def test_a_processor_of_another_grid() -> None:
    model, processor = llava()
    processor.image_processor.size = {"shortest_edge": 64}
    processor.image_processor.crop_size = {"height": 64, "width": 64}
    assert message(model, processor) == (
        "an image of 48x48 pixels: the model cannot take what the processor makes: ValueError: "
        "Input image size (64*64) doesn't match model (48*48). Take the processor of "
        "the model's own folder."
    )


def test_a_processor_of_another_model() -> None:
    model, _ = paligemma()
    _, processor = internvl()
    assert message(model, processor).startswith("an image of 48x48 pixels: ")


def test_a_processor_that_says_another_number_than_it_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, processor = idefics3()
    says = type(processor)._get_num_multimodal_tokens

    def wrong(self: Any, sizes: Any, **kwargs: Any) -> Any:
        data = says(self, sizes, **kwargs)
        data.num_image_tokens = [
            n + (h > w) for n, (h, w) in zip(data.num_image_tokens, sizes, strict=True)
        ]
        return data

    monkeypatch.setattr(type(processor), "_get_num_multimodal_tokens", wrong)
    assert message(model, processor) == (
        "an image of 96x48 pixels: _get_num_multimodal_tokens says 38 tokens; expected 37, as the "
        "prompt has. Take the processor of the model's own folder."
    )


def test_only_several_images_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = gemma3()
    own = type(model.model).get_image_features

    def first(self: Any, pixel_values: Any, **kwargs: Any) -> Any:
        return own(self, pixel_values[:1], **kwargs)

    monkeypatch.setattr(type(model.model), "get_image_features", first)
    assert message(model, processor).startswith(
        "3 images in a prompt of 48x48, 48x96, 96x48 pixels: 27 image tokens in the prompt, 9 "
        "features; expected as many of both"
    )


def test_a_model_loaded_by_the_original_class(folder: Path) -> None:
    """Transformers builds what this class has, with random weights, and only warns."""
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert message(model, processor) == (
        "model: a LlavaForConditionalGeneration, whose LlavaMultiModalProjector has random "
        "weights: its folder holds another projector; expected a "
        "MobileVLMLlavaForConditionalGeneration. Load the folder "
        "that a MobileVLM class saved, with mobilevlm.models.load_model or an Auto class."
    )


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """Change the document in a saved model's config; return what `load_model` says to it."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    change(config["mobilevlm"])
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    return str(caught.value)


def test_an_edited_document_is_refused(tmp_path: Path) -> None:
    """Nothing that was trained is left out, and nothing is projected in another order."""
    model, processor = llava()
    swap_projector(model, "ldp", processor=processor)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text("utf-8")
    assert edited(tmp_path, lambda document: document["blocks"].pop()) == (
        f"{tmp_path}: weights of the projector that its document does not have: "
        "model.multi_modal_projector.blocks.7.norm.bias and 1 more; expected none left over. "
        "Take config.json and the weights as they were saved together."
    )
    (tmp_path / "config.json").write_text(text, "utf-8")
    found = edited(tmp_path, lambda document: document.update(token_order="blocked"))
    assert "projector.token_order: blocked; expected raster, as the model's config says" in found


def test_another_tokenizer_is_named() -> None:
    model, processor = llava()
    swap_projector(model, "ldp", processor=processor)
    model.config.image_token_id = 7
    with pytest.raises(ModelError, match=r"no token 7 in the prompt, the image token of the"):
        check_image_tokens(model, processor)
