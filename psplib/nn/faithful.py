"""A user's own network: computed as it is, left as it was, and the judge of every rewritten form.

A rewritten form (compact, a chain written out, the first layer taken out, pooled early) is an
optimisation: it is used where its outputs, on the first samples, are those of the network itself.
"""

from __future__ import annotations

import functools
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import isfinite
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.core.errors import PsplibError
from psplib.nn.masks import shapes_of

# At most so many samples of the first minibatch are computed again: below 1 % of a run of real size
# (`python -m benchmarks.faithful`). What differs in structure differs for any of them.
ROWS = 4
# So often is a network looked at that draws random numbers in evaluation mode.
LOOKS = 100
# How containers are filled, by the type itself: what is derived from it may forbid changes.
_CONTAINERS: dict[Any, Any] = {
    OrderedDict: OrderedDict.update,
    dict: dict.update,
    list: list.extend,
    set: set.update,
    deque: deque.extend,
}


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, even an exception: afterwards the modules, their attributes, modes
    and hooks, what these hold, the parameters, gradients and buffers, and the global random state,
    also that of Python and NumPy, are as before."""
    parameters = [
        (p, p.data, p.requires_grad, p.grad, p._backward_hooks) for p in model.parameters()
    ]
    known = {id(p) for p, *_ in parameters}
    undo = [
        put_back for thing in _kept(model) if id(thing) not in known and (put_back := _undo(thing))
    ]
    with numbers_as_they_were(*{p.device for p, *_ in parameters if p.device.type == "cuda"}):
        try:
            yield
        finally:
            for put_back in undo:
                put_back()
            for p, data, requires_grad, gradient, hooks in parameters:
                p.data = data
                p.requires_grad_(requires_grad)
                p.grad, p._backward_hooks = gradient, hooks


@contextmanager
def numbers_as_they_were(*devices: torch.device) -> Iterator[None]:
    """Afterwards the global random states of PyTorch, Python and NumPy are as before."""
    numbers, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(numbers)
            np.random.set_state(of_numpy)  # noqa: NPY002


def _kept(model: nn.Module, functions: bool = False) -> Iterator[Any]:
    """What the modules of a network hold, once each: their registers and attributes, and what is
    in these, if they are containers or, where it is asked for, `functions` and what these hold."""
    seen: set[int] = set()
    left: list[Any] = [*model.modules()]
    while left:
        thing = left.pop()
        thing = vars(thing) if isinstance(thing, nn.Module) else thing
        if id(thing) not in seen:
            seen.add(id(thing))
            yield thing
            if isinstance(thing, dict):
                left += thing.values()
            elif isinstance(thing, list | tuple | set | deque):
                left += thing
            elif functions and isinstance(thing, functools.partial):
                left += (thing.func, *thing.args, *thing.keywords.values())
            elif functions and isinstance(thing, FunctionType | MethodType):
                left += thing.__defaults__ or ()
                with suppress(ValueError):  # of one that is not made yet
                    left += [cell.cell_contents for cell in thing.__closure__ or ()]


def _undo(thing: Any) -> Callable[[], object] | None:
    """What makes a container, a tensor, an array or a generator what it is now; None for others."""
    kind: Any = next((base for base in type(thing).__mro__ if base in _CONTAINERS), None)
    if kind:
        then = [*(thing.items() if issubclass(kind, dict) else thing)]
        return lambda: (kind.clear(thing), _CONTAINERS[kind](thing, then))
    if isinstance(thing, Tensor) and thing.layout == torch.strided:
        data, before = thing.data, thing.data.clone()

        def put_back() -> None:
            thing.data = data
            if not torch.equal(data, before):  # what cannot be written to has not changed
                data.copy_(before)

        return put_back
    if isinstance(thing, np.ndarray):
        return functools.partial(np.copyto, thing, thing.copy())
    if isinstance(thing, torch.Generator):
        return functools.partial(thing.set_state, thing.get_state())
    return None


class Own:
    """A network as its author wrote it, in evaluation mode, at any weights (P,).

    Weights are exchanged inside the parameters, not in a copy nor in their names: so also a closure
    that is the `forward`, tied weights and recurrent layers, which keep lists of their own, see
    them. `PsplibError` for what cannot be computed so.
    """

    def __init__(self, model: nn.Module) -> None:
        shapes_of(model)  # refuses what is lazy
        for name, module in model.named_modules():
            _refuse(f"{name or 'the network'} ({type(module).__name__})", module)
        self.model = model
        self.parameters = list(model.parameters())
        if not self.parameters:
            raise PsplibError(f"{type(model).__name__} has no parameters.")
        _refuse_parameters(model)
        self.device = self.parameters[0].device

    @contextmanager
    def at(
        self, weights: Tensor, dtype: torch.dtype | None = None, differentiable: bool = False
    ) -> Iterator[None]:
        """For a while, the network has these weights; with `dtype`, computes in it."""
        with as_it_was(self.model), _eager():
            self.model.eval()
            for p in self.parameters:
                p.grad = p._backward_hooks = None
            for buffer in self.model.buffers() if dtype else ():
                if buffer.is_floating_point():
                    buffer.data = buffer.data.to(dtype)
            self.load_(weights, dtype)
            for p in self.parameters:
                p.requires_grad_(differentiable)
            yield

    def load_(self, weights: Tensor, dtype: torch.dtype | None = None) -> None:
        """Inside `at`: go on with other weights (P,)."""
        parts = weights.split([p.numel() for p in self.parameters])
        for p, part in zip(self.parameters, parts, strict=True):
            p.data = part.view(p.shape).to(p.device, dtype or p.dtype, copy=True)

    def __call__(self, x: Tensor) -> Tensor:
        """Inside `at`: the outputs (B, C); any failure names the module in which it happens."""
        try:
            outputs = self.model(x.clone())  # it may begin with an in-place ReLU
        except PsplibError:
            raise
        except Exception as error:
            weights = str(self.parameters[0].dtype).removeprefix("torch.")
            alone = "; is the last minibatch too small? Leave it out (drop_last) or change the size"
            raise PsplibError(
                f"{type(self.model).__name__}, with weights of {weights}, cannot compute a "
                f"minibatch of shape {tuple(x.shape)} and {str(x.dtype).removeprefix('torch.')}: "
                f"{self._culprit(error)} says {first_line(error)}"
                f"{alone if self.model.training and len(x) == 1 else ''}."
            ) from error
        if not isinstance(outputs, Tensor) or outputs.is_complex():
            what = "complex Tensor" if isinstance(outputs, Tensor) else type(outputs).__name__
            raise PsplibError(
                f"A network must put out one tensor, the logits (B, C); {type(self.model).__name__}"
                f" puts out a {what}: wrap it in a module that returns them."
            )
        return outputs

    def _culprit(self, error: Exception) -> str:
        """The innermost module that was being computed."""
        names = {id(m): n for n, m in self.model.named_modules()}
        found, trace = "", error.__traceback__
        while trace:
            found = names.get(id(trace.tb_frame.f_locals.get("self")), found)
            trace = trace.tb_next
        return found or "the network itself"

    @torch.no_grad()
    def same_as(self, form: Callable[[Tensor], Any], weights: Tensor, x: Tensor) -> bool:
        """Whether a rewritten form puts out, for the first samples, what the network does at
        weights (P,)."""
        x = x[: ROWS // 2].to(self.device)
        with self.at(weights):
            expected = self(x)
        try:
            return agrees(form(x), expected)
        except PsplibError:
            raise
        except Exception:  # a form that cannot compute what the network can is no form of it
            return False

    def learns(self, weights: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """In training mode, at weights (P,) and in their type: the outputs (B, C) for a minibatch,
        and the gradient (P,) of its mean cross-entropy."""
        with self.at(weights, weights.dtype, differentiable=True):
            self.model.train()
            outputs = self(x.to(self.device))
            slopes = self.slopes(F.cross_entropy(outputs, y.to(self.device)))
        return outputs.detach(), slopes

    def slopes(self, loss: Tensor) -> Tensor:
        """Inside `at`: the gradient (P,) of a loss."""
        try:
            slopes = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        except RuntimeError as error:
            raise no_gradient(self.model, error) from error
        # That of a sparse embedding is sparse.
        return torch.cat([slope.to_dense().flatten() for slope in slopes])

    def _numbers(self) -> Tensor:
        """The state of the random numbers that it draws."""
        is_gpu = self.device.type == "cuda"
        return torch.cuda.get_rng_state(self.device) if is_gpu else torch.get_rng_state()

    @torch.no_grad()
    def check_samples(
        self, x: Tensor, axis: int = 0, compute: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Inside `at`: `PsplibError` unless a sample's outputs are its own, whatever else is in
        the minibatch, and as many as there are samples along `axis`. Computes `two_sizes`."""
        few, many = two_sizes(x.to(self.device), axis)
        compute = compute or self
        with as_it_was(self.model):  # what a pass keeps is not the next one's
            one, numbers = compute(many), self._numbers()
            other = compute(few)
            # Few numbers, or of little effect, are rarely seen: another look is as good as another
            # sample.
            drawn = not torch.equal(numbers, self._numbers())
            looks = [other, *(compute(few) for _ in range(LOOKS if drawn else 0))]
        size = many.shape[axis]
        if other.ndim == 0 or len(one) != size or len(other) != few.shape[axis]:
            raise PsplibError(
                f"A network must put out a row of logits for each sample: {size} along axis {axis} "
                f"of x {tuple(many.shape)}; {type(self.model).__name__} puts out "
                f"{tuple(one.shape)}. Is batch_axis right?"
            )
        self._check_same(looks, one, axis)

    @torch.no_grad()
    def check_minibatch(self, outputs: Tensor, x: Tensor, axis: int = 0) -> None:
        """Inside `at`: `PsplibError` unless the outputs for a whole minibatch are, for its first
        samples, those that these have without the others."""
        if x.shape[axis] <= ROWS:
            return
        with as_it_was(self.model):
            self._check_same([self(two_sizes(x.to(self.device), axis)[1])], outputs, axis)

    def _check_same(self, looks: list[Tensor], outputs: Tensor, axis: int) -> None:
        if not all(agrees(look, outputs[: len(look)]) for look in looks):
            raise PsplibError(
                f"The outputs of {type(self.model).__name__} for a sample depend on the other "
                f"samples of its minibatch, or are random, in evaluation mode (samples along axis "
                f"{axis} of x): no mean over samples is defined. Is batch_axis right?"
            )


