"""An extension of Sphinx: where a page first uses a word of the glossary, cites a work by authors
and year, or names an equation or a figure by its number, this leads there; parts of third order of
a cell with the tag `tabs` become tabs. So chapters need no roles and no fences, which other viewers
show as they are typed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from psplib.book.markup import TAG

GLOSSARY = "book/glossary"
CAPTION = re.compile(r"(Fig\. (\d+[a-z]?|[A-Z]))\.")  # how one begins, in bold
PROSE = (nodes.paragraph, nodes.term)
# Where a word is no prose, or leads somewhere already.
NOT_IN = (
    nodes.reference,
    nodes.title,
    nodes.literal,
    nodes.raw,
    nodes.math,
    nodes.strong,
    nodes.citation,
)


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("source-read", with_tabs)
    app.connect("doctree-read", note_numbered)
    app.connect("doctree-resolved", link)
    app.connect("autodoc-process-signature", short_types)
    app.connect("autodoc-skip-member", is_alias)
    return {"parallel_read_safe": False, "parallel_write_safe": True}


def with_tabs(app: Sphinx, page: str, content: list[str]) -> None:
    """Put tabs into what Sphinx has read of a notebook."""
    if str(app.env.doc2path(page)).endswith(".ipynb"):
        notebook = json.loads(content[0])
        for cell in notebook["cells"]:
            if "tabs" in cell["metadata"].get("tags", []):
                cell["source"] = in_tabs("".join(cell["source"]))
        content[0] = json.dumps(notebook)


def in_tabs(text: str) -> str:
    """A text (Markdown) whose parts of third order are tabs."""
    head, *parts = re.split(r"^### (.+)\n", text, flags=re.MULTILINE)
    tabs = (
        f":::{{tab-item}} {title}\n{body}\n:::\n"
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    )
    return f"{head}::::{{tab-set}}\n{''.join(tabs)}::::\n"


def short_types(*said: Any) -> tuple[str | None, ...]:
    """A signature and what it returns, in which types have their last names: where it cannot be
    parsed, Sphinx leaves the whole ones, each with a tilde."""
    return tuple(text and re.sub(r"~[\w.]+\.", "", text) for text in said[-2:])


def is_alias(app: Sphinx, what: str, name: str, member: Any, skipped: bool, options: Any) -> Any:
    """Whether a member is a field of a named tuple, of which its docstring only tells the place."""
    return (member.__doc__ or "").startswith("Alias for field number") or None


def note_numbered(app: Sphinx, doctree: nodes.document) -> None:
    """Give equations and captions with a number an anchor, and keep where they are."""
    known = app.env.__dict__.setdefault("psplib_numbered", {})
    for bold in doctree.findall(nodes.strong):
        found = CAPTION.fullmatch(bold.astext())
        if found and bold.parent.astext().startswith(found[0]):
            bold.parent["classes"].append("psplib-caption")
            bold.parent["ids"].append(f"fig-{found[2]}")
            known[found[1]] = (app.env.docname, f"fig-{found[2]}")
    for block in doctree.findall(nodes.math_block):
        if tag := TAG.search(block.astext()):
            block["ids"].append(f"eq-{tag[1]}")
            known.setdefault(f"Eq. ({tag[1]})", (app.env.docname, f"eq-{tag[1]}"))


def link(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Link what a page says first of each word of the glossary, work, equation and figure."""
    if page.startswith("book/api"):
        return
    targets = dict(app.env.__dict__["psplib_numbered"])
    for work in app.env.get_domain("cite").citations:  # type: ignore[attr-defined]
        place = work.bibliography_key.docname, work.citation_id
        targets |= dict.fromkeys(cited(work.entry), place)
    for _, word, kind, where, name, _ in app.env.get_domain("std").get_objects():
        if kind == "term":
            forms = word, word[0].lower() + word[1:]
            targets |= {form + ending: (where, name) for form in forms for ending in ("", "s")}
    words = "|".join(re.escape(w) for w in sorted(targets, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w-])(?:{words})(?![\w-])")
    said: set[Any] = set()
    for text in list(doctree.findall(nodes.Text)):
        if _is_prose(text):
            parts = list(_parts(app, page, text.astext(), pattern, targets, said))
            if len(parts) > 1:
                text.parent.replace(text, parts)


def cited(work: Any) -> tuple[str, str]:
    """How an entry of a bibliography is cited, in a sentence and in brackets."""
    first, *others = (" ".join(person.last_names) for person in work.persons["author"])
    who = (
        first
        if not others
        else f"{first} and {others[0]}"
        if len(others) == 1
        else f"{first} et al."
    )
    return f"{who} ({work.fields['year']})", f"{who}, {work.fields['year']}"


def _is_prose(text: nodes.Text) -> bool:
    above, node = [], text.parent
    while node is not None:
        above.append(node)
        node = node.parent
    return any(isinstance(a, PROSE) for a in above) and not any(
        isinstance(a, NOT_IN) for a in above
    )


def _parts(
    app: Sphinx, page: str, text: str, pattern: re.Pattern[str], targets: Any, said: set[Any]
) -> Iterator[nodes.Node]:
    end = 0
    for found in pattern.finditer(text):
        where, name = target = targets[found[0]]
        if target in said or where == page:
            continue
        said.add(target)
        yield nodes.Text(text[end : found.start()])
        address = app.builder.get_relative_uri(page, where)
        yield nodes.reference("", found[0], internal=True, refuri=f"{address}#{name}")
        end = found.end()
    yield nodes.Text(text[end:])
