"""The laboratory: snapshots of LOBSTER on a toy, a panel that stops, pictures with words."""

import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from torch import nn

from psplib.analysis.entropy import FirstOrder
from psplib.analysis.psp import observe
from psplib.book import lab, lab_panel
from psplib.book.lab import Setting, Snapshot
from psplib.book.lab_panel import Laboratory, Recording
from psplib.core.errors import PsplibError
from psplib.training.trainer import evaluate

ROOT = Path(__file__).parents[2]
# Prunes four times or more, in under a second.
SHORT = Setting(shrinkage=1e-3, tolerance=0.2, patience=2, epochs=40, learning_rate=0.3)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return lab_panel.record_run(SHORT)


def test_a_seed_gives_the_same_snapshots_again_and_another_gives_others(
    recording: Recording,
) -> None:
    state = torch.get_rng_state()
    again = list(itertools.islice(lab.simulate(SHORT), 12))
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(recording.snapshots, again, strict=False):
        assert torch.equal(one.weights, other.weights)
        assert torch.equal(one.regions, other.regions)
        assert (one.epoch, one.scores, one.entropy) == (other.epoch, other.scores, other.entropy)
    different = next(lab.simulate(replace(SHORT, seed=1)))
    assert not torch.equal(different.weights, again[0].weights)
    assert different.scores != again[0].scores


def test_there_is_a_snapshot_before_and_after_every_epoch(recording: Recording) -> None:
    assert [s.epoch for s in recording.snapshots] == list(range(SHORT.epochs + 1))
    assert recording.snapshots[0].mask.sparsity == 0


def test_masks_only_lose_weights_and_what_a_pruning_takes_is_told(recording: Recording) -> None:
    pairs = list(itertools.pairwise(recording.snapshots))
    for before, after in pairs:
        assert not bool((after.mask.flat & ~before.mask.flat).any())
        assert after.pruned == before.mask.kept - after.mask.kept
        assert (after.pruned > 0) == (after.threshold > 0)
        assert int(after.weights[~after.mask.flat].count_nonzero()) == 0
        assert float(after.weights[after.mask.flat].abs().min()) > after.threshold
    assert sum(after.pruned > 0 for _, after in pairs) >= 3


@pytest.mark.parametrize("toy", lab.TOYS)
def test_a_toy_is_balanced_normalised_and_drawn_from_its_seed(toy: str) -> None:
    data = lab.toy(toy, 0)
    assert [len(s) for s in (data.train, data.validation, data.test)] == list(lab.SIZES)
    assert float(data.train.y.float().mean()) == 0.5
    torch.testing.assert_close(data.train.x.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.x.std(0), torch.ones(2), atol=1e-5, rtol=0)
    assert float(data.test.x.abs().max()) < 1.5 * lab.REACH
    assert torch.equal(data.train.x, lab.toy(toy, 0).train.x)
    assert not torch.equal(data.train.x, lab.toy(toy, 1).train.x)
    assert not torch.equal(data.train.x[:100], data.validation.x[:100])


def test_the_moons_are_learnt_and_stay_learnt(recording: Recording) -> None:
    assert recording.snapshots[0].scores["test"].error > 0.12
    last = recording.snapshots[-1]
    assert last.mask.sparsity > 0.5
    assert last.scores["test"].error < 0.08


def test_a_larger_lambda_makes_the_first_pruning_sparser() -> None:
    def first(shrinkage: float) -> float:
        setting = replace(SHORT, shrinkage=shrinkage)
        return next(s.mask.sparsity for s in lab.simulate(setting) if s.pruned)

    small, middle, large = (first(shrinkage) for shrinkage in (1e-5, 1e-3, 3e-3))
    assert small < middle < large


def network(snapshot: Snapshot) -> nn.Sequential:
    model = lab.network(7)
    nn.utils.vector_to_parameters(snapshot.weights.clone(), model.parameters())
    return model


@pytest.mark.parametrize("number", [0, 20, -1])
def test_scores_entropy_and_regions_are_those_of_the_network_of_the_weights(
    number: int, recording: Recording
) -> None:
    snapshot = recording.snapshots[number]
    model, data = network(snapshot), lab.toy(SHORT.toy, SHORT.seed)
    probe = FirstOrder()
    observe(model, data.test, probe, mask=snapshot.mask)
    assert snapshot.entropy == pytest.approx(probe.entropy().by_layer, abs=1e-12)
    for name, score in snapshot.scores.items():
        expected = evaluate(model, getattr(data, name))
        assert score.loss == pytest.approx(expected.loss, rel=1e-4)
        assert score.error == pytest.approx(expected.error, abs=2e-3)
    row, column = 10, 60
    step = 2 * lab.REACH / (lab.CELLS - 1)
    point = torch.tensor([[column * step - lab.REACH, row * step - lab.REACH]])
    expected = model(point).softmax(1)[0, 1]
    assert float(snapshot.regions[row, column]) == pytest.approx(expected.item(), abs=1e-4)


