"""Our own keys, whoever saved them: the document beside them, given by the caller, or asked for."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import WEIGHTS, refusal, same
from helpers.command import run
from safetensors.torch import load_file, save_file
from torch import nn

from mobilevlm import (
    CheckpointError,
    GridError,
    Projector,
    SpecError,
    build_projector,
    convert_checkpoint,
    dump_spec,
    inspect_checkpoint,
    inspect_values,
    load_projector,
    save_projector,
    to_upstream,
)

KINDS = ("ldp", "mlp", "c-abstractor", "perception-lm")


def make(kind: str) -> Projector:
    torch.manual_seed(0)
    options: dict[str, Any] = {"queries": 4, "hidden": 8} if kind == "c-abstractor" else {}
    return build_projector(kind, 16, 24, **options)


def model(projector: nn.Module) -> nn.Module:
    """A vision-language model that holds it, as a trainer saves it."""
    tower = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])})
    tower["patch_embed"] = nn.Linear(12, 16)
    return nn.ModuleDict({"visual": tower, "mm_projector": projector, "lm_head": nn.Linear(24, 9)})


def without_metadata(folder: Path) -> None:
    """Save it again, as scripts that merge, cast and upload do."""
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_was_saved_again(kind: str, tmp_path: Path) -> None:
    projector = make(kind)
    save_projector(projector, tmp_path)
    before = inspect_checkpoint(tmp_path)
    without_metadata(tmp_path)
    for path in (tmp_path, tmp_path / WEIGHTS):
        loaded = load_projector(path)
        assert loaded.spec == projector.spec
        assert same(loaded, projector)
        assert inspect_checkpoint(path).spec == before.spec
        assert inspect_checkpoint(path).used == before.used
    convert_checkpoint(tmp_path, tmp_path / "again")
    assert same(load_projector(tmp_path / "again"), projector)


@pytest.mark.parametrize("kind", KINDS)
def test_inside_a_model(kind: str, tmp_path: Path) -> None:
    """With the document in the model's config.json, or given; else the message asks for it."""
    projector = make(kind)
    vlm = model(projector)
    save_file(vlm.state_dict(), tmp_path / WEIGHTS)
    config = {"model_type": "my_vlm", "mobilevlm": json.loads(dump_spec(projector.spec))}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for root in (None, "mm_projector", "mm_projector."):
        loaded = load_projector(tmp_path, root=root)
        assert loaded.spec == projector.spec
        assert same(loaded, projector)
    found = inspect_checkpoint(tmp_path)
    assert (found.family, found.root, found.left) == ("document", "mm_projector.", 8)
    assert (found.others, found.unknown) == ((), ())
    (tmp_path / "config.json").write_text('{"model_type": "my_vlm"}')
    message = (
        "X: our own keys under 'mm_projector.' without their document. Give it: "
        "load_projector('X', root='mm_projector.', spec=document). Or write it into config.json "
        "beside them, under 'mobilevlm'."
    )
    assert refusal(tmp_path) == message
    with pytest.raises(CheckpointError, match=r"our own keys under 'mm_projector[.]'"):
        load_projector(tmp_path, root="mm_projector")
    documents = (projector.spec, json.loads(dump_spec(projector.spec)))
    for document in documents:
        for root in (None, "mm_projector"):
            assert same(load_projector(tmp_path, spec=document, root=root), projector)
    assert inspect_checkpoint(tmp_path, spec=projector.spec).root == "mm_projector."
    assert len(inspect_values(tmp_path, spec=projector.spec)) == len(projector.state_dict())
    convert_checkpoint(tmp_path, tmp_path / "mine", spec=projector.spec)
    assert same(load_projector(tmp_path / "mine"), projector)


def test_a_file_of_our_keys_alone(tmp_path: Path) -> None:
    projector = make("ldp")
    save_file(projector.state_dict(), tmp_path / "x.safetensors")
    assert refusal(tmp_path / "x.safetensors") == (
        "X: our own keys without their document. Give it: load_projector('X', spec=document). Or "
        "write it into config.json beside them, under 'mobilevlm'."
    )
    assert same(load_projector(tmp_path / "x.safetensors", spec=projector.spec), projector)
    # The second way that the message names; a folder's config.json may be the document, too.
    (tmp_path / "config.json").write_text(f'{{"mobilevlm": {dump_spec(projector.spec)}}}')
    assert same(load_projector(tmp_path / "x.safetensors"), projector)
    dump_spec(projector.spec, tmp_path / "config.json", replace=True)
    assert same(load_projector(tmp_path / "x.safetensors"), projector)


