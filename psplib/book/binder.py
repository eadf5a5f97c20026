"""Where a reader can run a chapter: on Binder, or anywhere after an installation."""

from __future__ import annotations

import re
from pathlib import Path

from psplib.core.checkout import git

MADE_OF = (
    "_config.yml",
    "_toc.yml",
    "book",
    "environment.yml",
    "psplib",
    "pyproject.toml",
    "results",
)
ORIGIN = re.compile(r"(?:https://|git@|ssh://git@)github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?")


def origin(root: Path) -> tuple[str | None, str]:
    """The address of a checkout's origin if that is on GitHub, which Binder knows; and the commit
    that is built, which links lead to: a branch moves on. None where what is built is in no commit.
    """
    found = ORIGIN.fullmatch(git(root, "config", "remote.origin.url") or "")
    is_committed = git(root, "status", "--short", "--untracked-files=all", "--", *MADE_OF) == ""
    address = f"https://github.com/{found[1]}" if found and is_committed else None
    return address, git(root, "rev-parse", "HEAD") or "HEAD"


def configured(config: bytes, address: str, commit: str) -> bytes:
    """Jupyter Book's configuration with links to the repository and to Binder, which makes its
    machine from `environment.yml`."""
    import yaml

    found = yaml.safe_load(config)
    found["sphinx"]["config"]["html_theme_options"] |= {
        "repository_url": address,
        "repository_branch": commit,
        "use_repository_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        },
    }
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True, encoding="utf-8")


def notebook(template: Path, address: str | None, commit: str) -> bytes:
    """A chapter to be downloaded, without outputs: it runs where psplib is installed, and installs
    it where its address is known."""
    import nbformat

    chapter = nbformat.read(template, as_version=4)
    for cell in chapter.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if address:
        # Only where it is missing: a checkout's own psplib is to be used.
        source = (
            "from importlib.util import find_spec\n\n"
            'if not find_spec("psplib"):\n'
            f'    %pip install --quiet "psplib[book] @ git+{address}@{commit}"'
        )
        cell = nbformat.v4.new_code_cell(source, id="install")
        chapter.cells.insert(1, cell)
    return nbformat.writes(chapter).encode()
