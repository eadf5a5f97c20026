"""Training of one network: steps, evaluation, checkpoint and resume.

Randomness is stateless: the order of epoch e is drawn from (seed, e), so that a run resumed at
any epoch sees the minibatches that it would have seen.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.core import files
from psplib.core.errors import PsplibError
from psplib.core.seeds import derive
from psplib.nn.compact import compact
from psplib.nn.data import Data, Split, crop, draw_crops
from psplib.nn.masks import Mask
from psplib.training import gradient as chain
from psplib.training.precision import check, of_activations, of_products

# Larger batches of images leave the cache: 0.50 s at 500, 0.81 s at 2000 (LeNet-5, 6,000 images).
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats and share of wrong answers over a whole split."""

    loss: float
    error: float


class Update(Protocol):
    """What happens to the weights after the gradient of a minibatch is known."""

    @property
    def momentum(self) -> float | Tensor:
        """How much of the velocity stays from step to step; without any there is no velocity."""

    def step(self, weights: Tensor, gradient: Tensor, velocity: Tensor | None = None) -> None:
        """Change `weights` (P,), and `velocity` (P,), in place; the gradient may be used up."""

    def idle(self, weights: Tensor, steps: int, velocity: Tensor | None = None) -> None:
        """The same for weights whose gradient was zero for `steps` steps."""


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent as PyTorch has it: with momentum m and weight decay d, the
    velocity is v <- m v + g + d w, then w <- w - learning rate * v.

    A setting is a number or, of R networks side by side, a tensor (R, 1).
    """

    learning_rate: float | Tensor
    momentum: float | Tensor = 0.0
    weight_decay: float | Tensor = 0.0

    def step(self, weights: Tensor, gradient: Tensor, velocity: Tensor | None = None) -> None:
        if velocity is not None:
            velocity.mul_(self.momentum).add_(gradient)
            add_(velocity, weights, self.weight_decay)
            gradient = velocity
        elif not isinstance(self.weight_decay, float) or self.weight_decay:
            weights.mul_(1 - self.learning_rate * self.weight_decay)
        add_(weights, gradient, -self.learning_rate)

    def idle(self, weights: Tensor, steps: int, velocity: Tensor | None = None) -> None:
        still(self, weights, steps, velocity)


def add_(y: Tensor, x: Tensor, factor: float | Tensor) -> None:
    """y <- y + factor * x."""
    if isinstance(factor, Tensor):
        y.addcmul_(x, factor)
    elif factor:
        y.add_(x, alpha=factor)


def still(update: Update, weights: Tensor, steps: int, velocity: Tensor | None) -> None:
    """`steps` steps without a gradient."""
    if weights.numel():
        for _ in range(steps):
            update.step(weights, torch.zeros_like(weights), velocity)


def order(size: int, seed: int, epoch: int) -> Tensor:
    """A permutation of `size` samples for an epoch."""
    generator = torch.Generator().manual_seed(derive("order", seed, epoch))
    return torch.randperm(size, generator=generator)


def crops(data: Data, seed: int, epoch: int) -> Tensor | None:
    """How the samples of an epoch are cropped and flipped, (N, 3); None if they are not."""
    if not data.is_augmented:
        return None
    generator = torch.Generator().manual_seed(derive("crops", seed, epoch))
    return draw_crops(len(data.train), generator)


def samples(data: Data, seed: int, epoch: int) -> tuple[Tensor, Tensor | None]:
    """The order of an epoch's samples (N,), and their crops (N, 3) if the data are augmented."""
    return order(len(data.train), seed, epoch), crops(data, seed, epoch)


def evaluate(model: nn.Module, split: Split, precision: str = "float32") -> Score:
    """Loss and error of a model over a split; the model's mode is restored."""
    device = split.x.device
    was_training = model.training
    model.eval()
    loss, wrong = torch.zeros((), dtype=torch.float64), 0
    with (
        torch.inference_mode(),
        of_products(precision, device),
        of_activations(precision, device),
    ):
        for x, y in zip(
            split.x.split(EVALUATION_BATCH), split.y.split(EVALUATION_BATCH), strict=True
        ):
            logits = model(x)
            loss += F.cross_entropy(logits.to(split.x), y, reduction="sum").double().cpu()
            wrong += int((logits.argmax(1) != y).sum())
    model.train(was_training)
    return Score(float(loss) / len(split), wrong / len(split))