def test_the_family_of_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the document is of is taken; of another the message is what stands in the way."""
    monkeypatch.chdir(tmp_path)
    projector = build_projector("mlp", 16, 24, depth=3)
    save_projector(projector, "good")
    for _ in range(2):  # the document in the metadata; then in config.json
        assert same(load_projector("good", family="mlp", depth=3), projector)
        assert inspect_checkpoint("good", family="mlp", depth=3).spec == projector.spec
        for family, given, options, left in (
            ("internvl", {}, "its defaults", ""),
            ("mlp", {}, "its defaults", ""),
            ("mlp", {"depth": 2}, "depth=2", " and its options"),
            ("internvl", {"tokens": 4}, "tokens=4", " and its options"),
        ):
            with pytest.raises(CheckpointError) as caught:
                load_projector("good", family=family, **given)
            assert str(caught.value) == (
                f"good: it holds its own document, which is not {family} with {options}. The "
                f"document says everything itself: leave out family={left}."
            )
        assert run("inspect", "good", "--family", "internvl") == (
            2,
            "",
            "error: good: it holds its own document, which is not internvl with its defaults. The "
            "document says everything itself: leave out family=.\n",
        )
        assert run("inspect", "good")[0] == 0
        without_metadata(tmp_path / "good")


def test_the_family_that_the_card_names(tmp_path: Path) -> None:
    """What was read as of a family is of it, whatever options its tensors led to."""
    projector = build_projector("mlp", 16, 24, depth=3)
    save_file(to_upstream(projector, "mlp"), tmp_path / "x.safetensors")
    save_projector(load_projector(tmp_path / "x.safetensors"), tmp_path / "again")
    assert same(load_projector(tmp_path / "again", family="mlp"), projector)
    with pytest.raises(CheckpointError, match=r"leave out family=\.$"):
        load_projector(tmp_path / "again", family="internvl")


def test_a_pickle_of_our_keys_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that its message names is one that reads a pickle."""
    monkeypatch.chdir(tmp_path)
    projector = make("ldp")
    torch.save(projector.state_dict(), "sd.bin")
    dump_spec(projector.spec, tmp_path / "document.json")
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint("sd.bin", "p1", from_pickle=True)
    said = (
        "sd.bin: our own keys without their document. Give it: {}. Or write it into config.json "
        "beside them, under 'mobilevlm'."
    )
    call = "convert_checkpoint('sd.bin', 'projector', from_pickle=True, spec=document)"
    assert str(caught.value) == said.format(call)
    command = "mobilevlm convert --from-pickle sd.bin projector --spec document.json"
    assert run("convert", "--from-pickle", "sd.bin", "p1") == (
        2,
        "",
        f"error: {said.format(command)}\n",
    )
    assert run(*command.split()[1:])[0] == 0
    assert same(load_projector("projector"), projector)


def test_a_pickle_of_a_whole_model(tmp_path: Path) -> None:
    """What cannot be read of it is refused as elsewhere."""
    projector = make("ldp")
    state = model(projector).state_dict()
    torch.save(state, tmp_path / "model.bin")
    convert_checkpoint(
        tmp_path / "model.bin", tmp_path / "mine", from_pickle=True, spec=projector.spec
    )
    assert same(load_projector(tmp_path / "mine"), projector)
    state["mm_projector.blocks.0.bias"] = torch.zeros(1).expand(24)
    torch.save(state, tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match=r"expected a tensor of its own numbers"):
        convert_checkpoint(
            tmp_path / "model.bin", tmp_path / "more", from_pickle=True, spec=projector.spec
        )
    assert not (tmp_path / "more").exists()


def test_sharded(tmp_path: Path) -> None:
    projector = make("ldp")
    state = model(projector).state_dict()
    shards = {"a.safetensors": {}, "b.safetensors": {}}  # type: dict[str, dict[str, Any]]
    homes = {}
    for number, (key, tensor) in enumerate(state.items()):
        homes[key] = sorted(shards)[number % 2]
        shards[homes[key]][key] = tensor
    for name, tensors in shards.items():
        save_file(tensors, tmp_path / name)
    index = {"metadata": {}, "weight_map": homes}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(load_projector(tmp_path, spec=projector.spec), projector)


