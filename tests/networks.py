"""Networks that are not ours, and what a network may not be."""

import copy
import functools
import types
from collections.abc import Callable, Iterator
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

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


def tied_biases() -> nn.Module:
    model = nn.Sequential(*mlp(nn.Linear(4, 4)))
    model[4].bias = model[2].bias
    return model


def never_called() -> nn.Module:
    model = Between(lambda z, _: z)
    model.more = nn.Linear(6, 5)
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


class Between(nn.Module):
    """Two linear layers, and `act` of the first's output and itself between them."""

    def __init__(self, act: Callable[[Tensor, nn.Module], Tensor], width: int = 5) -> None:
        super().__init__()
        self.act, self.fc1, self.fc2 = act, nn.Linear(6, 5), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.act(self.fc1(x), self)))


class Around(nn.Sequential):
    """What `way` makes of the layers, called on the input."""

    def __init__(self, way: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> None:
        super().__init__(*mlp())
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(super().forward, x)


class TiedTurned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(F.linear(F.relu(self.fc(x)), self.fc.weight.T)))


class Parameters(nn.Module):
    """No modules, only lists of parameters, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterList([torch.randn(6, 5), torch.randn(5, 3)])
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x @ self.w[0]) @ self.w[1] * self.gain


class Remembers(nn.Module):
    """Keeps a buffer that it makes itself, and all that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.seen = nn.Linear(6, 5), nn.Linear(5, 3), []

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "shift"):
            self.register_buffer("shift", torch.arange(5, dtype=x.dtype) / 5, persistent=False)
        self.seen.append(F.relu(self.fc1(x) + self.shift))
        return self.fc2(self.seen[-1])


class KeepsStatistics(nn.Sequential):
    """A BatchNorm that is never in training mode."""

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self[4].eval()
        return self


class Read(nn.Module):
    """A head on something that reads sequences."""

    def __init__(self, reader: nn.Module, width: int, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.reader, self.call = reader, call
        self.fc, self.out = nn.Linear(width, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.fc(self.call(self.reader, x))))


class Viewed(nn.Module):
    """Needs images that are contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(196, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.conv(x)).view(len(x), -1) * x.view(len(x), -1)[:, :1])


class Indexed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 4, 3), nn.Linear(64, 3)
        self.pool = nn.MaxPool2d(2, ceil_mode=True, return_indices=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(F.relu(self.conv(x)))[0].flatten(1))


class Written(torch.autograd.Function):
    """Twice the input, with a backward pass that cannot be differentiated."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope: Tensor) -> Tensor:
        return slope * 2


class Absolute(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.abs()


def changed(change: Callable[[nn.Sequential], object]) -> nn.Module:
    model = nn.Sequential(*mlp())
    change(model)
    return model


def parametrised(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Absolute())
    return nn.Sequential(layer, *mlp()[1:])


def words(embedding: nn.Module) -> nn.Module:
    return nn.Sequential(embedding, nn.Flatten(), nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 3))


def held_otherwise(m: nn.Sequential) -> None:
    """A weight that is a buffer."""
    weight = m[0].weight.detach().clone()
    del m[0].weight
    m[0].register_buffer("weight", weight)


