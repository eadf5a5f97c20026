"""Damage and malice, by a seeded generator: what runs, checkpoints, archives and data sets may not
be is refused in one sentence, at once; what is used is what was written. And kills: whatever was
going on, the same command goes on to the same bits and leaves nothing behind.

400 mutations and 30 kills; `PSPLIB_FUZZ=10` makes ten times as many.
"""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import struct
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from problems import make_one

from psplib.core.artefact import open_artefact
from psplib.core.config import key, read
from psplib.core.errors import PsplibError
from psplib.core.files import sha256
from psplib.experiments.kinds import KINDS
from psplib.nn import data as data_sets
from psplib.nn import models
from psplib.nn.data import Data
from psplib.nn.masks import Mask, pack_bits
from psplib.pruning.lobster import Lobster
from psplib.pruning.retraining import Retraining, retrain_replicas
from psplib.runs.archive import pack_runs, unpack_runs
from psplib.runs.run import check_run
from psplib.runs.store import Store
from psplib.training.fit import Checkpoint

pytestmark = pytest.mark.slow
TIMES = int(os.environ.get("PSPLIB_FUZZ", "1"))
RESULTS = Store(Path(__file__).parents[2] / "results")
SECONDS = 60  # what takes longer hangs; the machine may be busy
Rng = random.Random
Mutation = Callable[[Rng, Path], Any]


class Hang(BaseException):
    pass


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(use: Callable[[], bool]) -> str:
    """What became of a mutated thing; `use` uses it, and says whether it got what was written."""
    try:
        with in_time():
            return "harmless" if use() else "SILENTLY USED"
    except PsplibError as error:
        is_sentence = "\n" not in str(error) and len(str(error)) < 1000
        return "refused" if is_sentence else f"LONG MESSAGE {str(error)[:200]!r}"
    except Hang:
        return "HANG"
    except Exception as error:
        return f"TRACEBACK {type(error).__name__}: {str(error)[:200]}"


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fuzz(
    what: str, count: int, mutations: dict[str, Mutation], make: Callable[[], Path], use: Callable
) -> None:
    """Mutate what `make` makes, every mutation in turn; `use` it. Prints the counts by mutation."""
    found: dict[str, Counter[str]] = {name: Counter() for name in mutations}
    for number in range(TIMES * count):
        name = list(mutations)[number % len(mutations)]
        path = make()
        changed = mutations[name](Rng(f"{what} {name} {number}"), path)
        path = changed if isinstance(changed, Path) else path
        found[name][outcome(lambda path=path: use(path))] += 1
    for name, counts in found.items():
        print(f"{what}: {name}: {dict(counts)}")
    bad = {n: c for n, c in found.items() if any(word.split()[0].isupper() for word in c)}
    assert not bad, bad


# Bytes


