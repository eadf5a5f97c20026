"""Post-synaptic potentials z, the inputs of a network's activations, and what is counted on them.

`observe` passes a data set through a network once and hands every minibatch to any number of
probes. A probe is a running sum: its memory does not grow with the data, and its result does not
depend on how the data are cut into batches (counts exactly, sums of floats to rounding).
"""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from psplib.core.errors import PsplibError, whole_number
from psplib.nn.compact import check_belongs, compact
from psplib.nn.faithful import Own, agrees, first_line, numbers_as_they_were, two_sizes
from psplib.nn.masks import Mask
from psplib.nn.minibatches import Minibatches, check_labels, minibatches
from psplib.nn.wiring import wire
from psplib.training.trainer import channels_last, flat

# Larger batches of LeNet-5's potentials leave the cache.
BATCH = 200

# Says of potentials (B, n) which neurons are in the state that is counted, (B, n) bool.
State = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Layer:
    """The neurons in front of one ReLU of the full network, numbered as in its flattened input
    (C, H, W): in a convolution every channel x row x column is a neuron.

    `watched` (n,) int64 holds the numbers of those that an observation is of, in its order; the
    potentials of the other `neurons` are zero for every input. `activation` is what receives them.
    """

    name: str
    neurons: int
    watched: Tensor
    activation: str = "relu"

    def expand(self, values: Tensor, rest: float = 0.0) -> Tensor:
        """Values (..., n) of the watched neurons as (..., neurons); `rest` for the others."""
        full = values.new_full((*values.shape[:-1], self.neurons), rest)
        full[..., self.watched.to(values.device)] = values
        return full


@dataclass(frozen=True, eq=False)
class Observation:
    """What a network does with one minibatch: labels `y` (B,), `logits` (B, C) and, for each of the
    `layers`, potentials `z` (B, n)."""

    y: Tensor
    logits: Tensor
    layers: tuple[Layer, ...]
    z: tuple[Tensor, ...]
    state: State | None = None

    @functools.cached_property
    def states(self) -> tuple[Tensor, ...]:
        """The states, [z > 0] of Eq. (3) by default, for each layer (B, n), zeros and ones in
        float32, whose sums are exact."""
        if self.state is None:
            # Ten times as fast as a comparison to bool and a cast.
            kind = torch.float32
            return tuple(torch.gt(z, 0, out=torch.empty_like(z, dtype=kind)) for z in self.z)
        found = [(z, self.state(z)) for z in self.z]
        for z, states in found:
            if states.dtype != torch.bool or states.shape != z.shape:
                raise PsplibError(
                    f"state must make bool of shape {tuple(z.shape)} from potentials of that "
                    f"shape; got {states.dtype} of shape {tuple(states.shape)}."
                )
        return tuple(states.float() for _, states in found)

    @functools.cached_property
    def onehot(self) -> Tensor:
        """The labels as (B, C), zeros and ones in float32."""
        return F.one_hot(self.y, self.logits.shape[1]).float()

    def check(self) -> None:
        """Raise `PsplibError` if this is none: not finite, or with labels out of range."""
        if self.logits.ndim != 2:
            raise PsplibError(
                f"A network must put out logits (B, C); these are {tuple(self.logits.shape)}."
            )
        check_labels(self.y, self.logits.shape[1])
        for layer, z in zip(self.layers, self.z, strict=True):
            # In float16 the sum of finite numbers may not be finite; the sum is the quicker look.
            total = z.sum(dtype=torch.promote_types(z.dtype, torch.float32))
            if not bool(total.isfinite()) and not bool(z.isfinite().all()):
                raise PsplibError(f"The potentials in front of {layer.name} are not finite.")


class Probe(Protocol):
    """A running sum over minibatches."""

    def update(self, seen: Observation) -> None:
        """Take in a minibatch."""


