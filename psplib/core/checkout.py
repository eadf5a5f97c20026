"""The checkout that this psplib comes from, what git says of it, and the folders that a user names.

Nothing here depends on the folder that a process happens to work in.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from psplib.core.errors import PsplibError

_PACKAGE = Path(__file__).resolve().parents[1]


def checkout() -> Path | None:
    """The checkout that this psplib comes from; None where it is installed without one."""
    return _PACKAGE.parent if _is_checkout(_PACKAGE.parent) else None


def _is_checkout(folder: Path) -> bool:
    return (folder / "_toc.yml").exists() and (folder / "psplib" / "__init__.py").exists()


def check_here(here: Path | None = None) -> None:
    """Raise `PsplibError` in a checkout (where one is, unless given) whose psplib is not the one
    that runs: what another one shows is not what lies there."""
    here = here or Path.cwd()
    folder = next(filter(_is_checkout, (here, *here.parents)), None)
    if folder and folder.resolve() != checkout():
        raise PsplibError(
            f"{folder} has a psplib of its own, but the one of {_PACKAGE.parent} runs: "
            f"install this one (pip install -e {folder}) or go to another folder."
        )


def git(root: Path, *words: str) -> str | None:
    """What git says of a checkout; None unless that is the top of a repository, for a folder
    within another project would be told the commit and the address of that one."""
    # In a hook these name the repository of the hook.
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or "CONFIG" in k}

    def ask(*words: str) -> str | None:
        done = subprocess.run(
            ("git", "-C", str(root), *words), env=kept, capture_output=True, encoding="utf-8"
        )
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        top = ask("rev-parse", "--show-toplevel")
        return ask(*words) if top and Path(top).resolve() == root.resolve() else None
    except OSError:
        return None


def named(variable: str) -> Path | None:
    """The folder that an environment variable names; `PsplibError` if that depends on where one
    is, for chapters, workers and commands run in folders of their own."""
    given = os.environ.get(variable)
    if given and not Path(given).is_absolute():
        raise PsplibError(f"{variable} must be an absolute path; got {given!r}.")
    return Path(given) if given else None