class Shared(nn.Module):
    """Keeps something made of a weight, in its memory."""

    def __init__(self, keep: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 6).double(), nn.Linear(6, 3).double()
        self.kept = keep(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.kept[0] if isinstance(self.kept, list) else self.kept
        return self.out(F.relu(F.linear(F.relu(self.fc(x)), kept)))


class Scaled(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x + 0.5)


class Counts(nn.Sequential):
    """Counts its passes, in whatever mode."""

    def __init__(self) -> None:
        super().__init__(*mlp())
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


def shared_in_a_closure() -> nn.Module:
    model = Shared(lambda w: w.detach().clone())
    turned = model.fc.weight.T
    model.forward = lambda x: model.out(F.relu(F.relu(model.fc(x)) @ turned))
    return model


def with_parameter(**made: Tensor) -> nn.Module:
    return changed(
        lambda m: [
            m.register_parameter(n, nn.Parameter(t, t.is_floating_point())) for n, t in made.items()
        ]
    )


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(*mlp()).double()


class Half(nn.Sequential):
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return self[0].parameters(recurse)


def binarised(z: Tensor, _: nn.Module) -> Tensor:
    return z + (z.sign() - z).detach()


def without_gradients(z: Tensor, _: nn.Module) -> Tensor:
    with torch.no_grad():
        return F.relu(z) - 0.1


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
    "RMSNorm": lambda: normed(nn.RMSNorm),
    "BatchNorm1d, all batches": lambda: nn.Sequential(*mlp(nn.BatchNorm1d(4, momentum=None))),
    "BatchNorm1d, no scale": lambda: nn.Sequential(*mlp(nn.BatchNorm1d(4, affine=False))),
    "BatchNorm1d, in evaluation": lambda: KeepsStatistics(*mlp(nn.BatchNorm1d(4))),
    "scaled inside": lambda: nn.Sequential(Quartered(*mlp()[:2]), *mlp()[2:]),
    "tied biases": tied_biases,
    "tied, turned": TiedTurned,
    "called twice": lambda: nn.Sequential(
        *[nn.Sequential(nn.Linear(6, 6), nn.ReLU())] * 2, nn.Linear(6, 3)
    ),
    "parameters only": Parameters,
    "never called": never_called,
    "frozen bias": lambda: changed(lambda m: m[2].bias.requires_grad_(False)),
    "weight norm by hooks": lambda: nn.Sequential(
        nn.utils.weight_norm(nn.Linear(6, 5)), *mlp()[1:]
    ),
    "spectral norm by hooks": lambda: nn.Sequential(
        nn.utils.spectral_norm(nn.Linear(6, 5)), *mlp()[1:]
    ),
    "orthogonal": lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 5)), *mlp()[1:]),
    "parametrised": lambda: parametrised(nn.Linear(6, 5)),
    "hook on the network": lambda: changed(
        lambda m: m.register_forward_hook(lambda _, x, y: y * 2)
    ),
    "hook before the network": lambda: changed(
        lambda m: m.register_forward_pre_hook(lambda _, x: (x[0] * 2,))
    ),
    "hook with keywords": lambda: changed(
        lambda m: m[1].register_forward_pre_hook(lambda _, x, k: ((x[0] * 2,), k), with_kwargs=True)
    ),
    "hook on a backward pass": lambda: changed(
        lambda m: m[2].register_full_backward_hook(lambda *_: None)
    ),
    "hook on a gradient": lambda: changed(lambda m: m[2].weight.register_hook(lambda g: g / 2)),
    "forward of a part": lambda: changed(
        lambda m: setattr(m[2], "forward", functools.partial(nn.Linear.forward, m[2]))
    ),
    "in place on the input": lambda: nn.Sequential(nn.ReLU(True), *mlp()),
    "writes to its input": lambda: Around(lambda f, x: f(x.mul_(2))),
    "drops out by itself": lambda: Between(lambda z, m: F.dropout(z, 0.5, m.training)),
    "checkpointed": lambda: Around(lambda f, x: checkpoint(f, x, use_reentrant=False)),
    "compiled": lambda: torch.compile(nn.Sequential(*mlp()), backend="eager"),
    "data parallel": lambda: nn.DataParallel(nn.Sequential(*mlp())),
    "traced by fx": lambda: torch.fx.symbolic_trace(Between(lambda z, _: z.relu())),
    "remembers": Remembers,
    "maximum": lambda: Between(lambda z, _: torch.maximum(torch.zeros((), dtype=z.dtype), z)),
    "clamped twice": lambda: Between(lambda z, _: z.clamp(0, 6).clamp_(min=z.new_zeros(5))),
    "no activation": lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
    "straight through": lambda: Between(binarised),
    "without gradients": lambda: Between(without_gradients),
    "another parameter": lambda: with_parameter(temperature=torch.ones(())),
    "another parameter of a layer": lambda: changed(
        lambda m: m[0].register_parameter("gain", nn.Parameter(torch.ones(())))
    ),
    "an empty parameter": lambda: with_parameter(empty=torch.ones(0, 4)),
    "a weight as a buffer": lambda: changed(held_otherwise),
    "a buffer without memory of its own": lambda: changed(
        lambda m: m.register_buffer("shift", torch.zeros(1).expand(5))
    ),
    "not to be copied": lambda: changed(lambda m: setattr(m[1], "lock", Lock())),
    "relu of aten": lambda: Between(lambda z, _: torch.ops.aten.relu.default(z) - 0.1),
    "relu that chooses": lambda: Between(lambda z, _: torch.where(z > 0, z, 0.0) - 0.1),
    "BatchNorm1d of one's own": lambda: nn.Sequential(*mlp(Scaled(4))),
    "counts": Counts,
    "backward by hand": lambda: Around(lambda f, x: Written.apply(f(x))),
}
ACTIVATIONS = (
    *(nn.LeakyReLU(), nn.PReLU(), nn.ELU(), nn.CELU(), nn.SELU(), nn.GELU(), nn.SiLU()),
    *(nn.Mish(), nn.Hardswish(), nn.ReLU6(True), nn.Threshold(0, 0), nn.Hardtanh(0, 2)),
    *(nn.Softplus(), nn.RReLU()),
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
    "tracked InstanceNorm": lambda: conv(
        nn.InstanceNorm2d(4, track_running_stats=True), nn.ReLU(), size=196
    ),
    "in place on images": lambda: nn.Sequential(nn.ReLU(True), *conv(nn.ReLU(True), size=196)),
    "dilated pool": lambda: conv(nn.ReLU(), nn.MaxPool2d(2, 2, dilation=2)),
    "rectangular pool": lambda: conv(nn.ReLU(), nn.MaxPool2d((2, 3)), size=24),
    "pool with indices": Indexed,
    "average, ceil mode": lambda: conv(
        nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), size=64
    ),
    "adaptive pools": lambda: conv(
        nn.ReLU(), nn.AdaptiveMaxPool2d((4, 5)), nn.AdaptiveAvgPool2d(2), size=16
    ),
    "stride and dilation": lambda: conv(
        nn.ReLU(), nn.Conv2d(4, 4, 3, 2, padding=2, dilation=2), nn.ReLU(), size=64
    ),
    "transposed": lambda: conv(nn.ReLU(), nn.ConvTranspose2d(4, 1, 3, 2), nn.ReLU(), size=225),
}
SHAPE = dict.fromkeys(NETWORKS, (6,)) | dict.fromkeys(MAPS, (1, 9, 9))
for layer in ACTIVATIONS:
    name = type(layer).__name__
    NETWORKS[name] = lambda layer=layer: nn.Sequential(
        nn.Linear(6, 5), copy.deepcopy(layer), *mlp()[2:]
    )
    SHAPE[name] = (6,)
