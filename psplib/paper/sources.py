"""Where an experiment's values come from, where it is not what their fields say.

A field of a configuration says where its value comes from. The same field can have another source
in another panel of Fig. 1: the learning rate of ResNet-32 is not that of LeNet-5.
"""

from __future__ import annotations

from typing import Any

from psplib.core import config
from psplib.core.config import Origin

_HE = "He et al. (2016), section 4.2, for CIFAR-10; the code that the paper names has it too"
_STEP = Origin("reference", _HE)
_PART = (
    "a part of the training images and of the test images at quick scale, that a CPU can pay it; "
    "all of them at the paper's"
)
_HIGHEST = Origin(
    "paper",
    "Sec. 5.2: the highest compression of Fig. 1b; the run ends at the first plateau that is at "
    "least this sparse",
)
_FASHION = Origin(
    "ours",
    "far beyond the 80 % at which the paper sees a degradation; the run ends at the first plateau "
    "that is at least this sparse",
)
_RESNET_RUN = {
    "learning_rate": Origin(
        "ours",
        "a tenth of He et al.'s: the rate of a gradual run never falls, so it is small throughout",
    ),
    "batch_size": _STEP,
    "momentum": _STEP,
    "weight_decay": _STEP,
    "shrinkage": Origin(
        "ours",
        "lambda; 3.5 % per epoch of 352 steps for a weight to which the loss is insensitive, where "
        "LeNet-5's published value makes it 5.3 % per epoch of 540; a part of the data has fewer "
        "steps per epoch, and so a larger lambda",
    ),
    "tolerance": Origin(
        "ours",
        "TWT; at the paper's scale LOBSTER's published value for LeNet-5 on MNIST, on a part of "
        "the data more, so that fewer prunings are needed",
    ),
    "patience": Origin("ours", "PWE; as for the LeNets, on a part of the data less"),
    "target_sparsity": Origin(
        "ours",
        "the paper's text gives none; the run ends at the first plateau that is at least this "
        "sparse",
    ),
    "samples": Origin("ours", _PART),
}
_RESNET_RETRAINING = {
    "epochs": Origin(
        "reference",
        "He et al. (2016), section 4.2: 64,000 steps, which are 182 epochs of 352; the code that "
        "the paper names has 200",
    ),
    "learning_rate": _STEP,
    "batch_size": _STEP,
    "momentum": _STEP,
    "weight_decay": _STEP,
    "steps": Origin(
        "reference",
        "He et al. (2016), section 4.2: the learning rate falls tenfold after 32,000 and 48,000 of "
        "64,000 steps, here after these shares of the epochs; so has the code that the paper names",
    ),
}
SOURCES: dict[str, dict[str, dict[str, Origin]]] = {
    "minima": {"lobster": {"target_sparsity": _HIGHEST}},
    "figure_1b": {"lobster": {"target_sparsity": _HIGHEST}},
    "figure_1c": {"lobster": {"target_sparsity": _FASHION}},
    "figure_1d": {"lobster": _RESNET_RUN, "retraining": _RESNET_RETRAINING},
}


def origins(experiment: str, part: str, configuration: Any) -> dict[str, Origin]:
    """The `Origin` of each field of a part of an experiment: `lobster`, `retraining`, ..."""
    return config.origins(configuration) | SOURCES.get(experiment, {}).get(part, {})
