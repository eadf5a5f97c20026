"""How many samples of a class activate both neurons of a pair: exact counts of a layer's pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

# Blocks of counts of this side stay in the cache of a CPU (measured: 512 and 2048 are no faster).
BLOCK = 1024
# A `Tally` keeps at least so many states before it turns them into counts: one large product is
# faster than many small ones.
KEPT = 8192
# CPUs whose products of integers are faster than those of floats.
INTEGER_PRODUCTS = ("AVX2", "AVX512")


@dataclass
class Tally:
    """The states of a layer's n watched neurons, on one device: as they came, eight to a byte in
    `packed` (B, ceil(n / 8)) with their `labels` (B,), or settled as counts of pairs in `grams`,
    whose keys are the class and the numbers of the blocks of rows and columns.
    """

    neurons: int
    packed: list[Tensor]
    labels: list[Tensor]
    grams: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    def settle(self, classes: int) -> None:
        """Make counts of the states if, unpacked, they would fill as many bytes as the counts."""
        if sum(map(len, self.labels)) <= max(KEPT, classes * self.neurons):
            return
        for label in range(classes):
            for key, _, _, n11 in self.blocks(label):
                small = n11.numel() == 0 or int(n11.max()) < 2**15
                self.grams[key] = n11.to(torch.int16 if small else torch.int32)
        self.packed, self.labels = [self.packed[0][:0]], [self.labels[0][:0]]

    def blocks(
        self, label: int, chosen: Tensor | None = None
    ) -> Iterator[tuple[tuple[int, int, int], Tensor, Tensor, Tensor]]:
        """How many samples of a class have both neurons of a pair active, in blocks on and above
        the diagonal: key, rows (r,), columns (c,), counts (r, c) int32.

        Rows and columns are the neurons where `chosen` (n,) bool is true, all by default.
        """
        packed = torch.cat([p[y == label] for p, y in zip(self.packed, self.labels, strict=True)])
        states = _unpack(packed, self.neurons)
        if chosen is None:
            chosen = torch.ones(self.neurons, dtype=torch.bool, device=states.device)
        numbers = torch.arange(self.neurons, device=states.device)
        picked = [part[chosen[part]] for part in numbers.split(BLOCK)]
        parts = [states[part] for part in picked]
        within = chosen.split(BLOCK)
        for a in range(len(parts)):
            for b in range(a, len(parts)):
                n11 = _both_active(parts[a], parts[b])
                if (label, a, b) in self.grams:
                    n11 += self.grams[label, a, b][within[a]][:, within[b]]
                yield (label, a, b), picked[a], picked[b], n11


def _both_active(rows: Tensor, columns: Tensor) -> Tensor:
    """The product (r, c) int32 of states (r, m) and (c, m) int8; exact to m = 2^24."""
    # Measured, m = 1000: 4 against 12 ns an element and core with AVX-512, 13 against 24 without.
    if rows.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in INTEGER_PRODUCTS:
        return torch._int_mm(rows, columns.t())
    return (rows.float() @ columns.float().t()).int()


def pack_states(states: Tensor) -> Tensor:
    """Zeros and ones (B, n) as bytes (B, ceil(n / 8)) uint8, the first state the lowest bit."""
    powers = 2.0 ** torch.arange(8, device=states.device)
    eights = F.pad(states, (0, -states.shape[1] % 8)).unflatten(1, (-1, 8))
    return (eights @ powers).to(torch.uint8)


def _unpack(packed: Tensor, neurons: int) -> Tensor:
    """The states that `pack_states` made bytes of, turned: (neurons, B) int8."""
    bits = torch.arange(8, dtype=torch.uint8, device=packed.device)
    states = (packed.t()[:, None] >> bits[:, None]) & 1
    return states.view(torch.int8).flatten(0, 1)[:neurons]