class Compacted:
    """A chain or `ResNet` of `nn.ReLU` modules in its compact form, pooled early: `model`, in
    evaluation mode. Made by `watching`."""

    def __init__(self, model: nn.Module, mask: Mask, weights: Tensor) -> None:
        form = compact(model, mask, sparse=False, unread=True)
        self.form = replace(form, model=_pool_early(form.model).to(weights.device).eval())
        self.model = self.form.model
        self.load_(weights)
        self._layers: tuple[Layer, ...] | None = None
        self._caught: list[tuple[str, Tensor]] = []
        for name, module in self.model.named_modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_pre_hook(functools.partial(self._catch, name))

    def _catch(self, name: str, module: nn.ReLU, inputs: tuple[Tensor]) -> None:
        # An in-place ReLU is about to overwrite its input; nothing else writes to it.
        self._caught.append((name, inputs[0].clone() if module.inplace else inputs[0]))

    def load_(self, full: Tensor) -> None:
        """Go on with other weights (P,), zero wherever the watched ones were."""
        self.form.load_(full)

    def read(self, x: Tensor) -> Tensor:
        """Of a batch of inputs, what `see` wants."""
        return self.form.read(channels_last(x.to(next(self.model.parameters()).device)))

    def see(self, x: Tensor, y: Tensor) -> Observation:
        """The observation of inputs that were `read`, and labels (B,)."""
        self._caught.clear()
        logits = self.model(x)
        if self._layers is None:
            self._layers = self._describe()
        return Observation(y, logits, self._layers, tuple(_flatten(z) for _, z in self._caught))

    def _describe(self) -> tuple[Layer, ...]:
        layers = []
        for name, z in self._caught:
            channels, area = z.shape[1], z[0, 0].numel()
            units = self.form.relus.get(name)
            live = units.live if units else torch.arange(channels)
            watched = (live[None, :] * area + torch.arange(area)[:, None]).flatten()
            layers.append(Layer(name, (units.full if units else channels) * area, watched))
        return tuple(layers)


def _flatten(z: Tensor) -> Tensor:
    # Convolutions put out (N, H, W, C) in memory: in this order nothing is copied.
    return z.movedim(1, -1).flatten(1) if z.ndim > 2 else z


class AsItIs:
    """Any network, computed as its author wrote it; every activation that it calls is a layer.

    Entered by `watching`, where the network has the weights of the watch; else as `Compacted`.
    """

    def __init__(
        self, own: Own, sample: Tensor, axis: int, state: State | None, potentials: bool
    ) -> None:
        self.own, self.model, self.axis, self.state = own, own.model, axis, state
        self.load_, self._potentials, self._is_first = own.load_, potentials, True
        if not potentials:
            own.check_samples(sample, axis)
            return
        self._calling: list[nn.Module] = []
        self._names = {m: n for n, m in self.model.named_modules()}
        for module in self.model.modules():  # `as_it_was` takes these hooks away
            module.register_forward_pre_hook(self._enter, prepend=True)
            module.register_forward_hook(self._leave, always_call=True)
        found: list[dict[str, tuple[str, Tensor]]] = []

        def outputs(x: Tensor) -> Tensor:
            logits, caught = self._catch(x)
            found.append(caught)
            return logits

        own.check_samples(sample, axis, outputs)
        other, one, *_ = found
        if list(one) != list(other):
            raise PsplibError(
                "Which activations the network calls hangs on the size of a minibatch."
            )
        sizes = [part.shape[axis] for part in two_sizes(sample, axis)]
        try:
            self._cuts = {n: _samples(n, one[n][1], other[n][1], *sizes) for n in one}
        except RuntimeError as error:  # what is inside vmap cannot be read
            raise PsplibError(
                f"The potentials of {type(self.model).__name__} cannot be watched: "
                f"{first_line(error)}."
            ) from error
        if not any(self._cuts.values()):
            raise PsplibError(
                f"PSPs are the inputs of ReLUs and their kin ({', '.join(ACTIVATIONS)}); "
                f"{type(self.model).__name__} computes none that hangs on the samples."
            )

    def _enter(self, module: nn.Module, inputs: object) -> None:
        self._calling.append(module)

    def _leave(self, module: nn.Module, inputs: object, output: object) -> None:
        if self._calling:
            self._calling.pop()

    def _catch(self, x: Tensor) -> tuple[Tensor, dict[str, tuple[str, Tensor]]]:
        """The outputs, and for each activation by name its kind and its input."""
        self._calling.clear()
        found: dict[str, tuple[str, Tensor]] = {}
        times: dict[str, int] = {}

        def catch(kind: str, z: Tensor) -> None:
            caller = self._calling[-1] if self._calling else self.model
            name, is_leaf = self._names.get(caller, ""), not any(caller.children())
            has_weights = any(True for _ in caller.parameters(recurse=False)) and kind != "prelu"
            if not name or not is_leaf or has_weights:
                name = f"{name}.{kind}".lstrip(".")
            if kind not in ACTIVATIONS:
                raise PsplibError(
                    f"{name} computes its ReLUs in one call, where they cannot be watched: write "
                    "its steps out."
                )
            times[name] = times.get(name, 0) + 1
            name = name if times[name] == 1 else f"{name}#{times[name]}"
            # Whatever comes next may overwrite it.
            found[name] = kind, z.detach().clone()

        with _Calls(catch):
            return self.own(x), found

    def read(self, x: Tensor) -> Tensor:
        return x.to(self.own.device)

    def see(self, x: Tensor, y: Tensor) -> Observation:
        logits, found = self._catch(x) if self._potentials else (self.own(x), {})
        if self._is_first:
            self.own.check_minibatch(logits, x, self.axis)
        self._is_first = False
        if not self._potentials:
            return Observation(y, logits, (), ())
        if list(found) != list(self._cuts):
            raise PsplibError(
                "Which activations the network calls hangs on its input: got "
                f"{', '.join(found)} after {', '.join(self._cuts)}."
            )
        layers, potentials = [], []
        for name, (kind, z) in found.items():
            if cut := self._cuts[name]:
                potentials.append(cut(z, len(y)))
                size = potentials[-1].shape[1]
                layers.append(Layer(name, size, torch.arange(size), kind))
        return Observation(y, logits, tuple(layers), tuple(potentials), self.state)