def test_a_dead_neuron_has_no_weights_on_one_side(recording: Recording) -> None:
    first, last = recording.snapshots[0], recording.snapshots[-1]
    assert all(bool(live.all()) for live in first.live.values())
    model = network(last)
    fc1, fc2, fc3 = model.fc1.weight, model.fc2.weight, model.fc3.weight
    for i in range(lab.WIDTH):
        assert bool(last.live["relu1"][i]) == bool(fc1[i].any() and fc2[:, i].any())
        assert bool(last.live["relu2"][i]) == bool(fc2[i].any() and fc3[:, i].any())


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("toy", "swiss roll", "toy must be one of moons, rings, spirals; got 'swiss roll'."),
        ("patience", -1, "patience must be a whole number of at least 0; got -1."),
        ("shrinkage", 1.0, "shrinkage must lie in [0, 1); got 1.0."),
        ("tolerance", float("nan"), "tolerance must lie in [0, inf); got nan."),
    ],
)
def test_senseless_settings_are_refused(field: str, value: object, sentence: str) -> None:
    with pytest.raises(PsplibError) as refused:
        replace(SHORT, **{field: value})
    assert str(refused.value) == sentence


def endless(made: list[Snapshot]) -> "Iterator[Snapshot]":
    """Snapshots for as long as somebody takes them; `made` keeps them."""
    snapshot = next(lab.simulate(SHORT))
    while True:
        made.append(snapshot)
        yield snapshot
        time.sleep(0.001)


