"""Every name that the field uses for a projector leads to it."""

import ast
import inspect
import json
import pkgutil
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from helpers.command import run

from mobilevlm import (
    BLOCKS,
    PROJECTORS,
    Block,
    Preset,
    SpecError,
    Stack,
    build_projector,
    list_projectors,
    plan_projector,
    spec_of,
)
from mobilevlm.blocks.norm_act import NormAct
from mobilevlm.blocks.pointwise import Pointwise
from mobilevlm.projectors import FAMILIES
from mobilevlm.projectors.index import aliases, folded, models
from mobilevlm.registry import UnknownName


def fresh(code: str) -> str:
    """Run a program in a fresh interpreter and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


# ---------------------------------------------------------------------- search


def test_searches_and_lookups_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "import mobilevlm\n"
        "print(mobilevlm.list_projectors('*smolvlm*'), 'mlp2x_gelu' in mobilevlm.PROJECTORS)\n"
        "print(mobilevlm.PROJECTORS.find('LlavaMultiModalProjector').target)\n"
        "try:\n"
        "    mobilevlm.PROJECTORS.find('nanovlm')\n"
        "except LookupError as error:\n"
        "    print(error)\n"
        "print(sorted({'torch', 'pydantic', 'numpy', 'einops'} & sys.modules.keys()))\n"
        "from mobilevlm.cli import main\n"
        "sys.argv = ['mobilevlm', 'list', 'nanovlm', '--json']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "print([name for name in sys.modules if name == 'torch' or 'lm.projectors.zoo' in name])\n"
    )
    found, target, said, heavy, *listed, imported = fresh(code).splitlines()
    assert found == "['idefics3'] True"
    assert target == "mobilevlm.projectors.zoo.mlp:Mlp"
    assert said == (
        "unknown projector 'nanovlm'. nanoVLM uses idefics3: write build_projector('idefics3', "
        "1024, 2048, merge=4)."
    )
    [row] = json.loads("\n".join(listed))
    assert (row["name"], row["by"]) == ("idefics3", {"nanoVLM": {"merge": 4}})
    assert heavy == imported == "[]"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("ldp", ["ldp"]),
        ("LDP*", ["ldp", "ldpnet", "ldpnetv2"]),
        ("qwen2.5-vl", ["qwen2-vl"]),
        ("QWEN2_5VL", ["qwen2-vl"]),
        ("*multimodalprojector", None),
        ("mlp_downsample*", ["internvl", "nvila-lite"]),
        ("mobilevlm*", ["ldpnet", "ldpnetv2"]),
        ("got-ocr[2]", ["got-ocr2"]),
        ("glm4v_moe", ["glm4v"]),  # a model type of transformers
        ("smolvl?", ["idefics3"]),
        ("nothing", []),
    ],
)
def test_case_and_separators_do_not_matter(pattern: str, expected: list[str] | None) -> None:
    found = list_projectors(pattern)
    if expected is None:
        assert {"aya-vision", "gemma3", "mlp", "vipllava"} < set(found)
    else:
        assert found == expected


def test_without_a_pattern_all_are_listed() -> None:
    assert list_projectors() == PROJECTORS.names()
    assert set(FAMILIES) <= set(list_projectors())


@pytest.mark.parametrize("registry", [BLOCKS, PROJECTORS], ids=lambda registry: registry.kind)
def test_a_registry_is_a_collection_of_its_names(registry: Any) -> None:
    assert list(registry) == registry.names()
    assert len(registry) == len(registry.names())
    assert all(name in registry for name in registry)
    assert "nothing" not in registry


# ---------------------------------------------------------------------- other engines' names


@pytest.mark.parametrize(
    ("name", "family", "options"),
    [
        ("ldpv2", "ldpnetv2", {}),
        ("mlp_downsample", "internvl", {"odd": "pad", "transpose": True}),
        ("mlp_downsample_2x2_fix", "internvl", {"odd": "pad"}),
        ("mlp_downsample_3x3_fix", "nvila-lite", {}),
        ("downsample_mlp_gelu", "deepseek-vl2", {"mode": "mlp"}),
        ("mlp3x_res1x_gelu", "mlp-res", {"depth": 3, "residuals": 1}),
        ("mlp1x_res1x_gelu", "mlp-res", {"depth": 1, "residuals": 1}),
        ("mlp9x_gelu", "mlp", {"depth": 9}),
        ("mlp2x_gelu_Norm", "mlp", {"depth": 2, "norm": "layer"}),
        ("PoolerProjector", "pooler", {}),
        ("mlp2x-gelu", "mlp", {"depth": 2}),
        ("Cohere2VisionMultiModalProjector", "aya-vision", {"norm": False}),
        ("PaddleOCRProjector", "qwen2-vl", {"eps": 1e-5, "token_order": "raster"}),
    ],
)
def test_other_engines_names_build(name: str, family: str, options: dict[str, Any]) -> None:
    sizes = {"hidden": 64} if family == "aya-vision" else {}
    spec = build_projector(name, 32, 64, **sizes, device="meta").spec
    assert spec == build_projector(family, 32, 64, **options, **sizes, device="meta").spec


def test_an_alias_is_looked_up_as_written() -> None:
    for name in ("llavamultimodalprojector", "MLP2x_gelu", "Llava.MultiModalProjector"):
        assert name not in PROJECTORS


def test_classes_are_those_of_transformers_or_of_the_source() -> None:
    """A class that transformers has is one of its modelling code; others stand in a docstring."""
    import transformers.models

    theirs: set[str] = set()
    for module in pkgutil.iter_modules(transformers.models.__path__):
        path = f"{transformers.models.__path__[0]}/{module.name}/modeling_{module.name}.py"
        try:
            with open(path, encoding="utf-8") as file:
                theirs |= set(re.findall(r"^class (\w+)", file.read(), re.MULTILINE))
        except FileNotFoundError:
            continue
    for family, target in FAMILIES.items():
        cls = pkgutil.resolve_name(target)
        named = set(re.findall(r"`(\w+)`", inspect.getdoc(cls) or ""))
        classes = [alias for alias in cls.aliases if alias[0].isupper()]
        assert set(classes) <= theirs | named, family
        # What the source line names of transformers' projectors is an alias of some family.
        for name in named & theirs:
            if re.search(r"(Projector|Connector|Merger|MultimodalEmbedder)$", name):
                assert name in PROJECTORS or name in cls.models, (family, name)


def test_a_class_leads_to_the_family_that_is_compared_with_it() -> None:
    from reference import more_families, zoo

    def kinds(name: str, in_: int, **options: Any) -> set[type[Block]]:
        return {type(block) for block in spec_of(name, in_, 48, **options).blocks}

    compared = 0
    for case in (zoo.CASES | more_families.CASES).values():
        name = type(case.build()).__name__
        if name in PROJECTORS:
            compared += 1
            # What stands around the class may do more.
            assert kinds(name, case.in_) <= kinds(case.preset, case.in_, **case.options), name
    assert compared >= 15
    for name in ("Gemma3nMultimodalEmbedder", "Gemma4MultimodalEmbedder"):
        assert kinds(name, 32) == {NormAct, Pointwise}
    assert kinds("Llama4MultiModalProjector", 32) == {Pointwise}
    assert "Glm4vVisionPatchMerger" not in PROJECTORS  # a part of glm4v, which it leads to


# ---------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "smolvlm",
            "SmolVLM uses idefics3: write build_projector('idefics3', 1024, 2048, merge=3).",
        ),
        (
            "nanoVLM",
            "nanoVLM uses idefics3: write build_projector('idefics3', 1024, 2048, merge=4).",
        ),
        (
            "honeybee",
            "Honeybee uses c-abstractor: write build_projector('c-abstractor', 1024, 2048).",
        ),
        ("fastvlm", "FastVLM uses mlp: write build_projector('mlp', 1024, 2048)."),
        ("MobileVLM", "MobileVLM uses ldpnet: write build_projector('ldpnet', 1024, 2048)."),
    ],
)
def test_a_model_is_answered_with_a_call_that_works(name: str, said: str) -> None:
    with pytest.raises(UnknownName) as caught:
        build_projector(name, 1024, 2048)
    assert str(caught.value) == f"unknown projector {name!r}. {said}"
    call = ast.parse(said.partition("write ")[2].rstrip("."), mode="eval").body
    assert isinstance(call, ast.Call)
    args = [ast.literal_eval(arg) for arg in call.args]
    options = {word.arg or "": ast.literal_eval(word.value) for word in call.keywords}
    assert build_projector(*args, **options, device="meta").spec.out == 2048


def test_every_models_options_work() -> None:
    for model, (family, options) in models().items():
        assert plan_projector(family, 64, 128, **options).stack, model


def test_a_models_name_means_what_the_alias_of_that_name_does() -> None:
    built = {folded(name): meant for name, meant in aliases().items()}
    both = {model: meant for model, meant in models().items() if folded(model) in built}
    assert len(both) > 3
    assert both == {model: built[folded(model)] for model in both}


def test_a_registered_name_wins_over_a_models() -> None:
    assert build_projector("idefics2", 16, 32, hidden=8, depth=1, device="meta")
    assert build_projector("llava", 16, 32, device="meta")


def test_the_command_line_says_it_in_its_own_words() -> None:
    status, _, err = run("show", "nanovlm", "in=768", "out=576")
    assert status == 2
    assert err == (
        "error: unknown projector 'nanovlm'. nanoVLM uses idefics3: write mobilevlm show idefics3 "
        "in=1024 out=2048 merge=4.\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tokens smolvlm", "mobilevlm tokens idefics3 in=1024 out=2048 grid=24x24 merge=3"),
        ("spec smolvlm", "mobilevlm spec idefics3 in=1024 out=2048 merge=3"),
        ("bench smolvlm", "mobilevlm bench idefics3 in=1024 out=2048 grid=24x24 merge=3"),
        ("compare smolvlm in=64 out=64 grid=24x24", '"idefics3(merge=3)"'),
    ],
)
def test_each_verb_is_answered_with_itself(words: str, said: str) -> None:
    status, _, err = run(*words.split())
    assert status == 2
    assert err == f"error: unknown projector 'smolvlm'. SmolVLM uses idefics3: write {said}.\n"
    works = shlex.split(
        said if "mobilevlm" in said else f"mobilevlm {words.replace('smolvlm', said)}"
    )
    assert run(*works[1:], *(["--rounds=3"] if "bench" in works else []))[0] == 0


@pytest.mark.parametrize(
    ("model", "said"), [("fastvlm", "mlp"), ("kimi-k2.5", '"qwen2-vl(eps=1e-05)"')]
)
def test_compare_is_answered_with_a_target(model: str, said: str) -> None:
    rest = ("in=64", "out=64", "grid=24x24")
    assert run("compare", model, *rest)[2].endswith(f": write {said}.\n")
    assert run("compare", *shlex.split(said), *rest)[0] == 0


# ---------------------------------------------------------------------- info and list


@pytest.mark.parametrize("verb", ["list", "info"])
def test_ldp_says_that_it_is_not_the_released_one(verb: str) -> None:
    status, out, _ = run(verb, "ldp")
    assert status == 0
    assert "MobileVLM's released projectors are `ldpnet` and `ldpnetv2`" in out
    assert "llama.cpp's `ldp` is `ldpnet`" in out
    assert "released" not in run(verb, "linear")[1]


def test_list_says_what_a_name_was_found_by() -> None:
    row = run("list", "nanovlm")[1].splitlines()[2]
    assert row.split()[:5] == ["idefics3", "144", "8,388,608", "nanoVLM", "(merge=4),"]


def test_info_says_everything() -> None:
    status, out, err = run("info", "mlp_downsample")
    assert (status, err) == (0, "")
    lines = dict(re.findall(r"^(\w+) +(.*)$", out, re.MULTILINE))
    assert lines["means"] == 'internvl (odd="pad", transpose=true)'
    assert lines["chain"] == "patch-merge > norm-act > pointwise > norm-act > pointwise"
    assert lines["tokens"] == "576 -> 144 on 24x24; tokens=n sets merge"
    assert lines["parameters"] == "12,595,200 at 1024 -> 2048"
    assert "NVILA" in lines["models"]
    assert "InternVLMultiModalProjector" in lines["aliases"]
    assert "`transpose`" in lines["traps"]
    assert lines["source"].startswith("huggingface/transformers, `models/internvl/")
    assert lines["transpose"].split(maxsplit=1) == [
        "true",
        "Order the merged tokens column by column.",
    ]


@pytest.mark.parametrize("name", ["voxtral", "identity", "SmolVLM", "LDPNetProjector", "ldp"])
def test_info_is_the_plans(name: str) -> None:
    facts = json.loads(run("info", name, "--json")[1])
    case = facts["case"]
    plan = plan_projector(
        facts["family"], case["in"], case["out"], grid=case["grid"], **facts["options"]
    )
    assert (facts["tokens"], facts["parameters"]) == (plan.tokens_out, plan.parameters)
    assert set(facts["fields"]) == set(pkgutil.resolve_name(FAMILIES[facts["family"]]).model_fields)
    assert all(field["meaning"] for field in facts["fields"].values())


def test_every_family_has_info() -> None:
    for name in FAMILIES:
        assert run("info", name)[0] == 0


# ---------------------------------------------------------------------- what a preset may say


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("aliases", ["wide"], "Bad.aliases: ['wide']; expected a mapping such as"),
        ("aliases", {"wide": 8}, "Bad.aliases['wide']: 8; expected the options that"),
        ("aliases", {"so wide": {}}, "Bad.aliases: 'so wide'; expected ASCII letters, digits, '_'"),
        ("aliases", {1: {}}, "Bad.aliases: 1; expected ASCII letters"),
        ("aliases", {"wide": {"time": 8}}, "Bad.aliases['wide']: no option 'time'; expected "),
        (
            "tokens_by",
            {"time": [1]},
            "Bad.tokens_by: no option 'time'; expected prefix_tokens, times",
        ),
        ("models", {"Wide": None}, "Bad.models['Wide']: None; expected the options that"),
    ],
)
def test_names_of_a_wrong_type_are_refused_with_the_class(
    attribute: str, value: object, message: str
) -> None:
    def expand(self: Preset, in_: int, out: int) -> Stack:
        return Stack(in_=in_, out=out, blocks=(Pointwise(),))

    body = {"times": 4, "__annotations__": {"times": int}, "expand": expand, attribute: value}
    with pytest.raises(SpecError) as caught:
        type("Bad", (Preset,), {"__module__": __name__, **body})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["tokens", "tower", "family", "slot", "replace"])
def test_arguments_cannot_be_options(name: str) -> None:
    with pytest.raises(SpecError, match=f"cannot have an option called '{name}'"):
        type("Bad", (Preset,), {"__module__": __name__, name: 1, "__annotations__": {name: int}})
