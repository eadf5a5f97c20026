"""Networks that are not ours, as a table: right or refused. `python tests/matrix.py`.

Each entry is a test against plain PyTorch; a failure is shown as WRONG. `in a form`: by the engines
of our own runs, which train a copy, rewritten where that is the same; - is not tested.
"""

import re
from pathlib import Path

import pytest
from networks import NETWORKS, REFUSED

HERE = Path(__file__).parent
COLUMNS = {
    "looked at": ("analysis/test_any_network.py", "test_every_network_has_its_own_values"),
    "retrained": ("pruning/test_own.py", "test_training_under_a_mask_is_that_of_pytorch"),
    "pruned": ("pruning/test_own.py", "test_lobster_is_its_equation_at_any_network"),
    "in a form": ("training/test_own_networks.py", "test_an_engine_trains_the_network_itself"),
    "refusals": ("", "test_what_has_no_right_value_is_refused"),
}


class Outcomes:
    """Collects what became of every test: (test, network) -> passed."""

    def __init__(self) -> None:
        self.passed: dict[tuple[str, str], bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = re.search(r"::(\w+)\[(.+)\]$", report.nodeid)
        if found and report.when == "call":
            key = (found[1], found[2])
            self.passed[key] = report.passed and self.passed.get(key, True)


def main() -> None:
    files = sorted({str(HERE / file) for file, _ in COLUMNS.values() if file})
    outcomes = Outcomes()
    chosen = " or ".join(test for _, test in COLUMNS.values())
    pytest.main(["-n0", "-q", "--no-header", "-k", chosen, *files], plugins=[outcomes])

    from pruning.test_own import NOT_TRAINABLE
    from training.test_own_networks import FAILS
    from training.test_own_networks import REFUSED as NOT_COPIED

    refused = {
        "retrained": set(NOT_TRAINABLE),
        "pruned": set(NOT_TRAINABLE),
        "in a form": set(NOT_COPIED),
    }
    columns = [c for c in COLUMNS if c != "refusals"]
    counts = dict.fromkeys(columns, 0)
    print(f"\n{'':34}" + "".join(f"{c:12}" for c in columns))
    for name in NETWORKS:
        row = []
        for column in columns:
            known = [
                ok
                for (t, n), ok in outcomes.passed.items()
                if n == name and t.startswith(COLUMNS[column][1])
            ]
            is_refused = name in refused.get(column, ())
            if column == "in a form" and name in FAILS:
                row.append("-")
                continue
            word = "refused" if is_refused else "right"
            row.append(word if all(known) and (known or is_refused) else "WRONG")
            counts[column] += row[-1] == "right"
        print(f"{name:34}" + "".join(f"{word:12}" for word in row))
    for name in REFUSED:
        known = [
            ok
            for (t, n), ok in outcomes.passed.items()
            if n == name and t.startswith(COLUMNS["refusals"][1])
        ]
        word = "refused" if known and all(known) else "WRONG"
        print(f"{name:34}" + f"{word:12}" * 3 + "-")
    print(
        f"{'right, of ' + str(len(NETWORKS) + len(REFUSED)):34}"
        + "".join(f"{counts[c]:<12}" for c in columns)
    )


if __name__ == "__main__":
    main()
