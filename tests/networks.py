"""Networks that are not ours, and what a network may not be."""

import copy
import types

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from psplib.nn.data import Split

DOUBLE = torch.float64


def images(count: int = 12, *shape: int) -> Split:
    return Split(torch.randn(count, *(shape or (6,)), dtype=DOUBLE), torch.arange(count) % 3)


def mlp(*middle: nn.Module) -> list[nn.Module]:
    return [nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), *middle, nn.Linear(4, 3)]


class Quartered(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 4


class Functional(nn.Module):
    """A module, a function, an in-place function and a method of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(5))
        self.relu, self.unused, self.out = nn.ReLU(), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.layers[0](x))
        x = F.relu(self.layers[1](x))
        x = torch.relu_(self.layers[2](x))
        x = self.layers[3](x).relu()
        x = self.relu(self.layers[4](x).add_(0.1))
        return self.out(x.clamp(min=0))


class Overwritten(nn.Module):
    """The potential is written to after the ReLU has read it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc1(x)
        y = self.relu(z)
        z.mul_(-100)
        return self.fc2(y)


class ReadsWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.relu(self.fc1(x.to(self.fc1.weight.dtype))))


class Cached(nn.Module):
    """Keeps what it has made in the first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
        self.scale = None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = self.fc1.weight.abs().mean() + torch.ones(5, dtype=x.dtype)
        return self.fc2(self.relu(self.fc1(x) * self.scale))


class Attention(nn.Module):
    """Words by position first inside, samples first outside."""

    def __init__(self, batch_first: bool, norm_first: bool = False) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.layer = nn.TransformerEncoderLayer(
            6, 2, 7, dropout=0.3, batch_first=batch_first, norm_first=norm_first
        )
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_first:
            return self.out(self.layer(x).mean(1))
        return self.out(self.layer(x.transpose(0, 1)).mean(0))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.fc, self.out = nn.Embedding(9, 5), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.fc(self.words(x).mean(1))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc, self.out = (
            nn.LSTM(6, 4, batch_first=True),
            nn.Linear(4, 5),
            nn.Linear(5, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.fc(self.lstm(x)[0][:, -1])))


class Block(nn.Module):
    """A residual block that uses one in-place ReLU twice."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.relu = norm(3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.norm(self.conv1(x))))
        y += x
        return self.relu(y)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def twice() -> nn.Module:
    fc, relu = nn.Linear(6, 6), nn.ReLU()
    return nn.Sequential(fc, relu, fc, relu, nn.Linear(6, 3))


def frozen() -> nn.Module:
    model = nn.Sequential(*mlp())
    model[0].requires_grad_(False)
    return model


def closure() -> nn.Module:
    model = nn.Sequential(*mlp())
    inner = list(model)

    def forward(x: Tensor) -> Tensor:
        for layer in inner:
            x = layer(x)
        return x

    model.forward = forward
    return model


def bound() -> nn.Module:
    """A `forward` put on the network that reads a parameter itself."""
    model = nn.Sequential(*mlp())
    weight = model[0].weight
    model.forward = types.MethodType(
        lambda self, x: self[4](F.relu(self[2](F.relu(x @ weight.T)))), model
    )
    return model


def hooked(where: int, before: bool) -> nn.Module:
    model = nn.Sequential(*mlp())
    if before:
        model[where].register_forward_pre_hook(lambda _, x: (x[0] * 3 + 1,))
    else:
        model[where].register_forward_hook(lambda _, x, y: y * 3 + 1)
    return model


def hooked_pool() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    model[1].register_forward_pre_hook(lambda _, x: (x[0] * 2 - 0.3,))
    return model


def conv(*after: nn.Module, size: int = 36) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), *after, nn.Flatten(), nn.Linear(size, 3))


def pruned() -> nn.Module:
    model = nn.Sequential(*mlp())
    prune.random_unstructured(model[0], "weight", 0.4)
    return model


def normed(kind: type[nn.Module], *shape: int) -> nn.Module:
    norm = kind(2, 4) if kind is nn.GroupNorm else kind(4)
    for name, b in norm.named_buffers():
        if b.is_floating_point():
            nn.init.uniform_(b, 0.5, 2) if "var" in name else nn.init.normal_(b)
    return nn.Sequential(*mlp(norm))


def misordered() -> nn.Module:
    """A layer whose bias comes before its weight."""
    model = nn.Sequential(*mlp())
    weight = model[2].weight
    del model[2].weight
    model[2].weight = weight
    return model


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