def flatten_(model: nn.Module, replicas: int | None = None) -> tuple[Tensor, Tensor]:
    """Make a model's parameters and gradients views of two vectors (P,), which are returned; of two
    matrices (R, P) where the first dimension of every parameter is that of `replicas` networks."""
    parameters = list(model.parameters())
    first = 0 if replicas is None else 1
    weights = torch.cat([p.detach().flatten(first) for p in parameters], first)
    gradient = torch.zeros_like(weights)
    start = 0
    for p in parameters:
        stop = start + p[0].numel() if first else start + p.numel()
        p.data = weights[..., start:stop].view_as(p)
        p.grad = gradient[..., start:stop].view_as(p)
        start = stop
    return weights, gradient


def flat(model: nn.Module) -> Tensor:
    """A copy of a model's parameters as one vector (P,)."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Learner:
    """A network under a fixed mask, trained in its compact form.

    `weights` (P,) are in full coordinates wherever they are read or set; pruned ones are zero. So
    are the buffers of normalisation in a `state`.
    Weights that survive but are cut off from the input or the output (idle) see no gradient.
    """

    # How many weights `losses` takes at a time without a loss of speed.
    abreast = 1

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        data: Data,
        batch_size: int,
        precision: str = "float32",
    ) -> None:
        device = data.train.x.device
        check(precision, device)
        self.full, self.data, self.batch_size = model, data, batch_size
        self.mask, self.precision = mask, precision
        is_sparse = device.type == "cpu" and precision == "float32"
        self.compact = compact(model, mask, sparse=is_sparse)
        self.model = pool_first(self.compact.model).to(device)
        self._weights, self._gradient = flatten_(self.model)
        self._index = self.compact.index.to(device)
        self._full = self._weights.new_zeros(len(mask.flat))
        self._buffers = {name: b.clone().to(device) for name, b in model.named_buffers()}
        survives = mask.flat.to(device)
        within = survives[self._index]
        self._mask = None if bool(within.all()) else within.to(self._weights)
        self._differentiate = chain.gradient(self.model, within, precision)
        self._idle = survives.clone()
        self._idle[self._index] = False
        self._full_velocity: Tensor | None = None
        self._velocity: Tensor | None = None
        self.splits = {
            name: Split(channels_last(self.compact.read(s.x)), s.y)
            for name, s in (
                ("train", data.train),
                ("validation", data.validation),
                ("test", data.test),
            )
        }

    @property
    def weights(self) -> Tensor:
        """A copy of the weights in full coordinates (P,)."""
        full = self._full.clone()
        full[self._index] = self._weights
        return full

    @weights.setter
    def weights(self, full: Tensor) -> None:
        self._full.copy_(full).mul_(self.mask.flat.to(full.device))
        self._weights.copy_(self._full[self._index])

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, in full coordinates: weights, and the buffers of
        normalisation under the names of the full network."""
        buffers = self.compact.expand_buffers(self._buffers)
        state = {"weights": self.weights, **{f"buffer.{n}": b for n, b in buffers.items()}}
        if self._velocity is not None:
            assert self._full_velocity is not None
            state["velocity"] = self._full_velocity.clone()
            state["velocity"][self._index] = self._velocity
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Return to a `state`: of this learner, or of one whose mask kept more."""
        self.weights = state["weights"].to(self._full.device)
        for name, buffer in self._buffers.items():
            buffer.copy_(state[f"buffer.{name}"])
        self.compact.load_buffers_(self._buffers)
        self._full_velocity = self._velocity = None
        if "velocity" in state:
            self._full_velocity = state["velocity"].to(self._full.device)
            self._velocity = self._full_velocity[self._index]

    def epoch(self, order: Tensor, update: Update, crops: Tensor | None = None) -> None:
        """One pass over the training set in the given order, updating after each minibatch; with
        `crops` (N, 3), each of its samples cropped and flipped.

        The mask holds after every step. `PsplibError` if the weights are not finite any more.
        """
        train, weights, gradient = self.splits["train"], self._weights, self._gradient
        # A selection of rows is contiguous: selected as (N, H, W, C), it is channels last.
        images = train.x.movedim(1, -1) if train.x.ndim == 4 else train.x
        # Memory of its own: allocated anew for every batch, it costs more than the copy.
        memory = images.new_empty(self.batch_size, *images.shape[1:])
        if self._velocity is None and update.momentum:
            self._full_velocity = torch.zeros_like(self._full)
            self._velocity = torch.zeros_like(weights)
        self.model.train()
        batches = order.to(train.y.device).split(self.batch_size)
        with of_products(self.precision, images.device):
            for number, rows in enumerate(batches):
                x = torch.index_select(images, 0, rows, out=memory[: len(rows)])
                x = x.movedim(-1, 1) if x.ndim == 4 else x
                if crops is not None:
                    x = crop(x, crops[number * self.batch_size :][: len(rows)].to(x.device))
                    x = x.contiguous(memory_format=torch.channels_last)
                self._differentiate(x, train.y.index_select(0, rows))
                update.step(weights, gradient, self._velocity)
                if self._mask is not None:
                    weights.mul_(self._mask)
        self._rest(update, len(batches))
        full = self.weights.cpu()
        if not bool(full.isfinite().all()):
            raise PsplibError("The training diverged: its weights are not finite any more.")
        assert not bool(full[~self.mask.flat].any()), "a pruned weight came back to life"

    def _rest(self, update: Update, steps: int) -> None:
        idle = self._full[self._idle]
        if self._velocity is None:
            update.idle(idle, steps)
        else:
            assert self._full_velocity is not None
            velocity = self._full_velocity[self._idle]
            update.idle(idle, steps, velocity)
            self._full_velocity[self._idle] = velocity
        self._full[self._idle] = idle

    def score(self, split: str) -> Score:
        """Loss and error on `train`, `validation` or `test`."""
        return evaluate(self.model, self.splits[split], self.precision)

    def losses(self, candidates: Tensor, split: str) -> list[float]:
        """The loss with each of the weights (K, P) in the place of the learner's own."""
        before, found = self.weights, []
        for candidate in candidates:
            self.weights = candidate
            found.append(self.score(split).loss)
        self.weights = before
        return found

    def under(self, mask: Mask) -> Learner:
        """A learner of this network under another mask; its weights are to be given."""
        return Learner(self.full, mask, self.data, self.batch_size, self.precision)


