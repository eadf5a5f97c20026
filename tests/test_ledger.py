"""The ledger holds every verdict of the chapters, and what was not run."""

from test_claims import ARMS, panel, papers_world
from test_claims_minima import world

from psplib import claims, claims_minima, ledger
from psplib.claims import FAILS, HOLDS, NOT_RUN, UNDECIDED


def test_every_verdict_of_every_chapter_is_listed_in_the_order_of_the_paper() -> None:
    first, minima = panel(papers_world, ARMS), world()
    found = ledger.entries(first, minima)
    sections = [e.verdict.section for e in found]
    assert sections == sorted(sections)
    listed = {(e.chapter, e.verdict.test, e.verdict.verdict) for e in found}
    for chapter, verdicts in (
        ("figure_1", claims.figure_1(first)),
        ("figure_2", claims_minima.figure_2(minima)),
        ("figure_3", claims_minima.figure_3(minima)),
        ("figure_4", claims_minima.figure_4(minima)),
    ):
        assert {(chapter, v.test, v.verdict) for v in verdicts} <= listed
    assert sum(e.verdict.verdict == NOT_RUN for e in found) == len(ledger.UNTESTED)


def test_sharp_minima_that_generalise_need_both() -> None:
    def verdict(**values: tuple[float, float]) -> str:
        found = ledger.entries(panel(papers_world, ARMS), world(**values))
        return next(e.verdict.verdict for e in found if "Not all narrow" in e.verdict.claim)

    assert verdict() == HOLDS
    assert verdict(lambda_1=(10.0, 30.0)) == UNDECIDED, "a wide minimum says nothing of narrow ones"
    assert verdict(test_error=(0.02, 0.01)) == UNDECIDED


def test_the_count_is_that_of_the_table() -> None:
    turned = {k: v[::-1] for k, v in (("z2", (0.5, 0.7)), ("joint", (2.0, 1.9)))}
    found = ledger.entries(panel(papers_world, ARMS), world(**turned))
    html = ledger.table(found).data
    for verdict in (HOLDS, FAILS, NOT_RUN):
        shown = html.count(f'<span class="psplib-verdict {verdict.replace(" ", "-")}">')
        assert f"{shown} *{verdict}*" in ledger.count(found)
    assert html.count("<tr>") == len(found) + 1
    assert html.count('href="figure_4.html"') == 5
