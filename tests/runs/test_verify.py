"""What `verify` proves of a run, on published ones; `test_fuzz` does the same at random."""

import dataclasses
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from click.testing import Result
from problems import make_one

from psplib.core.artefact import open_artefact
from psplib.core.config import canonical, key, read
from psplib.core.errors import PsplibError
from psplib.core.files import sha256
from psplib.experiments import scales
from psplib.experiments.kinds import KINDS
from psplib.nn.data import DIGESTS, load_data
from psplib.runs.run import check_run
from psplib.runs.store import Store
from psplib.training.fit import Checkpoint

RESULTS = Store(Path(__file__).parents[2] / "results")
Change = Callable[[Path], Path | None]
DIGITS = {"name": "digits", "variant": "scikit-learn", "sha256": DIGESTS["digits"]["scikit-learn"]}


def smallest(kind: str) -> Path:
    """The smallest published run of a kind."""
    runs = [f for f in RESULTS.all() if f.parent.name == kind]
    return min(runs, key=lambda folder: sum(p.stat().st_size for p in folder.iterdir()))


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "provenance.json").read_bytes())


def seal(folder: Path, **changes: Any) -> None:
    """Make the digests anew."""
    digests = {p.name: sha256(p) for p in folder.iterdir() if p.suffix != ".json"}
    text = json.dumps(facts(folder) | {"files": digests} | changes)
    (folder / "provenance.json").write_text(text)


def configured(**changes: Any) -> Change:
    def change(folder: Path) -> Path:
        config = json.loads((folder / "config.json").read_bytes()) | changes
        text = json.dumps(config, sort_keys=True, indent=1) + "\n"
        (folder / "config.json").write_text(text)
        return folder.rename(folder.with_name(hashlib.sha256(text.encode()).hexdigest()[:16]))

    return change


def said(**changes: Any) -> Change:
    return lambda folder: seal(folder, **changes)


