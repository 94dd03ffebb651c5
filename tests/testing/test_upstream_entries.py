"""The kit on a preset's upstream entries: those that are read back, and those that are not."""

from typing import Any

import pytest

from mobilevlm import PROJECTORS, Preset, Stack
from mobilevlm.projectors.upstream import Checkpoint, Match, Upstream
from mobilevlm.testing import ConformanceError, check_projector
from mobilevlm.testing.kit import PROJECTOR_CHECKS


def read_bridge(checkpoint: Checkpoint) -> Match:
    out, in_ = checkpoint.matrix("up.weight")
    return Match(in_, out, {"act": checkpoint.act("bridge_act")})


def entry(**fields: Any) -> Upstream:
    usual: dict[str, Any] = {
        "layout": "bridge",
        "names": ("up", "down"),
        "prefix": "bridge",
        "read": read_bridge,
        "model_types": ("kit_vl",),
    }
    return Upstream(**{**usual, **fields})


class Bridge(Preset):
    act: str = "gelu"

    def expand(self, in_: int, out: int) -> Stack:
        act = {"type": "norm-act", "norm": "none", "act": self.act}
        return Stack.parse({"in": in_, "out": out, "blocks": ["pointwise", act, "pointwise"]})

    upstream = (entry(),)


UPSTREAM = set(PROJECTOR_CHECKS) - {"upstream"}


def test_an_entry_that_reads_what_it_names() -> None:
    check_projector(Bridge, skip=UPSTREAM)
    check_projector(Bridge(act="relu"), config={"bridge_act": "relu"}, skip=UPSTREAM)
    assert "under-test" not in PROJECTORS.names()
    # Of several, one must be for these options.
    for other in (entry(names=("up",)), entry(model_types=("llava",), prefix=r"a\.\d+|b")):

        class Two(Bridge):
            upstream = (other, entry())

        check_projector(Two, skip=UPSTREAM)


WRONG_ENTRIES: dict[str, tuple[Upstream, dict[str, Any], str]] = {
    "an option that is not read": (
        entry(),
        {"act": "relu"},
        "its upstream entry 'bridge': what is read back is Stack(schema_=1, in_=48, ",
    ),
    "an order of names": (
        entry(names=("down", "up")),
        {},
        "its upstream entry 'bridge': it is not read back: the folder['model.bridge.down.weight']: "
        "a tensor of (96, 48); expected (96, 96). Its family",
    ),
    "too few names": (
        entry(names=("up",)),
        {},
        "its upstream entry 'bridge': the layout names 1 module, the projector has 2. The modules "
        "that hold parameters are, in order of use: blocks.0 (Linear), blocks.2 (Linear).; "
        "expected the name of each module that holds parameters",
    ),
    "a name that is always the same": (
        entry(read=lambda checkpoint: Match(48, 96, {"act": 1})),
        {},
        "its upstream entry 'bridge': it is not read back: the folder: ",
    ),
    "a model of ours": (
        entry(
            names=("linear_1", "linear_2"),
            prefix="multi_modal_projector",
            model_types=("llava",),
        ),
        {},
        "its upstream entry 'bridge': 'mlp' recognises it; expected 'under-test'. Name model_types "
        "that are yours, or tensors that others do not have.",
    ),
    "a pattern": (
        entry(prefix=r"bridge\w+"),
        {},
        r"its upstream entry 'bridge': no name is known that fits its prefix 'bridge\\w+'. Write "
        r"plain names, with | between them; \. and \d+ may stand in them.",
    ),
    "a reader that raises": (
        entry(read=lambda checkpoint: {}["x"]),
        {},
        "its upstream entry 'bridge': it is not read back: the folder: config.json: cannot be read "
        "as bridge: ",
    ),
}


@pytest.mark.parametrize("name", WRONG_ENTRIES)
def test_a_wrong_entry(name: str) -> None:
    wrong_entry, options, message = WRONG_ENTRIES[name]

    class Wrong(Bridge):
        upstream = (wrong_entry,)

    with pytest.raises(ConformanceError) as caught:
        check_projector(Wrong, **options, skip=UPSTREAM)
    assert str(caught.value.findings["upstream"]).startswith(message)