Cut = Callable[[Tensor, int], Tensor]


def _samples(name: str, few: Tensor, many: Tensor, size: int, larger: int) -> Cut | None:
    """How the potentials (B, n) of B samples lie in a tensor, found from two numbers of samples;
    None where they hang on no sample."""
    differ = [d for d, (a, b) in enumerate(zip(few.shape, many.shape, strict=False)) if a != b]
    if few.ndim == many.ndim and not differ and agrees(few, many):
        return None
    if few.ndim == many.ndim and len(differ) == 1:
        axis = differ[0]
        if few.shape[axis] % size == 0 and few.shape[axis] * larger == many.shape[axis] * size:
            for cut in (functools.partial(_cut, axis, first) for first in (True, False)):
                if agrees(cut(few, size), cut(many, larger)[:size]):
                    return cut
    raise PsplibError(
        f"The potentials in front of {name}, {tuple(many.shape)} for {larger} samples and "
        f"{tuple(few.shape)} for {size}, do not belong to one sample each."
    )


def _cut(axis: int, first: bool, z: Tensor, samples: int) -> Tensor:
    """Potentials (B, n) of samples along an axis that may hold several rows of each: together
    (`first`), or the first rows of all samples before the second ones."""
    z, shape = z.movedim(axis, 0), (samples, -1) if first else (-1, samples)
    z = z.reshape(*shape, *z.shape[1:])
    return (z if first else z.transpose(0, 1)).flatten(1)


# What PSPs are the input of: functions, methods and the modules that call them; of the clamps and
# hardtanhs those with a lower bound of zero.
ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu"),
    *("mish", "hardswish", "softplus", "hardtanh"),
)


def _called(*names: str) -> set[Any]:
    """The functions and methods of these names, in place or not."""
    places = (F, torch, torch.Tensor, torch._C._nn, torch.ops.aten)
    names = (*names, *(f"{name}_" for name in names))
    return {getattr(place, name) for name in names for place in places if hasattr(place, name)}


_KINDS = {func: kind for kind in ACTIVATIONS[:-1] for func in _called(kind)}
_CLAMPS, _HARDTANHS = _called("clamp", "clip", "clamp_min"), _called("hardtanh")
_THRESHOLDS, _MAXIMA = _called("threshold"), _called("maximum", "max", "fmax")
_FUSED, _CHOICES = _called("rnn_relu", "rnn_relu_cell"), _called("where")


