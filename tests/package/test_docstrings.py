"""Each public class and function has an example in its docstring, and what the example says is so."""

from __future__ import annotations

import doctest
import importlib
import inspect
from typing import Any

import pytest

PACKAGES = ("", ".data", ".diffusion", ".inspect", ".metrics", ".models", ".report", ".toyworld")


def public() -> dict[str, Any]:
    """The classes and functions that a package's `__all__` names, by the names that users know."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(f"lamp_lightning{package}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(value, f"{module.__name__}.{name}")
    return {name: value for value, name in found.items()}


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_are_there_and_right(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = PUBLIC[name]
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    examples = parser.get_doctest(
        inspect.getdoc(value) or "", vars(inspect.getmodule(value)).copy(), name, None, None
    )
    assert examples.examples, f"{name} has no example in its docstring"
    assert runner.run(examples).failed == 0
