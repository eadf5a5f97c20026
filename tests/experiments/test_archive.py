"""Tars of runs: the way from one machine to another, damage on the way, and malice."""

import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from psplib.__main__ import cli
from psplib.core.files import sha256
from psplib.experiments import scales
from psplib.runs.store import Store


@pytest.fixture
def psplib(smoke: Store, tmp_path: Path) -> Callable[..., Result]:
    """The command line on the smoke runs, with a results folder of its own."""
    environment = {"PSPLIB_RUNS": str(smoke.root), "PSPLIB_RESULTS": str(tmp_path / "results")}
    return lambda *words: CliRunner().invoke(cli, [str(w) for w in words], env=environment)


PACK = ("pack", "--scale", "smoke", "--only", "figure_1a")


@pytest.fixture(scope="module")
def packed(smoke: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All smoke runs of Fig. 1a in a tar."""
    tar = tmp_path_factory.mktemp("packed") / "host.tar"
    done = CliRunner().invoke(cli, [*PACK, str(tar)], env={"PSPLIB_RUNS": str(smoke.root)})
    assert done.stdout == f"15 runs packed ({tar}).\n"
    return tar


def contents(root: Path) -> dict[str, bytes]:
    found = [p for p in root.rglob("*") if p.is_file() and ".work" not in p.parts]
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def refused(psplib: Callable[..., Result], tar: Path, *said: str) -> None:
    """Both commands refuse the tar in one sentence, and nothing of it is published."""
    for command in ("publish", "verify"):
        done = psplib(command, tar)
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith(f"psplib: {tar} ")
        assert done.stderr.count("\n") == 1
        for part in said:
            assert part in done.stderr
    assert not (tar.parent / "results").exists()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_what_is_packed_is_published_elsewhere_to_the_same_bits(
    suffix: str, psplib: Callable[..., Result], smoke: Store, tmp_path: Path
) -> None:
    tar, results = tmp_path / f"host{suffix}", tmp_path / "results"
    assert psplib(*PACK, tar).exit_code == 0
    first = tar.read_bytes()
    assert (first[:2] == b"\x1f\x8b") == (suffix != ".tar")
    assert psplib("verify", tar).stdout == f"15 of 15 runs are whole ({tar}).\n"
    done = psplib("publish", tar)
    assert done.stdout == f"15 runs published, 0 were there already ({results}).\n"
    ours = contents(results)
    assert len(ours) == 5 + 13 * 4 + 2 + 15
    assert ours == {name: (smoke.root / name).read_bytes() for name in ours}
    assert "15 of 15 runs are whole" in psplib("verify").stdout
    assert "0 runs published, 15 were there" in psplib("publish", tar).stdout
    # Neither the time nor the place where it is made is in a tar.
    os.utime(smoke.folder(scales.figure_1a("smoke").dense) / "config.json", (0, 0))
    other = tmp_path / f"other{suffix}"
    assert psplib(*PACK, other).exit_code == 0
    assert other.read_bytes() == first


def test_what_is_there_already_is_kept(
    psplib: Callable[..., Result], packed: Path, tmp_path: Path
) -> None:
    assert psplib("publish", packed).exit_code == 0
    folders = sorted((tmp_path / "results" / "retraining").iterdir())
    shutil.rmtree(folders[0])
    before = folders[1].stat().st_ino
    assert "1 runs published, 14 were there already" in psplib("publish", packed).stdout
    assert folders[0].exists()
    assert folders[1].stat().st_ino == before


def members(packed: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(packed) as tar:
        return tar.getmembers()


def boundary(packed: Path, number: int) -> int:
    """Where a member's header begins."""
    return members(packed)[number].offset


CUTS = {
    "nothing is left": lambda tar: 0,
    "in a header": lambda tar: boundary(tar, 7) + 100,
    "in a file": lambda tar: members(tar)[7].offset_data + 100,
    "between two files of a run": lambda tar: boundary(tar, 2),
    "between two runs": lambda tar: boundary(tar, _first_of_second_run(tar)),
    "within its end": lambda tar: -(-len(tar.read_bytes().rstrip(b"\0")) // 512) * 512 + 512,
}


def _first_of_second_run(packed: Path) -> int:
    names = [Path(m.name).parent for m in members(packed)]
    return next(i for i, name in enumerate(names) if name != names[0])


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("where", CUTS)
def test_a_tar_that_was_cut_is_refused(
    where: str, is_compressed: bool, psplib: Callable[..., Result], packed: Path, tmp_path: Path
) -> None:
    whole = packed.read_bytes()
    size = CUTS[where](packed)
    assert size < len(whole)
    tar = tmp_path / "cut.tar"
    if is_compressed:
        # As if the line had been lost in the middle: the last bytes and the sum are missing.
        tar.write_bytes(gzip.compress(whole[:size])[:-9])
    else:
        tar.write_bytes(whole[:size])
    refused(psplib, tar, "is not a whole tar: ")


def test_a_compressed_tar_with_a_wrong_bit_is_refused(
    psplib: Callable[..., Result], packed: Path, tmp_path: Path
) -> None:
    tar = tmp_path / "flipped.tar.gz"
    content = bytearray(gzip.compress(packed.read_bytes(), compresslevel=0))
    content[len(content) - 8] ^= 1  # of the sum at the end
    tar.write_bytes(content)
    refused(psplib, tar, "is not a whole tar: CRC check failed")


def test_a_plain_tar_with_a_wrong_digit_where_no_digest_of_a_run_reaches_is_refused(
    psplib: Callable[..., Result], packed: Path, tmp_path: Path
) -> None:
    content = packed.read_bytes()
    assert b'"threads": 1' in content
    (tmp_path / "host.tar").write_bytes(content.replace(b'"threads": 1', b'"threads": 7', 1))
    refused(psplib, tmp_path / "host.tar", "is not a whole tar: ", "is not what was packed")


def test_what_is_no_tar_is_refused(psplib: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("epoch,loss\n" * 200)
    refused(psplib, tmp_path / "text.tar", "is not a whole tar: ")
    refused(psplib, tmp_path / "none.tar", "could not be unpacked: No such file or directory.")


KEY = "0123456789abcdef"
NAMES = [
    "/tmp/psplib-evil.csv",
    "../evil.csv",
    f"lobster/{KEY}/../../../evil.csv",
    f"lobster/{KEY}/..",
    f"../lobster/{KEY}/points.csv",
    f"./lobster/{KEY}/points.csv",
    f"lobster/{KEY}/deep/points.csv",
    f"lobster/{KEY}/.points.csv",
    f"lobster/{KEY}/points.csv\n",
    f"lobster/{KEY}/points.pkl",
    f"lobster/{KEY[:-1]}/points.csv",
    f".work/{KEY}/checkpoint.safetensors",
    f"elsewhere/{KEY}/points.csv",
    "README.md",
]


def with_member(packed: Path, tar: Path, member: tarfile.TarInfo, content: bytes = b"") -> Path:
    """The packed runs with one more member in front."""
    with tarfile.open(tar, "w") as new, tarfile.open(packed) as old:
        member.size = len(content)
        new.addfile(member, io.BytesIO(content))
        for other in old:
            new.addfile(other, old.extractfile(other))
    return tar


@pytest.mark.parametrize("name", NAMES)
def test_a_member_that_is_no_file_of_a_run_is_refused(
    name: str, psplib: Callable[..., Result], packed: Path, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    tar = with_member(packed, inside / "evil.tar", tarfile.TarInfo(name), b"evil")
    refused(psplib, tar, repr(name), "make the tar with psplib pack")
    assert [p.name for p in tmp_path.rglob("*")] == ["inside", "evil.tar"]
    assert not Path("/tmp/psplib-evil.csv").exists()


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE],
    ids=["symbolic link", "hard link", "device", "pipe", "folder"],
)
def test_a_member_that_is_no_plain_file_is_refused(
    kind: bytes, psplib: Callable[..., Result], packed: Path, tmp_path: Path
) -> None:
    member = tarfile.TarInfo(f"lobster/{KEY}/points.csv")
    member.type, member.linkname = kind, "../../../../evil.csv"
    tar = with_member(packed, tmp_path / "evil.tar", member)
    refused(psplib, tar, repr(member.name), "make the tar with psplib pack")


def test_a_member_that_comes_twice_is_refused(
    psplib: Callable[..., Result], packed: Path, tmp_path: Path
) -> None:
    first = members(packed)[0]
    tar = with_member(packed, tmp_path / "twice.tar", tarfile.TarInfo(first.name), b"{}")
    refused(psplib, tar, f"holds '{first.name}' twice.")


def changed(packed: Path, tar: Path, change: Callable[[Path], None]) -> Path:
    """The packed runs after a change to their folder."""
    root = tar.parent / "unpacked"
    with tarfile.open(packed) as old:
        old.extractall(root, filter="data")
    change(root)
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as new:
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            new.add(path, str(path.relative_to(root)))
    return tar


def victim(root: Path) -> Path:
    return sorted((root / "retraining").iterdir())[3]


def other_digit(root: Path) -> None:
    table = victim(root) / "replicas.csv"
    content = bytearray(table.read_bytes())
    content[-2] ^= 1
    table.write_bytes(content)


def consistent(root: Path, change: Callable[[Path], None]) -> None:
    """A change after which the digests hold."""
    folder = victim(root)
    change(folder / "replicas.csv")
    facts = json.loads((folder / "provenance.json").read_text())
    facts["files"] = {
        p.name: sha256(p)
        for p in folder.iterdir()
        if p.name not in ("config.json", "provenance.json")
    }
    (folder / "provenance.json").write_text(json.dumps(facts))


TAMPERED = {
    "other digit": (other_digit, "replicas.csv is not what its run wrote (SHA-256)"),
    "lost file": (lambda root: (victim(root) / "history.csv").unlink(), "history.csv is missing"),
    "wrong table": (
        lambda root: consistent(root, lambda table: table.write_text("replica,kept\n7,1\n")),
        "replicas.csv, of 1 rows, does not belong to its configuration",
    ),
    "no column": (
        lambda root: consistent(root, lambda table: table.write_text("a\n1\n2\n")),
        "'a' in replicas.csv does not belong to its configuration",
    ),
    "no table": (
        lambda root: consistent(root, Path.unlink),
        "the run, without replicas.csv, does not belong to its configuration",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_of_a_tar_with_one_wrong_run_nothing_is_published_and_it_is_named(
    what: str, psplib: Callable[..., Result], packed: Path, tmp_path: Path
) -> None:
    change, sentence = TAMPERED[what]
    tar = changed(packed, tmp_path / "wrong.tar", change)
    name = victim(tmp_path / "unpacked").name
    done = psplib("publish", tar)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"psplib: Nothing of {tar} was published: ")
    assert f"{tar}/retraining/{name}" in done.stderr
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()
    done = psplib("verify", tar)
    assert done.exit_code == 1
    assert f"{tar}/retraining/{name}" in done.stderr
    assert f"14 of 15 runs are whole ({tar})." in done.stdout


def test_a_run_is_checked_against_the_gradual_run_that_was_published_before(
    psplib: Callable[..., Result], packed: Path, tmp_path: Path
) -> None:
    """The tar has all but the gradual run, and one retraining is of another of its points."""

    def swap(root: Path) -> None:
        shutil.rmtree(root / "lobster")
        runs = {
            p: json.loads((p / "config.json").read_text()) for p in victim(root).parent.iterdir()
        }
        one, two = (
            next(p for p, c in runs.items() if (c["arm"], c["point"]) == ("rewound", point))
            for point in (1, 2)
        )
        for name in ("provenance.json", "replicas.csv", "history.csv", "best.safetensors"):
            shutil.copy(one / name, two / name)

    tar = changed(packed, tmp_path / "swapped.tar", swap)
    assert "14 of 14 runs are whole" in psplib("verify", tar).stdout
    assert psplib("publish", packed).exit_code == 0
    done = psplib("publish", tar)
    assert done.exit_code == 2
    assert "the number of survivors does not belong to its configuration" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("pack", "host.zip"), "A tar is called *.tar, *.tar.gz, *.tgz; got 'host.zip'."),
        (("pack", "--scale", "quick", "host.tar"), "There is no finished run at quick scale under"),
        (("pack", "--scale", "huge", "host.tar"), "scale must be one of smoke, quick, paper; got"),
        (("publish", "--scale", "smoke", "host.tar"), "scale and only choose from runs/; host.tar"),
        (("verify", "--local", "host.tar"), "local is for runs/; host.tar was named too."),
    ],
)
def test_a_bad_argument_is_one_sentence(
    words: tuple[str, ...],
    sentence: str,
    psplib: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = psplib(*words)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"psplib: {sentence}")
    assert done.stderr.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_on_a_full_disk_no_tar_is_left(
    psplib: Callable[..., Result], tmp_path: Path, disk_of: Callable
) -> None:
    with disk_of(4096):
        done = psplib(*PACK, tmp_path / "host.tar")
    assert done.exit_code == 2
    assert "host.tar could not be written: File too large." in done.stderr
    assert not [*tmp_path.iterdir()]