def wait(what: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_stop_stops_and_a_second_start_is_refused_until_then() -> None:
    made: list[Snapshot] = []
    starts: list[Setting] = []

    def source(setting: Setting) -> Iterator[Snapshot]:
        starts.append(setting)
        return endless(made)

    panel = Laboratory(source)
    before = threading.active_count()
    assert not panel.is_running
    panel.run_button.click()
    wait(lambda: panel.picture.value)
    assert panel.is_running
    assert panel.run_button.disabled
    assert panel.shrinkage.disabled
    assert not panel.stop_button.disabled
    assert not panel.start()
    assert "stop it first" in panel.note.value
    assert threading.active_count() == before + 1
    assert len(starts) == 1

    panel.stop_button.click()
    panel.join(60)
    assert not panel.is_running
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count
    assert "Stopped. Epoch 0" in panel.note.value
    assert not panel.run_button.disabled
    assert panel.stop_button.disabled

    assert panel.start()
    panel.stop()
    panel.join(60)
    assert len(starts) == 2


def test_the_panel_runs_what_the_knobs_say_to_its_end() -> None:
    asked: list[Setting] = []

    def source(setting: Setting) -> Iterator[Snapshot]:
        asked.append(setting)
        return itertools.islice(lab.simulate(setting), 4)

    panel = Laboratory(source)
    panel.toy.value, panel.tolerance.value = "rings", 0.3
    panel.shrinkage.value, panel.patience.value, panel.seed.value = 1e-2, 7, 3
    assert panel.start()
    panel.join(60)
    assert asked == [Setting("rings", shrinkage=1e-2, tolerance=0.3, patience=7, seed=3)]
    assert "Epoch 3: 0.0 % pruned" in panel.note.value
    assert "Stopped" not in panel.note.value
    assert panel.progress.value == 3
    assert panel.picture.value.count("<img alt=") == 4


def test_an_error_in_the_thread_is_shown_in_the_panel() -> None:
    def source(setting: Setting) -> Iterator[Snapshot]:
        yield next(lab.simulate(SHORT))
        raise PsplibError("The training <diverged>.")

    panel = Laboratory(source)
    panel.start()
    panel.join(60)
    assert "PsplibError: The training &lt;diverged&gt;." in panel.note.value
    assert not panel.run_button.disabled


@pytest.mark.slow
def test_a_run_is_stopped_between_two_epochs() -> None:
    panel = Laboratory(lambda setting: lab.simulate(replace(setting, epochs=100_000)))
    panel.start()
    wait(lambda: panel.progress.value > 0)
    panel.stop()
    panel.join(60)
    assert not panel.is_running
    assert 0 < panel.progress.value < 100_000


@pytest.mark.slow
def test_a_front_end_sees_the_pictures_uses_the_kernel_and_stops_the_run() -> None:
    """What a browser does: the messages of a kernel whose thread is at work."""
    manager, client = start_new_kernel(
        kernel_name="python3", env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    try:
        setup = """
            from dataclasses import replace
            from psplib.book import lab, lab_panel
            panel = lab_panel.Laboratory(lambda s: lab.simulate(replace(s, epochs=100_000)))
            panel.start()
            [w.model_id for w in (panel.stop_button, panel.picture, panel.note)]
        """
        reply = client.execute_interactive(
            textwrap.dedent(setup), output_hook=lambda _: None, timeout=300,
            user_expressions={"ids": "' '.join(_)", "live": "lab_panel.is_live()"},
        )  # fmt: skip
        answers = reply["content"]["user_expressions"]
        assert answers["live"]["data"]["text/plain"] == "True"
        # papermill and nbconvert forbid questions, which nobody would answer.
        reply = client.execute_interactive(
            "pass", allow_stdin=False, user_expressions={"live": "lab_panel.is_live()"}
        )
        live = reply["content"]["user_expressions"]["live"]
        assert live["data"]["text/plain"] == "False"
        stop, picture, note = answers["ids"]["data"]["text/plain"].strip("'").split()

        def heard(widget: str, words: str) -> None:
            while True:
                content = client.get_iopub_msg(timeout=120)["content"]
                state = content.get("data", {}).get("state", {})
                if content.get("comm_id") == widget and words in state.get("value", ""):
                    return

        heard(picture, "<img alt=")
        answer = client.execute_interactive("assert panel.is_running", timeout=120)
        assert answer["content"]["status"] == "ok"
        click = {"method": "custom", "content": {"event": "click"}}
        message = client.session.msg("comm_msg", {"comm_id": stop, "data": click})
        client.shell_channel.send(message)
        heard(note, "Stopped. Epoch ")
        answer = client.execute_interactive("panel.join(60); assert not panel.is_running")
        assert answer["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.thorough
@pytest.mark.parametrize("tool", ["nbconvert", "papermill"])
def test_where_nobody_turns_the_knobs_the_chapter_shows_how_a_recorded_run_ended(
    tool: str, tmp_path: Path
) -> None:
    """The chapter as far as its panel, with short runs."""
    notebook = nbformat.read(ROOT / "book" / "lab.ipynb", as_version=4)
    (last,) = (i for i, cell in enumerate(notebook.cells) if "show_panel(" in cell.source)
    notebook.cells = notebook.cells[: last + 1]
    for cell in notebook.cells:
        cell.source = cell.source.replace("epochs=100", "epochs=3")
    nbformat.write(notebook, tmp_path / "lab.ipynb")
    words = {
        "nbconvert": ["nbconvert", "lab.ipynb", "--to", "notebook", "--execute", "--output", "out"],
        "papermill": ["papermill", "lab.ipynb", "out.ipynb"],
    }[tool]
    command = [sys.executable, "-m", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (shown,) = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[last].outputs
    assert shown.data["text/html"] == lab_panel.page_of(lab_panel.record_run(Setting(epochs=3)))


def test_a_frame_has_the_numbers_of_its_snapshot_in_words(recording: Recording) -> None:
    short = recording.upto(3)
    page, last = lab_panel.page_of(short), short.snapshots[-1]
    assert page.count("<img alt=") == page.count("data:image/png;base64,") == 4
    assert f"{100 * last.scores['test'].error:.1f} % of the test set" in page
    assert f"{last.mask.kept} of 1218 parameters" in page
    assert f"validation loss {last.scores['validation'].loss:.3f}" in page
    for number, bits in enumerate(last.entropy.values(), start=1):
        assert f"{bits:.2f} bits in layer {number}" in page
    assert len(page) < 119_000


def test_a_network_that_died_is_still_drawn() -> None:
    """All weights but the largest are gone at the second pruning."""
    setting = Setting(shrinkage=0.5, tolerance=1.0, patience=0, epochs=4)
    last = lab_panel.record_run(setting)
    assert last.snapshots[-1].mask.sparsity > 0.9
    assert lab_panel.page_of(last).count("<img") == 4


def test_without_a_kernel_there_is_no_live_panel_but_the_end_of_a_run(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not lab_panel.is_live()
    shown: list[Any] = []
    monkeypatch.setattr(lab_panel, "display", shown.append)
    lab_panel.show_panel(recording.upto(2))
    assert shown[0].data == lab_panel.page_of(recording.upto(2))
