"""Where a reader can run a chapter: on Binder, or anywhere after an installation."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ORIGIN = re.compile(r"(?:https://|git@|ssh://git@)github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?")


def repository(root: Path) -> str | None:
    """The address of a checkout's origin if that is on GitHub, which Binder knows; else None."""
    words = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        said = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None
    found = ORIGIN.fullmatch(said.stdout.strip())
    return f"https://github.com/{found[1]}" if found else None


def configured(config: Path, address: str) -> str:
    """Jupyter Book's configuration with links to the repository and to Binder, which makes its
    machine from `environment.yml`."""
    import yaml

    found = yaml.safe_load(config.read_bytes())
    found["sphinx"]["config"]["html_theme_options"] |= {
        "repository_url": address,
        "repository_branch": "main",
        "use_repository_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        },
    }
    return str(yaml.safe_dump(found, sort_keys=False, allow_unicode=True))


def notebook(template: Path, address: str | None) -> bytes:
    """A chapter to be downloaded: it runs where psplib is installed, and installs it where its
    address is known."""
    import nbformat

    chapter = nbformat.read(template, as_version=4)
    if address:
        # Only where it is missing: a checkout's own psplib is to be used.
        source = (
            "from importlib.util import find_spec\n\n"
            'if not find_spec("psplib"):\n'
            f'    %pip install --quiet "psplib[book] @ git+{address}"'
        )
        cell = nbformat.v4.new_code_cell(source, id="install")
        chapter.cells.insert(1, cell)
    return nbformat.writes(chapter).encode()