NETWORKS = {
    "sequential with a forward": lambda: Quartered(*mlp()),
    "module, function, method": Functional,
    "written to later": Overwritten,
    "reads a weight": ReadsWeight,
    "cache": Cached,
    "tied": tied,
    "module twice": twice,
    "frozen": frozen,
    "closure": closure,
    "forward that holds a parameter": bound,
    "hook on the first": lambda: hooked(0, False),
    "hook before a relu": lambda: hooked(1, True),
    "hook after a relu": lambda: hooked(3, False),
    "hook on the last": lambda: hooked(4, False),
    "pruned by torch": pruned,
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)), *mlp()[1:]),
    "spectral norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 5)), *mlp()[1:]
    ),
    "subclass of linear": lambda: nn.Sequential(Doubled(6, 5), *mlp()[1:]),
    "misordered": misordered,
    "no bias": lambda: nn.Sequential(nn.Linear(6, 5, bias=False), *mlp()[1:]),
    "dropout": lambda: nn.Sequential(*mlp(nn.Dropout(0.5))),
    "in place": lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(True), *mlp()[2:]),
    "relu first": lambda: nn.Sequential(nn.ReLU(), *mlp()),
    "nested": lambda: nn.Sequential(nn.Sequential(*mlp()[:2]), nn.Sequential(*mlp()[2:])),
    "BatchNorm1d": lambda: normed(nn.BatchNorm1d),
    "SyncBatchNorm": lambda: normed(nn.SyncBatchNorm),
    "LayerNorm": lambda: normed(nn.LayerNorm),
    "GroupNorm": lambda: normed(nn.GroupNorm),
}
ACTIVATIONS = (
    *(nn.LeakyReLU(), nn.PReLU(), nn.ELU(), nn.CELU(), nn.SELU(), nn.GELU(), nn.SiLU()),
    *(nn.Mish(), nn.Hardswish(), nn.ReLU6(), nn.Threshold(0, 0)),
)
MAPS = {
    "hook before a pool": hooked_pool,
    "ceil mode": lambda: conv(nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), size=64),
    "padded pool": lambda: conv(nn.MaxPool2d(3, 3, 1), nn.ReLU(), size=36),
    "overlapping pool": lambda: conv(nn.ReLU(), nn.MaxPool2d(3, 2)),
    "average": lambda: conv(nn.AvgPool2d(2), nn.ReLU()),
    "groups": lambda: conv(nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), size=100),
    "same padding": lambda: conv(nn.ReLU(), nn.Conv2d(4, 1, 3, padding="same"), size=49),
    "circular": lambda: conv(
        nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1, padding_mode="circular"), size=49
    ),
    "unfrozen batch norm": lambda: conv(nn.BatchNorm2d(4), nn.ReLU(), size=196),
}
SHAPE = dict.fromkeys(NETWORKS, (6,)) | dict.fromkeys(MAPS, (1, 9, 9))
for layer in ACTIVATIONS:
    name = type(layer).__name__
    NETWORKS[name] = lambda layer=layer: nn.Sequential(
        nn.Linear(6, 5), copy.deepcopy(layer), *mlp()[2:]
    )
    SHAPE[name] = (6,)
NETWORKS |= MAPS
NETWORKS |= {
    "attention, position first": lambda: Attention(False),
    "attention, sample first": lambda: Attention(True, True),
    "recurrent": Recurrent,
    "residual": lambda: nn.Sequential(
        Block(), Block(nn.InstanceNorm2d), nn.Flatten(), nn.Linear(75, 3)
    ),
}
SHAPE |= {"attention, position first": (12, 6), "attention, sample first": (12, 6)}
SHAPE |= {"recurrent": (4, 6), "residual": (3, 5, 5)}


class Tuple(nn.Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return super().forward(x), 1


class Mixing(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Random(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x))


REFUSED = {
    "a tuple": (lambda: Tuple(*mlp()), "puts out a tuple"),
    "other samples": (lambda: Mixing(*mlp()), "depend on the other samples"),
    "random": (lambda: Random(*mlp()), "are random"),
    "no statistics": (
        lambda: nn.Sequential(*mlp(nn.BatchNorm1d(4, track_running_stats=False))),
        r"4 \(BatchNorm1d\) has no running statistics",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(5), *mlp()[1:]), r"0 \(LazyLinear\) is lazy"),
    "script": (lambda: torch.jit.trace(nn.Sequential(*mlp()), torch.zeros(1, 6)), "TorchScript"),
    "wrong size": (lambda: nn.Sequential(*mlp()[2:]), r"shape \(\d+, 6\) and float64: 0 says"),
    "nothing": (lambda: nn.ReLU(), "has no parameters"),
}
