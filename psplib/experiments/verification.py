"""Whether the tables of a run belong to its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psplib.core.errors import PsplibError
from psplib.experiments import minima
from psplib.nn.masks import unpack_bits
from psplib.pruning.lobster import Lobster
from psplib.runs.store import Artefact, Store


def check_belongs(artefact: Artefact, store: Store) -> None:
    """Raise `PsplibError` unless the tables of a run say what its configuration asked for."""

    def insist(truth: bool, what: str) -> None:
        if not truth:
            raise PsplibError(f"{artefact.folder}: {what} does not belong to its configuration.")

    try:
        _check_run(artefact, store, insist)
    except (LookupError, OSError, TypeError, ValueError) as error:
        # A table or a column that is not there, or of another kind.
        insist(False, f"what it holds ({type(error).__name__}: {error})")


def _check_run(artefact: Artefact, store: Store, insist: Callable[[bool, str], None]) -> None:
    config = artefact.config
    kind = config.get("type", "").lower()
    insist(kind == artefact.folder.parent.name, "the folder")
    if kind in ("census", "map", "curvature", "profile"):
        _check_analysis(artefact, insist)
        return
    if kind == "magnitude":
        _check_magnitude(artefact, store, insist)
        return
    if kind == "sensitivity":
        points = artefact.table("points")
        insist(bool((points["sparsity"].diff().dropna() > 0).all()), "the table of points")
        insist(bool(points[["small", "factor"]].stack().between(0, 1).all()), "the table of points")
        return
    if kind == "lobster":
        points = artefact.table("points")
        survived = artefact.tensors("masks")["survived"]
        kept = [int((survived > k).sum()) for k in range(int(survived.max()))]
        insist(points["kept"].tolist() == kept, "the table of points")
        last = points.iloc[-1]
        ended = last["sparsity"] >= config["target_sparsity"]
        insist(ended or last["epoch"] == config["max_epochs"], "the table of points")
        return
    replicas = artefact.table("replicas")
    insist(replicas["replica"].tolist() == config["replicas"], "the table of replicas")
    insist(bool(replicas["best_epoch"].between(1, config["epochs"]).all()), "the best epoch")
    best = artefact.tensors("best")
    survivors = len(best["weights"])
    insist(bool((replicas["kept"] == survivors).all()), "the number of survivors")
    bits = unpack_bits(best["packed"], 8 * len(best["packed"]))
    insist(int(bits.sum()) == survivors, "the best replica's mask")
    gradual = _lobster(config)
    if config["point"] and store.has(gradual):
        points = store.load(gradual).table("points").set_index("point")
        insist(points["kept"].get(config["point"]) == survivors, "the number of survivors")


def _lobster(config: dict[str, Any]) -> Lobster:
    return Lobster(**{k: v for k, v in config["lobster"].items() if k != "type"})


def _check_magnitude(artefact: Artefact, store: Store, insist: Callable[[bool, str], None]) -> None:
    config, replicas = artefact.config, artefact.table("replicas")
    rounds = [[r, p] for r in config["replicas"] for p in (0, *config["points"])]
    insist(replicas[["replica", "point"]].to_numpy().tolist() == rounds, "the table of replicas")
    insist(bool(replicas["best_epoch"].between(1, config["epochs"]).all()), "the best epoch")
    layers = artefact.table("layers").groupby(["replica", "point"])[["kept", "lobster"]].sum()
    kept = replicas[replicas["point"] > 0].set_index(["replica", "point"])["kept"]
    for column in ("kept", "lobster"):
        insist(layers[column].to_dict() == kept.to_dict(), "the table of layers")
    if store.has(gradual := _lobster(config)):
        points = store.load(gradual).table("points").set_index("point")["kept"]
        asked = replicas["point"].map(points)
        insist(bool((asked == replicas["kept"]).all()), "the number of survivors")


def _check_analysis(artefact: Artefact, insist: Callable[[bool, str], None]) -> None:
    config = artefact.config
    if config["type"] == "Census":
        found = artefact.table("networks")["replica"].tolist()
        insist(found == [-1, *config["retraining"]["replicas"]], "the table of networks")
        return
    if config["type"] == "Profile":
        _check_profile(artefact, insist)
        return
    points = artefact.table("points")
    steps, margin = config["steps"], config["margin"]
    alphas = [k / steps for k in range(-margin, steps + margin + 1)]
    rows = minima.LEADING if config["type"] == "Curvature" else len(points) // len(alphas)
    insist(len(points) == len(alphas) * rows, "the table of points")
    insist(sorted(points["alpha"]) == sorted(alphas * rows), "the table of points")


def _check_profile(artefact: Artefact, insist: Callable[[bool, str], None]) -> None:
    neurons, classes = artefact.table("neurons"), artefact.table("classes")
    retraining = artefact.config["retraining"]
    networks = set(zip(neurons["arm"], neurons["replica"], strict=True))
    allowed = {("lobster", -1), *((retraining["arm"], r) for r in retraining["replicas"])}
    insist(networks <= allowed and len(networks) <= 2, "the table of neurons")
    insist(set(neurons["layer"]) <= set(artefact.table("layers")["layer"]), "the table of layers")
    insist(classes["samples"].sum() <= artefact.config["samples"], "the table of classes")
    active = neurons[[f"active_{c}" for c in classes["class"]]].to_numpy()
    insist(bool((active <= classes["samples"].to_numpy()).all()), "the table of neurons")
