"""Whole tiny models of transformers whose families were documents once, and models of sound."""

from pathlib import Path

import pytest
from helpers.checkpoints import check_model
from reference.more_models import MODELS


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers(name: str, tmp_path: Path) -> None:
    check_model(MODELS[name], tmp_path)