def test_a_peft_adapter_with_modules_to_save(tmp_path: Path) -> None:
    """PEFT writes the module's keys under base_model.model, and the adapters of others beside."""
    projector = make("ldp")
    state = {
        f"base_model.model.mm_projector.{key}": tensor
        for key, tensor in projector.state_dict().items()
    }
    for side in "AB":
        state[f"base_model.model.lm.layers.0.q_proj.lora_{side}.weight"] = torch.zeros(2, 2)
    save_file(state, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "modules_to_save": ["mm_projector"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    root = "mm_projector."  # below the wrapper's names
    message = refusal(tmp_path)
    assert message.startswith(f"X: our own keys under '{root}' without their document. Give it: ")
    assert f"root='{root}', spec=document" in message
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        assert same(load_projector(path, spec=projector.spec), projector)
        assert same(load_projector(path, spec=projector.spec, root=root), projector)
    (tmp_path / "config.json").write_text(f'{{"mobilevlm": {dump_spec(projector.spec)}}}')
    assert same(load_projector(tmp_path), projector)


def test_two_of_ours_are_told_apart_by_their_roots(tmp_path: Path) -> None:
    first, second = make("ldp"), make("ldp")
    nn.init.ones_(second.get_parameter("blocks.0.weight"))
    vlm = nn.ModuleDict({"a": first, "b": second})
    save_file(vlm.state_dict(), tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, spec=first.spec)
    assert str(caught.value) == (
        f"{tmp_path}: the document fits under 'a.', 'b.'. Say which one, as root='a.'."
    )
    assert same(load_projector(tmp_path, spec=first.spec, root="b"), second)


def test_ours_beside_upstreams(tmp_path: Path) -> None:
    """The document is of ours; another root is of a projector that is recognised."""
    projector = make("ldp")
    other = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 24))
    vlm = nn.ModuleDict({"vision_projector": other, "mine": projector})
    save_file(vlm.state_dict(), tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text(f'{{"mobilevlm": {dump_spec(projector.spec)}}}')
    assert same(load_projector(tmp_path), projector)
    assert inspect_checkpoint(tmp_path).others == ("vision_projector.",)
    loaded = load_projector(tmp_path, root="vision_projector")
    assert loaded.spec == build_projector("mlp", 16, 24).spec


# ---------------------------------------------------------------------- what does not fit


def test_a_document_that_does_not_fit(tmp_path: Path) -> None:
    projector = make("ldp")
    save_projector(projector, tmp_path)
    without_metadata(tmp_path)
    path = tmp_path / "config.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "in": 20}))
    assert "config" not in refusal(tmp_path)
    assert refusal(tmp_path).startswith("X['blocks.0.weight']: a tensor of (24, 16); expected (24")
    path.write_text(json.dumps({**document, "blocks": ["no-such"]}))
    assert refusal(tmp_path).startswith(
        "X: config.json: its document does not fit: blocks[0].type: unknown block 'no-such'."
    )
    path.write_text(json.dumps({"mobilevlm": {**document, "more": 1}}))
    assert refusal(tmp_path).startswith("X: config.json['mobilevlm']: its document does not fit: ")
    short = {**document, "blocks": document["blocks"][:4]}
    path.write_text(json.dumps(short))
    assert re.match(r"X: 0 tensors missing and \d+ left over for document", refusal(tmp_path))


def test_a_list_of_places_says_how_many_more_there_are(tmp_path: Path) -> None:
    projector = make("mlp")
    state = {
        f"m{place}.{key}": tensor.clone()
        for place in range(10)
        for key, tensor in projector.state_dict().items()
    }
    save_file(state, tmp_path / WEIGHTS)
    shown = ", ".join(f"'m{place}.'" for place in range(8)) + " and 2 more"
    assert refusal(tmp_path).startswith(f"X: our own keys under {shown} without their document.")
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, spec=projector.spec)
    assert str(caught.value) == (
        f"{tmp_path}: the document fits under {shown}. Say which one, as root='m0.'."
    )


def test_a_document_without_its_tensors(tmp_path: Path) -> None:
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, spec=make("mlp").spec)
    assert str(caught.value) == (
        f"{tmp_path}: no tensors of the document's, at any root: 'blocks.0.weight' and 3 more. "
        "Name the modules that these tensors are of, in order of use: module_names=[...]."
    )
    with pytest.raises(CheckpointError, match="4 tensors missing and 0 left over for document"):
        load_projector(tmp_path, spec=make("mlp").spec, root="mm_projector")


def test_what_spec_takes(tmp_path: Path) -> None:
    save_projector(make("mlp"), tmp_path)
    with pytest.raises(SpecError) as caught:
        load_projector(tmp_path, spec="mlp")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "spec: 'mlp'; expected a mapping or a Stack. Expand a name first: "
        "spec=spec_of('mlp', 1024, 2048)."
    )
    with pytest.raises(SpecError, match=r"^spec: the text of a document; expected a name or a map"):
        load_projector(tmp_path, spec="{}")  # type: ignore[arg-type]


# ---------------------------------------------------------------------- tokens


def test_prefix_tokens_and_their_order_become_part_of_the_document(tmp_path: Path) -> None:
    projector = make("perception-lm")
    save_projector(projector, tmp_path)
    loaded = load_projector(tmp_path, prefix_tokens=1, token_order="blocked", grid=(4, 4))
    assert (loaded.spec.prefix_tokens, loaded.spec.token_order) == (1, "blocked")
    assert loaded.spec.blocks == projector.spec.blocks
    x = torch.randn(1, 17, 16)
    save_projector(loaded, tmp_path / "again")
    again = load_projector(tmp_path / "again")
    assert again.spec == loaded.spec
    assert torch.equal(again(x), loaded(x))
    assert not torch.equal(loaded(x), projector(x[:, 1:]))
    assert inspect_checkpoint(tmp_path, prefix_tokens=3).spec.prefix_tokens == 3
    for wrong in ({"prefix_tokens": -1}, {"token_order": "sideways"}, {"prefix_tokens": "1"}):
        with pytest.raises(SpecError):
            load_projector(tmp_path, **wrong)  # type: ignore[arg-type]
    with pytest.raises(GridError):
        load_projector(tmp_path, grid=(0, 1))
