"""A data set as tensors on a device: train, validation and test, normalised."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from psplib.core import files
from psplib.core.checkout import named
from psplib.core.errors import PsplibError, brief, one_of

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Pinned:
    """What a downloadable data set must be, to the byte."""

    image: tuple[int, ...]
    counts: tuple[int, int]
    sha256: dict[str, str]
    torchvision: str


PINNED = {
    "mnist": Pinned(
        (28, 28),
        (60000, 10000),
        {
            "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
            "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
            "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        },
        "MNIST",
    ),
    "fashion-mnist": Pinned(
        (28, 28),
        (60000, 10000),
        {
            "x_train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
            "y_train": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
            "x_test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
            "y_test": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
        },
        "FashionMNIST",
    ),
    "cifar10": Pinned(
        (32, 32, 3),
        (50000, 10000),
        {
            "x_train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
            "y_train": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
            "x_test": "1249626010949d8f448e0faf792debbc3da0c50ed31bfff3678c99c37fbc7e48",
            "y_test": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
        },
        "CIFAR10",
    ),
}
NAMES = ("digits", *PINNED)
PARTS = ("x_train", "y_train", "x_test", "y_test")
# SHA-256 over all arrays of each variant, which every run's provenance names: known without the
# data, so that a run of made-up data is refused.
DIGESTS = {
    "digits": {"scikit-learn": "f6d9e39f37dc45d327f6db33428ee58970ccceabb2535a5c179de35886b70443"},
    "mnist": {"standard": "c868f4cc70f1ec2961bd3b26437ea3a5d0e93cba4d95b336c6d475dd9dabb021"},
    "fashion-mnist": {
        "standard": "59c4ea05a36442d6513afff578fc9c4a49bab9b60a7432bf84452b97809256a8"
    },
    "cifar10": {
        "20 test images from JPEG": (
            "5c8990d5a158c9a44113d03dc13e8d271671794dde3d421edf100d8a5ae87d73"
        )
    },
}

# The official CIFAR-10 test pixels, known by the digest of the official binary batch (a label
# byte, then the planes of the image). The other variant, pinned above, has 20 images that were
# decoded from JPEG because no lossless copy could be found.
CIFAR10_OFFICIAL_TEST_MD5 = "803d5f7f4d78ea53de84dbe85f74fb6d"
# Of the official variant it is made from the digests of its parts: all that is known without it.
DIGESTS["cifar10"]["standard"] = hashlib.sha256(
    "".join([CIFAR10_OFFICIAL_TEST_MD5, *PINNED["cifar10"].sha256.values()]).encode()
).hexdigest()


@dataclass(frozen=True)
class Split:
    """Images `x` (N, C, H, W) float32 and labels `y` (N,) int64 on one device."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Data:
    """A normalised data set; `variant` and `digest` go into the provenance of every run."""

    name: str
    variant: str
    digest: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    validation: Split
    test: Split

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.train.y.max()) + 1

    @property
    def is_augmented(self) -> bool:
        """Whether training images are cropped and flipped at random: those of CIFAR-10 in colour
        (He et al., 2016, section 4.2)."""
        return self.name == "cifar10" and self.train.x.shape[1] == 3


def folders() -> list[Path]:
    """Where `<name>.npz` is looked for: `$PSPLIB_DATA`, then the user's cache."""
    cache = (named("XDG_CACHE_HOME") or files.home() / ".cache") / "psplib"
    given = named("PSPLIB_DATA")
    return [given, cache] if given else [cache]


