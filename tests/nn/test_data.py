"""Real loading code on tiny data sets whose bytes are pinned for the test."""

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
import torchvision.datasets
from sklearn.datasets import load_digits

from psplib.core.errors import PsplibError
from psplib.nn import data

Arrays = dict[str, np.ndarray]
IMAGE = {"mnist": (6, 5), "fashion-mnist": (6, 5), "cifar10": (6, 5, 3)}


def arrays(name: str) -> Arrays:
    """20 images for training and 10 for the test, each different from all others."""
    rng = np.random.default_rng(len(name))
    brightest = np.array([60, 150, 256])[: IMAGE[name][-1] if name == "cifar10" else 1]
    return {
        "x_train": rng.integers(0, brightest.squeeze(), (20, *IMAGE[name]), dtype=np.uint8),
        "y_train": rng.integers(0, 10, 20, dtype=np.uint8),
        "x_test": rng.integers(0, brightest.squeeze(), (10, *IMAGE[name]), dtype=np.uint8),
        "y_test": rng.integers(0, 10, 10, dtype=np.uint8),
    }


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The two folders where data are looked for; the tiny sets stand in for the real ones."""
    named, cache = tmp_path / "data", tmp_path / "cache" / "psplib"
    named.mkdir()
    monkeypatch.setenv("PSPLIB_DATA", str(named))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    for name, real in list(data.PINNED.items()):
        digests = {k: hashlib.sha256(a.tobytes()).hexdigest() for k, a in arrays(name).items()}
        tiny = data.Pinned(IMAGE[name], (20, 10), digests, real.torchvision)
        monkeypatch.setitem(data.PINNED, name, tiny)
    return named, cache


class Forbidden:
    def __init__(self, *_: object, **__: object) -> None:
        pytest.fail("a download was started")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for pinned in data.PINNED.values():
        monkeypatch.setattr(torchvision.datasets, pinned.torchvision, Forbidden)


def pixels(loaded: data.Data, *splits: data.Split) -> np.ndarray:
    """The bytes (N, C, H, W) that a loaded data set was made from."""
    x = torch.cat([s.x for s in splits])
    std, mean = (torch.tensor(m).view(-1, 1, 1) for m in (loaded.std, loaded.mean))
    raw = 255 * (x * std + mean)
    torch.testing.assert_close(raw, raw.round(), rtol=0, atol=1e-3)
    return raw.round().to(torch.uint8).numpy()


def by_channel(x: np.ndarray) -> np.ndarray:
    return x[:, None] if x.ndim == 3 else np.moveaxis(x, -1, 1)


@pytest.mark.parametrize("name", data.PINNED)
def test_train_and_validation_are_a_shuffled_90_10_split_of_the_file(
    name: str, places: tuple[Path, Path], offline: None
) -> None:
    raw = arrays(name)
    np.savez(places[0] / f"{name}.npz", **raw)
    loaded = data.load_data(name)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (18, 2, 10)
    images = pixels(loaded, loaded.train, loaded.validation)
    labels = torch.cat([loaded.train.y, loaded.validation.y]).tolist()
    expected = by_channel(raw["x_train"])
    # Complete and disjoint: every image of the file comes back once, with its label.
    found = sorted((x.tobytes(), y) for x, y in zip(images, labels, strict=True))
    assert found == sorted((x.tobytes(), y) for x, y in zip(expected, raw["y_train"], strict=True))
    assert not np.array_equal(images, expected)
    np.testing.assert_array_equal(pixels(loaded, loaded.test), by_channel(raw["x_test"]))
    np.testing.assert_array_equal(loaded.test.y, raw["y_test"])
    for split in (loaded.train, loaded.validation, loaded.test):
        assert (split.x.dtype, split.y.dtype) == (torch.float32, torch.int64)
        assert split.x.is_contiguous()


def test_the_seed_draws_the_split_and_nothing_else(places: tuple[Path, Path]) -> None:
    np.savez(places[0] / "mnist.npz", **arrays("mnist"))
    one, same, other = (data.load_data("mnist", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.train.x, same.train.x)
    assert torch.equal(one.validation.y, same.validation.y)
    assert not torch.equal(one.train.x, other.train.x)
    assert torch.equal(one.test.x, other.test.x)
    assert (one.mean, one.std, one.digest) == (other.mean, other.std, other.digest)


@pytest.mark.parametrize("name", data.PINNED)
def test_the_standard_training_set_has_mean_0_and_deviation_1_in_each_channel(
    name: str, places: tuple[Path, Path]
) -> None:
    raw = arrays(name)
    np.savez(places[0] / f"{name}.npz", **raw)
    loaded = data.load_data(name)
    x = torch.cat([loaded.train.x, loaded.validation.x]).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(x.mean(1), torch.zeros(len(x)).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        x.std(1, correction=0), torch.ones(len(x)).double(), rtol=1e-6, atol=0
    )
    levels = np.moveaxis(by_channel(raw["x_train"]), 1, 0).reshape(len(x), -1) / 255
    np.testing.assert_allclose(loaded.mean, levels.mean(1), rtol=1e-6)
    np.testing.assert_allclose(loaded.std, levels.std(1), rtol=1e-6)


def test_the_digest_is_that_of_the_bytes_of_all_arrays(places: tuple[Path, Path]) -> None:
    raw = arrays("mnist")
    np.savez_compressed(places[0] / "mnist.npz", **raw)
    expected = hashlib.sha256(b"".join(raw[part].tobytes() for part in sorted(raw)))
    assert data.load_data("mnist").digest == expected.hexdigest()


@pytest.mark.parametrize("name", data.PINNED)
def test_absent_data_are_an_error_that_says_which_where_and_what_to_do(
    name: str, places: tuple[Path, Path], offline: None
) -> None:
    with pytest.raises(PsplibError) as caught:
        data.load_data(name)
    for part in (
        f"set {name} ",
        *(str(p / f"{name}.npz") for p in places),
        "PSPLIB_DATA",
        "download",
    ):
        assert part in str(caught.value)
    assert not places[1].exists()


def test_an_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PsplibError, match=r"digits, mnist, fashion-mnist, cifar10; got 'imagenet'"):
        data.load_data("imagenet")


def test_images_of_another_shape_cannot_be_asked_for(places: tuple[Path, Path]) -> None:
    np.savez(places[0] / "mnist.npz", **arrays("mnist"))
    assert data.load_data("mnist", image=(1, 6, 5)).train.x.shape[1:] == (1, 6, 5)
    with pytest.raises(PsplibError, match=r"mnist .*\(1, 6, 5\).*\(3, 32, 32\)"):
        data.load_data("mnist", image=(3, 32, 32))


class Bomb:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def saved(path: Path, **changes: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, **(arrays("mnist") | changes))


def pickled_array(path: Path) -> None:
    saved(path, y_test=np.array([Bomb(path.with_name("exploded"))] * 10, dtype=object))


def pickle_file(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(path.with_name("exploded"))))


def truncated(path: Path) -> None:
    saved(path)
    path.write_bytes(path.read_bytes()[:-100])


def without_labels(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{k: a for k, a in arrays("mnist").items() if k != "y_train"})


def lone_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, arrays("mnist")["x_train"])


def one_pixel_off(path: Path) -> None:
    x = arrays("mnist")["x_test"]
    x[3, 2, 1] ^= 1
    saved(path, x_test=x)


BAD = {
    "a truncated archive": (truncated, "whole"),
    "an empty file": (Path.touch, "whole"),
    "a text": (lambda path: path.write_text("404: not found"), "whole"),
    "a folder": (Path.mkdir, "whole"),
    "a lone array": (lone_array, "whole"),
    "a pickle": (pickle_file, "whole"),
    "a pickled array": (pickled_array, "y_test must be uint8 of shape"),
    "a missing array": (without_labels, "y_train"),
    "a wrong shape": (lambda path: saved(path, x_train=np.zeros((20, 5, 6), np.uint8)), "x_train"),
    "a wrong count": (lambda path: saved(path, y_test=np.zeros(9, np.uint8)), "y_test"),
    "a wrong type": (lambda path: saved(path, y_train=np.zeros(20, np.int64)), "y_train"),
    "one other pixel": (one_pixel_off, "x_test"),
}


@pytest.mark.parametrize(("write", "reason"), BAD.values(), ids=BAD)
def test_a_file_is_refused_by_name_for(
    write: Callable[[Path], object], reason: str, places: tuple[Path, Path], offline: None
) -> None:
    path = places[0] / "mnist.npz"
    write(path)
    with pytest.raises(PsplibError, match=reason) as caught:
        data.load_data("mnist")
    assert str(path) in str(caught.value)
    assert not (places[0] / "exploded").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_damaged_byte_changes_the_data(
    save: Callable[..., None], places: tuple[Path, Path]
) -> None:
    path = places[0] / "mnist.npz"
    save(path, **arrays("mnist"))
    whole, expected = path.read_bytes(), data.load_data("mnist")
    refusals = []
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            found = data.load_data("mnist")
        except PsplibError as error:
            refusals.append(str(error))
        else:  # a byte that carries no data, such as a date
            assert torch.equal(found.train.x, expected.train.x)
            assert torch.equal(found.test.y, expected.test.y)
    assert len(refusals) > len(whole) / 6
    assert all(str(path) in refusal for refusal in refusals)


def test_both_variants_of_the_cifar10_test_set_are_accepted_by_digest(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = places[0] / "cifar10.npz"
    raw = arrays("cifar10")
    official = raw | {"x_test": raw["x_test"][::-1].copy()}
    batch = b"".join(
        bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
        for image, label in zip(official["x_test"], official["y_test"], strict=True)
    )
    monkeypatch.setattr(data, "CIFAR10_OFFICIAL_TEST_MD5", hashlib.md5(batch).hexdigest())
    variants = {}
    for content in (raw, official):
        np.savez(path, **content)
        loaded = data.load_data("cifar10")
        np.testing.assert_array_equal(pixels(loaded, loaded.test), by_channel(content["x_test"]))
        variants[loaded.variant] = loaded.digest
    assert len(variants) == len(set(variants.values())) == 2
    for part in official:
        np.savez(path, **(official | {part: official[part] ^ 1}))
        with pytest.raises(PsplibError, match=part):
            data.load_data("cifar10")


class Shelf:
    """A stand-in for torchvision's data sets that counts how often it is asked."""

    def __init__(self, content: Arrays, failure: Exception | None = None) -> None:
        self.content, self.failure, self.asked = content, failure, []

    def __call__(self, root: str, train: bool, download: bool) -> "Shelf":
        assert download
        assert Path(root).is_dir()
        self.asked.append(train)
        if self.failure:
            raise self.failure
        part = "train" if train else "test"
        self.data, self.targets = self.content[f"x_{part}"], self.content[f"y_{part}"].tolist()
        return self


