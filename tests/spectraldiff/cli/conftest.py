"""What the tests of the commands have in common."""

import pytest


@pytest.fixture(autouse=True)
def undrawn_figures(undrawn: None) -> None:
    """Nobody looks at the figures here."""