def load_data(
    name: str,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    image: tuple[int, int, int] | None = None,
    samples: int | None = None,
    download: bool = False,
) -> Data:
    """Load a data set, split 90/10 into training and validation by `seed`.

    With `samples`, a part of it: of the standard training set and of the test set the first so
    many images each, where there are more. The constants of normalisation stay those of the whole.

    Pixels are scaled to 0..1, then normalised per channel by the mean and standard deviation of
    the standard training set. `image` = (C, H, W) resizes `digits` (default 1x28x28; ResNets want
    3x32x32) and may only repeat what the other data sets have.

    Raises `PsplibError` for an unknown name, absent data, or a file that is not, to the byte,
    what it should be. Nothing is fetched unless `download` is true.
    """
    one_of("data set", name, NAMES)
    if name == "digits":
        train, test, variant, digest = _digits(image or (1, 28, 28))
    else:
        arrays, variant, digest = _pinned(name, download)
        train, test = (
            Split(_images(arrays[f"x_{part}"]), torch.from_numpy(arrays[f"y_{part}"]).long())
            for part in ("train", "test")
        )
        if image is not None and image != (found := tuple(train.x.shape[1:])):
            raise PsplibError(f"{name} has images of shape {found}; {image} was asked for.")
    # Over the whole standard training set: the constants do not depend on the seed.
    mean, std = _moments(train.x)
    for x in (train.x, test.x):
        x.sub_(mean.float().view(-1, 1, 1)).div_(std.float().view(-1, 1, 1))
    train, test = (Split(part.x[:samples], part.y[:samples]) for part in (train, test))
    shuffled = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    held_out = round(VALIDATION_SHARE * len(train))
    rows = ((train, shuffled[held_out:]), (train, shuffled[:held_out]), (test, slice(None)))
    splits = (Split(part.x[own].to(device), part.y[own].to(device)) for part, own in rows)
    return Data(name, variant, digest, tuple(mean.tolist()), tuple(std.tolist()), *splits)


def draw_crops(count: int, generator: torch.Generator | None = None) -> Tensor:
    """What `crop` does to each of `count` images, (N, 3) int64: offsets from the top and from the
    left (0..8), and whether it is flipped (0 or 1); every combination equally likely."""
    top_left = torch.randint(9, (count, 2), generator=generator)
    return torch.cat([top_left, torch.randint(2, (count, 1), generator=generator)], 1)


