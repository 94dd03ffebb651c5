"""The two registries of this library: what they answer, whatever was imported before."""

import subprocess
import sys

import pytest


def fresh(code: str) -> str:
    """Run a program in a fresh interpreter and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


ASK = """
import sys
from mobilevlm.{room} import {registry}
try:
    {registry}.get({name!r})
except LookupError as error:
    print(error)
print(sorted({{"torch", "pydantic"}} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("room", "registry", "name", "said"),
    [
        ("blocks", "BLOCKS", "ldp", "unknown block 'ldp'. 'ldp' is a projector, not a block."),
        (
            "projectors",
            "PROJECTORS",
            "norm-act",
            "unknown projector 'norm-act'. 'norm-act' is a block, not a projector.",
        ),
    ],
)
def test_an_answer_does_not_depend_on_what_was_imported(
    room: str, registry: str, name: str, said: str
) -> None:
    code = ASK.format(room=room, registry=registry, name=name)
    assert fresh(code) == f"{said}\n[]\n"


def test_the_blocks_of_higher_rooms_are_there_from_the_start() -> None:
    code = (
        "from mobilevlm.blocks import BLOCKS\n"
        "print(BLOCKS.find('preset').target, BLOCKS.find('zeta-mlp').target)\n"
        "print(BLOCKS.get('preset').__name__)\n"
    )
    assert fresh(code) == (
        "mobilevlm.projectors.nested:NestedPreset mobilevlm.zeta.blocks:MLP\nNestedPreset\n"
    )


def test_the_two_share_one_look_at_what_is_installed() -> None:
    code = (
        "from mobilevlm import BLOCKS, PROJECTORS\n"
        "from mobilevlm.registry import discovery\n"
        "walks, discover = [], discovery.discover\n"
        "discovery.discover = lambda: walks.append(1) or discover()\n"
        "BLOCKS.names(), PROJECTORS.names(), PROJECTORS.refresh(), BLOCKS.names()\n"
        "print(len(walks))\n"
    )
    assert fresh(code) == "2\n"
