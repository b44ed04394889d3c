"""What the tests of the process that writes rasters have in common."""

import pytest


@pytest.fixture(autouse=True)
def shared_transcoder():
    """Each test starts the process anew."""
