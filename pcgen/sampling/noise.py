"""Noise with a stream of its own for every sample, so that no sample depends on those beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

# Numbers that a stream draws at once, at most: fewer calls, and a buffer that stays small.
_BLOCK = 4096
_STEPS = 16
# The generator takes 32 bits; an odd factor gives every sample number a seed of its own.
_FACTOR = 2654435761
_SEEDS = 2**32


class SampleNoise:
    """Independent streams of normal numbers, one for each sample of a batch.

    What sample 17 draws depends on the seed, the purpose, the widths and the number 17 alone,
    however the samples are split into batches or processes.
    """

    def __init__(
        self,
        seed: int,
        purpose: str,
        samples: Sequence[int] | Tensor,
        like: Sequence[Tensor],
        steps: int = _STEPS,
    ) -> None:
        """Begin the streams of these sample numbers (B,).

        Args:
            like: tensors (.., D) whose widths, type and device a draw has.
            steps: draws that are needed at least.
        """
        key = int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big")
        numbers = samples.tolist() if isinstance(samples, Tensor) else samples
        self.streams = [
            torch.Generator().manual_seed((key + number * _FACTOR) % _SEEDS) for number in numbers
        ]
        # One number more, for the uniform.
        self.widths = [*(tensor.shape[1] for tensor in like), 1]
        self.kind = like[0]
        self.steps = max(1, min(steps, _STEPS, _BLOCK // sum(self.widths)))
        self.block_SBD = torch.empty(0)
        self.left = 0
        self.uniform_B = torch.empty(0)

    def __len__(self) -> int:
        return len(self.streams)

    def draw(self) -> list[Tensor]:
        """Return standard normal tensors (B, D), one for each width.

        Uniform numbers (B,) in (0, 1), independent of them, are then in `uniform_B`.
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
