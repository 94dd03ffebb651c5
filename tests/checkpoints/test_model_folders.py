"""Families' folders: real models of transformers, LLaVA's files, models with their own code."""

import json
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace as NS
from typing import Any

import pytest
import torch
from helpers.checkpoints import PREFIXES, WEIGHTS, check_model, equal, header, mlp, refusal, same
from helpers.golden import GOLDEN
from reference.attention import run_blip2
from reference.case import SMALL, hf, plain, randomize, run_blocked, with_grid
from reference.models import BLIP2, MODELS, Model
from reference.published import ColumnMajor, DeepseekVL2, Nvila, TokenPacker
from reference.resamplers import MiniCPMV, OpenFlamingo, QwenVL
from reference.zoo import CASES, run_internvl
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mobilevlm import GridError, Stack, build_projector, spec_of
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.inspection import inspect_checkpoint
from mobilevlm.checkpoints.load import load_projector
from mobilevlm.checkpoints.mapping import to_upstream
from mobilevlm.projectors.upstream import Fused, Name

# ---------------------------------------------------------------------- models of transformers


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers(name: str, tmp_path: Path) -> None:
    check_model(MODELS[name], tmp_path)


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_only_the_shards_needed_are_opened(tmp_path: Path) -> None:
    model = MODELS["llava"].build()
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    homes = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {homes[key] for key in homes if "projector" in key}
    others = set(homes.values()) - needed
    assert needed
    assert others
    for name in others:
        (tmp_path / name).unlink()
    assert load_projector(tmp_path).spec.out == 24


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_several_projectors_in_one_model(tmp_path: Path) -> None:
    """Qwen3-VL's deepstack mergers, each by its root; without one the main merger is meant."""
    case = MODELS["qwen3_vl"]
    config = {**case.config["vision_config"], "deepstack_visual_indexes": [0, 1]}
    model = Model(
        *("Qwen3VL", case.module, case.run, case.preset, 16, (4, 6)),
        **{**case.config, "vision_config": config},
    ).build()
    model.save_pretrained(tmp_path)
    visual = model.model.visual
    roots = tuple(f"model.visual.deepstack_merger_list.{level}." for level in (0, 1))
    found = inspect_checkpoint(tmp_path)
    assert (found.family, found.root) == ("qwen2-vl", "model.visual.merger.")
    assert found.others == roots
    assert str(found).endswith("".join(f"\n  another under {root!r}" for root in roots))
    assert found.to_dict()["others"] == list(roots)
    for root, upstream in zip(roots, visual.deepstack_merger_list, strict=True):
        for given in (root, root.removesuffix(".")):
            found = inspect_checkpoint(tmp_path, root=given)
            assert (found.family, found.root) == ("qwen3-vl-deepstack", root)
            assert set(found.others) == {"model.visual.merger.", *roots} - {root}
            loaded = load_projector(tmp_path, root=given)
            assert loaded.spec == build_projector("qwen3-vl-deepstack", 16, 24).spec
            equal(loaded, run_blocked, upstream, (4, 6), (2, 8))
    equal(load_projector(tmp_path, root=case.module), run_blocked, visual.merger, (4, 6))
    equal(load_projector(tmp_path), run_blocked, visual.merger, (4, 6))
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, root="model.visual")
    assert str(caught.value) == (
        f"{tmp_path}: no projector at root='model.visual.'; expected one of '{roots[0]}', "
        f"'{roots[1]}', 'model.visual.merger.'. Or describe it as a document, and name its modules "
        f"in order of use: load_projector('{tmp_path}', root='model.visual.', spec=document, "
        "module_names=[...])."
    )
    # Where the main one is not there, the others have to be told apart.
    state = load_file(tmp_path / WEIGHTS)
    rest = {key: tensor for key, tensor in state.items() if ".merger." not in key}
    save_file(rest, tmp_path / WEIGHTS)
    assert refusal(tmp_path) == (
        f"X: more than one projector fits: qwen3-vl-deepstack under '{roots[0]}', "
        f"qwen3-vl-deepstack under '{roots[1]}'. Say which one, as root='{roots[0]}'."
    )
    # A main one that is broken is no reason to take another.
    rest["model.visual.merger.norm.weight"] = state["model.visual.merger.norm.weight"][:4].clone()
    for key in ("linear_fc1.weight", "linear_fc2.weight"):
        rest[f"model.visual.merger.{key}"] = state[f"model.visual.merger.{key}"]
    save_file(rest, tmp_path / WEIGHTS)
    assert "3 tensors missing" in refusal(tmp_path)
    assert load_projector(tmp_path, root=roots[1]).spec.out == 24


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_mergers_beside_a_connector(tmp_path: Path) -> None:
    """Granite-Docling's, of the coarse path and of the fine; and the fine path itself."""
    model = MODELS["granite_docling"].build()
    model.save_pretrained(tmp_path)
    connector = model.model.vision_model.connector
    others = inspect_checkpoint(tmp_path).others
    *mergers, tower = others
    assert (len(mergers), tower) == (2, "model.vision_model.")
    fine = load_projector(tmp_path, root=tower)
    assert fine.spec == build_projector("granite-docling", 16, 24, merge=2).spec
    equal(fine, _run_fine, connector, (8, 8))
    for root in mergers:
        path = connector.fine if ".fine." in root else connector.coarse
        run = _run_granite_deepstack(path)
        equal(load_projector(tmp_path, root=root), run, path.deepstack_mergers[0], (8, 8))


