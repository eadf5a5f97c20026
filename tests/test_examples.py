"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import psplib


def test_examples_in_docstrings() -> None:
    modules = [m.name for m in pkgutil.iter_modules(psplib.__path__) if m.name != "__main__"]
    results = [doctest.testmod(importlib.import_module(f"psplib.{name}")) for name in modules]
    assert sum(r.attempted for r in results) >= 4
    assert sum(r.failed for r in results) == 0
