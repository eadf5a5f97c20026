"""Many networks of one architecture trained in one program."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.core.errors import PsplibError
from psplib.nn import batched as replicated
from psplib.nn.batched import Conv2d, Linear, replicate
from psplib.nn.compact import Compact, compact, linear_layers
from psplib.nn.data import Data, Split, crop
from psplib.nn.masks import Mask
from psplib.training import gradient as chain
from psplib.training.precision import check, of_activations, of_products
from psplib.training.recording import Change, Recording, change, together
from psplib.training.trainer import Score, Update, flatten_, pool_first

# Images an evaluation passes through all networks at once, times their number.
EVALUATION_BATCH = {"cpu": 4_000, "cuda": 40_000}


class Replicas:
    """R networks of one architecture under masks of their own, trained in one program.

    Each has its own weights, order of samples and settings of its update, and becomes what it would
    become alone, up to the rounding of sums. Where all have the same mask and are chains, they are
    trained in compact form. `weights` (R, P) are in full coordinates wherever they are read.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Sequence[Mask],
        data: Data,
        batch_size: int,
        precision: str = "float32",
    ) -> None:
        check(precision, data.train.x.device)
        self.full, self.masks, self.batch_size = model, list(masks), batch_size
        self.precision = precision
        self.device = data.train.x.device
        same = all(torch.equal(m.flat, masks[0].flat) for m in masks[1:])
        is_compact = same and isinstance(model, nn.Sequential)
        self.compact = compact(model, masks[0] if is_compact else Mask.dense(model), sparse=False)
        single = pool_first(self.compact.model)
        self.model = replicate(single, len(masks)).to(self.device)
        self._weights, self._gradient = flatten_(self.model, len(masks))
        self._parameters = list(self.model.parameters())
        self._velocity: Tensor | None = None
        self._full_velocity: Tensor | None = None
        self._recording: Recording | None = None
        self.change: Change = change
        self._index = self.compact.index.to(self.device)
        self._full = self._weights.new_zeros(len(masks), len(masks[0].flat))
        self._mask = torch.ones_like(self._weights)
        self._set_masks()
        self.splits = {
            name: Split(self.compact.read(s.x), s.y)
            for name, s in (
                ("train", data.train),
                ("validation", data.validation),
                ("test", data.test),
            )
        }
        is_linear = linear_layers(single) is not None
        layers = [m for m in self.model.modules() if isinstance(m, Linear)]
        in_closed_form = is_linear and precision != "bfloat16"
        self._chain = chain.Chain(layers) if in_closed_form else None
        if self.device.type == "cuda":
            choose_algorithms(self)

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def algorithms(self) -> list[str]:
        """The algorithm of every convolution. Another one rounds differently: who goes on with a
        training goes on with its algorithms."""
        return [layer.algorithm for layer in self.convolutions()]

    @algorithms.setter
    def algorithms(self, names: Sequence[str]) -> None:
        for layer, name in zip(self.convolutions(), names, strict=True):
            layer.algorithm = name

    def convolutions(self) -> list[Conv2d]:
        """The convolutions, in the order of the model."""
        return [m for m in self.model.modules() if isinstance(m, Conv2d)]

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

    def row(self, number: int) -> Tensor:
        """A copy of the weights (P,) of replica `number`."""
        full = self._full[number].clone()
        full[self._index] = self._weights[number]
        return full

    def set_row(self, number: int, full: Tensor) -> None:
        """Give replica `number` weights (P,)."""
        self._full[number] = full.to(self.device) * self._survives[number]
        self._weights[number] = self._full[number, self._index]

    @property
    def has_velocity(self) -> bool:
        """Whether an update with momentum was made."""
        return self._velocity is not None

    @property
    def velocity(self) -> Tensor | None:
        """A copy of the velocities in full coordinates (R, P); None without momentum."""
        if self._velocity is None or self._full_velocity is None:
            return None
        full = self._full_velocity.clone()
        full[:, self._index] = self._velocity
        return full

    def set_velocity(self, number: int, full: Tensor) -> None:
        """Give replica `number` a velocity (P,)."""
        if self._velocity is None or self._full_velocity is None:
            self._velocity = torch.zeros_like(self._weights)
            self._full_velocity = torch.zeros_like(self._full)
        self._full_velocity[number] = full
        self._velocity[number] = self._full_velocity[number, self._index]

    def tensors(self) -> list[Tensor]:
        """What a step changes, as it lies in memory."""
        velocity = [] if self._velocity is None else [self._velocity]
        return [self._weights, *velocity, *self.model.buffers()]

    def __getitem__(self, number: int) -> Replica:
        return Replica(self, range(len(self))[number])

    def set_mask(self, number: int, mask: Mask) -> None:
        """Train replica `number` under another mask from now on."""
        if len(self._index) < len(mask.flat):
            raise PsplibError("Replicas in compact form share one mask, which stays.")
        self.masks[number] = mask
        self._set_masks()
        self._weights.mul_(self._survives)

    def _set_masks(self) -> None:
        self._survives = torch.stack([m.flat for m in self.masks]).to(self.device)
        within = self._survives[:, self._index]
        # In its place: a recorded step reads it there.
        self._mask.copy_(within)
        self._idle = self._survives[0].clone()
        self._idle[self._index] = False

    def epoch(
        self,
        orders: Sequence[Tensor],
        updates: Sequence[Update],
        crops: Sequence[Tensor] | None = None,
    ) -> None:
        """One pass over the training set, each replica in its own order (N,) and with its own
        update; with `crops` (N, 3), its samples cropped and flipped.

        `PsplibError` if the weights are not finite any more.
        """
        update = together(updates, self._weights)
        if self._velocity is None and bool(torch.as_tensor(update.momentum).any()):
            self._velocity = torch.zeros_like(self._weights)
            self._full_velocity = torch.zeros_like(self._full)
        self.model.train()
        rows = torch.stack(list(orders)).to(self.device)
        cuts = None if crops is None else torch.stack(list(crops)).to(self.device)
        with of_products(self.precision, self.device):
            whole = rows.shape[1] // self.batch_size
            if self._recording is None or not self._recording.fits(rows, update, cuts):
                self._recording = Recording(self, rows, update, cuts)
            self._recording.play(rows, update, cuts, whole)
            if rest := rows.shape[1] - whole * self.batch_size:
                self.step(rows[:, -rest:], update, None if cuts is None else cuts[:, -rest:])
        self._rest(update, -(-rows.shape[1] // self.batch_size))
        lost = (~self._weights.isfinite().all(1)).nonzero().flatten().tolist()
        if lost:
            raise PsplibError(
                f"The training of replicas {lost} diverged: weights are not finite any more."
            )

    def step(self, rows: Tensor, update: Update, crops: Tensor | None) -> None:
        """A minibatch (R, B) of each replica; nothing of it waits for the device."""
        x, y = self.batch(rows, crops)
        if self._chain is not None:
            self._chain(x, y)
        else:
            with of_activations(self.precision, self.device):
                logits = self.model(x).view(len(y), -1)
            # A sum over replicas of means over samples: no gradient reaches another replica.
            loss = F.cross_entropy(logits.to(self._weights), y) * len(self)
            parts = torch.autograd.grad(loss, self._parameters)
            torch.cat([part.flatten(1) for part in parts], 1, out=self._gradient)
        self.change(update, *self.changed())

    def changed(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """What `change` is about, as it lies in memory: weights, gradient, velocity, mask."""
        return self._weights, self._gradient, self._velocity, self._mask

    def batch(self, rows: Tensor, crops: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images and labels as the model reads them: (R, B, features) if it is a chain of linear
        layers, else (B, R x channels, ...) and (B x R,)."""
        train = self.splits["train"]
        if self._chain is not None:
            return train.x.flatten(1)[rows], train.y[rows]
        at = rows.t().flatten()
        x = train.x.index_select(0, at)
        if crops is not None:
            x = crop(x, crops.transpose(0, 1).flatten(0, 1))
        return x.view(rows.shape[1], -1, *x.shape[2:]), train.y.index_select(0, at)

    def _rest(self, update: Update, steps: int) -> None:
        if not bool(self._idle.any()):
            return
        idle, velocity = self._full[:, self._idle], None
        if self._velocity is not None:
            assert self._full_velocity is not None
            velocity = self._full_velocity[:, self._idle]
        update.idle(idle, steps, velocity)
        self._full[:, self._idle] = idle
        if velocity is not None:
            assert self._full_velocity is not None
            self._full_velocity[:, self._idle] = velocity

    def scores(self, split: str) -> list[Score]:
        """Loss and error of every replica on `train`, `validation` or `test`."""
        self.model.eval()
        part, replicas = self.splits[split], len(self)
        size = max(1, EVALUATION_BATCH[self.device.type] // replicas)
        loss = torch.zeros(replicas, dtype=torch.float64, device=self.device)
        wrong = torch.zeros(replicas, dtype=torch.int64, device=self.device)
        with (
            torch.inference_mode(),
            of_products(self.precision, self.device),
            of_activations(self.precision, self.device),
        ):
            for x, y in zip(part.x.split(size), part.y.split(size), strict=True):
                images = x[:, None].expand(-1, replicas, *x.shape[1:]).flatten(1, 2)
                logits = self.model(images).view(len(y), replicas, -1).transpose(1, 2)
                each = y[:, None].expand(-1, replicas)
                loss += (
                    F.cross_entropy(logits.to(self._weights), each, reduction="none")
                    .sum(0)
                    .double()
                )
                wrong += (logits.argmax(1) != each).sum(0)
        rows = zip((loss / len(part)).tolist(), (wrong.double() / len(part)).tolist(), strict=True)
        return [Score(*row) for row in rows]

    def losses(self, number: int, candidates: Tensor, split: str) -> list[float]:
        """The loss of replica `number` with each of the weights (K, P), R of them at a time."""
        weights = self.weights
        buffers = {n: b.clone() for n, b in self.model.named_buffers()}
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name][number])
        found: list[float] = []
        for some in candidates.split(len(self)):
            lent = weights[number].repeat(len(self), 1)
            lent[: len(some)] = some
            self._weights.copy_(lent[:, self._index])
            found += [score.loss for score in self.scores(split)[: len(some)]]
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        self._weights.copy_(weights[:, self._index])
        return found


class Replica:
    """One of the `Replicas`, with what a `Learner` has but for the training of its own."""

    def __init__(self, team: Replicas, number: int) -> None:
        self.team, self.number = team, number

    @property
    def abreast(self) -> int:
        """How many weights `losses` takes at a time."""
        return len(self.team)

    @property
    def mask(self) -> Mask:
        """What survives."""
        return self.team.masks[self.number]

    @property
    def compact(self) -> Compact:
        """The compact form of this network alone."""
        return compact(self.team.full, self.mask)

    @property
    def weights(self) -> Tensor:
        """A copy of the weights in full coordinates (P,)."""
        return self.team.row(self.number)

    @weights.setter
    def weights(self, full: Tensor) -> None:
        self.team.set_row(self.number, full)

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, as `Learner.state` has it."""
        state = {"weights": self.weights}
        for name, buffer in self.team.model.named_buffers():
            state[f"buffer.{name}"] = buffer[self.number].clone()
        if self.team.velocity is not None:
            state["velocity"] = self.team.velocity[self.number].clone()
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Return to a `state`: of this replica, or of a `Learner` of the network."""
        self.weights = state["weights"]
        for name, buffer in self.team.model.named_buffers():
            buffer[self.number].copy_(state[f"buffer.{name}"])
        if "velocity" in state:
            self.team.set_velocity(self.number, state["velocity"])

    def score(self, split: str) -> Score:
        """Loss and error on `train`, `validation` or `test`."""
        return self.team.scores(split)[self.number]

    def losses(self, candidates: Tensor, split: str) -> list[float]:
        """The loss with each of the weights (K, P) in the place of the replica's own."""
        return self.team.losses(self.number, candidates, split)

    def under(self, mask: Mask) -> Replica:
        """The replica under another mask."""
        self.team.set_mask(self.number, mask)
        return self


def choose_algorithms(team: Replicas, clock: Callable[[], float] = time.perf_counter) -> list[str]:
    """Time every algorithm of every convolution at its real size, forward and backward, and keep
    the fastest; their names, in the order of the layers."""
    shapes: dict[Conv2d, torch.Size] = {}
    layers = team.convolutions()
    hooks = [
        m.register_forward_pre_hook(lambda m, args: shapes.update({m: args[0].shape}))
        for m in layers
    ]
    rows = torch.arange(team.batch_size, device=team.device).expand(len(team), -1)
    rows = rows % len(team.splits["train"])
    with torch.no_grad():
        team.model.eval()
        team.model(team.batch(rows, None)[0])
    for hook in hooks:
        hook.remove()
    for layer in layers:
        seconds = {
            name: _time(layer, name, shapes[layer], team, clock) for name in replicated.ALGORITHMS
        }
        layer.algorithm = min(seconds, key=lambda name: seconds[name])
    return team.algorithms


def _time(
    layer: Conv2d, name: str, shape: torch.Size, team: Replicas, clock: Callable[[], float]
) -> float:
    x = torch.randn(shape, device=team.device, requires_grad=True)
    best = float("inf")
    before, layer.algorithm = layer.algorithm, name
    for attempt in range(5):
        if team.device.type == "cuda":
            torch.cuda.synchronize()
        start = clock()
        with of_products(team.precision, team.device), of_activations(team.precision, team.device):
            torch.autograd.grad(layer(x).sum(), [x, layer.weight])
        if team.device.type == "cuda":
            torch.cuda.synchronize()
        if attempt:
            best = min(best, clock() - start)
    layer.algorithm = before
    return best
