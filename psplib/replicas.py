"""Many networks of one architecture trained in one program.

Every parameter has a first dimension, the replica. Activations are (batch, R x channels, ...), so
that whatever treats channels alike (ReLU, pooling, normalisation) needs no change.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import chain
from .checks import PsplibError, one_of
from .compact import Compact, compact, linear_layers
from .data import Data, Split, crop
from .masks import Mask
from .models import Block
from .training import Score, Update, flatten_, pool_first

PRECISIONS = {
    "float32": "every product in float32",
    "tf32": "products of matrices and convolutions with 10 bits of mantissa (NVIDIA, from Ampere)",
    "bfloat16": "activations and products in bfloat16, weights and their update in float32",
}
# Images an evaluation passes through all networks at once, divided by their number.
EVALUATION_BATCH = 4_000


class Linear(nn.Module):
    """R linear layers; (batch, R x in) -> (batch, R x out)."""

    def __init__(self, layer: nn.Linear, replicas: int) -> None:
        super().__init__()
        self.weight = _zeros(layer.weight, replicas)
        self.bias = _zeros(layer.bias, replicas)

    def forward(self, x: Tensor) -> Tensor:
        each = x.view(len(x), len(self.weight), -1).transpose(0, 1)
        z = torch.baddbmm(self.bias[:, None], each, self.weight.mT)
        return z.transpose(0, 1).flatten(1)


class Conv2d(nn.Module):
    """R convolutions; (batch, R x channels, ...) -> (batch, R x filters, ...).

    `algorithm` is one of `ALGORITHMS`; all compute the same.
    """

    def __init__(self, layer: nn.Conv2d, replicas: int) -> None:
        super().__init__()
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise PsplibError(f"Replicas know plain convolutions only; got {layer}.")
        self.weight = _zeros(layer.weight, replicas)
        self.bias = None if layer.bias is None else _zeros(layer.bias, replicas)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
        self.algorithm = "grouped"

    def forward(self, x: Tensor) -> Tensor:
        return ALGORITHMS[self.algorithm](self, x)


def _grouped(m: Conv2d, x: Tensor) -> Tensor:
    """One convolution of R groups."""
    bias = None if m.bias is None else m.bias.flatten()
    where = (m.stride, m.padding, m.dilation)
    return F.conv2d(x, m.weight.flatten(0, 1), bias, *where, groups=len(m.weight))


def _unfolded(m: Conv2d, x: Tensor) -> Tensor:
    """Patches as columns, then one product of matrices a replica."""
    kernel = m.weight.shape[-2:]
    patches = F.unfold(x, kernel, m.dilation, m.padding, m.stride)
    patches = patches.view(len(x), len(m.weight), -1, patches.shape[-1])
    z = m.weight.flatten(2) @ patches
    if m.bias is not None:
        z = z + m.bias[..., None]
    reach = m.dilation[0] * (kernel[0] - 1) + 1
    height = (x.shape[-2] + 2 * int(m.padding[0]) - reach) // m.stride[0] + 1
    return z.view(len(x), -1, height, z.shape[-1] // height)


def _one_by_one(m: Conv2d, x: Tensor) -> Tensor:
    """A convolution for each replica; on a GPU in streams side by side."""
    biases: Sequence[Tensor | None] = [None] * len(m.weight) if m.bias is None else list(m.bias)
    parts = list(zip(x.chunk(len(m.weight), 1), m.weight, biases, strict=True))
    where = (m.stride, m.padding, m.dilation)
    if x.device.type != "cuda":
        return torch.cat([F.conv2d(part, w, b, *where) for part, w, b in parts], 1)
    now = torch.cuda.current_stream()
    streams = [torch.cuda.Stream() for _ in range(min(4, len(parts)))]
    done = []
    for stream in streams:
        stream.wait_stream(now)
    for i, (part, w, b) in enumerate(parts):
        with torch.cuda.stream(streams[i % len(streams)]):
            done.append(F.conv2d(part, w, b, *where))
    for stream in streams:
        now.wait_stream(stream)
    return torch.cat(done, 1)


ALGORITHMS: dict[str, Callable[[Conv2d, Tensor], Tensor]] = {
    "grouped": _grouped,
    "unfolded": _unfolded,
    "one by one": _one_by_one,
}


class BatchNorm2d(nn.Module):
    """R batch normalisations of (batch, R x channels, ...), each with statistics of its own."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layer: nn.BatchNorm2d, replicas: int) -> None:
        super().__init__()
        self.weight, self.bias = _zeros(layer.weight, replicas), _zeros(layer.bias, replicas)
        self.momentum, self.eps = layer.momentum, layer.eps
        for name, buffer in layer.named_buffers():
            self.register_buffer(name, torch.stack([buffer] * replicas))

    def forward(self, x: Tensor) -> Tensor:
        assert self.momentum is not None
        if self.training:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            x,
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.flatten(),
            self.bias.flatten(),
            self.training,
            self.momentum,
            self.eps,
        )


