"""A memory that keeps images in far fewer bytes than their pixels: patches, whole numbers, a code.

The data layer is linear and convolutional, and its kernel is as large as its stride, so that each
patch of the image has units of its own. The kernels are the principal components of all stored
patches: the optimum of any such layer. Each image's latent is its map of units, rounded to whole
numbers of one step for all units. Under that step a unit of large variance takes many bits, a unit
of small variance few or none (reverse water-filling).

The numbers are kept at the length that their probability allows. That a unit is large is predicted
by the sizes of the units before it, of its own patch and of the patches around: its precision is
predicted by its neighbours.

Source: Cover and Thomas (2006), section 10.3.3, for the water-filling; Shapiro (1993) for sizes
that predict sizes. Here the components are learned, and there is no tree.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from pcgen.data.images import Shape
from pcgen.errors import CheckpointError
from pcgen.memory.range_coder import Decoder, Encoder, Frequencies, Integers

# The largest side of a patch.
_SIDE = 8
# A unit of this many steps and a fraction is rounded up where the fraction is above 0.6: the small
# number has the shorter code.
_ROUND = 0.4
# Kinds of sizes (1, 2, more) that decode to a mean of their own.
_SIZES = 3
# Images that the step is sought with; halvings of its interval.
_SOUGHT, _HALVINGS = 1000, 9
# Patches for each lane of the coder. A lane takes 4 bytes.
_LANE, _LANES = 256, 4096
# A size is taken in 256ths of its unit's mean, and is limited to 20 of them.
_ONE, _LIMIT = 256, 20 * 256
# Borders between the classes of neighbours' sizes, and of the sizes that are predicted from them.
_AROUND = np.array([round(_ONE * 2 ** (k / 2)) for k in range(-10, 9)])
_EXPECTED = np.array([round(_ONE * _ONE * 2 ** (k / 2)) for k in range(-24, 15)])


@dataclass(frozen=True, slots=True)
class PatchMemory:
    """Images as whole numbers of K units for each patch.

    Attributes:
        shape: (C, H, W) of an image.
        kernel_PK: the components of a patch, in 8 bits.
        scale_K: of each component's 8 bits.
        mean_P: of the patches, in 16 bits.
        step: of a unit.
        size_S: what the numbers 1, 2 and more add to themselves, in steps, when they are decoded.
        units_MK: of every patch, from the first image's first patch on.
    """

    shape: Shape
    kernel_PK: Tensor
    scale_K: Tensor
    mean_P: Tensor
    step: float
    size_S: Tensor
    units_MK: Tensor

    @classmethod
    def fit(cls, images_ND: Tensor, shape: Shape, budget: int) -> PatchMemory:
        """Return the memory of images (N, D) with the least step that needs `budget` bytes at most.

        Example:
            >>> images_ND = torch.rand(50, 64, generator=torch.Generator().manual_seed(0))
            >>> memory = PatchMemory.fit(images_ND, (1, 8, 8), budget=1600)
            >>> len(memory.to_bytes()) <= 1600
            True
        """
        some_ND = images_ND[:_SOUGHT]
        share = len(some_ND) / len(images_ND)
        low, high = 4e-3, 10.0
        for _ in range(_HALVINGS):
            middle = math.sqrt(low * high)
            fits = cls.rounded(some_ND, shape, middle)._length(share) <= share * budget
            low, high = (low, middle) if fits else (middle, high)
        while len((memory := cls.rounded(images_ND, shape, high)).to_bytes()) > budget:
            high *= 1.01
            if high > 100:
                break
        return memory

    @classmethod
    def rounded(cls, images_ND: Tensor, shape: Shape, step: float) -> PatchMemory:
        """Return the memory of images (N, D) whose units are rounded to whole steps."""
        patches_MP = _patches(images_ND, shape)
        mean_P = patches_MP.mean(0).half()
        centred_MP = patches_MP - mean_P.float()
        covariance_PP = centred_MP.T @ centred_MP
        kernel_PK = torch.linalg.eigh(covariance_PP.double()).eigenvectors.flip(1).float()
        scale_K = kernel_PK.abs().amax(0) / 127
        kernel_PK = (kernel_PK / scale_K).round()
        values_MK = centred_MP @ (kernel_PK * scale_K) / step
        units_MK = values_MK.sign() * (values_MK.abs() + _ROUND).floor()
        # A component must lower the error by what its bytes would in other units.
        gain_K = (values_MK.square() - (values_MK - units_MK).square()).sum(0)
        worth_K = gain_K > len(mean_P)
        worth_K[0] = True
        units_MK, values_MK = units_MK[:, worth_K], values_MK[:, worth_K].abs()
        sizes_MK = units_MK.abs()
        more = [(values_MK - sizes_MK)[sizes_MK.clamp_max(_SIZES) == k + 1] for k in range(_SIZES)]
        size_S = torch.stack([part.mean() if len(part) else torch.zeros(()) for part in more])
        return cls(
            shape,
            kernel_PK[:, worth_K].to(torch.int8),
            scale_K[worth_K],
            mean_P,
            step,
            size_S.half(),
            units_MK.to(torch.int16),
        )

    def decode(self) -> Tensor:
        """Return the stored images (N, D)."""
        units_MK = self.units_MK.float()
        more_S = torch.cat([torch.zeros(1), self.size_S.float()])
        more_MK = more_S[self.units_MK.abs().clamp_max(_SIZES).int()]
        values_MK = self.step * (units_MK + units_MK.sign() * more_MK)
        patches_MP = values_MK @ (self.kernel_PK * self.scale_K).T + self.mean_P.float()
        return _images(patches_MP, self.shape).clamp(0, 1)

    def to_bytes(self) -> bytes:
        """Return everything that is kept, as a file's content."""
        model = _Model.of(self)
        most = int(self.units_MK.abs().max())
        units_KM = self.units_MK.T.numpy().astype(np.int64)
        encoder = Encoder(model.frequencies, self._lanes)
        classes_KM = model.classes(np.abs(units_KM), _grid(self.shape))
        for units_M, classes_M in zip(units_KM[::-1], classes_KM[::-1], strict=True):
            encoder.push(units_M + most, classes_M)
        head = self._head(model)
        return len(head).to_bytes(4, "little") + head + encoder.finish()

    @classmethod
    def from_bytes(cls, content: bytes) -> PatchMemory:
        """Return the memory that `to_bytes` kept.

        Raises:
            CheckpointError: it is no such content, or damaged.
        """
        try:
            return cls._decoded(content)
        except (zlib.error, SafetensorError, LookupError, ValueError) as error:
            raise CheckpointError("no memory of patches, or damaged") from error

    @classmethod
    def _decoded(cls, content: bytes) -> PatchMemory:
        end = 4 + int.from_bytes(content[:4], "little")
        kept = load(zlib.decompress(content[4:end]))
        channels, height, width, patches = kept["shape"].tolist()
        frequencies = Frequencies.of(kept["share"].astype(np.int64))
        model = _Model(
            kept["mean_size"].astype(np.int64), kept["gain"].astype(np.int64), frequencies
        )
        most = frequencies.share_CS.shape[1] // 2
        shape = (channels, height, width)
        decoder = Decoder(frequencies, _lanes(patches), content[end:])
        around = _Around(patches, _grid(shape))
        planes = []
        for mean in model.mean_K:
            units_M = decoder.pop(model.classes_of(around.classes(), mean)) - most
            around.add(np.abs(units_M), mean)
            planes.append(units_M.astype(np.int16))
        return cls(
            shape,
            torch.from_numpy(kept["kernel"]),
            torch.from_numpy(kept["scale"]),
            torch.from_numpy(kept["mean"]),
            float(kept["step"][0]),
            torch.from_numpy(kept["size"]),
            torch.from_numpy(np.stack(planes, 1)),
        )

    @property
    def _lanes(self) -> int:
        return _lanes(len(self.units_MK))

    def _head(self, model: _Model) -> bytes:
        kept = {
            "shape": np.array([*self.shape, len(self.units_MK)], np.int32),
            "kernel": self.kernel_PK.contiguous().numpy(),
            "scale": self.scale_K.numpy(),
            "mean": self.mean_P.numpy(),
            "step": np.array([self.step], np.float64),
            "size": self.size_S.numpy(),
            "mean_size": model.mean_K.astype(np.uint32),
            "gain": model.gain_A.astype(np.uint16),
            "share": model.frequencies.share_CS.astype(np.uint16),
        }
        return zlib.compress(save(kept), 9)

    def _length(self, share: float) -> float:
        """Return about how many bytes `to_bytes` returns, with so much of what all images share."""
        model = _Model.of(self)
        return share * len(self._head(model)) + model.bits / 8 + 4 * self._lanes


