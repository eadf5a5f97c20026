"""Made-up results: tables under which everything that the paper says is true, or just not."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from psplib.experiments import designs, scales
from psplib.paper import choices, figure_4
from psplib.paper.figure_1 import COLUMNS, Figure1
from psplib.paper.minima import Censuses, Figures2to4

ARMS = ("dense", "rewound", "reinitialised")
LAYERS = {"relu1": 1.0, "relu2": 0.5, "relu3": 0.25}
# What the paper says: G is lower in loss, error and z², narrower, as high in first order, higher in
# second order.
PAPER = {
    "train_loss": (0.02, 0.04),
    "test_error": (0.009, 0.011),
    "z2": (0.5, 0.7),
    "z2_with_logits": (0.6, 0.8),
    "best_epoch": (10.0, 20.0),
    "lambda_1": (30.0, 10.0),
    "lambda_5": (8.0, 3.0),
    "lambda_1_all": (300.0, 100.0),
    "narrow": (30.0, 10.0),
    "narrow_all": (300.0, 100.0),
    "narrow_global": (480.0, 250.0),
    "narrow_relative": (0.4, 0.3),
    "fifth": (8.0, 3.0),
    "fifth_residual": (0.01, 0.01),
    "smallest": (-0.5, -0.4),
    "smallest_residual": (0.01, 0.01),
    "norm": (4.0, 5.0),
    "first": (1.0, 1.0),
    "first_pooled": (0.2, 0.2),
    "joint": (2.0, 1.9),
    "mutual": (0.05, 0.04),
    "agreement": (5.2, 5.0),
    "information": (0.1, 0.12),
    "selectivity": (0.3, 0.4),
}


def panel(
    error: Callable[[str, float, int], float],
    arms: tuple[str, ...],
    name: str = "figure_1a",
    densities: tuple[float, ...] = (1.0, 0.4, 0.04, 0.01),
) -> Figure1:
    """A panel whose test errors are `error(arm, density, replica)`, 6 replicas, 4 densities."""
    rows: list[dict[str, object]] = []
    for point, density in enumerate(densities):
        shared = {"lobster_seed": 0, "point": point, "sparsity": 1 - density}
        rows.append({"arm": "lobster", "test_error": error("lobster", density, 0)} | shared)
        for arm in arms:
            if (arm == "dense") == (point == 0):
                rows += [
                    {"arm": arm, "replica": r, "test_error": error(arm, density, r)} | shared
                    for r in range(6)
                ]
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    return Figure1(scales.PANELS[name]("paper", 0), table, (), ())


def noise(replica: int) -> float:
    return 1e-5 * (-1) ** replica


def papers_world(arm: str, density: float, replica: int) -> float:
    """Test errors under which everything that the paper says is true."""
    if arm in ("lobster", "dense"):
        return 0.018 + noise(replica)
    slightly_worse = 2e-4 if arm == "reinitialised" else 0
    return 0.018 + (0.01 if density < 0.05 else 0) + slightly_worse + noise(replica // 2)


def noise_factor(replica: int) -> float:
    return 1 + 1e-3 * (-1) ** replica


def world(runs: int = 2, replicas: int = 6, **values: tuple[float, float]) -> Figures2to4:
    """Figs. 2 to 4 where a quantity is (G, one-shot but for a permille)."""
    values = PAPER | values
    rows, neurons = [], []
    for seed in range(runs):
        for arm, replica in [("lobster", -1), *(("rewound", r) for r in range(replicas))]:
            which, factor = (0, 1.0) if arm == "lobster" else (1, noise_factor(replica))
            row = {"lobster_seed": seed, "arm": arm, "replica": replica}
            rows.append(
                row | {k: v[which] * factor for k, v in values.items()} | {"residual": 1e-4}
            )
            neurons += [
                row
                | {"layer": layer, "class": c, "z2": scale * values["z2"][which] * factor}
                | {o: scale * values[o][which] * factor / 10 for o in figure_4.ORDERS}
                for layer, scale in LAYERS.items()
                for c in range(10)
            ]
    panel = scales.minima("paper")
    return Figures2to4(
        panel,
        pd.DataFrame(rows),
        pd.DataFrame(neurons),
        {choices.map_of("surviving", pairs)(panel): bowl() for pairs in (False, True)},
        {
            choices.line_of("surviving")(panel): line(),
            choices.line_of("all")(panel): line(10),
            choices.line_of("surviving", "legacy")(panel): line(0.9),
        },
        (),
        (),
    )


Runs = list[tuple[float, list[float]]]


def censuses(panel: designs.Design | None = None, **quantities: Runs) -> Censuses:
    """A network whose gradual runs have these quantities: (G, its replicas) for each run."""
    rows: dict[tuple[int, int], dict[str, object]] = {}
    for name, runs in quantities.items():
        for seed, (gradual, replicas) in enumerate(runs):
            for replica, value in enumerate([gradual, *replicas], -1):
                arm = "rewound" if replica >= 0 else "lobster"
                row = {"lobster_seed": seed, "arm": arm, "replica": replica}
                rows.setdefault((seed, replica), row)[name] = value
    return Censuses(panel or scales.minima("paper"), pd.DataFrame(rows.values()), pd.DataFrame())


def bowl() -> pd.DataFrame:
    """A map whose loss rises from G, and whose other quantities are lower than at G only where the
    loss is higher than at 1-S; layer by layer they fall with alpha."""
    at = [(a / 4, b / 4) for b in range(-4, 5) for a in range(-2, 7)]
    alpha, beta = np.array(at).T
    away = alpha**2 + beta**2
    quantities = {"alpha": alpha, "beta": beta, "loss": 0.02 + away, "error": 0.1}
    for name in ("magnitude", "first_order", "agreement", "joint", "mutual"):
        quantities |= {name: 2 + np.abs(alpha) * (1.05 - away)} | {
            f"{name}.{layer}": s - alpha for layer, s in LAYERS.items()
        }
    return pd.DataFrame(quantities)


def line(scale: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame(
        {"alpha": a, "rank": k, "eigenvalue": scale * (6 - k) * (2 - a), "residual": 1e-3 * scale}
        | {"products": 20, "converged": True}
        for a in (0.0, 0.5, 1.0)
        for k in range(1, 6)
    )