class ReplicatedBlock(Block):
    """R residual blocks: the zero channels of the shortcut are each replica's own."""

    def __init__(self, block: Block, replicas: int) -> None:
        nn.Module.__init__(self)
        self.replicas, self.stride, self.padding = replicas, block.stride, block.padding
        self.conv1, self.bn1, self.relu1 = block.conv1, block.bn1, block.relu1
        self.conv2, self.bn2, self.relu2 = block.conv2, block.bn2, block.relu2

    def shortcut(self, x: Tensor) -> Tensor:
        return super().shortcut(x.unflatten(1, (self.replicas, -1))).flatten(1, 2)


def _zeros(p: Tensor, replicas: int) -> nn.Parameter:
    return nn.Parameter(p.new_zeros(replicas, *p.shape), p.requires_grad)


def replicate(model: nn.Module, replicas: int) -> nn.Module:
    """R networks like `model`, as one module whose parameters (R, ...) are zero; its input and
    output are (batch, R x channels, ...)."""
    kinds: dict[type, type] = {
        nn.Linear: Linear,
        nn.Conv2d: Conv2d,
        nn.BatchNorm2d: BatchNorm2d,
        Block: ReplicatedBlock,
    }
    replicated = copy.deepcopy(model)
    for name, module in list(replicated.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if type(module) in kinds:
            new = kinds[type(module)](module, replicas)
            setattr(replicated.get_submodule(parent), leaf, new)
        elif list(module.parameters(recurse=False)):
            raise PsplibError(f"Replicas of a {type(module).__name__} are not known.")
    return replicated


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
        one_of("precision", precision, PRECISIONS)
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
        self._recording: _Recording | None = None
        self.change: Change = change
        self._index = self.compact.index.to(self.device)
        self._full = self._weights.new_zeros(len(masks), len(masks[0].flat))
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
        self._chain = chain.Chain(layers) if is_linear else None

    def __len__(self) -> int:
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
        # Always of one memory: a recorded step reads it.
        if not hasattr(self, "_mask"):
            self._mask = within.to(self._weights)
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
        with _precision(self.precision, self.device):
            whole = rows.shape[1] // self.batch_size
            if self._recording is None or not self._recording.fits(rows, update, cuts):
                self._recording = _Recording(self, rows, update, cuts)
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
            with _autocast(self.precision, self.device):
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
        size = max(1, EVALUATION_BATCH // replicas)
        loss = torch.zeros(replicas, dtype=torch.float64, device=self.device)
        wrong = torch.zeros(replicas, dtype=torch.int64, device=self.device)
        with (
            torch.inference_mode(),
            _precision(self.precision, self.device),
            _autocast(self.precision, self.device),
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


def together(updates: Sequence[Update], weights: Tensor) -> Any:
    """The updates of R replicas as one, whose settings are tensors (R, 1) like `weights` (R, P)."""
    first = updates[0]
    if any(type(u) is not type(first) for u in updates):
        names = ", ".join(sorted({type(u).__name__ for u in updates}))
        raise PsplibError(f"Replicas need updates of one kind; got {names}.")
    settings: dict[str, Any] = {}
    for f in dataclasses.fields(first):  # type: ignore[arg-type]
        values = [getattr(u, f.name) for u in updates]
        if isinstance(values[0], bool):
            if len(set(values)) > 1:
                raise PsplibError(f"Replicas need one value of {f.name}; got {set(values)}.")
            settings[f.name] = values[0]
        else:
            settings[f.name] = weights.new_tensor(values)[:, None]
    return type(first)(**settings)


def change(
    update: Update, weights: Tensor, gradient: Tensor, velocity: Tensor | None, mask: Tensor
) -> None:
    """The update of a step and the mask, in place."""
    update.step(weights, gradient, velocity)
    weights.mul_(mask)


Change = Callable[[Update, Tensor, Tensor, "Tensor | None", Tensor], None]


def fused(update: Update, *tensors: Tensor | None) -> Change:
    """`change` as one kernel, where this machine has a compiler that makes it do the same; else
    `change`."""

    def after(apply: Any) -> list[Tensor]:
        copies = [t if t is None else t.clone() for t in tensors]
        apply(copy.deepcopy(update), *copies)
        return [t for t in copies[::2] if t is not None]

    try:
        compiled = torch.compile(change, dynamic=False)
        for mine, its in zip(after(compiled), after(change), strict=True):
            torch.testing.assert_close(mine, its)
    except Exception as error:  # a compiler may be absent, or fail, in many ways
        warnings.warn(f"The update is not fused ({type(error).__name__}).", stacklevel=2)
        return change
    return compiled


class _Recording:
    """Steps that take everything from memory of their own: on a GPU they are recorded once, as a
    graph, and replayed without a word from the host."""

    def __init__(self, team: Replicas, rows: Tensor, update: Update, crops: Tensor | None) -> None:
        self.team = team
        self.rows, self.crops = rows.clone(), None if crops is None else crops.clone()
        self.update = copy.deepcopy(update)
        self.position = torch.zeros(1, dtype=torch.int64, device=team.device)
        self.reach = torch.arange(team.batch_size, device=team.device)
        self.velocity = team.has_velocity
        self.again: Callable[[], None] = self.step
        if team.device.type == "cuda" and rows.shape[1] >= team.batch_size:
            self._record()

    def fits(self, rows: Tensor, update: Update, crops: Tensor | None) -> bool:
        """Whether the recorded steps serve these inputs."""
        return (
            rows.shape == self.rows.shape
            and type(update) is type(self.update)
            and (crops is None) == (self.crops is None)
            and self.team.has_velocity == self.velocity
        )

    def play(self, rows: Tensor, update: Update, crops: Tensor | None, steps: int) -> None:
        """Make the first `steps` steps of an epoch."""
        self.rows.copy_(rows)
        if self.crops is not None and crops is not None:
            self.crops.copy_(crops)
        for name, value in vars(update).items():
            if isinstance(value, Tensor):
                getattr(self.update, name).copy_(value)
        self.position.zero_()
        for _ in range(steps):
            self.again()

    def step(self) -> None:
        at = self.position + self.reach
        crops = None if self.crops is None else self.crops.index_select(1, at)
        self.team.step(self.rows.index_select(1, at), self.update, crops)
        self.position.add_(len(self.reach))

    def _record(self) -> None:
        self.team.change = fused(self.update, *self.team.changed())
        changed = self.team.tensors()
        before = [t.clone() for t in changed]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Libraries choose and allocate at their first calls, which must not be recorded.
            for _ in range(3):
                self.position.zero_()
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)
        self.again = graph.replay


@contextlib.contextmanager
def _precision(name: str, device: torch.device) -> Iterator[None]:
    """Whether matrix products of a GPU may use TF32, set for a while."""
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _autocast(name: str, device: torch.device) -> Any:
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16")


def choose_algorithms(team: Replicas, clock: Callable[[], float] = time.perf_counter) -> list[str]:
    """Time every algorithm of every convolution at its real size, forward and backward, and keep
    the fastest; their names, in the order of the layers."""
    shapes: dict[Conv2d, torch.Size] = {}
    layers = [m for m in team.model.modules() if isinstance(m, Conv2d)]
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
        seconds = {name: _time(layer, name, shapes[layer], team, clock) for name in ALGORITHMS}
        layer.algorithm = min(seconds, key=lambda name: seconds[name])
    return [layer.algorithm for layer in layers]


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
        with _precision(team.precision, team.device), _autocast(team.precision, team.device):
            torch.autograd.grad(layer(x).sum(), [x, layer.weight])
        if team.device.type == "cuda":
            torch.cuda.synchronize()
        if attempt:
            best = min(best, clock() - start)
    layer.algorithm = before
    return best
