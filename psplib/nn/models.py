"""The paper's networks. Every ReLU is a module of its own, so that a hook can see its input."""

from __future__ import annotations

import functools
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.core.errors import PsplibError, one_of
from psplib.core.seeds import derive


def lenet_300() -> nn.Sequential:
    """LeNet-300-100: 784-300-100-10, 266,610 parameters (LeCun et al., 1998)."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, 10),
        )
    )


def lenet_5() -> nn.Sequential:
    """LeNet-5 as Caffe has it: 20 and 50 filters of 5x5, then 500-10; 431,080 parameters.

    The ReLUs stand before the pooling: 11,520 + 3,200 + 500 hidden neurons.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, 10),
        )
    )


class Block(nn.Module):
    """A basic residual block; where the shape changes, the shortcut drops every other row and
    column and pads with zero channels (option A of He et al., 2016: no parameters)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.stride = stride
        self.padding = channels - channels_in

    def shortcut(self, x: Tensor) -> Tensor:
        """Channels (..., C, H, W) as they are added to what the convolutions make of them."""
        if self.stride == 1 and not self.padding:
            return x
        half = self.padding // 2
        pixels = x[..., :: self.stride, :: self.stride]
        return F.pad(pixels, (0, 0, 0, 0, half, self.padding - half))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet of depth 6n+2 for 3x32x32 images (He et al., 2016, section 4.2)."""

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise PsplibError(f"A ResNet's depth must be 6n+2 (8, 14, 20, ...); got {depth}.")
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        channels_in, stages = 16, []
        for channels in (16, 32, 64):
            stage = []
            for i in range(blocks):
                stride = 2 if channels > channels_in and i == 0 else 1
                stage.append(Block(channels_in, channels, stride))
                channels_in = channels
            stages.append(nn.Sequential(*stage))
        self.stage1, self.stage2, self.stage3 = stages
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(x.mean(dim=(2, 3)))


RESNETS = {f"resnet-{depth}": depth for depth in (8, 14, 20, 32, 44, 56, 110)}
NAMES = ("lenet-300", "lenet-5", *RESNETS)
IMAGE = {"lenet-300": (1, 28, 28), "lenet-5": (1, 28, 28)} | dict.fromkeys(RESNETS, (3, 32, 32))


@functools.cache
def sizes(name: str) -> tuple[int, ...]:
    """How many elements each parameter of the network `name` has."""
    return tuple(p.numel() for p in build(name, 0).parameters())


def build(name: str, seed: int) -> nn.Module:
    """The network `name` with the initial values that `seed` draws, on the CPU.

    LeNets keep PyTorch's default initialisation; ResNets use He's. The global random state is
    left as it was.
    """
    one_of("network", name, NAMES)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive("initial values", seed))
        if name == "lenet-300":
            return lenet_300()
        if name == "lenet-5":
            return lenet_5()
        return ResNet(RESNETS[name])
