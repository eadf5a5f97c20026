"""The examples in docstrings and in the README are true."""

import ast
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import psplib


def test_examples_in_docstrings() -> None:
    found = pkgutil.walk_packages(psplib.__path__, "psplib.")
    modules = [m.name for m in found if not m.name.endswith("__main__")]
    results = [doctest.testmod(importlib.import_module(name)) for name in modules]
    assert sum(r.attempted for r in results) >= 4
    assert sum(r.failed for r in results) == 0


@pytest.mark.slow
def test_the_example_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    layers, joint, *_ = capsys.readouterr().out.splitlines()
    assert list(ast.literal_eval(layers)) == ["relu1", "relu2", "relu3"]
    assert 0 < float(joint) < 20
