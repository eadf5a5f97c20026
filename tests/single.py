"""One network of the compact engine, spoken of without its number."""

from torch import Tensor, nn

from psplib.nn.data import Data
from psplib.nn.masks import Mask
from psplib.training.engines import CompactTrainer
from psplib.training.trainer import Score
from psplib.training.update import Update


class Single(CompactTrainer):
    def __init__(
        self, model: nn.Module, mask: Mask, data: Data, size: int, precision: str = "float32"
    ) -> None:
        super().__init__(model, [mask], data, size, precision)

    @property
    def mask(self) -> Mask:
        return self.masks[0]

    @property
    def weights(self) -> Tensor:
        return super().weights[0]

    @weights.setter
    def weights(self, full: Tensor) -> None:
        self.set_weights(0, full)

    def train(self, order: Tensor, update: Update, crops: Tensor | None = None) -> None:
        self.epoch([order], [update], None if crops is None else [crops])

    def score(self, split: str) -> Score:
        return self.scores(split)[0]
