"""Random numbers: every sample has a stream of its own, so no sample depends on another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

# A stream draws the numbers of up to this many steps at once, as long as they are not more than
# this many numbers: fewer calls, and a small buffer. Both limits depend on the widths alone,
# because torch draws other numbers when it is asked for another count at once.
_BLOCK_STEPS = 16
_BLOCK_NUMBERS = 4096
# Seeds have 32 bits. Multiplication by an odd factor gives every sample number another seed.
_FACTOR = 2654435761
_SEEDS = 2**32


class SampleNoise:
    """Independent streams of normal numbers, one for each sample of a batch.

    The numbers of sample 17 depend on the seed, the purpose, the widths and the number 17 only. It
    does not matter how samples are split into batches or processes, or how many steps follow.
    """

    def __init__(
        self, seed: int, purpose: str, samples: Sequence[int] | Tensor, like: Sequence[Tensor]
    ) -> None:
        """Begin the streams of these sample numbers (B,).

        Args:
            purpose: a text that keeps the streams of different uses apart.
            like: tensors (.., D) that give the widths, the type and the device of a draw.
        """
        key = int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big")
        numbers = samples.tolist() if isinstance(samples, Tensor) else samples
        self.streams = [
            torch.Generator().manual_seed((key + number * _FACTOR) % _SEEDS) for number in numbers
        ]
        # One more number for the uniform one.
        self.widths = [*(tensor.shape[1] for tensor in like), 1]
        self.kind = like[0]
        self.steps = max(1, min(_BLOCK_STEPS, _BLOCK_NUMBERS // sum(self.widths)))
        self.block_SBD = torch.empty(0)
        self.left = 0
        self.uniform_B = torch.empty(0)

    def __len__(self) -> int:
        return len(self.streams)

    def draw(self) -> list[Tensor]:
        """Return standard normal tensors (B, D), one for each width.

        It also sets `uniform_B` to independent uniform numbers (B,) in (0, 1).
        """
        if not self.left:
            drawn = torch.empty(len(self), self.steps, sum(self.widths), dtype=self.kind.dtype)
            for stream, row in zip(self.streams, drawn.unbind(0), strict=True):
                row.normal_(generator=stream)
            self.block_SBD = drawn.transpose(0, 1).contiguous().to(self.kind.device)
            self.left = self.steps
        *normal, last = torch.split(self.block_SBD[self.steps - self.left], self.widths, 1)
        self.left -= 1
        self.uniform_B = torch.special.ndtr(last[:, 0])
        return normal
