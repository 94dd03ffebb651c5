"""What training code asks of a model: what to train, how fast, and what is trained."""

import pytest
import torch
from helpers.vlms import gemma3, llava
from torch import Tensor, nn
from torch.nn.parallel import DataParallel

from mobilevlm import BLOCKS, Block, Feature, ModelError, swap_projector
from mobilevlm.models import freeze_except_projector, parameter_groups, trainable_summary
from mobilevlm.projectors.unwrap import without_wrappers


def trained(model: nn.Module) -> set[str]:
    return {without_wrappers(name) for name, p in model.named_parameters() if p.requires_grad}


def projectors(model: nn.Module) -> set[str]:
    names = {without_wrappers(name) for name, _ in model.named_parameters()}
    return {name for name in names if name.startswith("model.multi_modal_projector.")}


@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("wrap", [None, DataParallel, torch.compile])
def test_freeze_all_but_the_projector(swapped: bool, wrap: object) -> None:
    model, _ = llava()
    if swapped:
        swap_projector(model, "c-abstractor", queries=9, hidden=16)
    model.model.multi_modal_projector.requires_grad_(False)
    expected = projectors(model)
    outer = wrap(model) if callable(wrap) else model
    assert freeze_except_projector(outer) is model.model.multi_modal_projector
    assert trained(outer) == expected != set()


def test_freeze_in_a_slot_of_an_unknown_model() -> None:
    model, _ = llava()
    place = "model.language_model.norm"
    projector = swap_projector(model, "linear", slot=place, in_=64, out=64)
    assert freeze_except_projector(model) is projector
    assert trained(model) == {f"{place}.blocks.0.weight", f"{place}.blocks.0.bias"}


def test_a_model_without_a_projector_is_refused() -> None:
    with pytest.raises(ModelError, match="no config of transformers"):
        freeze_except_projector(nn.Linear(2, 2))


def test_a_quantised_projector_is_refused() -> None:
    model, _ = llava()
    swap_projector(model, "mlp")
    layer = model.model.multi_modal_projector.blocks[0]
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError) as error:
        freeze_except_projector(model)
    assert str(error.value) == (
        "model.multi_modal_projector.blocks.0.weight: a parameter of torch.int8: the projector is "
        "quantised; expected floating-point weights. Load the model with the projector among what "
        "is not quantised, in the list modules_to_not_convert, or llm_int8_skip_modules, of its "
        "quantization_config."
    )
    assert model.lm_head.weight.requires_grad


def test_groups() -> None:
    """Every parameter that is trained is in one group, with the rate and the decay that it has."""
    model, _ = gemma3()  # whose output layer is its embedding, and whose norms are its own class
    swap_projector(model, "ldp")
    model.model.vision_tower.requires_grad_(False)
    groups = parameter_groups(model, lr=1e-4, projector_lr=1e-3, weight_decay=0.1)
    names = {p: name for name, p in model.named_parameters(remove_duplicate=False)}
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (1e-4, 0.1),
        (1e-4, 0.0),
        (1e-3, 0.1),
        (1e-3, 0.0),
    ]
    found = [[names[p] for p in group["params"]] for group in groups]
    assert sum(map(len, found)) == len(set().union(*found)) == len(trained(model))
    rest, rest_plain, own, own_plain = found
    assert all("multi_modal_projector" in name for name in own + own_plain)
    assert all("multi_modal_projector" not in name for name in rest + rest_plain)
    assert all(name.endswith(".weight") and "norm" not in name for name in rest + own)
    assert all("norm" in name or name.endswith("bias") for name in rest_plain + own_plain)
    assert len(own) == 5  # three linear layers, two depthwise kernels
    assert len(own_plain) == 9  # their biases, and two norms
    assert sum("embed_tokens" in name or "lm_head" in name for name in rest) == 1
    torch.optim.AdamW(groups)