@pytest.mark.parametrize("name", data.PINNED)
def test_a_download_is_written_once_into_the_cache(
    name: str, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(arrays(name))
    monkeypatch.setattr(torchvision.datasets, data.PINNED[name].torchvision, shelf)
    first = data.load_data(name, download=True)
    assert shelf.asked == [True, False]
    assert [p.name for p in places[1].iterdir()] == [f"{name}.npz"]
    assert list(places[0].iterdir()) == []
    for again in (data.load_data(name), data.load_data(name, download=True)):
        assert torch.equal(again.train.x, first.train.x)
        assert torch.equal(again.test.y, first.test.y)
    assert shelf.asked == [True, False]


@pytest.mark.parametrize(
    "shelf",
    [
        Shelf(arrays("mnist"), failure=OSError("no route to host")),
        Shelf(arrays("mnist"), failure=RuntimeError("File not found or corrupted.")),
        Shelf(arrays("fashion-mnist")),
    ],
    ids=["the line is down", "a broken archive", "another data set"],
)
def test_a_failed_download_is_one_sentence_and_leaves_nothing(
    shelf: Shelf, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets, "MNIST", shelf)
    with pytest.raises(PsplibError, match="mnist"):
        data.load_data("mnist", download=True)
    assert list(places[0].parent.rglob("*.npz*")) == []


def test_a_full_disk_leaves_no_half_of_a_download(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, disk_of: Callable
) -> None:
    monkeypatch.setattr(torchvision.datasets, "MNIST", Shelf(arrays("mnist")))
    with disk_of(200), pytest.raises(PsplibError, match=r"mnist.npz could not be written"):
        data.load_data("mnist", download=True)
    assert list(places[1].iterdir()) == []
    assert len(data.load_data("mnist", download=True).test) == 10


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32)])
def test_digits_are_resized_bilinearly_between_pixel_centres(image: tuple[int, int, int]) -> None:
    loaded = data.load_data("digits", image=image)
    assert len(loaded.train) + len(loaded.validation) + len(loaded.test) == 1797
    assert (len(loaded.test), len(loaded.validation), loaded.classes) == (359, 144, 10)
    assert loaded.test.x.shape == (359, *image)
    std, mean = (torch.tensor(m).view(-1, 1, 1) for m in (loaded.std, loaded.mean))
    # Each axis on its own: the weight of each of the 8 pixels in each of the new ones.
    new = (np.arange(image[1]) + 0.5) * 8 / image[1] - 0.5
    axis = np.stack([np.interp(new, np.arange(8), unit) for unit in np.eye(8)], axis=1)
    bunch = load_digits()
    resized = axis @ (bunch.images / 16) @ axis.T
    for x, y in zip(loaded.test.x[:20] * std + mean, loaded.test.y[:20].tolist(), strict=True):
        distance = np.abs(resized - x[0].numpy()).max((1, 2))
        assert distance.min() < 1e-5
        assert y in bunch.target[distance < 1e-5]
        assert all(torch.equal(channel, x[0]) for channel in x)