class _Around:
    """The sizes of the units that come before a unit, in its patch and in the patches around."""

    def __init__(self, patches: int, grid: tuple[int, int]) -> None:
        self.sum_M, self.weight = np.zeros(patches, np.int64), 0
        self.grid = grid

    def classes(self) -> Integers:
        """Return the class of each patch (M,)."""
        if not self.weight:
            return np.full(len(self.sum_M), np.searchsorted(_AROUND, _ONE))
        own = (self.sum_M * _ONE // self.weight).reshape(-1, *self.grid)
        row = np.pad(own, ((0, 0), (1, 1), (1, 1)), mode="edge")
        row = row[:, :, :-2] + 2 * row[:, :, 1:-1] + row[:, :, 2:]
        square = row[:, :-2] + 2 * row[:, 1:-1] + row[:, 2:] - 4 * own
        # Seven tenths are the patch's own; the weights of the eight around add up to 12.
        return np.searchsorted(_AROUND, ((28 * own + square) // 40).reshape(-1))

    def add(self, size_M: Integers, mean: int) -> None:
        """Add the sizes of a unit with this mean. What was before counts four fifths of it."""
        relative_M = np.minimum(size_M * _ONE * _ONE // (mean + 5), _LIMIT)
        self.sum_M = self.sum_M * 4 // 5 + relative_M
        self.weight = self.weight * 4 // 5 + _ONE


@dataclass(frozen=True, slots=True)
class _Model:
    """The probabilities of whole numbers, from their unit and from the sizes around.

    Attributes:
        mean_K: size of each unit, in 256ths.
        gain_A: a unit's size in each class of sizes around, in 256ths of its mean.
        frequencies: of the numbers in each class of expected size.
        bits: length of the code; 0 where it is not known.
    """

    mean_K: Integers
    gain_A: Integers
    frequencies: Frequencies
    bits: float = 0.0

    @classmethod
    def of(cls, memory: PatchMemory) -> _Model:
        units_KM = memory.units_MK.T.numpy()
        size_KM = np.abs(units_KM)
        mean_K = np.maximum(1, (size_KM.mean(1) * _ONE).round().astype(np.int64))
        around_KM = _around(size_KM, mean_K, _grid(memory.shape))
        total_A, expected_A = np.zeros((2, len(_AROUND) + 1))
        for around_M, size_M, mean in zip(around_KM, size_KM, mean_K, strict=True):
            total_A += np.bincount(around_M, size_M, len(total_A))
            expected_A += np.bincount(around_M, minlength=len(total_A)) * (mean / _ONE)
        gain_A = (_ONE * total_A / np.maximum(expected_A, 1e-9)).round().clip(1, 65535)
        model = cls(mean_K, gain_A.astype(np.int64), Frequencies.of(np.zeros((0, 0), np.int64)))
        most = int(size_KM.max())
        count_CS = np.zeros((len(_EXPECTED) + 1, 2 * most + 1), np.int64)
        for around_M, units_M, mean in zip(around_KM, units_KM, mean_K, strict=True):
            key_M = model.classes_of(around_M, mean) * (2 * most + 1) + units_M + most
            count_CS += np.bincount(key_M, minlength=count_CS.size).reshape(count_CS.shape)
        frequencies = Frequencies.counted(count_CS)
        return cls(mean_K, model.gain_A, frequencies, frequencies.bits(count_CS))

    def classes_of(self, around_M: Integers, mean: int) -> Integers:
        """Return the class of the expected size of each patch's unit (M,)."""
        return np.searchsorted(_EXPECTED, mean * self.gain_A)[around_M]

    def classes(self, size_KM: Integers, grid: tuple[int, int]) -> Integers:
        """Return the class of the expected size of every unit (K, M)."""
        around_KM = _around(size_KM, self.mean_K, grid)
        pairs = zip(around_KM, self.mean_K, strict=True)
        return np.stack([self.classes_of(around_M, mean) for around_M, mean in pairs])


def _around(size_KM: Integers, mean_K: Integers, grid: tuple[int, int]) -> Integers:
    """Return the class of the sizes around each unit (K, M)."""
    around = _Around(size_KM.shape[1], grid)
    classes = []
    for size_M, mean in zip(size_KM, mean_K, strict=True):
        classes.append(around.classes().astype(np.uint8))
        around.add(size_M.astype(np.int64), int(mean))
    return np.stack(classes)


def _lanes(patches: int) -> int:
    return min(_LANES, max(1, patches // _LANE))


def _side(shape: Shape) -> int:
    """Return the side of a patch: the largest that divides the image's sides."""
    common = math.gcd(shape[1], shape[2])
    return max(side for side in range(1, _SIDE + 1) if common % side == 0)


def _grid(shape: Shape) -> tuple[int, int]:
    return shape[1] // _side(shape), shape[2] // _side(shape)


def _patches(images_ND: Tensor, shape: Shape) -> Tensor:
    """Return the patches (M, P) of images (N, D)."""
    side, (rows, columns) = _side(shape), _grid(shape)
    cut = images_ND.reshape(-1, shape[0], rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(-1, shape[0] * side * side)


def _images(patches_MP: Tensor, shape: Shape) -> Tensor:
    """Return the images (N, D) of patches (M, P)."""
    side, (rows, columns) = _side(shape), _grid(shape)
    cut = patches_MP.reshape(-1, rows, columns, shape[0], side, side).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(-1, math.prod(shape))
