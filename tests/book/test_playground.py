"""The playground's JavaScript does what psplib does, number for number, and its page answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browsing
import pytest
import torch
from playwright.sync_api import Browser, Page
from torch import Tensor, nn

from psplib.analysis.entropy import FirstOrder, SecondOrder
from psplib.analysis.psp import Layer, Observation, observe
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.pruning.lobster import Gradual
from psplib.training.engines import CompactTrainer
from psplib.training.fit import Trial, order, train_epoch
from psplib.training.update import LobsterStep, Sgd

STATIC = Path(__file__).parents[2] / "book" / "_static"
SCRIPT = STATIC / "playground.js"
EPOCHS, BATCH, SIZES = 50, 20, (400, 400, 1000)
KNOBS = {"learningRate": 0.3, "shrinkage": 1e-3, "tolerance": 0.2, "patience": 2}
needs_chromium = pytest.mark.skipif(
    browsing.CHROMIUM is None, reason="there is no Chromium on this machine to play in"
)

# Data and initial values come from the page, orders from psplib: no generator need agree.
PLAY = """([toy, knobs, orders]) => {
  const data = psplib.toy(toy, 3), layers = psplib.layersOf([2, 16, 16, data.classes]);
  const weights = psplib.initial(layers, 3), order = epoch => Int32Array.from(orders[epoch - 1]);
  const trial = new psplib.Trial({ data, layers, weights, knobs, order });
  const looks = [];
  const look = t => looks.push({
    loss: t.history.at(-1).loss, validation: t.scores("validation"), test: t.scores("test"),
    mask: [...t.mask], threshold: t.history.at(-1).threshold,
    entropies: t.entropies().map(h => [...h]),
  });
  for (const _ of orders) { trial.step(); look(trial); }
  const again = new psplib.Trial({
    data, layers, weights, mask: trial.mask, order,
    knobs: { ...knobs, shrinkage: 0, patience: Infinity },
  });
  for (const _ of orders) { again.step(); look(again); }
  const splits = ["train", "validation", "test"].map(s => [[...data[s].x], [...data[s].y]]);
  return { classes: data.classes, splits, weights: [...weights], looks };
}"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page that has the script."""
    opened = browser.new_page()
    opened.add_script_tag(content=SCRIPT.read_text())
    yield opened
    opened.close()


def network(weights: Tensor, classes: int) -> nn.Sequential:
    layers = {"fc1": nn.Linear(2, 16), "relu1": nn.ReLU(), "fc2": nn.Linear(16, 16)}
    layers |= {"relu2": nn.ReLU(), "fc3": nn.Linear(16, classes)}
    model = nn.Sequential(OrderedDict(layers)).double()
    nn.utils.vector_to_parameters(weights, model.parameters())
    return model


@needs_chromium
@pytest.mark.parametrize("toy", ["moons", "spirals", "clusters"])
def test_the_page_trains_prunes_and_measures_as_psplib_does(page: Page, toy: str) -> None:
    orders = [order(SIZES[0], 0, epoch + 1) for epoch in range(EPOCHS)]
    played = page.evaluate(PLAY, [toy, KNOBS, [o.tolist() for o in orders]])
    double: Any = torch.float64
    splits = [
        Split(torch.tensor(x, dtype=double).view(-1, 2), torch.tensor(y))
        for x, y in played["splits"]
    ]
    assert tuple(map(len, splits)) == SIZES
    data = Data(toy, "", "", (0.0,), (1.0,), *splits)
    weights = torch.tensor(played["weights"], dtype=double)
    model = network(weights, played["classes"])
    gradual = Gradual(
        CompactTrainer(model, [Mask.dense(model)], data, BATCH),
        0,
        0,
        LobsterStep(KNOBS["learningRate"], KNOBS["shrinkage"]),
        EPOCHS,
        tolerance=KNOBS["tolerance"],
        patience=KNOBS["patience"],
    )
    looks = iter(played["looks"])
    prunings = 0
    for _ in range(EPOCHS):
        train_epoch([gradual])
        loss, threshold = gradual.history[-1]["validation_loss"], 0.0
        if gradual.is_at_plateau:
            gradual.settle()
            threshold, prunings = gradual.prune(), prunings + 1
        compare(next(looks), gradual, loss, threshold)
    assert prunings >= 3
    assert gradual.mask.sparsity > 0.3

    again = network(weights * gradual.mask.flat, played["classes"])
    trainer = CompactTrainer(again, [gradual.mask], data, BATCH)
    rewound = Trial(trainer, 0, 0, lambda epoch: Sgd(KNOBS["learningRate"]), EPOCHS)
    for _ in range(EPOCHS):
        train_epoch([rewound])
        compare(next(looks), rewound, rewound.history[-1]["validation_loss"], 0.0)


def compare(look: dict[str, Any], trial: Trial, loss: float, threshold: float) -> None:
    """What the page has after an epoch, and what psplib has."""
    close = {"rel": 1e-6, "abs": 1e-6}
    assert look["loss"] == pytest.approx(loss, **close)
    assert look["threshold"] == pytest.approx(threshold, **close)
    assert look["mask"] == trial.mask.flat.int().tolist()
    for split in ("validation", "test"):
        score = trial.score(split)
        assert look[split] == pytest.approx({"loss": score.loss, "error": score.error}, **close)
    model = trial.trainer.full
    nn.utils.vector_to_parameters(trial.weights, model.parameters())
    probe = FirstOrder()
    observe(model, trial.trainer.data.test, probe, mask=trial.mask)
    for mine, theirs in zip(look["entropies"], probe.neurons().values(), strict=True):
        assert mine == pytest.approx(theirs.sum(0).tolist(), **close)


