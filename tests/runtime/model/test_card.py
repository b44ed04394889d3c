"""What the model card says of scaling and of memory; `test_engine` has the rest."""

import json

import pytest

from spectraldiff_runtime.errors import ModelFileError
from spectraldiff_runtime.model.card import ModelCard


@pytest.mark.parametrize("changes", [{"scaled": True}, {"workspace": 812.5}, {"workspace": 3}, {}])
def test_cards_survive_json(changed_card, changes):
    card = changed_card(**changes)
    assert ModelCard.from_json(card.to_json()) == card


def test_cards_of_before_have_neither(card):
    raw = {k: v for k, v in json.loads(card.to_json()).items() if k not in ("scaled", "workspace")}
    read = ModelCard.from_json(json.dumps(raw))
    assert (read.scaled, read.workspace) == (False, None)


@pytest.mark.parametrize(
    ("key", "value"), [("scaled", 1), ("scaled", "yes"), ("workspace", 0), ("workspace", -2.0), ("workspace", "much")]
)
def test_values_that_are_refused(card, key, value):
    raw = {**json.loads(card.to_json()), key: value}
    with pytest.raises(ModelFileError, match=f"'{key}' is not"):
        ModelCard.from_json(json.dumps(raw))