def _run_fine(module: nn.Module, x: Tensor, _: tuple[int, int]) -> Tensor:
    y: Tensor = module(x, [], fine=True)[0]
    return y.unflatten(0, (len(x), -1))


def _run_granite_deepstack(path: Any) -> Callable[[nn.Module, Tensor, tuple[int, int]], Tensor]:
    def run(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
        y: Tensor = module(path.pixel_shuffle(x, path.scale_factor))
        return y

    return run


def test_many_projectors_in_one_file(tmp_path: Path) -> None:
    """Each is looked into by its own keys only, a list is cut short, absurdly many are refused."""
    path = tmp_path / "many.safetensors"

    def write(number: int, before: str = "m") -> None:
        shapes = {"1.weight": [1, 1], "1.bias": [1], "2.weight": [1, 1], "2.bias": [1]}
        keys = [
            f'"{before}{n}.multi_modal_projector.linear_{key}": {{"dtype": "F32", "shape": {shape}'
            for n in range(number)
            for key, shape in shapes.items()
        ]
        entries = [f'{key}, "data_offsets": [{4 * n}, {4 * n + 4}]}}' for n, key in enumerate(keys)]
        path.write_bytes(header(f"{{{', '.join(entries)}}}", 4 * len(entries)))

    def listed(*numbers: int, as_: str = "") -> str:
        return ", ".join(f"{as_}'m{n}.multi_modal_projector.'" for n in numbers)

    write(64)
    assert refusal(path) == (
        f"X: more than one projector fits: {listed(*range(8), as_='mlp under ')} and 56 more. Say "
        "which one, as root='m0.multi_modal_projector.'."
    )
    found = inspect_checkpoint(path, root="m3.multi_modal_projector")
    assert (len(found.used), found.left, len(found.others)) == (4, 252, 63)
    with pytest.raises(CheckpointError) as caught:
        load_projector(path, root="n" * 1000)
    assert str(caught.value) == (
        f"{path}: no projector at root='{'n' * 196}...; expected one of "
        f"{listed(0, 1, 10, 11, 12, 13, 14, 15)} and 56 more"
    )
    for number, more in ((65, "57"), (4000, "3,992")):
        write(number)
        assert refusal(path) == (
            f"X: {number:,} projectors, under {listed(*range(8))} and {more} more; expected at "
            "most 64. Save the one that is meant in a file of its own."
        )
    write(2, "m" * 10_000)
    assert len(refusal(path)) < 1000


# ---------------------------------------------------------------------- models with their own code


class Remote:
    """A folder as a model with code of its own saves it: upstream's module, keys and config."""

    def __init__(
        self,
        family: str,
        prefix: str,
        build: Callable[[], nn.Module],
        run: Callable[[nn.Module, Tensor, tuple[int, int]], Tensor],
        grids: tuple[tuple[int, int], ...],
        *,
        rename: Callable[[str], str] = str,
        others: tuple[str, ...] = (),
        **config: Any,
    ) -> None:
        self.family, self.prefix, self.build, self.run = family, prefix, build, run
        self.grids, self.rename, self.config = grids, rename, config
        self.others = (*others, "lm_head.weight") if prefix else others

    def save(self, folder: Path) -> tuple[nn.Module, dict[str, Tensor]]:
        torch.manual_seed(0)
        upstream = self.build().eval()
        randomize(upstream)
        state = {
            self.prefix + self.rename(key): tensor for key, tensor in upstream.state_dict().items()
        }
        rest = {key: torch.full((3,), torch.nan) for key in self.others}
        save_file({**state, **rest}, folder / WEIGHTS)
        (folder / "config.json").write_text(json.dumps(self.config))
        return upstream, state


def mlp1(key: str) -> str:
    names = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}
    name, _, leaf = key.partition(".")
    return f"{names[name]}.{leaf}"