def bits(states: list[list[int]]) -> dict[str, float]:
    """H1, H2, joint and mutual entropy of two neurons' states on images of one class, by psplib."""
    z = torch.tensor(states, dtype=torch.float64).T
    both = Layer("relu", 2, torch.arange(2))
    probe = SecondOrder()
    labels = torch.zeros(len(z), dtype=torch.int64)
    probe.update(Observation(labels, torch.zeros(len(z), 1), (both,), (z,)))
    one, two = probe.first.neurons()["relu"][0].tolist()
    found = probe.entropies()
    return {"h1": one, "h2": two, "joint": found["joint"].mean, "mutual": found["mutual"].mean}


@needs_chromium
def test_the_bench_has_psplibs_entropies(page: Page) -> None:
    for seed in range(20):
        drawn = torch.rand(2, 20, generator=torch.Generator().manual_seed(seed))
        states = (drawn < torch.tensor([[seed / 19], [0.5]])).int().tolist()
        shown = page.evaluate("([a, b]) => psplib.pair(a, b)", states)
        assert {k: shown[k] for k in bits(states)} == pytest.approx(bits(states), abs=1e-9)
        assert shown["f1"] == sum(states[0]) / 20


@pytest.fixture
def played(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """The page's own HTML without the book around it, from a file, on a phone."""
    text = (STATIC.parent / "playground.md").read_text()
    body = text[text.index("<link") : text.index("## What")] + '<div id="bench"></div>'
    (tmp_path / "_static").symlink_to(STATIC)
    path = tmp_path / "book" / "x.html"
    path.parent.mkdir()
    head = '<!doctype html><html lang="en"><head><title>x</title></head>'
    path.write_text(f"{head}<body>{body}</body></html>")
    with browsing.visit(browser, path.as_uri(), tmp_path, browsing.NARROW) as (opened, faults):
        yield opened
        assert faults == []


@needs_chromium
def test_the_page_plays_prunes_rewinds_and_answers_the_keyboard(played: Page) -> None:
    def press(name: str) -> None:
        played.get_by_role("button", name=name).focus()
        played.keyboard.press("Enter")

    words = played.locator(".pg-net .pg-words")
    assert "Epoch 0:" in words.first.text_content()
    press("Step")
    assert "Epoch 1:" in words.first.text_content()
    assert "354 of 354 parameters survive" in words.first.text_content()
    press("Prune now")
    assert "Pruned" in played.locator(".pg-status").text_content()
    assert "354 of 354" not in words.first.text_content()
    press("Play")
    played.wait_for_function(
        "() => /Epoch ([5-9]|\\d\\d)/.test(document.querySelector('.pg-words').textContent)"
    )
    press("Pause")
    played.get_by_role("slider").first.focus()
    played.keyboard.press("ArrowRight")
    assert played.locator(".pg-knobs b").first.text_content() == "0.003"
    press("Rewind the mask")
    assert words.nth(1).is_visible()
    assert "Epoch 0:" in words.nth(1).text_content()
    before = words.first.text_content()
    press("Step")
    assert "Epoch 1:" in words.nth(1).text_content()
    assert words.first.text_content() == before, "G waits"
    press("Back to G")
    assert not words.nth(1).is_visible()
    press("neuron 2, image 3")
    third = played.get_by_role("button", name="neuron 2, image 3")
    assert third.get_attribute("aria-pressed") == "true"
    assert browsing.contrast(played) == []
    assert browsing.overflow(played) == []
    visible = "all => all.filter(c => c.checkVisibility()).map(c => c.ariaLabel ?? '')"
    names = played.eval_on_selector_all("canvas", visible)
    assert len(names) == 1 + 32 + 3
    assert all(names), "every picture has words"


@needs_chromium
def test_the_bench_shows_joint_as_the_two_less_what_they_share(played: Page) -> None:
    def widths() -> list[float]:
        bars = ".pg-bar:last-child .pg-area, .pg-areas > :last-child .pg-area"
        return played.eval_on_selector_all(bars, "all => all.map(a => parseFloat(a.style.width))")

    for name, expected in (
        ("Two free coins", [50, 0, 50]),
        ("The same", [0, 50, 0]),
        ("Opposites", [0, 50, 0]),
        ("The class decides", [0, 0, 0]),
    ):
        played.get_by_role("button", name=name).click()
        assert widths() == pytest.approx(expected, abs=1e-6), name


def test_the_page_is_small_and_does_without_a_network_and_without_scripts() -> None:
    sizes = {path.name: path.stat().st_size for path in STATIC.glob("playground*")}
    assert sizes["playground.js"] + sizes["playground.css"] < 60_000
    assert sizes["playground.png"] < 120_000
    assert "http" not in SCRIPT.read_text()
    assert "<noscript>" in (STATIC.parent / "playground.md").read_text()
