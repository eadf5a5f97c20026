"""R >= 1 networks of one architecture in training: what is the same for every engine, and the
evaluation. The engines are in `psplib.training.engines`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.core.errors import PsplibError
from psplib.nn.compact import Compact
from psplib.nn.data import Data, Split
from psplib.nn.faithful import Own
from psplib.nn.masks import Mask
from psplib.nn.minibatches import check_labels, check_pair
from psplib.nn.wiring import is_plain
from psplib.training.gradient import Term
from psplib.training.precision import check_precision, of_activations, of_products
from psplib.training.update import Update

# Larger batches of images leave the cache: 0.50 s at 500, 0.81 s at 2000 (LeNet-5, 6,000 images).
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats and share of wrong answers over a whole split."""

    loss: float
    error: float


def evaluate(model: nn.Module, split: Split, precision: str = "float32") -> Score:
    """Loss and error of any network over a split; the modules' modes are restored. `PsplibError`
    for what is none, or does not fit: see `psp.observe`."""
    check_pair(split.x, split.y, 0)
    own = Own(model)

    def compute(x: Tensor) -> Tensor:
        logits = own(x)
        if logits.ndim != 2:
            raise PsplibError(f"A network must put out logits (B, C); got {tuple(logits.shape)}.")
        check_labels(split.y, logits.shape[1])
        return logits

    return evaluate_each(model, split, precision, 1, EVALUATION_BATCH, compute)[0]


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """For a while, in evaluation mode; then each module in its own, also after an exception."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate_each(
    model: nn.Module,
    split: Split,
    precision: str,
    networks: int,
    batch: int,
    compute: Callable[[Tensor], Tensor] | None = None,
) -> list[Score]:
    """The same of each of the `networks` that a model holds side by side, see `psplib.nn.batched`;
    `batch` images pass through all of them at once. `compute` stands in for the model."""
    device, compute = split.x.device, compute or model
    loss = torch.zeros(networks, dtype=torch.float64, device=device)
    wrong = torch.zeros(networks, dtype=torch.int64, device=device)
    # What a network keeps of a pass in inference mode could not be trained any more: no_grad.
    with (
        in_evaluation(model),
        torch.no_grad(),
        of_products(precision, device),
        of_activations(precision, device),
    ):
        for x, y in zip(split.x.split(batch), split.y.split(batch), strict=True):
            if networks > 1:
                x = x[:, None].expand(-1, networks, *x.shape[1:]).flatten(1, 2)
            logits = compute(x)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            logits = logits.view(len(y), networks, -1).transpose(1, 2)
            each = y[:, None].expand(-1, networks)
            if networks > 1:
                loss += F.cross_entropy(logits, each, reduction="none").sum(0).double()
            else:
                loss += F.cross_entropy(logits[..., 0], y, reduction="sum").double()
            wrong += (logits.argmax(1) != each).sum(0)
    rows = zip((loss / len(split)).tolist(), (wrong.double() / len(split)).tolist(), strict=True)
    return [Score(*row) for row in rows]


class Trainer(ABC):
    """R >= 1 networks of one architecture, each under a mask, trained side by side; at first all
    with the weights of `model`.

    Each has its own weights, order of samples and update, and becomes what it would become alone,
    up to the rounding of sums. Weights and states are in full coordinates (P,) wherever they are
    read or set; pruned weights are zero. Weights that survive but are cut off from the input or the
    output (idle) see no gradient.
    """

    compact: Compact
    model: nn.Module
    # Beside the cross-entropy; of one network in its compact form.
    term: Term | None = None
    # In the coordinates of the compact form, (R, p).
    _weights: Tensor
    _gradient: Tensor

    def __init__(
        self,
        model: nn.Module,
        masks: Sequence[Mask],
        data: Data,
        batch_size: int,
        precision: str = "float32",
    ) -> None:
        self.device = data.train.x.device
        check_precision(precision, self.device)
        self.full, self.masks, self.data = model, list(masks), data
        self.batch_size, self.precision = batch_size, precision
        self._begin()
        self.weights = self._initial()

    @abstractmethod
    def _build(self) -> None:
        """Make `compact`, `model`, and its parameters views of `_weights` and `_gradient`."""

    def _initial(self) -> Tensor:
        """The weights to begin with, in full coordinates."""
        return flat(self.full)

    def _read(self, x: Tensor) -> Tensor:
        """Images as the engine keeps them."""
        return x

    def _join(self, updates: Sequence[Update]) -> Any:
        """The update of all networks; here of one."""
        (update,) = updates
        return update

    @abstractmethod
    def _pass(self, orders: Sequence[Tensor], update: Any, crops: Sequence[Tensor] | None) -> None:
        """All steps of an epoch."""

    @abstractmethod
    def _buffers(self) -> dict[str, Tensor]:
        """The model's buffers, one (R, ...) for all networks; views of its memory."""

    @abstractmethod
    def scores(self, split: str) -> list[Score]:
        """Loss and error of every network on `train`, `validation` or `test`."""

    def set_mask(self, number: int, mask: Mask) -> None:
        """Train network `number` under another mask from now on."""
        self.masks[number] = mask
        self._set_survivors()
        self._full.mul_(self._survives)
        self._weights.mul_(self._within)

    def _begin(self) -> None:
        self._build()
        self._index = self.compact.index.to(self.device)
        self._full = self._weights.new_zeros(len(self), len(self.masks[0].flat))
        self._velocity: Tensor | None = None
        self._full_velocity: Tensor | None = None
        self._set_survivors()
        splits = {name: getattr(self.data, name) for name in ("train", "validation", "test")}
        self.splits = {name: Split(self._read(s.x), s.y) for name, s in splits.items()}

    def _set_survivors(self) -> None:
        self._survives = torch.stack([m.flat for m in self.masks]).to(self.device)
        self._within = self._survives[:, self._index]
        is_idle = self._survives[0].clone()
        is_idle[self._index] = False
        self._idle = is_idle.nonzero().flatten()

    def __len__(self) -> int:
        """How many networks there are."""
        return len(self.masks)

    @property
    def weights(self) -> Tensor:
        """A copy of the weights in full coordinates (R, P)."""
        full = self._full.clone()
        full[:, self._index] = self._weights
        return full

    @weights.setter
    def weights(self, full: Tensor) -> None:
        self._full.copy_(full).mul_(self._survives)
        self._weights.copy_(self._full[:, self._index])

    def set_weights(self, number: int, full: Tensor) -> None:
        """Give network `number` weights (P,) in full coordinates."""
        self._full[number] = full.to(self.device) * self._survives[number]
        self._weights[number] = self._full[number, self._index]

    def state(self, number: int) -> dict[str, Tensor]:
        """A copy of everything that training changes in a network: weights, the buffers of
        normalisation under the names of the full network, the velocity if there is one."""
        state = {"weights": self._expand(self._full, self._weights, number)}
        state |= {f"buffer.{n}": b for n, b in self._full_buffers(number).items()}
        if self._velocity is not None and self._full_velocity is not None:
            state["velocity"] = self._expand(self._full_velocity, self._velocity, number)
        return state

    def load(self, number: int, state: dict[str, Tensor]) -> None:
        """Return to a `state`: of this network, or of one whose mask kept more."""
        self.set_weights(number, state["weights"])
        self._load_buffers(number, state)
        if "velocity" in state or self._velocity is not None:
            full, small = self._need_velocity()
            full[number] = state.get("velocity", torch.zeros(())).to(self.device)
            small[number] = full[number, self._index]

    def _expand(self, full: Tensor, small: Tensor, number: int) -> Tensor:
        row = full[number].clone()
        row[self._index] = small[number]
        return row

    def _full_buffers(self, number: int) -> dict[str, Tensor]:
        return {name: buffer[number].clone() for name, buffer in self._buffers().items()}

    def _load_buffers(self, number: int, state: dict[str, Tensor]) -> None:
        for name, buffer in self._buffers().items():
            buffer[number].copy_(state[f"buffer.{name}"])

    def _need_velocity(self) -> tuple[Tensor, Tensor]:
        if self._velocity is None or self._full_velocity is None:
            self._velocity = torch.zeros_like(self._weights)
            self._full_velocity = torch.zeros_like(self._full)
        return self._full_velocity, self._velocity

    def epoch(
        self,
        orders: Sequence[Tensor],
        updates: Sequence[Update],
        crops: Sequence[Tensor] | None = None,
    ) -> None:
        """One pass over the training set, each network in its own order (N,) and with its own
        update after each minibatch; with `crops` (N, 3), its samples cropped and flipped.

        The mask holds after every step. `PsplibError` if the weights are not finite any more.
        """
        update = self._join(updates)
        if bool(torch.as_tensor(update.momentum).any()):
            self._need_velocity()
        self.model.train()
        with of_products(self.precision, self.device):
            self._pass(orders, update, crops)
        self._pass_idle(update, -(-len(orders[0]) // self.batch_size))
        lost = (~self._weights.isfinite().all(1)).nonzero().flatten().tolist()
        if lost:
            whose = f" of networks {lost}" if len(self) > 1 else ""
            raise PsplibError(f"The training{whose} diverged: its weights are not finite any more.")
        pruned = self._weights.masked_select(~self._within)
        assert not bool(pruned.any()), "a pruned weight came back to life"

    def _pass_idle(self, update: Any, steps: int) -> None:
        idle, velocity = self._full[:, self._idle], None
        if self._full_velocity is not None:
            velocity = self._full_velocity[:, self._idle]
        update.idle(idle, steps, velocity)
        self._full[:, self._idle] = idle
        if self._full_velocity is not None and velocity is not None:
            self._full_velocity[:, self._idle] = velocity

    def losses(self, number: int, candidates: Tensor, split: str) -> list[float]:
        """The loss of network `number` with each of the weights (K, P), R of them at a time."""
        weights, buffers = self._weights.clone(), self._buffers()
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        for name, buffer in buffers.items():
            buffer.copy_(before[name][number])
        found: list[float] = []
        for some in candidates[:, self._index].split(len(self)):
            self._weights[: len(some)] = some
            found += [score.loss for score in self.scores(split)[: len(some)]]
        for name, buffer in buffers.items():
            buffer.copy_(before[name])
        self._weights.copy_(weights)
        return found


def flatten_(
    parameters: Iterable[nn.Parameter], networks: int | None = None
) -> tuple[Tensor, Tensor]:
    """Make parameters and their gradients views of two vectors (P,), which are returned; of two
    matrices (R, P) where the first dimension of every parameter is that of R `networks`."""
    parameters = list(parameters)
    first = 0 if networks is None else 1
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


def channels_last(x: Tensor) -> Tensor:
    """Images (N, C, H, W) stored as (N, H, W, C): convolutions of a CPU are 1.7 times as fast."""
    if x.ndim != 4:
        return x
    # With one channel both orders are the same memory, and only the strides of a copy tell which.
    return x.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)


def pool_first(model: nn.Module) -> nn.Module:
    """Max pooling before a ReLU instead of after it: the same outputs and gradients, less work."""
    if type(model) is not nn.Sequential or not is_plain(model):
        return model
    layers = list(model.named_children())
    for i in range(len(layers) - 1):
        if type(layers[i][1]) is nn.ReLU and type(layers[i + 1][1]) is nn.MaxPool2d:
            layers[i], layers[i + 1] = layers[i + 1], layers[i]
    return nn.Sequential(OrderedDict(layers))