def test_groups_by_type_where_shapes_say_nothing() -> None:
    class OddNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 1, 64))

    model, _ = llava()
    swap_projector(model, "mlp")
    model.model.language_model.norm = OddNorm()
    layer = model.lm_head
    layer.bias = nn.Parameter(torch.zeros(1, 192))
    # As DeepSpeed leaves them: shards without a shape.
    model.requires_grad_(False)
    layer.requires_grad_(True)
    model.model.language_model.norm.requires_grad_(True)
    layer.weight.ds_shape = layer.weight.shape
    layer.weight.data = torch.empty(0)
    decayed, plain = parameter_groups(model, lr=1.0, weight_decay=0.1)
    assert [p is layer.weight for p in decayed["params"]] == [True]
    assert len(plain["params"]) == 2
    assert (decayed["lr"], decayed["weight_decay"], plain["weight_decay"]) == (1.0, 0.1, 0.0)


def test_one_rate_for_all_and_no_empty_group() -> None:
    model, _ = llava()
    swap_projector(model, "mlp")
    freeze_except_projector(model)
    groups = parameter_groups(model, lr=0.5)
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in groups] == [
        (0.5, 0.0, 2),
        (0.5, 0.0, 2),
    ]


def test_summary() -> None:
    model, _ = llava()
    swap_projector(model, "mlp")
    freeze_except_projector(model)
    model.lm_head.requires_grad_(True)
    assert trainable_summary(model) == (
        "part                             parameters       trainable\n"
        "model.vision_tower                   42,944               0\n"
        "model.multi_modal_projector           7,296           7,296\n"
        "model.language_model                 74,048               0\n"
        "lm_head                              12,288          12,288\n"
        "all                                 136,576          19,584"
    )
    assert trainable_summary(torch.compile(model)) == trainable_summary(model)
    assert trainable_summary(DataParallel(model)) == trainable_summary(model)


def test_summary_says_that_the_projector_is_not_trained() -> None:
    model, _ = llava()
    swap_projector(model, "mlp")
    model.model.multi_modal_projector.requires_grad_(False)
    table, _, last = trainable_summary(model).rpartition("\n")
    assert "model.multi_modal_projector           7,296               0" in table
    assert last == (
        "The projector, model.multi_modal_projector, has no gradients: "
        "freeze_except_projector(model) switches them on, and all others off."
    )
    freeze_except_projector(model)
    assert "no gradients" not in trainable_summary(model)


def test_summary_of_a_model_without_a_head() -> None:
    model, _ = llava()
    swap_projector(model.model, "mlp")
    assert [line.split()[0] for line in trainable_summary(model.model).splitlines()] == [
        "part",
        "vision_tower",
        "multi_modal_projector",
        "language_model",
        "all",
    ]


@pytest.mark.parametrize("given", ["input_ids", "inputs_embeds"])
def test_a_batch_of_text_takes_the_way_of_features_back(given: str) -> None:
    """Through the layers of the language model, which may be sharded, frozen as they are."""
    model, _ = llava()
    swap_projector(model, "mlp")
    freeze_except_projector(model)
    model.train()
    ids = torch.tensor([[5, 6, 7]])
    batch = {"input_ids": ids, "inputs_embeds": model.get_input_embeddings()(ids)}
    expected = model.eval()(**{given: batch[given]}).logits
    found = model.train()(**{given: batch[given]}, output_hidden_states=True)
    assert all(state.requires_grad for state in found.hidden_states)
    assert torch.equal(found.logits, expected)
    found.logits.sum().backward()
    assert all(each.grad is not None for each in model.model.multi_modal_projector.parameters())
    # What takes part is taken out again.
    assert not model.get_input_embeddings()._forward_hooks


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("alone", [False, True])
def test_a_batch_of_text_reaches_what_a_block_leaves_out(alone: bool) -> None:
    """Each process of a distributed run must have a gradient for each parameter."""

    @BLOCKS.register("skipping")
    class Skipping(Block):
        def build(self, x: Feature) -> nn.Module:
            return _Skipping(x.channels)

    model, _ = llava()
    spec = {"in": 48, "out": 64, "blocks": [{"type": "skipping"}, "pointwise"]}
    projector = swap_projector(model, spec)
    freeze_except_projector(model)
    projector.blocks[1].requires_grad_(not alone)
    model.train()
    model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
    for key, parameter in projector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert not parameter.grad.any(), key


class _Skipping(nn.Module):
    """Scale channels, but do not touch a batch of no images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale if x.numel() else x
