"""Lossless coding of whole numbers whose probabilities are known, to within a thousandth of them.

Range asymmetric numeral systems with many lanes: lane l codes the symbols l, l + lanes, ... of a
plane, and all lanes share one stream of 16-bit words. A decoder needs the probabilities of a plane
only when it comes to it, so they may depend on all planes before.

Source: Duda (2013), "Asymmetric numeral systems"; Giesen (2014) for interleaved lanes. Here the
lanes are the entries of an array.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

PRECISION = 14
"""Bits of a probability."""
_TOTAL = 1 << PRECISION
# A state is at least this; a word leaves it before it would reach 2^32.
_LEAST = 1 << 16


@dataclass(frozen=True, slots=True)
class Frequencies:
    """Probabilities of S symbols in each of C classes, as whole numbers that add up to 2^14.

    Attributes:
        share_CS: of each symbol, 0 for one that does not occur.
        start_CS: sum of the shares before it.
    """

    share_CS: Integers
    start_CS: Integers

    @classmethod
    def of(cls, share_CS: Integers) -> Frequencies:
        return cls(share_CS, share_CS.cumsum(1) - share_CS)

    @classmethod
    def counted(cls, count_CS: Integers) -> Frequencies:
        """Return the probabilities of symbols that occurred so often. A class may be empty."""
        total_C1 = count_CS.sum(1, keepdims=True)
        used_CS = count_CS > 0
        left = _TOTAL - used_CS.sum(1, keepdims=True)
        share_CS = used_CS + count_CS * left // np.maximum(total_C1, 1)
        rows = np.arange(len(share_CS))
        share_CS[rows, count_CS.argmax(1)] += _TOTAL - share_CS.sum(1)
        return cls.of(share_CS)

    def bits(self, count_CS: Integers) -> float:
        """Return the length of a code of symbols that occurred so often."""
        used_CS = count_CS > 0
        return float((count_CS[used_CS] * (PRECISION - np.log2(self.share_CS[used_CS]))).sum())


class Encoder:
    """Codes planes of symbols. The last plane comes first."""

    def __init__(self, frequencies: Frequencies, lanes: int) -> None:
        self.frequencies = frequencies
        self.state_L = np.full(lanes, _LEAST, np.int64)
        self.words: list[Integers] = []

    def push(self, symbols: Integers, classes: Integers) -> None:
        """Code a plane of symbols (M,), each of a class."""
        lanes = len(self.state_L)
        share = self.frequencies.share_CS[classes, symbols]
        start = self.frequencies.start_CS[classes, symbols]
        for first in range((len(symbols) - 1) // lanes * lanes, -1, -lanes):
            share_L, start_L = share[first : first + lanes], start[first : first + lanes]
            state_L = self.state_L[: len(share_L)]
            full_L = state_L >= share_L << (32 - PRECISION)
            self.words.append(state_L[full_L] & 0xFFFF)
            state_L[full_L] >>= 16
            quotient_L, rest_L = np.divmod(state_L, share_L)
            state_L[:] = (quotient_L << PRECISION) + rest_L + start_L

    def finish(self) -> bytes:
        """Return the code."""
        words = np.concatenate([*self.words[::-1], np.zeros(0, np.int64)]).astype("<u2")
        return self.state_L.astype("<u4").tobytes() + words.tobytes()


class Decoder:
    """Returns the planes of a code, the first one first."""

    def __init__(self, frequencies: Frequencies, lanes: int, code: bytes) -> None:
        self.start_CS, self.share_CS = frequencies.start_CS, frequencies.share_CS
        classes, symbols = self.share_CS.shape
        # The symbol of each of the 2^14 values that a state's last bits may have.
        self.symbol_CT = (
            np.stack(
                [
                    np.repeat(np.arange(symbols, dtype=np.int16), share_S)
                    for share_S in self.share_CS
                ]
            )
            if classes
            else np.zeros((0, _TOTAL), np.int16)
        )
        self.state_L = np.frombuffer(code, "<u4", lanes).astype(np.int64)
        self.words = np.frombuffer(code, "<u2", offset=4 * lanes).astype(np.int64)
        self.next = 0

    def pop(self, classes: Integers) -> Integers:
        """Return the next plane's symbols (M,), whose classes are these."""
        lanes = len(self.state_L)
        symbols = np.empty(len(classes), np.int64)
        for first in range(0, len(classes), lanes):
            class_L = classes[first : first + lanes]
            state_L = self.state_L[: len(class_L)]
            slot_L = state_L & (_TOTAL - 1)
            symbol_L = self.symbol_CT[class_L, slot_L]
            symbols[first : first + lanes] = symbol_L
            share_L = self.share_CS[class_L, symbol_L]
            state_L[:] = (
                share_L * (state_L >> PRECISION) + slot_L - self.start_CS[class_L, symbol_L]
            )
            short_L = state_L < _LEAST
            count = int(short_L.sum())
            words = self.words[self.next : self.next + count]
            state_L[short_L] = state_L[short_L] << 16 | words
            self.next += count
        return symbols
