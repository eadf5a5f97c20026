"""psplib: the reproducible companion of a paper on pruning, sharp minima and PSP-entropy.

What somebody with a network of their own needs is here by its name, and imported when it is first
asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Each name of the public face, and where it lives.
_FACE = {
    "Agreement": "psplib.analysis.entropy",
    "FirstOrder": "psplib.analysis.entropy",
    "LossAndError": "psplib.analysis.psp",
    "Mask": "psplib.nn.masks",
    "MeanSquare": "psplib.analysis.psp",
    "Pruned": "psplib.pruning.own",
    "PsplibError": "psplib.core.errors",
    "SecondOrder": "psplib.analysis.entropy",
    "Subsets": "psplib.analysis.entropy",
    "eigenvalues": "psplib.analysis.hessian",
    "entropy": "psplib.analysis.entropy",
    "hessian": "psplib.analysis.hessian",
    "load_data": "psplib.nn.data",
    "loss_landscape": "psplib.analysis.landscape",
    "models": "psplib.nn",
    "observe": "psplib.analysis.psp",
    "plane": "psplib.analysis.landscape",
    "prune": "psplib.pruning.own",
    "psp_norm": "psplib.analysis.psp",
    "retrain": "psplib.pruning.own",
    "sweep": "psplib.analysis.landscape",
}
__all__ = [*_FACE]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"psplib has no {name!r}; it offers {', '.join(_FACE)}.")
    where = importlib.import_module(_FACE[name])
    found = getattr(where, name, None)
    return importlib.import_module(f"{_FACE[name]}.{name}") if found is None else found


def __dir__() -> list[str]:
    return sorted([*globals(), *_FACE])