def pooling() -> nn.Module:
    """DeepSeek-VL2's token_pooling: the merged tokens get their width back first."""
    upstream = DeepseekVL2(SMALL, 2, 1)
    upstream.token_pooling_layer = nn.Linear(64, 16)
    upstream.layers[0] = nn.Linear(16, 24)
    return upstream


def run_pooling(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Upstream's own views: b c h w -> b c h/2 w/2 2 2 -> b n c*4."""
    y = x.transpose(1, 2).unflatten(2, grid).unfold(2, 2, 2).unfold(3, 2, 2)
    y = y.flatten(4, 5).permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)
    z: Tensor = module.layers(module.token_pooling_layer(y))
    return z


ANY = ((8, 8), (4, 10))
REMOTE = {
    "internvl-chat-v1": Remote(
        *("internvl", "mlp1.", partial(ColumnMajor, SMALL), with_grid, ANY),
        rename=mlp1,
        model_type="internvl_chat",
        downsample_ratio=0.5,
        ps_version="v1",
    ),
    "internvl-chat-v2": Remote(
        *("internvl", "mlp1.", CASES["internvl"].build, run_internvl, ((8, 8),)),
        rename=mlp1,
        model_type="internvl_chat",
        downsample_ratio=0.5,
        ps_version="v2",
    ),
    "minicpm-v-1.0": Remote(
        *("minicpmv", "resampler.", lambda: MiniCPMV(16, 256, 2, 9, "resized"), with_grid, ANY),
        model_type="minicpmv",
        query_num=9,
        image_size=448,
    ),
    "minicpm-v-2.0": Remote(
        *("minicpmv", "resampler.", lambda: MiniCPMV(16, 256, 2, 4, "both"), with_grid, ANY),
        others=("vpm.pos_embed",),
        model_type="minicpmv",
        query_num=4,
        slice_mode=True,
    ),
    "minicpm-v-2.6": Remote(
        *("minicpmv", "resampler.", lambda: MiniCPMV(16, 256, 2, 5), with_grid, ANY),
        model_type="minicpmv",
        query_num=5,
        slice_mode=True,
        version=2.6,
    ),
    "minicpm-o-2.6": Remote(
        *("minicpmv", "resampler.", lambda: MiniCPMV(256, 256, 2, 5), with_grid, ANY),
        others=("tts.projector.linear1.weight", "audio_projection_layer.linear1.weight"),
        model_type="minicpmo",
        version="2.6",
    ),
    "qwen-vl": Remote(
        *("qwen-vl", "transformer.visual.", lambda: QwenVL(16, 256, 2, 9), with_grid, ANY),
        others=("transformer.visual.ln_pre.weight", "transformer.visual.positional_embedding"),
        model_type="qwen",
        visual={"width": 16, "output_dim": 256, "image_size": 448, "patch_size": 14},
    ),
    "deepseek-vl2": Remote(
        *(
            "deepseek-vl2",
            "projector.",
            lambda: DeepseekVL2(SMALL, 2, 1),
            with_grid,
            (*ANY, (7, 7)),
        ),
        others=("image_newline", "view_seperator"),
        model_type="deepseek_vl_v2",
        projector_config={"model_type": "mlp_projector", "n_embed": 24, "input_dim": 16},
    ),
    "deepseek-vl2-deep": Remote(
        *("deepseek-vl2", "projector.", lambda: DeepseekVL2(SMALL, 3, 2), with_grid, ((5, 4),)),
        model_type="deepseek_vl_v2",
        projector_config={"depth": 3, "mlp_ratio": 2, "downsample_ratio": 2},
    ),
    "deepseek-vl2-3x3": Remote(
        *("deepseek-vl2", "projector.", lambda: DeepseekVL2(SMALL, 2, 1, 3), with_grid, ((5, 9),)),
        model_type="deepseek_vl_v2",
        projector_config={"depth": 2, "downsample_ratio": 3},
    ),
    "deepseek-vl2-pooling": Remote(
        *("deepseek-vl2", "projector.", pooling, run_pooling, ANY),
        model_type="deepseek_vl_v2",
        projector_config={"token_pooling": True},
    ),
    "nvila": Remote(
        *("nvila", "", lambda: Nvila(SMALL, 2), with_grid, (*ANY, (7, 7))),
        model_type="v2l_projector",
        mm_projector_type="mlp_downsample_2x2_fix",
    ),
    "nvila-lite": Remote(
        *("nvila-lite", "mm_projector.", lambda: Nvila(SMALL, 3), with_grid, ((9, 9), (8, 10))),
        model_type="vila",
        mm_projector_type="mlp_downsample_3x3_fix",
    ),
    "vila-1.5": Remote(
        *("nvila", "", partial(ColumnMajor, SMALL), with_grid, ANY),
        rename=lambda key: f"layers.{int(mlp1(key)[0]) + 1}.{key.split('.')[1]}",
        model_type="v2l_projector",
        mm_projector_type="mlp_downsample",
    ),
    "vila-mlp": Remote(
        *("mlp", "layers.", lambda: nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 24))),
        *(plain, ANY),
        model_type="v2l_projector",
        mm_projector_type="mlp2x_gelu",
    ),
    "janus": Remote(
        *("mlp", "aligner.layers."),
        lambda: nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 24)),
        *(plain, ANY),
        others=("gen_aligner.layers.0.weight", "gen_aligner.layers.2.weight"),
        model_type="multi_modality",
        aligner_config={"params": {"depth": 2, "projector_type": "mlp_gelu"}},
    ),
    "token-packer": Remote(
        *("token-packer", "model.mm_projector.", lambda: TokenPacker(SMALL, 256, 2, 3)),
        *(with_grid, ((9, 9), (6, 12))),
        others=("model.norm.weight",),
        model_type="llava_llama",
        mm_projector_type="tokenpacker",
        scale_factor=3,
    ),
    "open-flamingo": Remote(
        *("flamingo", "perceiver.", lambda: OpenFlamingo(16, 2, 3, 64, 5), plain, ((3, 7),)),
        others=("lang_encoder.old_decoder_blocks.0.weight",),
    ),
}