class _Calls(TorchFunctionMode):
    """Shows the input of every activation, before it is computed, whether a module, a function or a
    method of a tensor computes it."""

    def __init__(self, catch: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self.catch = catch

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        z = args[0] if args else kwargs.get("input")
        called, func = func, getattr(func, "overloadpacket", func)  # what is exported has overloads
        kind = _KINDS.get(func)
        if func in _CLAMPS:
            kind = _clamped(*_given(args[1:], kwargs, min=None, max=None))
        elif func in _HARDTANHS:
            kind = _clamped(*_given(args[1:], kwargs, min_val=-1, max_val=1))
        elif func in _THRESHOLDS:
            limits = _given(args[1:], kwargs, threshold=None, value=None)
            kind = "relu" if limits == [0, 0] else None
        elif func in _MAXIMA:
            (other,) = _given(args[1:], kwargs, other=None)
            if isinstance(other, Tensor) and (_is_zero(other) or _is_zero(z)):
                kind, z = "relu", z if _is_zero(other) else other
        elif func in _CHOICES and len(args) == 3:
            where, z, other = args if func is not torch.Tensor.where else (args[1], z, args[2])
            kind = "relu" if _is_chosen(where, z, other) else None
        elif func in _FUSED:
            kind = func.__name__
        if kind:
            self.catch(kind, z)
        return called(*args, **kwargs)


def _given(args: Sequence[Any], kwargs: dict[str, Any], **defaults: Any) -> list[Any]:
    """The values of some parameters of a function, however they are given."""
    named = dict(zip(defaults, args, strict=False))
    return [*(defaults | {n: v for n, v in kwargs.items() if n in defaults} | named).values()]


def _is_zero(value: Any) -> bool:
    return not (bool(value.any()) if isinstance(value, Tensor) else value)


def _is_chosen(where: Any, z: Any, other: Any) -> bool:
    """Whether z > 0 chooses between z and zero."""
    if (
        not isinstance(z, Tensor)
        or where.shape != z.shape
        or torch._C._functorch.is_batchedtensor(z)
    ):
        return False
    return _is_zero(other) and torch.equal(where, z > 0)


def _clamped(lower: Any, upper: Any) -> str | None:
    """The kind of activation that a clamp between two bounds is, if any."""
    if lower is None or not _is_zero(lower) or (upper is not None and _is_zero(upper)):
        return None
    return "relu" if upper is None else "relu6" if _is_zero(upper - 6) else "hardtanh"


class _Passed(nn.ReLU):
    """A ReLU whose work `_Pool` does."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class _Pool(nn.Module):
    """The rectified maximum of 2 x 2 neighbours: 4 to 10 times as fast as PyTorch's on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
        x = x.movedim(1, -1)[:, :height, :width]
        rows = torch.maximum(x[:, ::2], x[:, 1::2])
        return torch.maximum(rows[:, :, ::2], rows[:, :, 1::2]).relu_().movedim(-1, 1)


def _pool_early(model: nn.Module) -> nn.Module:
    """The same chain, where it goes on with the rectified maxima of 2 x 2 potentials."""
    if type(model) is not nn.Sequential:
        return model
    layers = OrderedDict(model.named_children())
    for relu, pool in itertools.pairwise(list(layers)):
        if type(layers[relu]) is nn.ReLU and repr(layers[pool]) == repr(nn.MaxPool2d(2)):
            layers[relu], layers[pool] = _Passed(), _Pool()
    return nn.Sequential(layers)


def compacted(model: nn.Module, sample: Tensor, mask: Mask, weights: Tensor) -> Compacted | None:
    """The compact form under a mask, with `weights` (P,) that it prunes; None unless it puts out
    for the first samples what the network itself puts out."""
    wiring = wire(model)
    if wiring is None or not wiring.relus or not sample.is_floating_point():
        return None
    try:
        form = Compacted(model, mask, weights)
    except Exception:  # of any kind: what a copy of the user's modules raises
        return None
    same = Own(model).same_as(lambda x: form.model(form.read(x)), weights, sample)
    return form if same else None


@contextmanager
def watching(
    model: nn.Module,
    sample: Tensor,
    mask: Mask | None = None,
    *,
    batch_axis: int = 0,
    state: State | None = None,
    probes: Iterable[Probe] = (),
) -> Iterator[Compacted | AsItIs]:
    """Watch the activations of a network under a mask; the model is as it was afterwards. Where all
    `probes` want the logits alone, it may have none.

    `sample` holds some inputs. What a chain or a `ResNet` does not need under `mask` (by default,
    that of its weights that are not zero) is left out. `PsplibError` if the mask is of another
    network, or the network cannot be watched: see `observe`.
    """
    own, weights = Own(model), flat(model)
    if mask is None:
        mask = Mask.dense(model).with_flat((weights != 0).cpu())
    check_belongs(mask, model)
    weights = weights.where(mask.flat.to(weights.device), 0)
    if batch_axis == 0 and state is None and (form := compacted(model, sample, mask, weights)):
        yield form
        return
    kinds = {type(probe) for probe in probes}
    with own.at(weights):
        yield AsItIs(own, sample, batch_axis, state, kinds != {LossAndError})


@numbers_as_they_were()
def observe(
    model: nn.Module,
    data: Minibatches,
    *probes: Probe,
    mask: Mask | None = None,
    batch: int = BATCH,
    batch_axis: int = 0,
    state: State | None = None,
) -> None:
    """Pass data through a network once, in evaluation mode, and show every minibatch to every
    probe. The model is as it was afterwards.

    `data` are a `Split` or a data set, `batch` samples at a time, or any iterable of minibatches
    (x, y); samples lie along `batch_axis` of x. Layers are the inputs of ReLUs and their kin
    (`ACTIVATIONS`, told by `Layer.activation`), whether modules, functions or methods compute them:
    one a call, named by the module that calls, with a number from the second call on. `state` says
    in which state a neuron is, (B, n) bool from the potentials; by default z > 0.

    `PsplibError` if the data are empty, a label is none of the network's outputs, a potential is
    not finite, or what the network puts out for a sample is not its own.
    """
    whole_number("batch", batch, 1)
    pairs = minibatches(data, batch, batch_axis)
    if (first := next(pairs, None)) is None:
        raise PsplibError("PSPs are observed on data; it has no samples.")
    with (
        watching(
            model, first[0], mask, batch_axis=batch_axis, state=state, probes=probes
        ) as watched,
        torch.no_grad(),
    ):
        for x, y in itertools.chain([first], pairs):
            x = watched.read(x)
            seen = watched.see(x, y.to(x.device))
            seen.check()
            for probe in probes:
                probe.update(seen)


@dataclass
class LossAndError:
    """Probe of the mean cross-entropy in nats and the share of wrong answers."""

    samples: int = 0
    total: float = 0.0
    wrong: int = 0

    def update(self, seen: Observation) -> None:
        self.samples += len(seen.y)
        logits = seen.logits.to(torch.promote_types(seen.logits.dtype, torch.float32))
        self.total += float(F.cross_entropy(logits, seen.y, reduction="sum"))
        self.wrong += int((seen.logits.argmax(1) != seen.y).sum())

    @property
    def loss(self) -> float:
        return self.total / self.samples

    @property
    def error(self) -> float:
        return self.wrong / self.samples


@dataclass
class MeanSquare:
    """Probe of the mean of z^2 over samples and neurons, layer by layer (Fig. 3)."""

    samples: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    output: float = 0.0

    def update(self, seen: Observation) -> None:
        self.samples += len(seen.y)
        for layer, z in zip(seen.layers, seen.z, strict=True):
            self.neurons[layer.name] = layer.neurons
            self.sums[layer.name] = self.sums.get(layer.name, 0.0) + _sum_of_squares(z)
        self.output += _sum_of_squares(seen.logits) / seen.logits.shape[1]

    @property
    def by_layer(self) -> dict[str, float]:
        """Mean of z^2 of each hidden layer."""
        return {n: s / (self.samples * self.neurons[n]) for n, s in self.sums.items()}

    @property
    def logits(self) -> float:
        """Mean of z^2 of the output layer."""
        return self.output / self.samples

    @property
    def mean(self) -> float:
        """The average over the hidden layers, of which Eq. (2) speaks."""
        return sum(self.by_layer.values()) / len(self.sums)

    @property
    def mean_with_logits(self) -> float:
        """The average over the hidden layers and the output layer, as in the authors' code."""
        return (sum(self.by_layer.values()) + self.logits) / (len(self.sums) + 1)


def _sum_of_squares(z: Tensor) -> float:
    squares = z.to(torch.promote_types(z.dtype, torch.float32)).square().sum()
    if not bool(squares.isfinite()):  # finite potentials, beyond 1e19
        squares = z.double().square().sum()
    return float(squares)


def psp_norm(model: nn.Module, data: Minibatches, **settings: Any) -> MeanSquare:
    """The mean of z^2 of a network on data, layer by layer (Fig. 3); the settings and the errors
    are those of `observe`."""
    found = MeanSquare()
    observe(model, data, found, **settings)
    return found
