"""The ledger holds every verdict of the chapters, and what was not run."""

import re

from worlds import ARMS, panel, papers_world, world

from psplib.experiments import scales
from psplib.paper import conclusions, figure_2, figure_3, figure_4, ledger
from psplib.paper.figure_1 import Figure1
from psplib.paper.figure_1_claims import claims_across, panel_claims
from psplib.paper.statistics import FAILS, HOLDS, NOT_RUN, UNDECIDED, VERDICTS, Verdict

PANELS = [panel(papers_world, ARMS, name) for name in scales.PANELS]


def test_every_verdict_of_every_chapter_is_listed_in_the_order_of_the_paper() -> None:
    minima = world()
    found = ledger.entries(PANELS, minima)
    sections = [e.verdict.section for e in found]
    assert sections == sorted(sections)
    listed = {(e.chapter, e.verdict.test, e.verdict.verdict) for e in found}
    for chapter, verdicts in (
        *(("figure_1", panel_claims(figure)) for figure in PANELS),
        ("figure_1", claims_across(PANELS)),
        ("figure_2", figure_2.claims_of_figure_2(minima)),
        ("figure_3", figure_3.claims_of_figure_3(minima)),
        ("figure_4", figure_4.claims_of_figure_4(minima)),
    ):
        assert {(chapter, v.test, v.verdict) for v in verdicts} <= listed
    for chapter, verdicts in conclusions.conclusions(minima, None).items():
        assert {(chapter, v.claim) for v in verdicts} <= {
            (e.chapter, e.verdict.claim) for e in found
        }
    not_run = [e for e in found if e.verdict.verdict == NOT_RUN]
    assert {e.scale for e in not_run} == {""}
    assert {e for e in not_run if "structure" not in e.verdict.claim} >= set(ledger.UNTESTED)


def test_a_panel_names_its_network_and_what_its_verdicts_rest_on() -> None:
    part = Figure1(scales.figure_1d("smoke"), PANELS[3].table, (), ())
    found = ledger.entries([*PANELS[:3], part], world())
    (entry,) = (e for e in found if "minor" in e.verdict.claim and "ResNet-8" in e.verdict.claim)
    assert entry.verdict.claim.endswith(" (ResNet-8, digits)")
    assert entry.basis == "smoke, 200 images, masks of gradual run 0, 2 replicas"
    (between,) = (e for e in found if "extremely evident" in e.verdict.claim)
    assert between.basis.endswith("(d) smoke, masks of gradual run 0, 2 replicas")


def test_each_measure_of_narrow_has_a_row() -> None:
    found = ledger.entries(PANELS, world(narrow=(10.0, 30.0)))
    verdicts = [e.verdict.verdict for e in found if "Not all narrow" in e.verdict.claim]
    assert verdicts == [FAILS, HOLDS, HOLDS, HOLDS]


def test_the_count_is_that_of_the_table() -> None:
    turned = {k: v[::-1] for k, v in (("z2", (0.5, 0.7)), ("joint", (2.0, 1.9)))}
    found = ledger.entries(PANELS, world(**turned))
    html = ledger.ledger_table(found).data
    said = ledger.count(found)
    assert said.startswith(f"{len(found)} tests:")
    for verdict in VERDICTS:
        shown = html.count(f'<span class="psplib-verdict {verdict.replace(" ", "-")}">')
        words = {HOLDS: "holds?", FAILS: "do(?:es)? not hold"}.get(verdict, verdict)
        assert sum(map(int, re.findall(rf"(\d+) \*{words}\*", said))) == shown
    assert sum(map(int, re.findall(r"^- (\d+) ", said, re.M))) == len(found)
    folds = html.split('<details class="psplib-panel">')[1:]
    for fold in folds:
        (tests,) = re.findall(r": (\d+) tests?: ", fold)
        assert fold.count("<tr data-") == int(tests)
    assert sum(fold.count("<tr data-") for fold in folds) == len(found)
    (of_figure_4,) = (fold for fold in folds if 'href="figure_4.html"' in fold)
    assert of_figure_4.count("<tr data-") == sum(e.chapter == "figure_4" for e in found) >= 6
    anchors = re.findall(r'<tbody id="([^"]+)"', html)
    assert len(anchors) == len(set(anchors)) == len(re.findall(r"<details><summary>", html))


def test_a_row_is_of_the_scale_that_its_basis_names() -> None:
    def scale(basis: str, verdict: str = HOLDS) -> str:
        return ledger.Entry(Verdict("claim", "5.1", "", verdict), basis=basis).scale

    assert scale("paper, gradual runs 0–9 of LeNet-300, MNIST") == "paper"
    assert scale("quick, 2,000 images, masks of gradual run 0") == "quick"
    assert scale("(a) paper, 10 replicas; (b) quick, 3 replicas") == ledger.SEVERAL
    assert scale("paper, gradual run 0", NOT_RUN) == ""


def test_holms_correction_is_over_all_tests_of_the_ledger() -> None:
    def entry(p: float, verdict: str = HOLDS) -> ledger.Entry:
        return ledger.Entry(Verdict("claim", "5.1", "", verdict, p=p))

    assert ledger.survives([entry(0.01), entry(0.04), entry(0.6, UNDECIDED)]) == ["yes", "no", "–"]
    assert ledger.survives([entry(0.04), entry(float("nan"))]) == ["yes", "–"]