@pytest.mark.parametrize("name", REMOTE)
def test_models_with_their_own_code(name: str, tmp_path: Path) -> None:
    case = REMOTE[name]
    upstream, state = case.save(tmp_path)
    found = inspect_checkpoint(tmp_path)
    assert found.family == case.family
    assert set(found.used) == state.keys()
    assert (found.left, found.others) == (len(case.others), ())
    loaded = load_projector(tmp_path, check_values=True)
    equal(loaded, case.run, upstream, *case.grids)


def honeybee(folder: Path, rows: int, config: dict[str, Any]) -> dict[str, Tensor]:
    """Save Honeybee's C-Abstractor, whose table may have a first row for the CLS token."""
    vectors = load_file(GOLDEN / "c-abstractor.safetensors")
    state = {f"abstractor.{key[2:]}": tensor for key, tensor in vectors.items() if key[:2] == "w."}
    table = state["abstractor.pos_emb"]
    state["abstractor.pos_emb"] = torch.cat([torch.randn(1, rows, 16), table], 1)
    save_file({**state, "lm_head.weight": torch.zeros(3)}, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(config))
    return vectors


HONEYBEE = [
    (0, {"projector_config": {"projector_type": "c-abs", "num_query_tokens": 16}}),
    (1, {"visual_projector_config": {"projector_type": "c-abs"}, "num_query_tokens": 16}),
]


