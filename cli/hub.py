"""The verb that writes to the hub: push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Debug, Force, Json
from .output import echo, echo_json, reading_bar, reporting

__all__ = ["push"]


def push(
    path: Annotated[
        str, typer.Argument(help="A saved projector, a model's folder, or hf://ORG/MODEL.")
    ],
    repo_id: Annotated[str, typer.Argument(metavar="ORG/NAME", help="A repository of the hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="If it is created: only for its organisation.")
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence", "--license", metavar="ID", help="By the hub's identifier: apache-2.0."
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="The branch; default: main.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="The commit's message.")] = None,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Push a projector to the hub, with its model card, in one commit.

    A README.md in its folder that you wrote or edited is pushed in place of the card. An earlier
    result there is replaced, anything else only with --force. The token is that of
    `hf auth login`, or HF_TOKEN.

    Example: mobilevlm push projector org/projector --licence apache-2.0
    """
    with reporting(debug, as_json):
        from ..checkpoints.hub import is_hub
        from ..checkpoints.load import load_projector
        from ..checkpoints.push import card_beside, push_projector

        with reading_bar(path) as progress:
            projector = load_projector(path, progress=progress)
        commit = push_projector(
            projector,
            repo_id,
            private=private or None,
            licence=licence,
            card=None if is_hub(path) else card_beside(Path(path)),
            revision=revision,
            commit_message=message,
            replace=force,
        )
        if as_json:
            echo_json({"repo_id": repo_id, "commit": commit})
        else:
            echo(commit)