def test_digits_keep_their_test_set_whatever_the_seed(digits: data.Data) -> None:
    other = data.load_data("digits", seed=1)
    assert torch.equal(digits.test.x, other.test.x)
    assert not torch.equal(digits.validation.x, other.validation.x)
    x = torch.cat([digits.train.x, digits.validation.x]).double()
    assert abs(float(x.mean())) < 1e-6
    assert abs(float(x.std(correction=0)) - 1) < 1e-6


def test_an_augmented_image_is_any_crop_or_its_mirror_with_equal_chance() -> None:
    image = 1.0 + torch.arange(2 * 6 * 5).view(2, 6, 5)  # zero is the padding's alone
    padded = F.pad(image, (4, 4, 4, 4))
    crops = [padded[:, i : i + 6, j : j + 5] for i in range(9) for j in range(9)]
    candidates = torch.stack([c for crop in crops for c in (crop, crop.flip(2))])
    batch = image.expand(162 * 40, -1, -1, -1)
    out = data.crop(batch, data.draw_crops(len(batch), torch.Generator().manual_seed(0)))
    assert out.shape == batch.shape
    which = (out[:, None] == candidates).flatten(2).all(2)
    assert bool((which.sum(1) == 1).all())
    counts = which.sum(0)
    assert int(counts.min()) > 0
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_augmentation_follows_its_generator_and_keeps_its_input(digits: data.Data) -> None:
    x = digits.test.x[:50]
    before = x.clone()
    drawn = [data.draw_crops(50, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    one, same, other = (data.crop(x, crops) for crops in drawn)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(x, before)


@pytest.mark.skipif(
    "PSPLIB_DATA" not in os.environ,
    reason="real data are never committed; the same code reads small files above",
)
def test_the_real_mnist_is_accepted_and_has_the_known_moments() -> None:
    loaded = data.load_data("mnist")
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (54000, 6000, 10000)
    assert loaded.mean == pytest.approx((0.1306604762738429,), abs=1e-7)
    assert loaded.std == pytest.approx((0.3081078038564626,), abs=1e-7)
    assert loaded.variant == "standard"