@pytest.mark.parametrize(("rows", "config"), HONEYBEE, ids=["now", "once"])
def test_honeybee(rows: int, config: dict[str, Any], tmp_path: Path) -> None:
    vectors = honeybee(tmp_path, rows, config)
    projector = load_projector(tmp_path)
    assert inspect_checkpoint(tmp_path).root == "abstractor."
    assert (projector.spec.prefix_tokens, projector.grid) == (rows, (8, 8))
    assert load_projector(tmp_path, dtype=torch.float64).grid == (8, 8)
    for scale, key in ((1.0, "y"), (1e-3, "y_small")):
        x = scale * vectors["x"]
        given = torch.cat([torch.randn(len(x), rows, 16), x], 1)
        with torch.inference_mode():
            error = (projector(given) - vectors[key]).abs().max() / vectors[key].abs().max()
        assert error < 1e-6
    table = to_upstream(projector, "c-abstractor")["pos_emb"]
    assert table.shape == (1, rows + 64, 16)
    assert torch.equal(table[:, rows:], vectors["w.pos_emb"])
    assert load_projector(tmp_path, grid=(4, 16)).grid == (4, 16)
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, grid=(4, 8))
    assert str(caught.value) == (
        f"{tmp_path}['abstractor.pos_emb']: a tensor of (1, {rows + 64}, 16); expected "
        f"(1, {rows + 32}, 16). Its family or its widths do not match those of the "
        "other tensors."
    )
    with pytest.raises(GridError):
        load_projector(tmp_path, grid=(0, 8))


def test_honeybee_needs_its_config(tmp_path: Path) -> None:
    honeybee(tmp_path, 0, {"model_type": "mllm"})
    assert refusal(tmp_path) == (
        "X: config.json: projector_config.num_query_tokens: missing; expected the number of tokens "
        "that come out of the pool. No tensor tells it: give it, as family='c-abstractor', "
        "queries=..."
    )


