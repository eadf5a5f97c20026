"""Networks that are not ours, as a table: right or refused. `python tests/matrix.py`.

Each entry is a test against plain PyTorch, to 1e-6 (Hessians of networks of which PyTorch gives no
second derivative: to 1e-5, against differences of gradients); a failure is shown as WRONG. `in a
form`: by the engines of our own runs, which train a copy, rewritten where that is the same.
"""

import re
from pathlib import Path

import pytest
from networks import NETWORKS, NOT, REFUSED

HERE = Path(__file__).parent
LOOKED_AT, OWN = "analysis/test_any_network.py", "pruning/test_own.py"
ENGINES = "training/test_own_networks.py"
# By column: the test of what is right, and in which file.
COLUMNS = {
    "observed": (LOOKED_AT, "test_every_network_is_observed"),
    "Hessian": (LOOKED_AT, "test_every_network_has_its_own_hessian"),
    "on a map": (LOOKED_AT, "test_a_map_is_of_the_network_itself"),
    "retrained": (OWN, "test_training_under_a_mask_is_that_of_pytorch"),
    "pruned": (OWN, "test_lobster_is_its_equation_at_any_network"),
    "in a form": (ENGINES, "test_an_engine_trains_the_network_itself"),
}
REFUSALS = "test_what_has_no_right_value_is_refused"


class Outcomes:
    """Collects what became of every test: (file, test, network) -> passed."""

    def __init__(self) -> None:
        self.passed: dict[tuple[str, str, str], bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = re.search(r"(\w+/\w+\.py)::(\w+)\[(.+)\]$", report.nodeid)
        if found and report.when == "call":
            self.passed[found[1], found[2], found[3]] = report.passed

    def word(self, column: str, name: str) -> str:
        """What a network is in a column."""
        file, test = COLUMNS[column]
        refused = name in REFUSED or column in NOT.get(name, {})
        test = REFUSALS if name in REFUSED else test
        known = [
            ok
            for (f, t, n), ok in self.passed.items()
            if (f, n) == (file, name) and t.startswith(test)
        ]
        return "WRONG" if known != [True] else "refused" if refused else "right"


def main() -> None:
    outcomes = Outcomes()
    chosen = " or ".join([*(test for _, test in COLUMNS.values()), REFUSALS])
    files = [str(HERE / file) for file in (LOOKED_AT, OWN, ENGINES)]
    pytest.main(["-n0", "-q", "--no-header", "-k", chosen, *files], plugins=[outcomes])
    words = {n: [outcomes.word(c, n) for c in COLUMNS] for n in (*NETWORKS, *REFUSED)}
    rows = {"": list(COLUMNS)} | words
    for kind in ("right", "refused", "WRONG"):
        counts = [sum(row[i] == kind for row in words.values()) for i in range(len(COLUMNS))]
        rows[f"{kind}, of {len(words)}"] = list(map(str, counts))
    for name, row in rows.items():
        print(f"{name:34}" + "".join(f"{word:12}" for word in row))


if __name__ == "__main__":
    main()