def tabled(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    def edit(folder: Path) -> None:
        path = folder / f"{name}.csv"
        change(pd.read_csv(path)).to_csv(path, index=False)
        seal(folder)

    return edit


def tensored(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def edit(folder: Path) -> None:
        path = folder / f"{name}.safetensors"
        tensors = {n: change(t) for n, t in safetensors.torch.load_file(path).items()}
        safetensors.torch.save_file(tensors, path)
        seal(folder)

    return edit


def forged(folder: Path) -> None:
    """A run of the paper's scale without an error, of made-up data, that nobody has trained."""
    for name in ("history", "replicas"):
        path = folder / f"{name}.csv"
        table = pd.read_csv(path)
        errors = [c for c in table if c.endswith("error")]
        table.assign(**dict.fromkeys(errors, 0.0)).head(0 if name == "history" else None).to_csv(
            path, index=False
        )
    data = {"name": "mnist", "variant": "standard", "sha256": "ab" * 32}
    seal(folder, data=data)


def without_a_field(folder: Path) -> None:
    now = facts(folder)
    now.pop("torch")
    (folder / "provenance.json").write_text(json.dumps(now))


def folder_for_file(folder: Path) -> None:
    (folder / "replicas.csv").unlink()
    (folder / "replicas.csv").mkdir()
    files = facts(folder)["files"] | {"replicas.csv": None}
    (folder / "provenance.json").write_text(json.dumps(facts(folder) | {"files": files}))


def nested(folder: Path) -> None:
    (folder / "provenance.json").write_text("[" * 10**6)


WRONG: dict[str, tuple[str, Change, str]] = {
    "a forgery": ("retraining", forged, "the data set does not belong"),
    "its empty history": (
        "retraining",
        tabled("history", lambda t: t.head(0)),
        "history.csv, of 0 rows, does not belong",
    ),
    "a fact is missing": ("lobster", without_a_field, "provenance.json has no ['torch']"),
    "a fact of another type": ("lobster", said(threads="1"), "threads must be of the type int"),
    "a null digest": ("lobster", said(files={"points.csv": None}), "files must be of the type str"),
    "a list of digests": ("lobster", said(files=["points.csv"]), "files must be of the type dict"),
    "a foreign fact": ("lobster", said(note=""), "provenance.json has unknown ['note']"),
    "data of another digest": (
        "lobster",
        said(data={"name": "mnist", "variant": "standard", "sha256": "0" * 64}),
        "the data set does not belong",
    ),
    "the data of another configuration": (
        "lobster",
        said(data=DIGITS),
        "the data set does not belong",
    ),
    "a column is missing": (
        "magnitude",
        tabled("layers", lambda t: t.drop(columns="shared")),
        "layers.csv, without shared, does not belong",
    ),
    "a foreign column": (
        "curvature",
        tabled("points", lambda t: t.assign(note=0)),
        "'note' in points.csv does not belong",
    ),
    "a column of another type": (
        "census",
        tabled("networks", lambda t: t.assign(norm="high")),
        "column norm of networks.csv does not belong",
    ),
    "a share beyond 1": (
        "sensitivity",
        tabled("points", lambda t: t.assign(factor=t["factor"] + 1)),
        "column factor of points.csv does not belong",
    ),
    "a row is missing": (
        "profile",
        tabled("neurons", lambda t: pd.concat([t, t.head(1)])),
        "the table of neurons does not belong",
    ),
    "a best epoch that its history does not have": (
        "retraining",
        tabled("replicas", lambda t: t.assign(best_epoch=t["best_epoch"] % 2 + 1)),
        "the best epoch does not belong",
    ),
    "masks of 2**40": (
        "lobster",
        tensored("masks", lambda t: t.long() + 2**40),
        "survived of masks.safetensors, I64 of shape",
    ),
    "weights of another shape": (
        "retraining",
        tensored("best", lambda t: t[:-1]),
        "of best.safetensors, ",
    ),
    "weights that are no numbers": (
        "retraining",
        tensored("best", lambda t: t * float("nan") if t.is_floating_point() else t),
        "weights of best.safetensors does not belong",
    ),
    "a field of another type": ("map", configured(margin="12"), "margin must be of the type int"),
    "a number for a yes": ("map", configured(pairs=1), "pairs must be of the type bool"),
    "a foreign field": ("map", configured(note=1), "has unknown ['note']"),
    "a margin of 10**9": ("map", configured(margin=10**9), " rows, does not belong"),
    "10**9 points of a line": ("curvature", configured(margin=10**9), " rows, does not belong"),
    "10**9 epochs": ("retraining", configured(epochs=10**9), " rows, does not belong"),
    "an unknown kind": ("map", configured(type="object"), "the kind of a run must be one of"),
    "a folder for a file": ("retraining", folder_for_file, "replicas.csv is not a file"),
    "deep nesting": ("retraining", nested, "RecursionError"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_with_its_digests_made_anew_it_is_refused_in_one_sentence_at_once(
    what: str, tmp_path: Path
) -> None:
    kind, change, sentence = WRONG[what]
    source = smallest(kind)
    folder = tmp_path / kind / source.name
    shutil.copytree(source, folder)
    check_run(open_artefact(folder), KINDS, RESULTS)
    folder = change(folder) or folder
    start = time.process_time()
    with pytest.raises(PsplibError) as caught:
        check_run(open_artefact(folder), KINDS, RESULTS)
    assert time.process_time() - start < 2
    assert sentence in str(caught.value)
    assert str(folder) in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_run_kind_says_what_its_files_hold(kind: type) -> None:
    """And published runs of it, if there are any, have them: `test_fuzz` damages one of each."""
    assert isinstance(kind.writes, property)
    for folder in RESULTS.all():
        if folder.parent.name == getattr(kind, "kind", kind.__name__).lower():
            artefact = open_artefact(folder)
            declared = read(artefact.config, KINDS).writes
            names = {f"{name}{part.suffix}" for name, part in declared.items() if part.is_needed}
            assert names <= {*artefact.names}


def test_configurations_of_all_scales_are_read_back_as_they_were_written() -> None:
    for name in scales.EXPERIMENTS:
        for scale in scales.SCALES:
            panel = scales.experiment(name, scale)
            for config in getattr(panel, "lobsters", ()):
                again = read(json.loads(canonical(config)), KINDS)
                assert again == config
                assert key(again) == key(config)


def test_digits_are_pinned_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_data("digits").digest == DIGESTS["digits"]["scikit-learn"]
    monkeypatch.setitem(DIGESTS, "digits", {"scikit-learn": "0" * 64})
    with pytest.raises(PsplibError, match=r"scikit-learn's digits differ .* \(SHA-256\)"):
        load_data("digits")


def test_published_runs_name_the_known_digests_of_their_data() -> None:
    named = [facts(folder)["data"] for folder in RESULTS.all()]
    assert {data["name"] for data in named} == {"mnist", "fashion-mnist", "cifar10"}
    for data in named:
        assert DIGESTS[data["name"]][data["variant"]] == data["sha256"]


def test_no_published_run_names_a_folder_of_the_machine_that_made_it() -> None:
    folder = re.compile(rb"(?<![\w.])(?:/(?:home|root|tmp|work|mnt|var|Users)/|[A-Za-z]:\\\\)")
    assert folder.search(b'"/home/me/runs"')
    assert folder.search(json.dumps("C:\\runs").encode())
    for run in RESULTS.all():
        for path in run.iterdir():
            with path.open("rb") as file:
                # Of tensors the header, whose length comes first: numbers may look like anything.
                is_tensors = path.suffix == ".safetensors"
                text = file.read(int.from_bytes(file.read(8), "little") if is_tensors else -1)
            assert not folder.search(text), path


def test_nothing_to_verify_is_no_success(psplib: Callable[..., Result], tmp_path: Path) -> None:
    for words in (("verify",), ("verify", "--local")):
        done = psplib(*words, runs=tmp_path / "runs", results=tmp_path / "results")
        assert done.exit_code == 2
        assert done.stderr.startswith("psplib: There is no run in ")
        assert done.stderr.count("\n") == 1


def test_the_help_says_what_is_not_proved(psplib: Callable[..., Result], tmp_path: Path) -> None:
    for command in ("verify", "publish"):
        said = " ".join(psplib(command, "--help", runs=tmp_path).stdout.split())
        assert "only a signature tells" in said


def test_a_checkpoint_is_of_its_configurations_and_whole(tmp_path: Path) -> None:
    """One digest over tensors, state and keys."""
    state = {"rows": [{"test_error": 0.0187}]}
    ours = Checkpoint(tmp_path, keys=("a",))
    ours.save({"weights": torch.arange(3.0)}, state)
    tensors, found = Checkpoint(tmp_path, keys=("a",)).load() or ({}, None)
    assert found == state
    assert tensors["weights"].tolist() == [0.0, 1.0, 2.0]
    refusal = r"checkpoint\.safetensors is damaged, or of another configuration .*; move it away"
    for keys in ((), ("b",), ("a", "b")):
        with pytest.raises(PsplibError, match=refusal):
            Checkpoint(tmp_path, keys=keys).load()
    path = tmp_path / "checkpoint.safetensors"
    whole = path.read_bytes()
    number = b"\0\0\x80?"
    for one, other in (
        (b"0.0187", b"0.0107"),
        (b"F32", b"I32"),
        (b"[3]", b"[1]"),
        (number, b"\1" + number[1:]),
    ):
        assert one in whole
        path.write_bytes(whole.replace(one, other, 1))
        with pytest.raises(
            PsplibError, match=r"checkpoint\.safetensors is damaged.*; move it away"
        ):
            Checkpoint(tmp_path, keys=("a",)).load()


def test_a_run_does_not_go_on_from_the_checkpoint_of_another(store: Store) -> None:
    one = scales.experiment("figure_1a", "smoke").lobsters[0]
    two = dataclasses.replace(one, learning_rate=0.05)

    class Stop(Exception):
        pass

    def begin(checkpoint: Checkpoint) -> Any:
        checkpoint.save({"weights": torch.ones(3)}, {})
        raise Stop

    with pytest.raises(Stop):
        make_one(store, one, begin)
    store.work(one).rename(store.work(two))
    with pytest.raises(PsplibError, match="of another configuration"):
        make_one(store, two, lambda checkpoint: checkpoint.load())
    shutil.rmtree(store.work(two))  # as the sentence says
    with pytest.raises(Stop):
        make_one(store, two, begin)