def flip(rng: Rng, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def flip_early(rng: Rng, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(min(400, len(content)))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(rng: Rng, path: Path) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def splice(rng: Rng, path: Path) -> None:
    """A piece is moved to elsewhere."""
    content = path.read_bytes()
    a, b, c = sorted(rng.randrange(len(content)) for _ in range(3))
    path.write_bytes(content[:a] + content[b:c] + content[a:b] + content[c:] + b"\1")


def garbage(rng: Rng, path: Path) -> None:
    path.write_bytes(rng.randbytes(rng.choice([0, 1, 7, 8, 9, 100, 5000])))


def as_folder(rng: Rng, path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(rng: Rng, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_link(rng: Rng, path: Path) -> None:
    path.unlink()
    path.symlink_to(rng.choice([path, Path("/dev/zero"), path.parent]))


def as_hole(rng: Rng, path: Path) -> None:
    """A file of a terabyte that takes no room."""
    os.truncate(path, 2**40)


def nested(rng: Rng, path: Path) -> None:
    path.write_text(rng.choice(["[", '{"a":']) * 100_000)


BYTES = {
    f.__name__: f
    for f in (flip, flip_early, cut, splice, garbage, as_folder, as_pipe, as_link, as_hole, nested)
}


# Runs


@functools.cache
def samples() -> list[Path]:
    """The smallest published run of every kind."""
    smallest: dict[str, Path] = {}
    for folder in RESULTS.all():
        size = sum(p.stat().st_size for p in folder.iterdir())
        best = smallest.get(folder.parent.name)
        if best is None or size < sum(p.stat().st_size for p in best.iterdir()):
            smallest[folder.parent.name] = folder
    return sorted(smallest.values())


def a_file(rng: Rng, folder: Path, suffix: str = "") -> Path:
    return rng.choice(sorted(p for p in folder.iterdir() if p.name.endswith(suffix)))


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "provenance.json").read_bytes())


def write_facts(folder: Path, facts: Any) -> None:
    (folder / "provenance.json").write_text(json.dumps(facts))


def seal(folder: Path) -> None:
    """Make the digests anew."""
    now = facts(folder)
    parts = (p for p in folder.iterdir() if p.suffix in (".csv", ".safetensors"))
    write_facts(folder, now | {"files": {p.name: sha256(p) for p in sorted(parts)}})


def rekey(folder: Path, config: Any) -> Path:
    """Another configuration, under its own key."""
    text = json.dumps(config, sort_keys=True, indent=1) + "\n"
    (folder / "config.json").write_text(text)
    return folder.rename(folder.with_name(hashlib.sha256(text.encode()).hexdigest()[:16]))


def stranger(rng: Rng, folder: Path) -> None:
    (folder / rng.choice(["other.csv", "a" * 250, ".hidden", "a\nb", "Ω.json", "x.pkl"])).touch()


def lost(rng: Rng, folder: Path) -> None:
    a_file(rng, folder).unlink()


def litter(rng: Rng, folder: Path) -> None:
    (folder / rng.choice([".DS_Store", "Thumbs.db", "desktop.ini"])).write_text("icons")


ODD = [None, [], {}, "", "x", 0.5, -1, True, [1], {"a": 1}, "a" * 10**6, 10**400, float("nan")]


def odd(rng: Rng, value: Any) -> Any:
    """A value of another type than this one, or far out of its bounds."""
    return rng.choice([o for o in ODD if type(o) is not type(value)])


def odd_fact(rng: Rng, folder: Path) -> None:
    now = facts(folder)
    name = rng.choice(sorted(now))
    write_facts(folder, now | {name: odd(rng, now[name])})


def lost_fact(rng: Rng, folder: Path) -> None:
    now = facts(folder)
    now.pop(rng.choice(sorted(now.keys() - {"repacked", "together"})))
    write_facts(folder, now)


def foreign_fact(rng: Rng, folder: Path) -> None:
    write_facts(folder, facts(folder) | {"note": rng.choice(ODD)})


def wrong_fact(rng: Rng, folder: Path) -> None:
    bad = {"commit": "main", "threads": 0, "seconds": -1.0, "finished": "yesterday", "together": 0}
    name = rng.choice(sorted(bad))
    write_facts(folder, facts(folder) | {name: bad[name]})


def made_up_data(rng: Rng, folder: Path) -> None:
    data = facts(folder)["data"]
    others = {
        "sha256": ["0" * 64, rng.randbytes(32).hex(), data["sha256"].upper()],
        "name": [n for n in data_sets.NAMES if n != data["name"]] + ["imagenet"],
        "variant": ["standard " * 2, "made up"],
    }
    name = rng.choice(sorted(others))
    write_facts(folder, facts(folder) | {"data": data | {name: rng.choice(others[name])}})


def another_data_set(rng: Rng, folder: Path) -> None:
    """Named right and whole, but not the one of the configuration."""
    used = facts(folder)["data"]["name"]
    name = rng.choice([n for n in data_sets.NAMES if n != used])
    variant, digest = rng.choice(sorted(data_sets.DIGESTS[name].items()))
    data = {"name": name, "variant": variant, "sha256": digest}
    write_facts(folder, facts(folder) | {"data": data})


def odd_digest(rng: Rng, folder: Path) -> None:
    now = facts(folder)
    name = rng.choice(sorted(now["files"]))
    if rng.random() < 0.5:
        (folder / name).unlink()
        rng.choice([Path.mkdir, os.mkfifo])(folder / name)
    digest = rng.choice([None, [], {}, "", 0, now["files"][name].upper(), ["0" * 64]])
    write_facts(folder, now | {"files": now["files"] | {name: digest}})


def odd_name(rng: Rng, folder: Path) -> None:
    now = facts(folder)
    odd = [
        "../../x.csv",
        "/etc/passwd",
        "",
        ".",
        "..",
        "config.json",
        "a/b.csv",
        "x.pkl",
        "a" * 300,
    ]
    now["files"][rng.choice(odd)] = "0" * 64
    write_facts(folder, now)


FACTS = {
    f.__name__: f
    for f in (
        odd_fact, lost_fact, foreign_fact, wrong_fact, made_up_data, another_data_set, odd_digest,
        odd_name,
    )
}  # fmt: skip


def fields(config: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every field of a configuration and of those in it."""
    own = [(config, name) for name in config]
    return own + [f for v in config.values() if isinstance(v, dict) for f in fields(v)]


def configured(change: Callable[[Rng, dict[str, Any]], None]) -> Mutation:
    @functools.wraps(change)
    def mutate(rng: Rng, folder: Path) -> Path:
        config = json.loads((folder / "config.json").read_bytes())
        change(rng, config)
        return rekey(folder, config)

    return mutate


@configured
def odd_field(rng: Rng, config: dict[str, Any]) -> None:
    owner, name = rng.choice(fields(config))
    others = [o for o in ODD if not (owner[name] is None and isinstance(o, int))]
    owner[name] = odd(rng, owner[name]) if owner[name] is not None else rng.choice(others[1:])


@configured
def lost_field(rng: Rng, config: dict[str, Any]) -> None:
    owner, name = rng.choice(fields(config))
    owner.pop(name)


@configured
def foreign_field(rng: Rng, config: dict[str, Any]) -> None:
    owner, _ = rng.choice(fields(config))
    owner["note"] = rng.choice(ODD)


@configured
def huge_field(rng: Rng, config: dict[str, Any]) -> None:
    sizes = [n for n in ("margin", "steps", "epochs", "replicas", "points") if n in config]
    if not sizes:
        config["type"] = "Map"
        return
    name = rng.choice(sizes)
    many = [*range(10**5)]
    config[name] = many if isinstance(config[name], list) else rng.choice([10**9, 2**70, 10**15])


@configured
def other_kind(rng: Rng, config: dict[str, Any]) -> None:
    names = [cls.__name__ for cls in KINDS if cls.__name__ != config["type"]]
    config["type"] = rng.choice([*names, "Path", "object", "__class__"])


def nested_field(rng: Rng, folder: Path) -> Path:
    text = (
        (folder / "config.json").read_text().rstrip("}\n") + ',"x":' + "[" * 900 + "]" * 900 + "}"
    )
    (folder / "config.json").write_text(text)
    return folder.rename(folder.with_name(hashlib.sha256(text.encode()).hexdigest()[:16]))


FIELDS = {
    f.__name__: f
    for f in (odd_field, lost_field, foreign_field, huge_field, other_kind, nested_field)
}


def tabled(change: Callable[[Rng, pd.DataFrame], pd.DataFrame]) -> Mutation:
    @functools.wraps(change)
    def mutate(rng: Rng, folder: Path) -> None:
        path = a_file(rng, folder, ".csv")
        config = read(json.loads((folder / "config.json").read_bytes()), KINDS)
        # What has as many rows as were found can lose one, and nobody knows: it loses all.
        is_free = isinstance(config.writes[path.stem].rows, range)
        is_free &= folder.parent.name not in ("lobster", "census", "selectivity")
        way = no_rows if is_free and change in (row_less, row_more) else change
        way(rng, pd.read_csv(path)).to_csv(path, index=False)
        seal(folder)

    return mutate


def without_column(rng: Rng, table: pd.DataFrame) -> pd.DataFrame:
    optional = {"threshold"}
    return table.drop(columns=rng.choice(sorted(set(table) - optional)))


def foreign_column(rng: Rng, table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(note=1)


def other_name(rng: Rng, table: pd.DataFrame) -> pd.DataFrame:
    column = rng.choice(sorted(table))
    return table.rename(columns={column: rng.choice(["", f"{column} ", "index", "x"])})


def row_less(rng: Rng, table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(index=rng.choice([table.index[-1], *table.index]))


def row_more(rng: Rng, table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.sample(random_state=rng.randrange(99))])


def no_rows(rng: Rng, table: pd.DataFrame) -> pd.DataFrame:
    return table.head(0)


def odd_cell(rng: Rng, table: pd.DataFrame) -> pd.DataFrame:
    numbers = [c for c in table if table[c].dtype.kind in "if"]
    column, row = rng.choice(numbers), rng.choice([*table.index])
    table = table.astype({column: object})
    table.loc[row, column] = rng.choice(["x", 1e400, "1e999", -(2**70), 2**70, "0x10", "1 2", "−1"])
    return table


def lost_cell(rng: Rng, table: pd.DataFrame) -> pd.DataFrame:
    column = rng.choice([c for c in table if not table[c].isna().any()])
    table = table.astype({column: object})
    table.loc[rng.choice([*table.index]), column] = None
    return table


def fraction(rng: Rng, table: pd.DataFrame) -> pd.DataFrame:
    counts = [c for c in table if table[c].dtype.kind == "i"]
    if not counts:
        return table.head(0)
    return table.assign(**{(c := rng.choice(counts)): table[c] + 0.5})


def negative(rng: Rng, table: pd.DataFrame) -> pd.DataFrame:
    counts = {"epoch", "kept", "class", "neurons"}
    bounded = [c for c in table if "_error" in c or c in counts]
    if not bounded:
        return table.head(0)
    return table.assign(**{(c := rng.choice(bounded)): -1 - table[c]})


TABLES = {
    f.__name__: tabled(f)
    for f in (
        without_column, foreign_column, other_name, row_less, row_more, no_rows, odd_cell,
        lost_cell, fraction, negative,
    )
}  # fmt: skip


def odd_text(rng: Rng, folder: Path) -> None:
    """A table that is none, with its digest."""
    path = a_file(rng, folder, ".csv")
    content = path.read_bytes()
    head, _, rest = content.partition(b"\n")
    path.write_bytes(
        rng.choice(
            [
                b"", b"\n", head, b"\0" * 99, b"\xff\xfe" + content, content + b"1,2\n" * 3,
                content.replace(b",", b";"), head + b"\n" + rest.replace(b"\n", b",7\n"),
                head + b"\n" + b'"' + rest, head + b"," + head + b"\n" + rest, b"9" * 10**6,
            ]
        )
    )  # fmt: skip
    seal(folder)


def tensored(change: Callable[[Rng, dict[str, torch.Tensor], str], None]) -> Mutation:
    @functools.wraps(change)
    def mutate(rng: Rng, folder: Path) -> None:
        names = [p for p in folder.iterdir() if p.suffix == ".safetensors"]
        if not names:
            return no_table(folder)
        path = rng.choice(sorted(names))
        tensors = safetensors.torch.load_file(path)
        change(rng, tensors, rng.choice(sorted(tensors)))
        safetensors.torch.save_file(tensors, path)
        seal(folder)

    def no_table(folder: Path) -> None:
        next(folder.glob("*.csv")).unlink()
        seal(folder)

    return mutate


def other_type(rng: Rng, tensors: dict[str, torch.Tensor], name: str) -> None:
    types = {torch.int64, torch.float64, torch.float16, torch.bool, torch.int32}
    tensors[name] = tensors[name].to(rng.choice(sorted(types, key=str)))


def huge_counts(rng: Rng, tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name].long() + 2**40


def high_counts(rng: Rng, tensors: dict[str, torch.Tensor], name: str) -> None:
    """In masks: a parameter that survives more points than there are; else one weight that is no
    number."""
    flat = tensors[name].flatten()
    if tensors[name].dtype == torch.uint8:
        flat[-1] ^= 255
    else:
        flat[rng.randrange(len(flat))] = 32767 if flat.dtype == torch.int16 else float("nan")


def other_shape(rng: Rng, tensors: dict[str, torch.Tensor], name: str) -> None:
    flat = tensors[name].flatten()
    tensors[name] = rng.choice([flat[:-1], flat.repeat(2), flat[None, None], flat[:0], flat[0]])


def lost_tensor(rng: Rng, tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors.pop(name)


def foreign_tensor(rng: Rng, tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors["note"] = torch.zeros(3)


TENSORS = {
    f.__name__: tensored(f)
    for f in (other_type, huge_counts, high_counts, other_shape, lost_tensor, foreign_tensor)
}


def odd_header(rng: Rng, folder: Path) -> None:
    """The header of a file of tensors says what is not there; its digest is right."""
    names = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors")
    if not names:
        return lost(rng, folder)
    odd_safetensors(rng, rng.choice(names))
    seal(folder)


def odd_safetensors(rng: Rng, path: Path) -> None:
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    name = rng.choice(sorted(n for n in header if n != "__metadata__"))
    change = rng.choice(["dtype", "shape", "data_offsets", "size"])
    value = {
        "dtype": ["F64", "I64", "F8_E4M3", "x", None, 3],
        "shape": [[2**62, 2**62], [-1], [], [10**30], "x", None, [1.5]],
        "data_offsets": [[0, 2**62], [4, 0], [-4, 4], [], None],
    }
    if change != "size":
        header[name][change] = rng.choice(value[change])
    text = json.dumps(header).encode()
    claimed = len(text) if change != "size" else rng.choice([0, 2**63, 2**40, len(text) - 1])
    path.write_bytes(struct.pack("<Q", claimed) + text + content[8 + size :])


def in_a_file(change: Mutation) -> Mutation:
    @functools.wraps(change)
    def mutate(rng: Rng, folder: Path) -> None:
        change(rng, a_file(rng, folder))

    return mutate


RUNS: dict[str, Mutation] = (
    {name: in_a_file(change) for name, change in BYTES.items()}
    | {f.__name__: f for f in (stranger, lost, litter, odd_text, odd_header)}
    | FACTS
    | FIELDS
    | TABLES
    | TENSORS
)


def test_runs(tmp_path: Path) -> None:
    """A run that is accepted is to be the one that was published: the same configuration, data and
    files, whatever else its provenance says (who changes that without a signature cannot be
    found)."""
    turn = iter(range(10**9))

    def make() -> Path:
        number = next(turn)
        # Every mutation meets every kind of run.
        source = samples()[(number // len(RUNS) + number) % len(samples())]
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        folder = tmp_path / "runs" / source.parent.name / source.name
        shutil.copytree(source, folder)
        origin[:] = [source]
        return folder

    origin: list[Path] = []

    def use(folder: Path) -> bool:
        artefact = open_artefact(folder)
        check_run(artefact, KINDS, Store(folder.parents[1]), RESULTS)
        before = open_artefact(origin[0])
        same = [artefact.config == before.config]
        same += [artefact.provenance[n] == before.provenance[n] for n in ("files", "data")]
        same += [
            (folder / n).read_bytes() == (origin[0] / n).read_bytes()
            for n in before.provenance["files"]
        ]
        return all(same)

    fuzz("run", 240, RUNS, make, use)


# Checkpoints


@pytest.fixture(scope="module")
def training(tiny: Data) -> tuple[Data, Retraining, Mask]:
    config = Retraining(Lobster("lenet-300", "digits", 0), 0, "dense", (0, 1), 2, batch_size=100)
    return tiny, config, Mask.dense(models.build("lenet-300", 0))


def test_checkpoints(training: tuple[Data, Retraining, Mask], tmp_path: Path) -> None:
    data, config, mask = training
    keys = (key(config),)

    def kept(config: Retraining, folder: Path) -> bytes:
        folder.mkdir()
        checkpoint = Checkpoint(folder, interval=0.0, keys=(key(config),))
        retrain_replicas([config], data, [mask], checkpoint)
        return (folder / "checkpoint.safetensors").read_bytes()

    ours = kept(config, tmp_path / "ours")
    others = [
        kept(dataclasses.replace(config, learning_rate=0.2), tmp_path / "rate"),
        kept(dataclasses.replace(config, replicas=(1, 2)), tmp_path / "replicas"),
    ]
    path = tmp_path / "work" / "checkpoint.safetensors"

    def make() -> Path:
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        path.write_bytes(ours)
        return path

    def of_another(rng: Rng, path: Path) -> None:
        path.write_bytes(rng.choice(others))

    def edited(rng: Rng, path: Path) -> None:
        """Another number in the state, as long as the one that was there."""
        content = bytearray(path.read_bytes())
        end = 8 + struct.unpack("<Q", content[:8])[0]
        start = content.index(b"__metadata__")
        digits = [i for i in range(start, end) if chr(content[i]).isdigit()]
        place = rng.choice(digits)
        content[place] = ord("0") + (content[place] - ord("0") + 1) % 10
        path.write_bytes(content)

    def swapped(rng: Rng, path: Path) -> None:
        """Each tensor under the name of another of its shape."""
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata()
        tensors = safetensors.torch.load_file(path)
        names = [n for n in tensors if n.endswith("weights")]
        tensors[names[0]], tensors[names[-1]] = tensors[names[-1]], tensors[names[0]]
        safetensors.torch.save_file(tensors, path, header)

    def bare(rng: Rng, path: Path) -> None:
        safetensors.torch.save_file(safetensors.torch.load_file(path), path)

    expected = Checkpoint(tmp_path / "ours", keys=keys).load()

    def use(path: Path) -> bool:
        found = Checkpoint(path.parent, keys=keys).load()
        assert found is not None
        same = [torch.equal(t, expected[0][n]) for n, t in found[0].items()]
        return found[0].keys() == expected[0].keys() and all(same) and found[1] == expected[1]

    more = (of_another, edited, swapped, bare, odd_safetensors, flip, flip_early)
    mutations = BYTES | {f.__name__: f for f in more}
    mutations.pop("as_link")
    fuzz("checkpoint", 60, mutations, make, use)


# Archives


def members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return [(m, tar.extractfile(m).read()) for m in tar]


def rewritten(
    change: Callable[[Rng, list[tuple[tarfile.TarInfo, bytes]]], None],
) -> Mutation:
    """A tar that is whole, of other members."""

    @functools.wraps(change)
    def mutate(rng: Rng, path: Path) -> None:
        parts = members(path)
        change(rng, parts)
        content = io.BytesIO()
        for member, data in parts:
            content.write(member.tobuf(tarfile.GNU_FORMAT))
            content.write(data + b"\0" * (-len(data) % 512))
        whole = content.getvalue() + b"\0" * 1024
        path.write_bytes(gzip.compress(whole) if rng.random() < 0.5 else whole)

    return mutate


def other_member(rng: Rng, parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    member, _ = rng.choice(parts)
    types = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    extensions = (b"x", b"g", b"L", b"K", b"S", b"V", b"M")
    member.type = rng.choice([*types, *extensions])
    member.linkname = rng.choice(["/etc/passwd", "../../..", ""])


def other_place(rng: Rng, parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    member, _ = rng.choice(parts)
    odd = [f"/tmp/{member.name}", f"../{member.name}", f"{member.name}/x", "x", "", "a" * 90]
    odd += [f"./{member.name}", member.name.upper(), member.name.replace("/", "//"), ".work/x.csv"]
    member.name = rng.choice(odd)


def other_size(rng: Rng, parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    member, _ = rng.choice(parts)
    member.size = rng.choice([0, 1, member.size + 512, 2**33, 2**60, -512, -1])


def huge_extension(rng: Rng, parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """What the tar module would read whole into memory."""
    member = tarfile.TarInfo("long")
    member.type, member.size = rng.choice([b"x", b"g", b"L", b"K"]), 2**40
    parts.insert(rng.randrange(len(parts)), (member, b"a" * 5000))


def twice(rng: Rng, parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    parts.insert(rng.randrange(len(parts)), rng.choice(parts))


def fewer(rng: Rng, parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    parts.pop(rng.randrange(len(parts)))


def exchanged(rng: Rng, parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """The contents of two files."""
    (one, a), (two, b) = rng.sample(parts, 2)
    i, j = parts.index((one, a)), parts.index((two, b))
    one.size, two.size = len(b), len(a)
    parts[i], parts[j] = (one, b), (two, a)


def crowded(rng: Rng, parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Very many small runs."""
    name = f"lobster/{rng.randbytes(8).hex()}"
    parts += [(tarfile.TarInfo(f"{name}/a{i}.csv"), b"") for i in range(500)]


def bomb(rng: Rng, path: Path) -> None:
    """A little file that unpacks to gigabytes of zeros: before, in or behind a member."""
    member = tarfile.TarInfo(f"lobster/{'0' * 16}/points.safetensors")
    member.size = 2**30
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(rng.choice([b"", b"\0" * 1024, member.tobuf()]))
        for _ in range(30):
            file.write(b"\0" * 2**20)


def long_gzip_name(rng: Rng, path: Path) -> None:
    path.write_bytes(b"\x1f\x8b\x08\x08" + b"\0" * 6 + b"a" * 10**5)


def compressed_twice(rng: Rng, path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.compress(path.read_bytes())))


def tail(rng: Rng, path: Path) -> None:
    path.write_bytes(path.read_bytes() + rng.choice([b"x", path.read_bytes(), b"\0" * 2**22]))


TARS = (
    BYTES
    | {f.__name__: f for f in (bomb, long_gzip_name, compressed_twice, tail)}
    | {
        f.__name__: rewritten(f)
        for f in (
            other_member, other_place, other_size, huge_extension, twice, fewer, exchanged, crowded,
        )
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def small() -> list[Path]:
    """The three smallest runs."""
    return sorted(samples(), key=lambda f: sum(p.stat().st_size for p in f.iterdir()))[:3]


def content(root: Path) -> dict[str, bytes]:
    found = (p for p in root.rglob("*") if p.is_file() and ".work" not in p.parts)
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def test_archives(small: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr("psplib.runs.archive.MOST_FILES", 300)
    whole = tmp_path / "whole.tar"
    pack_runs(map(open_artefact, small), whole)
    files = [p for folder in small for p in folder.iterdir()]
    expected = {str(p.relative_to(RESULTS.root)): p.read_bytes() for p in files}
    path, results = tmp_path / "host.tar", tmp_path / "results"

    def make() -> Path:
        remove(path)
        shutil.rmtree(results, ignore_errors=True)
        shutil.copy(whole, path)
        return path

    def use(path: Path) -> bool:
        try:
            with unpack_runs(path, KINDS) as store:
                found = [open_artefact(folder) for folder in store.all()]
                for artefact in found:
                    check_run(artefact, KINDS, store, RESULTS)
                Store(results).adopt(*found)
        except PsplibError:
            assert not results.exists() or not content(results)
            raise
        finally:
            assert not [*scratch.iterdir()]
        # A tar of fewer runs, each of them whole, is a tar.
        return content(results).items() <= expected.items()

    fuzz("archive", 66, TARS, make, use)


# Data sets


def zipped(change: Callable[[Rng, dict[str, bytes]], None]) -> Mutation:
    @functools.wraps(change)
    def mutate(rng: Rng, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            parts = {n: archive.read(n) for n in archive.namelist()}
        change(rng, parts)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in parts.items():
                archive.writestr(name, data)

    return mutate


def odd_array(rng: Rng, parts: dict[str, bytes]) -> None:
    """A header that says another type, shape or order; the bytes are as they were."""
    name = rng.choice(sorted(parts))
    shape = rng.choice([(2**40,), (2**62, 2**62), (-1,), (), (20, 30), "x", None])
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    if rng.random() < 0.4:
        header["descr"] = rng.choice(["|O", "<f8", "<U99999", "x", [("a", "|O")]])
    text = (repr(header) + " " * rng.choice([0, 10**6])).encode()
    version = rng.choice([1, 2, 3, 9])
    bits, most = ("<H", 2**16 - 1) if version == 1 else ("<I", 2**32 - 1)
    size = struct.pack(bits, min(len(text), most))
    start = 10 + struct.unpack("<H", parts[name][8:10])[0]
    parts[name] = b"\x93NUMPY" + bytes([version, 0]) + size + text + parts[name][start:]


def array_bomb(rng: Rng, parts: dict[str, bytes]) -> None:
    name = rng.choice(sorted(parts))
    parts[name] = rng.choice([parts[name], b""]) + b"\0" * 2**25


def short_array(rng: Rng, parts: dict[str, bytes]) -> None:
    name = rng.choice(sorted(parts))
    parts[name] = parts[name][: rng.randrange(len(parts[name]))]


def lost_array(rng: Rng, parts: dict[str, bytes]) -> None:
    parts.pop(rng.choice(sorted(parts)))


def foreign_array(rng: Rng, parts: dict[str, bytes]) -> None:
    parts[rng.choice(["x.npy", "../x.npy", "x_train"])] = b"\0" * 100


def exchanged_arrays(rng: Rng, parts: dict[str, bytes]) -> None:
    one, two = rng.sample(sorted(parts), 2)
    parts[one], parts[two] = parts[two], parts[one]


ARRAYS = (odd_array, array_bomb, short_array, lost_array, foreign_array, exchanged_arrays)


def test_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{axis}_{part}": rng.integers(0, 9, (count, 6, 5) if axis == "x" else count, np.uint8)
        for axis in "xy"
        for part, count in (("train", 20), ("test", 10))
    }
    digests = {name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in arrays.items()}
    pinned = data_sets.Pinned((6, 5), (20, 10), digests, "MNIST")
    monkeypatch.setitem(data_sets.PINNED, "mnist", pinned)
    monkeypatch.setenv("PSPLIB_DATA", str(tmp_path))
    path = tmp_path / "mnist.npz"

    def make() -> Path:
        remove(path)
        np.savez(path, **arrays)
        return path

    make()
    expected = data_sets.load_data("mnist")

    def use(path: Path) -> bool:
        found = data_sets.load_data("mnist")
        same = [found.digest == expected.digest]
        for split in ("train", "validation", "test"):
            one, other = getattr(found, split), getattr(expected, split)
            same += [torch.equal(one.x, other.x), torch.equal(one.y, other.y)]
        return all(same)

    fuzz("data set", 40, BYTES | {f.__name__: zipped(f) for f in ARRAYS}, make, use)


# Kills


def forked(action: Callable[[], object], kill_at: int | None = None) -> int:
    """Run in a process of its own, killed at a file operation of this number; how many there were,
    -1 if it was killed."""
    read_end, write_end = os.pipe()
    if not (child := os.fork()):
        status = 1
        try:
            done = 0

            def count(event: str, _: object) -> None:
                nonlocal done
                if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
                    done += 1
                    if done == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            action()
            os.write(write_end, str(done).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end) as said:
        text = said.read()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0, "the process failed"
    return -1 if killed else int(text)


def leftovers(root: Path) -> list[str]:
    """What is neither of a finished run nor a lock."""
    kept = (p for p in root.rglob("*") if p.is_file() and p.suffix != ".lock")
    return [str(p) for p in kept if ".work" in p.parts or p.suffix == ".part"]


@pytest.mark.thorough
def test_kills(training: tuple[Data, Retraining, Mask], small: list[Path], tmp_path: Path) -> None:
    """A run, a publication and a tar, killed at a file operation and asked for again."""
    data, config, mask = training
    torch.set_num_threads(1)

    def make(checkpoint: Checkpoint) -> tuple[Any, Data]:
        checkpoint.interval = 0.0
        (result,) = retrain_replicas([config], data, [mask], checkpoint)
        best = {"packed": pack_bits(result.mask), "weights": result.weights}
        return {"replicas": result.replicas, "history": result.history, "best": best}, data

    def compute(root: Path) -> None:
        store = Store(root)
        store.sweep()
        make_one(store, config, make)

    def publish(root: Path) -> None:
        Store(root).adopt(*map(open_artefact, small))

    def pack(root: Path) -> None:
        root.mkdir(exist_ok=True)
        pack_runs(map(open_artefact, small), root / "host.tar.gz")

    counts: Counter[str] = Counter()
    for action in (compute, publish, pack):
        whole = tmp_path / f"{action.__name__} whole"
        operations = forked(lambda action=action, root=whole: action(root))
        expected = content(whole)
        assert expected
        assert leftovers(whole) == []
        for number in range(TIMES * 10):
            root = tmp_path / f"{action.__name__} {number}"
            rng = Rng(f"{action.__name__} {number}")
            for _ in range(rng.choice([1, 1, 2])):
                kill_at = rng.randrange(1, operations + 1)
                found = forked(lambda action=action, root=root: action(root), kill_at)
                counts[f"{action.__name__}, {'killed' if found < 0 else 'not reached'}"] += 1
            forked(lambda action=action, root=root: action(root))
            again = content(root)
            assert again.keys() == expected.keys()
            for name in again:
                if not name.endswith("provenance.json") or action is not compute:
                    assert again[name] == expected[name], name
            # What is left of a run that was whole when it was killed goes at the next start.
            forked(lambda root=root: Store(root).sweep())
            assert leftovers(root) == []
            shutil.rmtree(root)
    print(f"kills: {dict(counts)}")
    assert sum(n for name, n in counts.items() if "killed" in name) >= TIMES * 30
