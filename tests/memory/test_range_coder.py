"""The range coder: whole numbers come back, at the length that their probabilities allow."""

from __future__ import annotations

import numpy as np
import pytest

from pcgen.memory.range_coder import Decoder, Encoder, Frequencies


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_every_symbol_comes_back_at_the_length_that_its_probability_allows(size: int) -> None:
    source = np.random.default_rng(0)
    planes = [source.geometric(0.3 + 0.2 * k, size).clip(max=9) - 1 for k in range(3)]
    classes = [np.full(size, k) for k in range(3)]
    counts = np.stack([np.bincount(plane, minlength=9) for plane in planes])
    frequencies = Frequencies.counted(counts)
    assert (frequencies.share_CS.sum(1) == 2**14).all()
    encoder = Encoder(frequencies, lanes=4)
    for plane, own in zip(planes[::-1], classes[::-1], strict=True):
        encoder.push(plane, own)
    code = encoder.finish()
    decoder = Decoder(frequencies, 4, code)
    for plane, own in zip(planes, classes, strict=True):
        assert (decoder.pop(own) == plane).all()
    assert len(code) * 8 <= frequencies.bits(counts) + 2 * 4 * 32


def test_the_code_is_no_longer_than_the_entropy_by_more_than_a_thousandth() -> None:
    plane = np.random.default_rng(1).choice(3, 200_000, p=[0.9, 0.08, 0.02])
    counts = np.bincount(plane, minlength=3)[None]
    encoder = Encoder(Frequencies.counted(counts), lanes=8)
    encoder.push(plane, np.zeros_like(plane))
    share = counts / counts.sum()
    entropy = -(counts * np.log2(share)).sum() / 8
    assert len(encoder.finish()) <= 1.001 * entropy + 64