def test_token_packer_needs_its_config(tmp_path: Path) -> None:
    case = REMOTE["token-packer"]
    upstream, _ = case.save(tmp_path)
    (tmp_path / "config.json").write_text('{"mm_projector_type": "tokenpacker"}')
    assert refusal(tmp_path) == (
        "X: config.json: scale_factor: missing; expected the side of the windows. No tensor tells "
        "it: give it, as family='token-packer', merge=..."
    )
    loaded = load_projector(tmp_path, family="token-packer", merge=3)
    equal(loaded, case.run, upstream, *case.grids)


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_idefics2_takes_the_language_models_eps_with_its_width(tmp_path: Path) -> None:
    MODELS["idefics2-eps"].build().save_pretrained(tmp_path)
    expected = load_projector(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert config["perceiver_config"].pop("hidden_size") == 24
    assert config["perceiver_config"].pop("rms_norm_eps") == 1e-3
    path.write_text(json.dumps(config))  # as the released model's, which speaks of neither
    assert load_projector(tmp_path).spec == expected.spec


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_instructblip_is_refused_with_the_reason(tmp_path: Path) -> None:
    Model(*("InstructBlip", "", run_blip2, "blip2"), **BLIP2).build().save_pretrained(tmp_path)
    assert refusal(tmp_path) == (
        "X: config.json: model_type: 'instructblip', whose Q-Former reads the instruction too; "
        "expected a projector of one image's features alone. Run it with the model's own code."
    )


def test_two_towers_are_refused_with_the_reason(tmp_path: Path) -> None:
    aligner = hf("deepseek_vl_hybrid.modeling_deepseek_vl_hybrid", "DeepseekVLHybridAligner")(
        NS(
            vision_config=NS(hidden_size=16),
            high_res_vision_config=NS(output_channels=5),
            text_config=NS(hidden_size=24),
        )
    )
    save_file(
        {f"model.aligner.{k}": v for k, v in aligner.state_dict().items()}, tmp_path / WEIGHTS
    )
    (tmp_path / "config.json").write_text('{"model_type": "deepseek_vl_hybrid"}')
    assert refusal(tmp_path) == (
        "X: config.json: model_type: 'deepseek_vl_hybrid', whose aligner joins the features of two "
        "towers; expected a projector of one image's features alone. Run it with the model's own "
        "code."
    )


DOCUMENT = (
    "Describe the projector as a document, with a block of your own if need be: "
    "load_projector('X', {}spec=document, module_names={!r})."
)
OTHERWISE = {
    "qwen-vl": ({"model_type": "qwen2"}, None),
    "minicpm-v-2.0": ({}, None),
    "deepseek-vl2": (
        {"model_type": "deepseek_vl_v2", "projector_config": {"projector_type": "mlp_gelu"}},
        "projector_config.projector_type: 'mlp_gelu'; expected 'downsample_mlp_gelu'. "
        + DOCUMENT.format("root='projector.', ", "deepseek-vl2"),
    ),
    "nvila": (
        {"model_type": "v2l_projector", "mm_projector_type": "mlp_downsample_2x2"},
        "mm_projector_type: 'mlp_downsample_2x2'; expected 'mlp_downsample_2x2_fix'. "
        + DOCUMENT.format("", "nvila"),
    ),
    "nvila-lite": (
        {"model_type": "vila"},
        "mm_projector_type: None; expected 'mlp_downsample_2x2_fix'. "
        + DOCUMENT.format("root='mm_projector.', ", "nvila"),
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_models_whose_config_says_otherwise(name: str, tmp_path: Path) -> None:
    """A setting that the preset has not is refused; without the model type there is no telling."""
    REMOTE[name].save(tmp_path)
    config, message = OTHERWISE[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    if message is None:
        assert refusal(tmp_path).startswith("X: no projector that is known")
    else:
        assert refusal(tmp_path) == f"X: config.json: {message}"


# ---------------------------------------------------------------------- LLaVA's and MobileVLM's


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("name", "preset", "inner"),
    [
        ("ldpnet", "ldpnet", "model."),
        ("ldpnet", "ldpnet", ""),
        ("ldpnetv2", "ldpnetv2", ""),
        ("mlp2x_res2x_gelu", "mlp-res", ""),
        ("mlp2x_gelu_Norm", "mlp", ""),
    ],
)
def test_golden_under_every_prefix(
    name: str, preset: str, inner: str, prefix: str, tmp_path: Path
) -> None:
    vectors = load_file(GOLDEN / f"{name}.safetensors")
    state = {prefix + inner + key[2:]: tensor for key, tensor in vectors.items() if key[:2] == "w."}
    path = tmp_path / "mm_projector.safetensors"
    save_file(state, path)
    found = inspect_checkpoint(path)
    assert (found.family, found.root) == (preset, prefix + inner)
    assert (set(found.used), found.left) == (set(state), 0)
    projector = load_projector(path)
    for x, y in (("x", "y"), ("x", "y_small")):
        scale = 1e-3 if y == "y_small" else 1.0
        with torch.inference_mode():
            ours = projector(scale * vectors[x])
        assert (ours - vectors[y]).abs().max() / vectors[y].abs().max() < 1e-5


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["linear", "mlp2x-gelu", "mlp3x-gelu"])
def test_llava_under_every_prefix(name: str, prefix: str, tmp_path: Path) -> None:
    projector = build_projector(name, 16, 24)
    layout = "linear" if name == "linear" else "mlp"
    state = to_upstream(projector, layout)
    save_file(
        {prefix + key.removeprefix("."): tensor for key, tensor in state.items()}, tmp_path / "x"
    )
    assert same(load_projector(tmp_path / "x"), projector)
    # A whole model in LLaVA's own layout names a model type that transformers has too.
    (tmp_path / "x").rename(tmp_path / "model.safetensors")
    for model_type in ("llava", "llava_llama", "mobilevlm"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert same(load_projector(tmp_path), projector)


@pytest.mark.parametrize(("first", "last"), [("0", "2"), ("linear_1", "linear_2")])
def test_an_inner_width_of_its_own(first: str, last: str, tmp_path: Path) -> None:
    """LLaVA's and transformers' names, with another width between the two layers."""
    upstream = nn.Sequential(
        OrderedDict({first: nn.Linear(32, 64), "act": nn.GELU(), last: nn.Linear(64, 48)})
    )
    prefix = "mm_projector." if first == "0" else "multi_modal_projector."
    save_file({prefix + k: v for k, v in upstream.state_dict().items()}, tmp_path / "x")
    projector, x = load_projector(tmp_path / "x"), torch.randn(2, 5, 32)
    with torch.inference_mode():
        assert torch.equal(projector(x), upstream(x))
    assert inspect_checkpoint(tmp_path / "x").family == "mlp"
    assert projector.spec == spec_of("mlp", 32, 48, hidden=64)


# ---------------------------------------------------------------------- what can be wrong


def test_what_a_layout_itself_refuses_is_told_as_it_is() -> None:
    def layout(stack: Stack) -> list[str]:
        raise CheckpointError("no such thing")

    with pytest.raises(CheckpointError, match=r"^no such thing$"):
        to_upstream(build_projector("linear", 4, 4), layout)


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("linear", [Name("a", "conv", (3, 1))]),  # 3 of 4 channels
        ("linear", [Name("a", "vector")]),
        ("linear", [Name("a", "matrix")]),  # a bias as well
        ("mlp", [Fused("a")]),  # of other widths
        ("ldpnet", [Name(f"{step}", "matrix") for step in range(14)]),  # of four axes
        ("ldpnet", [Name(f"{step}", "conv") for step in range(14)]),  # of one
    ],
)
def test_a_layout_of_other_modules_does_not_fit(name: str, entries: list[Name | Fused]) -> None:
    projector = build_projector(name, 4, 8)
    with pytest.raises(CheckpointError, match=r"^the layout does not fit the projector's modules"):
        to_upstream(projector, lambda _: entries)


def test_what_memory_does_not_hold_is_not_the_layouts_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(torch, "cat", full)
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        to_upstream(build_projector("aya-vision", 4, 8), "aya-vision")


def test_one_channel_is_not_taken_for_4_bits(tmp_path: Path) -> None:
    state = to_upstream(build_projector("mlp2x-gelu", 1, 4), "mlp")
    save_file({f"mm_projector.{key}": tensor for key, tensor in state.items()}, tmp_path / "x")
    assert load_projector(tmp_path / "x").spec.in_ == 1


def test_a_grid_for_a_projector_that_needs_none(tmp_path: Path) -> None:
    save_file(mlp(), tmp_path / "x")
    assert load_projector(tmp_path / "x", grid=(4, 6)).grid == (4, 6)


def test_a_root_where_nothing_is_known(tmp_path: Path) -> None:
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match="no projector that is known, among 1 tensors"):
        load_projector(tmp_path / "x", root="vision")
