"""Published runs in the history of git, which can be signed: who published what, of which code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from psplib.core.artefact import Artefact
from psplib.core.checkout import git
from psplib.core.errors import PsplibError
from psplib.runs.store import Store


def check_repository(store: Store) -> None:
    """Raise `PsplibError` unless a store lies at the top of a git repository with a commit."""
    if git(_root(store), "rev-parse", "HEAD") is None:
        raise PsplibError(f"{_root(store)} is not the top of a git repository to commit to.")


def commit_runs(store: Store, artefacts: Sequence[Artefact]) -> str:
    """Commit runs of a store, and nothing else; what is to be said of it.

    The message says how many runs name which commit as that of their code, and whether this
    repository has it: `provenance.json` alone is only what a run says of itself.
    """
    if not artefacts:
        return "There is nothing new to commit."
    root = _root(store)
    made = Counter((a.provenance["commit"], a.provenance["modified"]) for a in artefacts)
    lines = []
    for (commit, is_modified), count in sorted(made.items()):
        is_known = git(root, "cat-file", "-e", f"{commit}^{{commit}}") is not None
        state = "a commit of this repository" if is_known else "not a commit of this repository"
        lines.append(f"{count} by {commit}{' with changes' if is_modified else ''}, {state}")
    title = f"Publish {len(artefacts)} runs"
    paths = [str(a.folder.resolve().relative_to(root)) for a in artefacts]
    git(root, "add", "--", *paths)
    if git(root, "commit", "-q", "-m", title, "-m", "\n".join(lines), "--", *paths) is None:
        raise PsplibError(f"{title}: git did not commit them; see git commit {store.root}.")
    return f"{title}: {'; '.join(lines)}."


def _root(store: Store) -> Path:
    return store.root.resolve().parent