NETWORKS |= MAPS
# Networks that read something else, and the shape of a sample.
OTHERS = {
    "attention, position first": (lambda: Attention(False), (12, 6)),
    "attention, sample first": (lambda: Attention(True, True), (12, 6)),
    "attention itself": (
        lambda: Read(
            nn.MultiheadAttention(6, 2, batch_first=True),
            6,
            lambda read, x: read(x, x, x, need_weights=False)[0].mean(1),
        ),
        (4, 6),
    ),
    "recurrent": (Recurrent, (4, 6)),
    "GRU": (
        lambda: Read(nn.GRU(6, 4, 2, batch_first=True), 4, lambda read, x: read(x)[0][:, -1]),
        (4, 6),
    ),
    "recurrent ReLU": (
        lambda: Read(
            nn.RNN(6, 4, nonlinearity="relu", batch_first=True),
            4,
            lambda read, x: read(x)[0][:, -1],
        ),
        (4, 6),
    ),
    "residual": (
        lambda: nn.Sequential(Block(), Block(nn.InstanceNorm2d), nn.Flatten(), nn.Linear(75, 3)),
        (3, 5, 5),
    ),
    "viewed": (Viewed, (3, 9, 9)),
    "one dimension": (
        lambda: nn.Sequential(
            *(nn.Conv1d(4, 3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.MaxPool1d(2, ceil_mode=True)),
            *(nn.Flatten(), nn.Linear(12, 3)),
        ),
        (4, 9),
    ),
    "three dimensions": (
        lambda: nn.Sequential(
            *(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3, momentum=None), nn.ReLU(), nn.MaxPool3d(2)),
            *(nn.Flatten(), nn.Linear(3, 3)),
        ),
        (2, 4, 4, 4),
    ),
    "rows of samples": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)),
        (4, 6),
    ),
}
NETWORKS |= {name: make for name, (make, _) in OTHERS.items()}
SHAPE |= {name: shape for name, (_, shape) in OTHERS.items()}
# Where the samples lie in the potentials, if not first.
SAMPLES = {"attention, position first": 1}
# Networks that read whole numbers below 9.
WORDS = {
    "embedding": lambda: words(nn.Embedding(9, 5, padding_idx=0)),
    "sparse embedding": lambda: words(nn.Embedding(9, 5, sparse=True)),
    "embedding of bounded norm": lambda: words(nn.Embedding(9, 5, max_norm=1)),
    "embedding by frequency": lambda: words(nn.Embedding(9, 5, scale_grad_by_freq=True)),
    "bag of words": lambda: nn.Sequential(
        nn.EmbeddingBag(9, 5), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)
    ),
}
NETWORKS |= WORDS


