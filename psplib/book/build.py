"""Make the runs, execute the chapters, render the book.

What is kept of an earlier build is used only where all that it was made from is the same: psplib,
the packages beside it, the results, the parameters, the template.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from multiprocessing import connection
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from psplib.book import binder
from psplib.book.chapter import store_of
from psplib.core import errors, files
from psplib.core.checkout import check_here
from psplib.core.errors import PsplibError
from psplib.core.processes import end_when
from psplib.experiments import scales, sweep
from psplib.runs import store as runs

SEAL = ".sha256"  # beside an executed chapter: the digest of what was written
MADE_FROM = ".made-from"  # among the pages: the digest of their sources and of themselves


def build_book(
    scale: str,
    device: str = "auto",
    output: Path | None = None,
    pdf: bool = False,
    release: bool = False,
) -> Path:
    """Make the runs of a scale, execute the chapters and render the book; its first page's path.

    The pages are `<output>/html`, replaced when all new ones are there; `output` is `_build` in the
    checkout unless given. Executed chapters are kept in `<output>/executed`; the templates are not
    touched. With `pdf` they are printed to `<output>/html/psplib.pdf`, too; with `release` they are
    written with PNG pictures to `<output>/release`. Who builds into the same folder at the same
    time waits.
    """
    scales.check_scale(scale, 0)
    errors.one_of("device", device, errors.DEVICES)
    check_here()
    root = runs.checkout()
    if root is None:
        raise PsplibError("The book is built from a checkout of the repository.")
    chapters(root)
    if scale != scales.PUBLISHED:
        apart([(make_runs, scale, device)])
    output = (output or root / "_build").absolute()
    with files.locked(output / ".lock"):
        return _build(root, {"scale": scale, "device": device}, output, pdf, release)


def _build(root: Path, parameters: dict[str, str], output: Path, pdf: bool, release: bool) -> Path:
    sources = chapters(root)
    templates = sorted((p for p in sources if p.suffix == ".ipynb"), key=_longest_first)
    store = store_of(parameters["scale"])

    def ingredients() -> tuple[str, dict[Path, str | None]]:
        common = fingerprint(parameters, library(), packages(), contents(store.root))
        return common, {t: files.sha256(t) for t in templates}

    common, digests = ingredients()
    executed = {
        t: output / "executed" / fingerprint(common, digest)[:16] / t.name
        for t, digest in digests.items()
    }
    stale = {t: target for t, target in executed.items() if not is_whole(target)}
    execute_all(stale, parameters)
    if stale and ingredients() != (common, digests):
        for target in stale.values():
            shutil.rmtree(target.parent, ignore_errors=True)
        raise PsplibError("Chapters, psplib or results were changed meanwhile; build it again.")
    for old in set((output / "executed").glob("*")) - {e.parent for e in executed.values()}:
        shutil.rmtree(old, ignore_errors=True)

    address, commit = binder.origin(root)
    config = (root / "_config.yml").read_bytes()
    if address:
        config = binder.configured(config, address, commit)
    beside = [p for p in _seen(root / "book") if p.suffix not in PAGES]
    wanted: dict[Path, Path | bytes] = {
        p.relative_to(root): executed.get(p, p) for p in [root / "_toc.yml", *sources, *beside]
    }
    wanted[Path("_config.yml")] = config
    offered = {t.name: binder.notebook(t, address, commit) for t in templates}
    made_from = fingerprint(common, _digests(wanted | {Path(n): c for n, c in offered.items()}))
    html = output / "html"
    if _text(html / MADE_FROM) != fingerprint(made_from, contents(html)):
        from psplib.book import pages

        apart([(pages.render, wanted, offered, html)])
        files.write(html / MADE_FROM, fingerprint(made_from, contents(html)).encode())
    if pdf:
        from psplib.book import printed

        if not (html / printed.NAME).exists():
            names = [p.relative_to(root).with_suffix(".html").as_posix() for p in sources]
            apart([(printed.print_book, html, names)])
            files.write(html / MADE_FROM, fingerprint(made_from, contents(html)).encode())
    if release:
        from psplib.book.release import release as write

        apart([(write, list(executed.values()), output / "release")])
    return html / "index.html"


def _longest_first(template: Path) -> tuple[bool, int]:
    """The place of a chapter: what is slow, as its metadata say, then what is large, so that no
    core waits for it alone in the end."""
    return b'"slow": true' not in template.read_bytes(), -template.stat().st_size


PAGES = (".ipynb", ".md")


def chapters(root: Path) -> list[Path]:
    """The pages that a checkout's `_toc.yml` names, in its order: no other is executed or shown."""
    import yaml

    def listed(part: Any) -> Iterator[str]:
        for key, value in part.items() if isinstance(part, dict) else ():
            if key in ("root", "file"):
                yield str(value)
            for inner in value if isinstance(value, list) else ():
                yield from listed(inner)

    found = []
    for name in listed(yaml.safe_load((root / "_toc.yml").read_bytes())):
        there = [p for p in (root / f"{name}{suffix}" for suffix in PAGES) if p.is_file()]
        if not there:
            raise PsplibError(f"{root / '_toc.yml'} names {name}, which is not there.")
        found.append(there[0])
    return found


