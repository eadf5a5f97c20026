"""Which units of a pruned network live: something feeds them, and something reads them.

A network is seen as groups of units joined by links; a unit of a convolution is a channel. A ResNet
has one group inside each block and one behind it, so that a channel of the residual stream lives
from the first block that feeds it to the last that reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from psplib.nn.models import Block, ResNet


@dataclass(frozen=True)
class Link:
    """How the units of group `source` reach those of group `target`: through a `layer` and the
    normalisation `norm` behind it, or past both layers of the block `shortcut`, each unit with
    `padding` // 2 new ones before it."""

    source: int
    target: int
    layer: str = ""
    norm: str = ""
    shortcut: str = ""
    padding: int = 0


@dataclass(frozen=True)
class Wiring:
    """The links of a network in the order of computation; group 0 is the input, the last one the
    output. `relus` gives the group in front of each ReLU."""

    links: tuple[Link, ...]
    relus: dict[str, int]


# One letter a module, in order; what acts on each unit alone and leaves zero zero has none.
LETTERS = {nn.Conv2d: "c", nn.BatchNorm2d: "n", nn.Flatten: "f", nn.Linear: "l"} | dict.fromkeys(
    (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d), "p"
)
CHAIN, RESNET = r"p*c[cp]*(f+l*)?|f*l+", r"cn(cncn)+l"


def letter(module: nn.Module) -> str:
    if type(module) in (nn.ReLU, nn.Identity):
        return ""
    odd = (
        (isinstance(module, nn.Conv2d) and module.groups > 1)
        or (isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1))
        or (isinstance(module, nn.BatchNorm2d) and module.running_mean is None)
        or (isinstance(module, nn.BatchNorm2d) and not module.affine)
    )
    return "?" if odd else LETTERS.get(type(module), "?")


def is_plain(model: nn.Module) -> bool:
    """Whether no module is hooked or has a `forward` put on it, and none, nor any parameter, occurs
    twice."""
    modules = [m for _, m in model.named_modules(remove_duplicate=False)]
    parameters = [p for _, p in model.named_parameters(remove_duplicate=False)]
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return (
        len(modules) == len(set(modules))
        and len(parameters) == len(set(parameters))
        and not any(getattr(m, hook) for m in modules for hook in hooks)
        and not any("forward" in vars(m) for m in modules)
    )


# What a layer holds by its letter; what has none holds nothing.
HELD = {x: {"weight", "bias"} for x in "cln"}
HELD["n"] |= {"running_mean", "running_var", "num_batches_tracked"}


def wire(model: nn.Module) -> Wiring | None:
    """The wiring of a chain or a ResNet; None for every other network."""
    held = ((m, {*m._parameters, *m._buffers}) for m in model.modules())
    if not is_plain(model) or any(names != HELD.get(letter(m), set()) for m, names in held):
        return None
    if type(model) is nn.Sequential:
        fits = re.fullmatch(CHAIN, "".join(map(letter, model))) and not _overwrites(model)
        return _chain(model) if fits else None
    inner = [m for m in model.modules() if next(m.children(), None) is not None]
    if type(model) is ResNet and all(type(m) in (ResNet, nn.Sequential, Block) for m in inner):
        leaves = [m for m in model.modules() if next(m.children(), None) is None]
        is_biased = any(isinstance(m, nn.Conv2d) and m.bias is not None for m in leaves)
        if re.fullmatch(RESNET, "".join(map(letter, leaves))) and not is_biased:
            return _resnet(model)
    return None


def _overwrites(model: nn.Sequential) -> bool:
    """Whether an in-place ReLU is handed the images themselves, or a view of them."""
    for module in model:
        if type(module) is nn.ReLU:
            return module.inplace
        if letter(module) not in ("", "f"):
            return False
    return False


def _chain(model: nn.Sequential) -> Wiring:
    links: list[Link] = []
    relus: dict[str, int] = {}
    for name, module in model.named_children():
        if isinstance(module, nn.Linear | nn.Conv2d):
            links.append(Link(len(links), len(links) + 1, name))
        elif isinstance(module, nn.ReLU):
            relus[name] = len(links)
    return Wiring(tuple(links), relus)


def _resnet(model: ResNet) -> Wiring:
    links, relus, stream = [Link(0, 1, "conv", "bn")], {"relu": 1}, 1
    for name, block in model.named_modules():
        if isinstance(block, Block):
            inside, behind = stream + 1, stream + 2
            links += [
                Link(stream, inside, f"{name}.conv1", f"{name}.bn1"),
                Link(inside, behind, f"{name}.conv2", f"{name}.bn2"),
                Link(stream, behind, shortcut=name, padding=block.padding),
            ]
            relus |= {f"{name}.relu1": inside, f"{name}.relu2": behind}
            stream = behind
    return Wiring((*links, Link(stream, stream + 1, "fc")), relus)


def live_units(
    wiring: Wiring, masks: dict[str, Tensor], unread: bool
) -> tuple[dict[int, Tensor], dict[int, int]]:
    """For each group the live units (u,) and how many the full network has; all outputs live.

    One pass forwards (who is fed) and one backwards (who is read) reach the fixed point: a fed unit
    that feeds a read one is read, and a read unit that reads a fed one is fed.
    """
    first, output = wiring.links[0], wiring.links[-1].target
    full = {0: masks[f"{first.layer}.weight"].shape[1]}
    ways: list[tuple[Link, Tensor]] = []  # which units (out, in) a link joins
    fed = {0: torch.ones(full[0], dtype=torch.bool)}
    for link in wiring.links:
        way, own = _way(link, masks, full[link.source])
        full[link.target] = len(way)
        ways.append((link, way))
        fed[link.target] = fed.get(link.target, False) | own | (way & fed[link.source]).any(1)
    read = {group: torch.zeros_like(f) for group, f in fed.items()}
    read[output] |= True
    for link, way in reversed(ways):
        if unread:
            read[link.target] = fed[link.target]
        read[link.source] |= (way & read[link.target][:, None]).any(0)
    live = {group: (fed[group] & read[group]).nonzero().flatten() for group in fed}
    live[output] = torch.arange(full[output])
    # A group may die out altogether; one idle unit keeps the shapes legal and changes nothing.
    return {g: u if len(u) else torch.zeros(1, dtype=torch.int64) for g, u in live.items()}, full


def _way(link: Link, masks: dict[str, Tensor], units_in: int) -> tuple[Tensor, Tensor]:
    """Which units (out, in) a link joins, and which (out,) it feeds by itself.

    Normalisation in front of a scale that is pruned is read by nobody. One with a scale or a shift
    feeds its channel whatever comes in: in evaluation mode, constants become other constants.
    """
    if link.shortcut:
        way = torch.zeros(units_in + link.padding, units_in, dtype=torch.bool)
        way.diagonal(-(link.padding // 2)).fill_(True)
        return way, torch.zeros(len(way), dtype=torch.bool)
    weight = masks[f"{link.layer}.weight"]
    way = weight.reshape(len(weight), units_in, -1).any(2)
    if not link.norm:
        return way, masks.get(f"{link.layer}.bias", torch.zeros(len(way), dtype=torch.bool))
    scale, shift = masks[f"{link.norm}.weight"], masks[f"{link.norm}.bias"]
    return way & scale[:, None], scale | shift