def channels_last(x: Tensor) -> Tensor:
    """Images (N, C, H, W) stored as (N, H, W, C): convolutions of a CPU are 1.7 times as fast."""
    if x.ndim != 4:
        return x
    # With one channel both orders are the same memory, and only the strides of a copy tell which.
    return x.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)


def pool_first(model: nn.Module) -> nn.Module:
    """Max pooling before a ReLU instead of after it: the same outputs and gradients, less work."""
    if not isinstance(model, nn.Sequential):
        return model
    layers = list(model.named_children())
    for i in range(len(layers) - 1):
        if isinstance(layers[i][1], nn.ReLU) and isinstance(layers[i + 1][1], nn.MaxPool2d):
            layers[i], layers[i + 1] = layers[i + 1], layers[i]
    return nn.Sequential(OrderedDict(layers))


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, which goes."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


Report = Callable[[float, float, str], None]


class OutOfTime(Exception):
    """The deadline came first; what was begun is saved."""


@dataclass
class Checkpoint:
    """Where a run keeps its state, and whom it tells of its progress.

    Without a folder nothing is kept. Saving is due once in `interval` seconds: what is lost by an
    interruption is recomputed to the same bits. From the `deadline` (seconds since the epoch) on it
    is due at once, and ends the run: `OutOfTime`. `elapsed` counts the seconds of every session
    that led to this state.
    """

    folder: Path | None = None
    report: Report = lambda done, total, note: None
    interval: float = 5.0
    deadline: float | None = None
    _before: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _saved: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> Path | None:
        return self.folder / "checkpoint.safetensors" if self.folder else None

    @property
    def elapsed(self) -> float:
        return self._before + time.monotonic() - self._started

    def load(self) -> tuple[dict[str, Tensor], Any] | None:
        """The tensors and the state last saved, if any."""
        if self.path is None or not self.path.exists():
            return None
        tensors, kept = files.read_tensors(self.path)
        if not isinstance(kept, dict) or kept.get("sha256") != files.digest(tensors):
            raise PsplibError(f"{self.path} is damaged; remove it, and its run begins anew.")
        self._before = kept["elapsed"]
        return tensors, kept["state"]

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        is_old = time.monotonic() - self._saved >= self.interval
        return self.path is not None and (is_old or self._is_over)

    @property
    def _is_over(self) -> bool:
        return self.deadline is not None and time.time() >= self.deadline

    def save(self, tensors: dict[str, Tensor], state: Any) -> None:
        """Keep this state in the place of the last one."""
        if self.path:
            facts = {"elapsed": self.elapsed, "state": state, "sha256": files.digest(tensors)}
            files.write_tensors(self.path, tensors, facts)
            self._saved = time.monotonic()
        if self._is_over:
            raise OutOfTime