def make_runs(scale: str, device: str) -> None:
    """Make what is missing of every experiment at a scale."""
    where = errors.device(device)
    panels = [scales.experiment(name, scale) for name in scales.EXPERIMENTS]
    sweep.run(panels, runs.local(), where, errors.jobs(where))


def execute_all(stale: dict[Path, Path], parameters: dict[str, Any]) -> None:
    """Execute chapters, `{template: target}`, one on each core."""
    if not stale:
        return
    from psplib.book import execution

    assert execution  # loaded before processes are forked, which all need it
    for target in stale.values():
        files.make_folder(target.parent)
    with tqdm(total=len(stale), desc="chapters", unit="chapter") as bar:
        apart([(execute, t, target, parameters) for t, target in stale.items()], bar.update)


def execute(template: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Execute a chapter, and seal what it becomes."""
    from psplib.book.execution import executed

    content = executed(template, parameters)
    files.write(target, content)
    files.write(target.with_suffix(SEAL), hashlib.sha256(content).hexdigest().encode())


def is_whole(target: Path) -> bool:
    """Whether an executed chapter is there, and is what was written."""
    return target.exists() and _text(target.with_suffix(SEAL)) == files.sha256(target)


Task = tuple[Any, ...]  # a function and its arguments


def apart(tasks: Iterable[Task], done: Callable[[], object] = lambda: None) -> None:
    """Do tasks in processes of their own, as many at a time as there are cores, and call `done`
    after each; the `PsplibError` of one is raised here, and ends the others.

    On Linux they are forked, so that what is imported here costs them nothing. None of them may use
    CUDA if this process has done so: so it leaves that to them.
    """
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting, running = list(tasks), dict[Any, Any]()
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                task = waiting.pop(0)
                receive, send = context.Pipe(duplex=False)
                process = context.Process(target=_answer, args=(send, *task))
                process.start()
                send.close()
                running[receive] = process
            for ready in connection.wait(list(running)):
                answer: Any = ready
                process = running.pop(answer)
                try:
                    failure = answer.recv()
                except EOFError:
                    process.join()
                    failure = f"A process of the build has died (exit status {process.exitcode})."
                process.join()
                if failure:
                    raise PsplibError(failure)
                done()
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _answer(send: connection.Connection, work: Callable[..., None], *arguments: Any) -> None:
    if parent := multiprocessing.parent_process():
        end_when(lambda: connection.wait([parent.sentinel]))
    try:
        work(*arguments)
        send.send(None)
    except PsplibError as error:
        send.send(str(error))
    except OSError as error:
        send.send(f"{error.filename or 'A file'} cannot be used: {error.strerror}.")
    except KeyboardInterrupt:
        sys.exit(130)


# --- what something is made from ------------------------------------------------------------------


def fingerprint(*parts: object) -> str:
    """SHA-256 of some values, each told from the next."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def contents(folder: Path) -> dict[str, str | None]:
    """The digest of each file in a folder, by its path there; hidden names are left out."""
    return {p.relative_to(folder).as_posix(): files.sha256(p) for p in sorted(_seen(folder))}


def _seen(folder: Path) -> Iterator[Path]:
    for path in folder.glob("*"):
        if not path.name.startswith((".", "__pycache__")):
            yield from _seen(path) if path.is_dir() else [path]


def _digests(wanted: Mapping[Path, Path | bytes]) -> dict[str, str | None]:
    return {
        path.as_posix(): hashlib.sha256(of).hexdigest()
        if isinstance(of, bytes)
        else files.sha256(of)
        for path, of in wanted.items()
    }


def library() -> dict[str, str | None]:
    """The digests of psplib's own source."""
    return contents(Path(__file__).parents[1])


def packages() -> list[str]:
    """The versions of Python and of what is installed beside psplib."""
    return [sys.version, *sorted({f"{d.name}=={d.version}" for d in metadata.distributions()})]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
