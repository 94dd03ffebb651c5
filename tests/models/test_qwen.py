"""Models that merge packed tokens in their vision tower: images of any size, and videos."""

import copy
import io
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.vlms import VLMS, Made, pictures, prompt
from helpers.vlms_packed import QWEN
from torch import Tensor, nn

from mobilevlm import MobileVLMError, Projector, load_projector
from mobilevlm.models import swap_projector

pytestmark = pytest.mark.usefixtures("quiet")

MODELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SIZES = ((48, 48), (48, 96), (96, 32))  # square, wide, tall
# What a model of images of any size takes, and how many tokens it makes of a grid of 6x12.
RUNS: dict[str, tuple[dict[str, Any], int]] = {
    "aya-vision": ({"hidden": 64}, 18),
    "c-abstractor": ({"hidden": 48, "depth": 1, "queries": 4}, 4),
    "idefics3": ({"merge": 2}, 18),
    "internvl": ({}, 18),
    "ldp": ({}, 18),
    "ldpnetv2": ({"size": (2, 2)}, 4),
    "mistral3": ({}, 18),
    "mlp": ({}, 72),
    "nvila-lite": ({}, 8),
    "oryx": ({}, 78),
    "pooler": ({}, 18),
    "qwen2-vl": ({}, 18),
}
SEQUENCES: dict[str, tuple[dict[str, Any], int]] = {
    "blip2": ({"depth": 2, "width": 48, "queries": 5}, 5),
    "flamingo": ({"depth": 2, "queries": 4}, 4),
    "florence-2": ({}, 73),
}


def swapped(name: str, spec: str) -> Made:
    model, processor = VLMS[name]()
    swap_projector(model, spec, processor=processor, **{**RUNS, **SEQUENCES}[spec][0])
    return model, processor


def images(processor: Any, sizes: Sequence[tuple[int, int]] = SIZES) -> Any:
    """Return a batch of a prompt with one image, and one with the others."""
    first, *rest = pictures(*sizes)
    return processor(
        images=[[first], rest],
        text=[prompt(processor), prompt(processor, len(rest), "it ?")],
        return_tensors="pt",
        padding=True,
        padding_side="left",
    )


def film(frames: int, h: int, w: int) -> Any:
    return np.random.default_rng(frames).integers(1, 255, (frames, h, w, 3), dtype=np.uint8)


def videos(processor: Any) -> Any:
    """Return a batch of a prompt with a video and an image, and one with another video."""
    token = f"<|vision_start|>{processor.video_token}<|vision_end|>"
    metadata = [
        {"total_num_frames": n, "fps": fps, "frames_indices": [*range(n)]}
        for n, fps in ((4, 2.0), (6, 1.0))
    ]
    return processor(
        videos=[film(4, 48, 64), film(6, 64, 32)],
        images=pictures((48, 96)),
        text=[f"a {token} b {prompt(processor)}", f"what {token} is it ?"],
        video_metadata=metadata,
        return_tensors="pt",
        padding=True,
        padding_side="left",
    )


def logits(model: Any, batch: Any) -> Tensor:
    with torch.no_grad():
        made: Tensor = model(**batch).logits
    return made


@pytest.mark.parametrize("name", QWEN)
def test_its_own_projector_changes_nothing(name: str, tmp_path: Path) -> None:
    model, processor = VLMS[name]()
    for parameter in model.model.visual.merger.parameters():
        nn.init.normal_(parameter, std=0.3)
    batches = [images(processor), videos(processor)]
    before = [logits(model, batch) for batch in batches]
    model.save_pretrained(tmp_path)
    projector = swap_projector(model, load_projector(tmp_path), processor=processor)
    assert model.model.visual.merger is projector
    assert type(model.model.visual).__module__.startswith("transformers.")
    again = [images(processor), videos(processor)]
    for old, new in zip(batches, again, strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old if torch.is_tensor(old[key]))
    for old, batch in zip(before, again, strict=True):
        assert (logits(model, batch) - old).abs().max() <= 1e-6 * old.abs().max()
    next(projector.parameters()).data.mul_(2)
    assert not torch.allclose(logits(model, again[0]), before[0], atol=1e-3)