def samples(name: str, count: int = 12) -> Split:
    """What a network of the table reads."""
    if name in WORDS:
        return Split(torch.randint(9, (count, 4)), torch.arange(count) % 3)
    return images(count, *SHAPE[name])


DETACHED = "is not that of its gradients"
IN_PLACE = "it can be trained in place only"
HOOKED = r"Sequential cannot be copied \(Only Tensors created explicitly"
KEPT = {"retrained": "has no gradient: Trying to backward", "in a form": "has no gradient: Trying"}
# What is refused of a network that is right otherwise, and with which words.
NOT = {
    "cache": KEPT | {"pruned": KEPT["retrained"]},
    "closure": {"in a form": f"with a forward put on itself, is another network: {IN_PLACE}"},
    "forward that holds a parameter": {"in a form": f"is another network: {IN_PLACE}"},
    "pruned by torch": {"in a form": HOOKED},
    "weight norm by hooks": {"in a form": HOOKED},
    "a weight as a buffer": {"in a form": f"A copy of Sequential is another network: {IN_PLACE}"},
    "not to be copied": {"in a form": "Sequential cannot be copied .cannot pickle"},
    "frozen": {"in a form": "0.weight is frozen"},
    "frozen bias": {"in a form": "2.bias is frozen"},
    "hook on a gradient": {"in a form": "The gradient of 2.weight is hooked"},
    "no activation": {"observed": "Sequential computes none that hangs on the samples"},
    "recurrent ReLU": {"observed": "reader.rnn_relu computes its ReLUs in one call"},
    "orthogonal": {"Hessian": DETACHED},
    "straight through": {"Hessian": DETACHED},
    "without gradients": {"Hessian": DETACHED},
    "backward by hand": {"Hessian": DETACHED},
    "embedding by frequency": {"Hessian": DETACHED},
    "embedding of bounded norm": {"Hessian": DETACHED},
    "bag of words": {"Hessian": "no second derivative of its loss: the derivative for '_embedding"},
    "tracked InstanceNorm": {"on a map": "1 .InstanceNorm2d. has no statistics of its own"},
}


class Tuple(nn.Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return super().forward(x), 1


class Mixing(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Counting(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if len(x) < 5 else 2 * x)


class Random(nn.Sequential):
    share = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, self.share))


class Seldom(Random):
    share = 0.01


REFUSED = {
    "a tuple": (lambda: Tuple(*mlp()), "puts out a tuple"),
    "complex outputs": (lambda: Around(lambda f, x: f(x) * 1j), "puts out a complex Tensor"),
    "other samples": (lambda: Mixing(*mlp()), "depend on the other samples"),
    "how many samples": (lambda: Counting(*mlp()), "depend on the other samples"),
    "random": (lambda: Random(*mlp()), "are random"),
    "seldom random": (lambda: Seldom(*mlp()), "are random"),
    "no statistics": (
        lambda: nn.Sequential(*mlp(nn.BatchNorm1d(4, track_running_stats=False))),
        r"4 \(BatchNorm1d\) has no running statistics",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(5), *mlp()[1:]), r"0 \(LazyLinear\) is lazy"),
    "script": (lambda: torch.jit.trace(nn.Sequential(*mlp()), torch.zeros(1, 6)), "TorchScript"),
    "wrong size": (lambda: nn.Sequential(*mlp()[2:]), r"shape \(\d+, 6\) and float64: 0 says"),
    "a view of a weight": (lambda: Shared(lambda w: w.T), "fc.weight shares its memory"),
    "a weight's data in a list": (lambda: Shared(lambda w: [w.data]), "fc.weight shares its mem"),
    "a view in a closure": (shared_in_a_closure, "fc.weight shares its memory"),
    "tied by data": (
        lambda: Shared(lambda w: nn.Parameter(w.data)),
        "(kept|fc.weight) shares its memory",
    ),
    "complex": (lambda: with_parameter(z=torch.ones(2) * 1j), "z is of complex64"),
    "whole numbers": (lambda: with_parameter(order=torch.arange(2)), "order is of int64"),
    "sparse": (lambda: with_parameter(w=torch.eye(2).to_sparse()), "w is sparse"),
    "meta": (lambda: nn.Sequential(*mlp()).to("meta"), "0.weight is on the meta device"),
    "inference": (made_in_inference_mode, "0.weight is made in inference mode"),
    "half of its parameters": (lambda: Half(*mlp()), r"Half has a parameters\(\) of its own"),
    "nothing": (lambda: nn.ReLU(), "has no parameters"),
}
