"""docs/api.md is what docs/generate.py makes of the docstrings."""

import inspect
from pathlib import Path

import pytest

import spectraldiff as sd
from docs import generate


def test_the_page_is_up_to_date():
    assert Path(generate.PAGE).read_text("utf-8") == generate.page(), "run `make docs`"


@pytest.mark.parametrize("name", generate.FIRST)
def test_every_function_has_parameters_errors_and_an_example(name):
    text = inspect.getdoc(getattr(sd, name))
    for section in ("Parameters", "Raises", "Examples"):
        assert f"\n{section}\n---" in text
    for parameter in inspect.signature(getattr(sd, name)).parameters:
        assert parameter in text.partition("Parameters")[2]


def test_every_function_is_on_the_page():
    functions = {name for name in sd.__all__ if inspect.isfunction(getattr(sd, name))}
    assert functions == set(generate.FIRST)