@pytest.mark.quick("qwen2_5_vl", "qwen3_vl")
@pytest.mark.parametrize("name", MODELS)
def test_families_run(name: str) -> None:
    """What comes out is what the projector makes of each frame, row by row, alone."""
    model, processor = VLMS[name]()
    assert len(RUNS) >= 8
    for spec, (options, tokens) in RUNS.items():
        projector = swap_projector(model, spec, processor=processor, **options)
        assert projector.tokens(6, 12) == tokens
        for key, batch in (("image", images(processor)), ("video", videos(processor))):
            assert logits(model, batch).isfinite().all()
            check_features(model, projector, key, batch, getattr(processor, f"{key}_token_id"))
        counted = processor._get_num_multimodal_tokens(
            image_sizes=SIZES, video_sizes=[(4, 48, 64), (4, 64, 32)]
        )
        assert counted.num_image_tokens == [projector.tokens(h // 8, w // 8) for h, w in SIZES]
        assert counted.num_image_patches == [36, 72, 48]
        assert counted.num_video_tokens == [2 * projector.tokens(*hw) for hw in ((6, 8), (8, 4))]


def check_features(model: Any, projector: Projector, key: str, batch: Any, token: int) -> None:
    """Compare features with what the same projector makes of each frame's tokens in rows."""
    raster = Projector(projector.spec.model_copy(update={"token_order": "raster"}))
    raster.load_state_dict(projector.state_dict())
    pixels = batch["pixel_values" if key == "image" else "pixel_values_videos"]
    grids = batch[f"{key}_grid_thw"]
    core = model.model
    with torch.no_grad():
        joined = core.visual(pixels, grid_thw=grids).pooler_output
        made = getattr(core, f"get_{key}_features")(pixels, grids).pooler_output
        assert sum(map(len, made)) == (batch["input_ids"] == token).sum()
        expected = []
        for (t, h, w), x in zip(
            grids.tolist(), joined.split((grids.prod(-1) // 4).tolist()), strict=True
        ):
            tokens = x.view(t, h // 2, w // 2, 2, 2, -1).transpose(2, 3).flatten(1, 4)
            expected.append(raster(tokens, grid=(h, w)).flatten(0, 1))
    for ours, theirs in zip(made, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.quick("ldp-qwen2_5_vl", "ldp-qwen3_vl", "blip2-qwen2_vl")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("spec", ["ldp", "mlp", "blip2"])
def test_generation(name: str, spec: str) -> None:
    if spec == "blip2" and name == "qwen3_vl":
        spec = "c-abstractor"  # it takes no sequences
    model, processor = swapped(name, spec)
    unwanted = [[processor.image_token_id], [processor.video_token_id]]
    for batch in (images(processor), videos(processor)):
        with_cache, without = (
            model.generate(
                **batch,
                max_new_tokens=5,
                do_sample=False,
                use_cache=cache,
                bad_words_ids=unwanted,
                output_logits=True,
                return_dict_in_generate=True,
            )
            for cache in (True, False)
        )
        assert torch.equal(with_cache.sequences, without.sequences)
        for ours, expected in zip(with_cache.logits, without.logits, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_5"])
def test_sequences_run(name: str) -> None:
    """Their tokens stand in a row: positions (0, 0, i), which never step back."""
    model, processor = VLMS[name]()
    for spec, (options, tokens) in SEQUENCES.items():
        projector = swap_projector(model, spec, processor=processor, **options)
        assert projector.tokens(6, 12) == tokens
        batch = images(processor)
        assert logits(model, batch).isfinite().all()
        check_features(model, projector, "image", batch, processor.image_token_id)
        for row in positions(model, batch):
            steps = row.diff()
            assert (steps >= 0).all()
            assert (steps[2] >= 1).all()  # no two tokens stand in one place


def positions(model: Any, batch: Any) -> list[Tensor]:
    """Return the positions (3, n) of each prompt, without its padding."""
    keys = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw")
    given = {key: batch[key] for key in (*keys, "second_per_grid_ts") if key in batch}
    masks = batch["attention_mask"].bool()
    found, deltas = model.model.get_rope_index(**given, attention_mask=batch["attention_mask"])
    rows = [found[:, i, mask] for i, mask in enumerate(masks)]
    ends = [int(row.max()) + 1 - row.shape[1] for row in rows]
    assert deltas.flatten().tolist() == ends
    return rows


@pytest.mark.parametrize(("spec", "h", "w"), [("mlp", 6, 12), ("oryx", 6, 13)])
def test_positions_are_those_of_the_grid_that_comes_out(spec: str, h: int, w: int) -> None:
    model, processor = swapped("qwen2_vl", spec)
    row = positions(model, images(processor, ((48, 48), (48, 96))))[1]
    image = torch.stack(
        [torch.zeros(h, w), *torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")]
    )
    start = torch.zeros(3, 1)
    after = torch.arange(row.shape[1] - 1 - h * w).expand(3, -1) + 1 + w
    expected = torch.cat([start, image.flatten(1) + 1, after], dim=1)
    assert torch.equal(row, expected.long())


@pytest.mark.parametrize("name", MODELS)
def test_positions_of_a_merge_are_upstreams(name: str) -> None:
    model, processor = VLMS[name]()
    batches = [images(processor), videos(processor)]
    expected = [positions(model, batch) for batch in batches]
    swap_projector(model, "internvl", processor=processor)
    for batch, rows in zip(batches, expected, strict=True):
        assert all(map(torch.equal, positions(model, batch), rows))


def test_frames_keep_their_time() -> None:
    """Qwen 2.5 says when each frame is; queries keep it."""
    model, processor = swapped("qwen2_5_vl", "blip2")
    batch = videos(processor)
    rate = model.config.vision_config.tokens_per_second
    assert [float(each) for each in batch["second_per_grid_ts"]] == [1.0, 2.0]
    second = positions(model, batch)[1]
    shown = batch["input_ids"][1][batch["attention_mask"][1].bool()] == processor.video_token_id
    start = int(shown.nonzero()[0])
    times = second[0, shown] - start
    assert times.tolist() == [int(rate * 2.0 * frame) for frame in range(3) for _ in range(5)]
    assert (second[1, shown] == start).all()
    assert (second[2, shown] - start).tolist() == [*range(5)] * 3


def test_frames_keep_their_text() -> None:
    """Qwen 3 writes the time of each frame before it."""
    model, processor = VLMS["qwen3_vl"]()
    video = processor.video_processor(
        videos=[film(4, 48, 64)],
        video_metadata=[{"total_num_frames": 4, "fps": 2.0, "frames_indices": [0, 1, 2, 3]}],
        return_metadata=True,
    )
    token = processor.video_token
    before = processor.replace_video_token(video, video_idx=0)
    assert re.findall(f"(?:{re.escape(token)})+", before) == [token * 12] * 2
    swap_projector(model, "mlp", processor=processor)
    after = processor.replace_video_token(video, video_idx=0)
    assert after == before.replace(token * 12, token * 48)
    assert re.findall(r"<[\d.]+ seconds>", after) == ["<0.2 seconds>", "<1.2 seconds>"]


@pytest.mark.parametrize(("spec", "times"), [("mlp", 2), ("internvl", 1)])
def test_deepstack_features_follow_the_grid(spec: str, times: int) -> None:
    """Where several tokens lie over one merged token, each is given its feature."""
    model, processor = VLMS["qwen3_vl"]()
    batch = images(processor)
    given = (batch["pixel_values"], batch["image_grid_thw"])
    with torch.no_grad():
        before = model.model.get_image_features(*given).deepstack_features
        swap_projector(model, spec, processor=processor)
        outputs = model.model.get_image_features(*given)
    assert len(outputs.deepstack_features) == len(before) == 2
    for old, new in zip(before, outputs.deepstack_features, strict=True):
        for x, y, tokens, (_, h, w) in zip(
            old, new, outputs.pooler_output, given[1].tolist(), strict=True
        ):
            maps = x.view(h // 2, w // 2, -1).repeat_interleave(times, 0)
            assert torch.equal(y, maps.repeat_interleave(times, 1).flatten(0, 1))
            assert y.shape == tokens.shape


def test_deepstack_features_are_averaged() -> None:
    """Where a token lies over several merged tokens, it is given their mean."""
    model, processor = VLMS["qwen3_vl"]()
    token = f"<|vision_start|>{processor.video_token}<|vision_end|>"
    batch = processor(videos=[film(4, 64, 96)], text=[token], return_tensors="pt")
    given = (batch["pixel_values_videos"], batch["video_grid_thw"])
    assert given[1].tolist() == [[2, 8, 12]]
    with torch.no_grad():
        before = model.model.get_video_features(*given).deepstack_features
        swap_projector(model, "c-abstractor", hidden=48, depth=1, queries=4)
        after = model.model.get_video_features(*given).deepstack_features
    for [x], [y] in zip(before, after, strict=True):
        expected = x.view(2, 2, 2, 2, 3, -1).mean((2, 4)).flatten(0, 2)
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_saved_model_is_read_again(name: str, tmp_path: Path) -> None:
    model, processor = swapped(name, "ldp")
    batch = videos(processor)
    expected = logits(model, batch)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path)
    counting = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert type(counting) is type(processor)
    read = videos(counting)
    assert torch.equal(read["input_ids"], batch["input_ids"])
    torch.testing.assert_close(logits(again, read), expected, rtol=0, atol=1e-6)
    base = transformers.AutoModel.from_pretrained(tmp_path)
    made = base.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
    assert [len(y) for y in made.pooler_output] == [18]


def test_models_that_share_a_processor_share_its_class() -> None:
    [cls] = {type(swapped(name, "ldp")[1]) for name in ("qwen3_vl", "qwen3_vl_moe", "qwen3_5")}
    assert cls.__name__ == "MobileVLMQwen3VLProcessor"


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_copies_are_independent(name: str) -> None:
    model, processor = swapped(name, "ldp")
    pickled = io.BytesIO()
    torch.save(model, pickled)  # before its first forward, as transformers' models must be
    pickled.seek(0)
    batch = images(processor)
    expected = logits(model, batch)
    for other in (copy.deepcopy(model), torch.load(pickled, weights_only=False)):
        assert torch.equal(logits(other, batch), expected)
        for parameter in other.model.visual.merger.parameters():
            parameter.data.zero_()
        assert not torch.equal(logits(other, batch), expected)
        assert torch.equal(logits(model, batch), expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("spec", ["ldp", "qwen2-vl"])
def test_gradients(name: str, spec: str) -> None:
    """Each parameter has one, the same with checkpointing, and zero for a batch of text."""
    model, processor = swapped(name, spec)
    model.train()

    def gradients(batch: Any) -> dict[str, Tensor]:
        model.zero_grad()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        named = model.model.visual.named_parameters()
        return {key: p.grad.clone() for key, p in named if p.grad is not None}

    plain = gradients(images(processor))
    own = {key for key in plain if key.startswith("merger.")}
    assert plain.keys() == {key for key, _ in model.model.visual.named_parameters()}
    assert all(plain[key].any() for key in own)
    model.activation_checkpointing_enable()
    again = gradients(images(processor))
    model.activation_checkpointing_disable()
    assert all(torch.equal(plain[key], again[key]) for key in plain)
    text = gradients(processor(text=["what is it ?"], return_tensors="pt"))
    assert {key for key in text if key.startswith("merger.")} == own
    assert not any(grad.any() for grad in text.values())


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_threads(name: str) -> None:
    model, processor = swapped(name, "ldp")
    batches = [images(processor), videos(processor)]
    expected = [logits(model, batch) for batch in batches]
    found: dict[int, Tensor] = {}
    start = threading.Barrier(4)

    def work(i: int) -> None:
        start.wait()
        grids = batches[i % 2]["image_grid_thw"]
        with torch.no_grad():  # positions are kept on the model, by upstream
            for _ in range(5):
                made = model.model.get_image_features(batches[i % 2]["pixel_values"], grids)
                found[i] = torch.cat(made.pooler_output)

    alone = [
        torch.cat(model.model.get_image_features(b["pixel_values"], b["image_grid_thw"])[1])
        for b in batches
    ]
    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(found[i], alone[i % 2]) for i in range(4))
    assert all(map(torch.equal, expected, [logits(model, batch) for batch in batches]))


class Wrapper(nn.Module):
    """Stands for a projector, as PEFT's does: it hands on what it is called with."""

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.projector = projector
        self.calls: list[list[tuple[int, int]] | None] = []

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.calls.append(kwargs.get("grid"))
        y: Tensor = self.projector(x, *args, **kwargs)
        return y


def test_what_wraps_the_projector_sees_each_call() -> None:
    model, processor = swapped("qwen2_5_vl", "ldp")
    batch = images(processor)
    expected = logits(model, batch)
    wrapper = Wrapper(model.model.visual.merger)
    model.model.visual.merger = wrapper
    assert torch.equal(logits(model, batch), expected)
    assert wrapper.calls == [None, [(6, 6), (6, 12), (12, 4)]]
    wrapper.calls.clear()
    model.train()(**processor(text=["what is it ?"], return_tensors="pt"))
    assert wrapper.calls == [None, []]  # as often: processes wait for each other at each call


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_tuples(name: str) -> None:
    model, processor = swapped(name, "ldp")
    batch = images(processor)
    given = (batch["pixel_values"], batch["image_grid_thw"])
    with torch.no_grad():
        for key in ("image", "video"):
            get = getattr(model, f"get_{key}_features")
            made, plain = get(*given), get(*given, return_dict=False)
            assert isinstance(plain, tuple)
            assert all(map(torch.equal, plain[1], made.pooler_output))
            assert [len(y) for y in plain[1]] == [9, 18, 12]
        outputs = model(**batch, return_dict=False)
    assert torch.equal(outputs[0], logits(model, batch))


def refusal(name: str, spec: Any, **options: Any) -> str:
    model, processor = VLMS[name]()
    own, kinds = model.model.visual.merger, (type(model), type(processor))
    with pytest.raises(MobileVLMError) as caught:
        swap_projector(model, spec, processor=processor, **options)
    assert model.model.visual.merger is own
    assert (type(model), type(processor)) == kinds
    return str(caught.value)


def test_refusals() -> None:
    options, _ = SEQUENCES["blip2"]
    assert refusal("qwen3_vl", "blip2", **options) == (
        "projector: a sequence comes out; expected a grid: the language model adds features of "
        "the tower's earlier layers (deepstack) at the places of its tokens. 'ldp', 'internvl' "
        "and 'c-abstractor' make one."
    )
    message = refusal("qwen2_vl", "internvl", merge=4)
    assert "blocks[0] (patch-merge): a grid of 26x34 does not divide into windows of 4x4" in message
    assert "expected a grid whose sides are any multiple of 2, as the images of this" in message
    rows = {"in": 48, "out": 64, "blocks": ["pointwise"]}
    assert refusal("qwen2_vl", rows) == (
        "projector.token_order: raster; expected blocked, as the model's config says. Write it in "
        "the document; load_projector takes token_order= too."
    )


def test_an_image_that_is_too_small_is_refused_by_the_processor() -> None:
    model, processor = VLMS["qwen2_vl"]()
    swap_projector(model, "c-abstractor", processor=processor, hidden=48, depth=1, queries=16)
    assert len(images(processor, ((48, 48), (48, 96)))["input_ids"]) == 2
    with pytest.raises(MobileVLMError, match="a grid of 2x12 cannot be pooled to 4x4"):
        images(processor, ((48, 48), (16, 96)))


@pytest.mark.parametrize("pixels", [{}, {"size": {"shortest_edge": 256, "longest_edge": 512}}])
@pytest.mark.parametrize("backend", ["Qwen2VLImageProcessor", "Qwen2VLImageProcessorPil"])
def test_counting_resizes_as_the_image_processor_does(backend: str, pixels: Any) -> None:
    _, processor = swapped("qwen2_vl", "ldp")
    settings = processor.image_processor.to_dict()
    processor.image_processor = getattr(transformers, backend)(**settings)
    counted = processor._get_num_multimodal_tokens(image_sizes=[(48, 96), (70, 50)], **pixels)
    for tokens, size in zip(counted.num_image_tokens, ((48, 96), (70, 50)), strict=True):
        ids = processor(images=pictures(size), text=prompt(processor), **pixels)["input_ids"]
        assert tokens == ids[0].count(processor.image_token_id)
    assert counted.num_image_tokens == ([2, 1] if pixels else [18, 12])


@pytest.mark.slow
def test_compiled() -> None:
    model, processor = swapped("qwen2_5_vl", "ldp")
    compiled = torch.compile(model, backend="eager")
    for batch in (images(processor), videos(processor)):
        ours, expected = logits(compiled, batch), logits(model, batch)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