def crop(x: Tensor, crops: Tensor) -> Tensor:
    """Images (N, C, H, W) padded by 4, cropped to their size and flipped as `crops` (N, 3) says.

    Padding is zero in normalised units, as the reference ResNet code has it after its transforms
    are exchanged for tensors.
    """
    n, channels, height, width = x.shape
    device = x.device
    top, left, flip = crops.unbind(1)
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, -1)
    columns = left[:, None] + torch.where(flip[:, None] > 0, columns.flip(1), columns)
    padded = F.pad(x, (4, 4, 4, 4))
    image = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) float64 of images (N, C, H, W), in pieces to save memory."""
    pieces = x.split(1000)
    count = x.numel() / x.shape[1]
    mean = sum(p.double().sum(dim=(0, 2, 3)) for p in pieces) / count
    centred = mean.view(-1, 1, 1)
    return mean, (
        sum((p.double() - centred).square().sum(dim=(0, 2, 3)) for p in pieces) / count
    ).sqrt()


def _images(pixels: np.ndarray) -> Tensor:
    x = torch.from_numpy(pixels)
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    return x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _digits(image: tuple[int, int, int]) -> tuple[Split, Split, str, str]:
    """scikit-learn's 1,797 8x8 digits (levels 0..16), resized; a fixed fifth is the test set."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float()[:, None] / 16
    x = F.interpolate(x, image[1:], mode="bilinear", align_corners=False)
    x = x.expand(-1, image[0], -1, -1).contiguous()
    y = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order[: len(x) // 5], order[len(x) // 5 :]
    digest = _sha256(bunch.images.astype("<f8"), bunch.target.astype("<i8"))
    if digest not in DIGESTS["digits"].values():
        raise PsplibError(
            "scikit-learn's digits differ from those that psplib knows (SHA-256); "
            "install another version of scikit-learn."
        )
    return Split(x[train], y[train]), Split(x[test], y[test]), "scikit-learn", digest


def _pinned(name: str, download: bool) -> tuple[dict[str, np.ndarray], str, str]:
    """The arrays of `<name>.npz`, checked, with the variant's name and a digest of them all."""
    looked = [folder / f"{name}.npz" for folder in folders()]
    path = next((p for p in looked if p.exists()), None)
    if path is None:
        if not download:
            places = " or ".join(str(p) for p in looked)
            raise PsplibError(
                f"The data set {name} was not found (looked for {places}); put {name}.npz there, "
                f"point PSPLIB_DATA at its folder, or call psplib.load_data({name!r}, "
                "download=True) once."
            )
        path = _download(name, looked[-1])
    arrays = _read(name, path)
    variant = _check(name, path, arrays)
    if (name, variant) == ("cifar10", "standard"):
        return arrays, variant, DIGESTS[name][variant]
    return arrays, variant, _sha256(*(arrays[part] for part in sorted(arrays)))


def _read(name: str, path: Path) -> dict[str, np.ndarray]:
    """The arrays, each read when its type and its shape are known to be right."""
    try:
        if not path.is_file():
            raise FileNotFoundError("it is not a file")
        with zipfile.ZipFile(path) as archive:
            for part in PARTS:
                if f"{part}.npy" not in archive.namelist():
                    raise PsplibError(f"{path} lacks an array: {part}.")
            return {part: _read_part(name, path, part, archive) for part in PARTS}
    except PsplibError:
        raise
    except Exception as error:  # numpy, zipfile and zlib each have their own for a damaged file
        raise PsplibError(
            f"{path} is not a whole, plain .npz file ({brief(error)}); "
            "remove it and fetch it again."
        ) from None


def _read_part(name: str, path: Path, part: str, archive: zipfile.ZipFile) -> np.ndarray:
    pinned = PINNED[name]
    count = pinned.counts[part.endswith("test")]
    shape = (count, *pinned.image) if part.startswith("x") else (count,)
    with archive.open(f"{part}.npy") as stream:
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(stream)]
        found, is_fortran, dtype = read_header(stream)
        if found != shape or dtype != np.uint8:
            raise PsplibError(
                f"{path}: {part} must be uint8 of shape {shape}; got {dtype} of shape {found}."
            )
        content = stream.read(prod(shape) + 1)
        # What is shorter or longer than the header says has another number of elements.
        array = np.frombuffer(bytearray(content), np.uint8)
        return array.reshape(shape, order="F" if is_fortran else "C")


def _check(name: str, path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Refuse anything but the pinned bytes; return the variant's name."""
    pinned = PINNED[name]
    wrong = [part for part, array in arrays.items() if _sha256(array) != pinned.sha256[part]]
    if not wrong:
        return "standard" if name != "cifar10" else "20 test images from JPEG"
    if name == "cifar10" and wrong == ["x_test"]:
        planes = arrays["x_test"].transpose(0, 3, 1, 2).reshape(len(arrays["x_test"]), -1)
        batch = np.concatenate([arrays["y_test"][:, None], planes], axis=1)
        if hashlib.md5(batch.tobytes()).hexdigest() == CIFAR10_OFFICIAL_TEST_MD5:
            return "standard"
    raise PsplibError(
        f"{path}: {', '.join(wrong)} differ from the published {name} (SHA-256); "
        "this file cannot be used."
    )


def _download(name: str, path: Path) -> Path:
    """Fetch through torchvision, once, and leave one checked npz in the user's cache."""
    import torchvision.datasets

    fetch = getattr(torchvision.datasets, PINNED[name].torchvision)
    arrays: dict[str, np.ndarray] = {}
    with files.scratch(Path(tempfile.gettempdir())) as scratch:
        try:
            for part, train in (("train", True), ("test", False)):
                fetched = fetch(scratch, train=train, download=True)
                arrays[f"x_{part}"] = np.asarray(fetched.data, dtype=np.uint8)
                arrays[f"y_{part}"] = np.asarray(fetched.targets, dtype=np.uint8)
        except (OSError, RuntimeError) as error:
            raise PsplibError(f"{name} could not be downloaded: {error}.") from None
    _check(name, path, arrays)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    files.make_folder(path.parent)
    files.write(path, content.getvalue())
    return path