def two_sizes(x: Tensor, axis: int = 0) -> tuple[Tensor, Tensor]:
    """The first samples of a minibatch, few and many of them."""
    many = x.narrow(axis, 0, min(ROWS, x.shape[axis]))
    if many.shape[axis] == 1:
        many = torch.cat([many, many], axis)
    return many.narrow(axis, 0, many.shape[axis] // 2), many


def agrees(found: Any, expected: Tensor) -> bool:
    """Whether two results are equal but for rounding: to the square root of the precision, in units
    of the largest."""
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    rough = max((t.dtype for t in (found, expected)), key=lambda d: torch.finfo(d).eps)
    found, expected = found.double(), expected.double()
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    if not isfinite(scale):
        finite = expected[expected.isfinite()]
        scale = float(finite.abs().max()) if finite.numel() else 0.0
    within = torch.finfo(rough).eps ** 0.5 * scale
    return torch.allclose(found, expected, rtol=0, atol=within, equal_nan=True)


def loss_of(loss: Callable[..., Any], outputs: Tensor, y: Tensor, **how: str) -> Tensor:
    """A loss of anybody's: one number, or `PsplibError`."""
    try:
        found = loss(outputs, y, **how)
    except Exception as error:
        words = "".join(f" and {name}={value!r}" for name, value in how.items())
        raise PsplibError(
            f"The loss does not take outputs of shape {tuple(outputs.shape)} with labels of "
            f"shape {tuple(y.shape)} and {y.dtype}{words}: {first_line(error)}."
        ) from error
    if not isinstance(found, Tensor) or found.numel() != 1:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise PsplibError(
            f"A loss must be one number, the {how.get('reduction', 'mean')} over samples; "
            f"got {shape}."
        )
    return found


def no_gradient(model: nn.Module, error: Exception) -> PsplibError:
    """What to raise where autograd fails."""
    return PsplibError(f"The loss of {type(model).__name__} has no gradient: {first_line(error)}.")


def first_line(error: Exception) -> str:
    """The first line of an exception's message, without its full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


@contextmanager
def _eager() -> Iterator[None]:
    """What was compiled runs as it was written: there, its activations can be seen."""
    if "torch._dynamo" in sys.modules:
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def _refuse(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise PsplibError(f"{name} is a TorchScript module, which cannot be looked into.")
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        raise PsplibError(
            f"{name} has no running statistics: in evaluation mode, too, what it puts out hangs on "
            "the batch size. Make it with track_running_stats=True."
        )


def _refuse_parameters(model: nn.Module) -> None:
    """`PsplibError` for parameters that cannot be exchanged, or not alone."""
    named = dict(model.named_parameters())
    if [*map(id, named.values())] != [*map(id, model.parameters())]:
        raise PsplibError(
            f"{type(model).__name__} has a parameters() of its own, which does not give what "
            "named_parameters() gives."
        )
    for name, p in named.items():
        for is_odd, what in (
            (not p.is_floating_point(), f"of {p.dtype}".replace("torch.", "")),
            (p.layout != torch.strided, "sparse"),
            (p.is_meta, "on the meta device"),
            (p.is_inference(), "made in inference mode"),
        ):
            if is_odd:
                raise PsplibError(
                    f"A parameter must be a dense tensor of real numbers that can change; {name} "
                    f"is {what}."
                )
    # What a pre-hook makes anew, such as a normalised weight, is not read before.
    anew = {id(v) for m in model.modules() if m._forward_pre_hooks for v in vars(m).values()}
    kept = {id(t): t for t in _kept(model, True) if isinstance(t, Tensor) and id(t) not in anew}
    names, until, last = {id(p): name for name, p in named.items()}, {True: 0, False: 0}, ""
    spans = [(*span, names.get(i, "")) for i, t in kept.items() if (span := _span(t))]
    for start, stop, name in sorted(spans):
        if start < until[True] or (name and start < until[False]):
            raise PsplibError(
                f"{name or last} shares its memory with another tensor that the network keeps, and "
                "would leave it: make them one parameter, or keep a copy."
            )
        until[bool(name)], last = max(until[bool(name)], stop), name or last


def _span(t: Tensor) -> tuple[int, int] | None:
    """Where a tensor's memory begins and ends; None where it has none."""
    if t.layout != torch.strided or t.is_meta or not t.numel():
        return None
    reach = sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + (reach + 1) * t.element_size()
