"""The examples in docstrings and in the README are true."""

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import psplib


def test_examples_in_docstrings() -> None:
    found = pkgutil.walk_packages(psplib.__path__, "psplib.")
    modules = [m.name for m in found if not m.name.endswith("__main__")]
    results = [doctest.testmod(importlib.import_module(name)) for name in modules]
    assert sum(r.attempted for r in results) >= 4
    assert sum(r.failed for r in results) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The first pruning")
def test_the_examples_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    text = (Path(__file__).parent.parent / "README.md").read_text()
    looked, pruned = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert sum(bool(line.strip()) for line in pruned.splitlines()) <= 10
    names: dict[str, Any] = {}
    exec(compile(looked, "README.md", "exec"), names)
    layers, joint = capsys.readouterr().out.splitlines()
    assert list(ast.literal_eval(layers))[:3] == ["relu", "layer1.0.relu", "layer1.0.relu#2"]
    assert 0 < float(joint) < 20
    exec(compile(pruned, "README.md", "exec"), names)
    points = names["result"].points
    assert points["epoch"].iloc[-1] == 3
    pruned_weights = torch.nn.utils.parameters_to_vector(names["model"].parameters())
    assert not pruned_weights[~names["result"].masks[-1].flat].any()


def test_the_public_face_is_there_and_costs_nothing_until_it_is_used() -> None:
    words = (
        "import sys, psplib; sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", words]).returncode == 0
    for name in psplib.__all__:
        assert getattr(psplib, name) is not None
    assert set(psplib.__all__) <= set(dir(psplib))
    with pytest.raises(AttributeError, match="psplib has no 'prunes'; it offers Agreement, "):
        psplib.prunes  # noqa: B018


def test_the_example_of_the_api_page(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parent.parent / "book" / "api.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(example, "api.md", "exec"), {})
    layers, values = capsys.readouterr().out.splitlines()
    assert list(ast.literal_eval(layers)) == ["relu1", "relu2"]
    assert values.startswith("tensor(")
