"""Layers: linear maps from the states above to the drive of the states below.

States are flat, (B, D). In hidden layers the order of a map is height, width, channel, because
convolutions are fastest that way on a CPU. The data layer keeps the order channel, height, width.
"""

from __future__ import annotations

import itertools
import math
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from pcgen.errors import RecipeError
from pcgen.model import products

Shape = tuple[int, int, int]
"""Channels, height and width of a layer; (1, 1, D) for D units that are not a map."""


class Layer(Protocol):
    """A linear map from U units above to D units below.

    Attributes:
        above: the shape of the layer above.
        below: the shape of the layer below.
        weight: the parameters of the map.
        bias: the bias of the layer below; None for a skip connection.
    """

    above: Shape
    below: Shape
    weight: Tensor
    bias: Tensor | None

    @property
    def multiply_adds(self) -> int:
        """Return the number of multiplications of a drive, per image."""

    def drive(self, above_BU: Tensor) -> Tensor:
        """Return the drive (B, D) of the layer below."""

    def drive_move(self, move_BU: Tensor) -> Tensor:
        """Return the change (B, D) of the drive for a move of the states above."""

    def adjoint(self, signal_BD: Tensor) -> Tensor:
        """Return the signal (B, U) that arrives above: the transposed map of `signal_BD`."""

    def pull_above(self, pull_BU: Tensor, signal_BD: Tensor) -> Tensor:
        """Return the energy's slope (B, U) in the states above: their pull minus the signal."""

    def gradients(self, signal_BD: Tensor, above_BU: Tensor) -> list[Tensor]:
        """Return the energy's slopes in the weight and the bias (if any), averaged over images."""

    def matrix(self) -> Tensor:
        """Return the map as a matrix (D, U)."""

    def limit_norms(self, times: float) -> None:
        """Scale down the weights of each unit above whose norm is too large.

        Args:
            times: the largest norm, as a multiple of the expected norm of random starting weights.
        """

    def set_prediction(self, drive_D: Tensor) -> None:
        """Set the bias so that the drive at states of 0 is as close to this as possible."""

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Layer:
        """Return a copy on a device."""


class Dense:
    """A fully connected layer: drive = weight x_above + bias.

    Attributes:
        weight: (D, U), from U units above to D units below.
        bias: (D,), or None.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        above: Shape | None = None,
        below: Shape | None = None,
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.above = above or (1, 1, weight.shape[1])
        self.below = below or (1, 1, weight.shape[0])

    @classmethod
    def initial(
        cls, below: Shape, above: Shape, generator: torch.Generator, bias: bool = True
    ) -> Self:
        """Return a layer with weights from N(0, 1 / U) and a bias of 0."""
        units, below_units = math.prod(above), math.prod(below)
        weight = torch.randn(below_units, units, generator=generator) / math.sqrt(units)
        return cls(weight, torch.zeros(below_units) if bias else None, above, below)

    @property
    def multiply_adds(self) -> int:
        return self.weight.numel()

    def drive(self, above_BU: Tensor) -> Tensor:
        assert self.bias is not None
        return products.linear(above_BU, self.weight, self.bias)

    def drive_move(self, move_BU: Tensor) -> Tensor:
        return products.linear(move_BU, self.weight)

    def adjoint(self, signal_BD: Tensor) -> Tensor:
        return products.product(signal_BD, self.weight)

    def pull_above(self, pull_BU: Tensor, signal_BD: Tensor) -> Tensor:
        return products.minus_product(pull_BU, signal_BD, self.weight)

    def gradients(self, signal_BD: Tensor, above_BU: Tensor) -> list[Tensor]:
        signal_BD = signal_BD / -len(signal_BD)
        weight = products.transposed_product(signal_BD, above_BU)
        return [weight] if self.bias is None else [weight, signal_BD.sum(0)]

    def matrix(self) -> Tensor:
        return self.weight

    def gram(self) -> Tensor:
        """Return weight' weight (U, U). The caller may overwrite it."""
        units = self.weight.shape[1]
        return gram(self.weight, self.weight.new_empty(units, units))

    def limit_norms(self, times: float) -> None:
        below_units, units = self.weight.shape
        self.weight.renorm_(2, 1, times * math.sqrt(below_units / units))

    def set_prediction(self, drive_D: Tensor) -> None:
        assert self.bias is not None
        self.bias.copy_(drive_D)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Dense:
        bias = None if self.bias is None else self.bias.to(device, dtype, copy=True)
        return Dense(self.weight.to(device, dtype, copy=True), bias, self.above, self.below)


# Up to this product of channels above and below, a transposed convolution is faster on a CPU as a
# convolution that computes all stride^2 phases at once. That convolution has up to 2.25 times as
# many operations, which costs more with more channels.
FEW_CHANNELS = 256


class TransposedConvolution:
    """A transposed convolution: each position above adds a kernel to a finer map below.

    The map below is `stride` times as high and as wide. The part beyond its border is cut off, in
    the way of the benchmark of Pinchetti et al. (2025).

    Attributes:
        weight: (channels above, channels below, kernel, kernel).
        bias: (channels below,), or None.
        stride: how many times finer the map below is.
        padding: the number of positions that are cut off at each border.
        output_padding: the number of these positions that stay at the bottom and the right.
        is_data: whether the layer below is the data, whose channels come first.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        above: Shape,
        below: Shape,
        is_data: bool,
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.above = above
        self.below = below
        self.is_data = is_data
        kernel = weight.shape[-1]
        self.stride = below[1] // above[1]
        self.padding = -((self.stride - kernel) // 2)
        self.output_padding = 2 * self.padding - (kernel - self.stride)
        index, self.reach = _phase_index(kernel, self.stride, self.padding)
        self._phase_index = index.to(weight.device)

    @classmethod
    def initial(
        cls,
        below: Shape,
        above: Shape,
        kernel: int,
        generator: torch.Generator,
        *,
        is_data: bool,
        bias: bool = True,
    ) -> TransposedConvolution:
        """Return a layer with weights from N(0, 1 / inputs per unit) and a bias of 0.

        Raises:
            RecipeError: the sizes and the kernel do not fit together.
        """
        stride = below[1] // above[1]
        where = f"model.layers: from {list(above)} to {list(below)}"
        if (above[1] * stride, above[2] * stride) != below[1:]:
            raise RecipeError(f"{where}: height and width must grow by the same whole factor")
        if kernel < stride:
            raise RecipeError(f"{where}: a kernel of {kernel} leaves gaps at stride {stride}")
        if stride == 1 and kernel % 2 == 0:
            raise RecipeError(f"{where}: at the same size the kernel must be odd, not {kernel}")
        inputs = above[0] * (kernel / stride) ** 2
        weight = torch.randn(above[0], below[0], kernel, kernel, generator=generator)
        weight /= math.sqrt(inputs)
        return cls(weight, torch.zeros(below[0]) if bias else None, above, below, is_data)

    @property
    def multiply_adds(self) -> int:
        return self.weight.numel() * self.above[1] * self.above[2]

    def drive(self, above_BU: Tensor) -> Tensor:
        return self._flat(self._transposed(above_BU, self.bias))

    def drive_move(self, move_BU: Tensor) -> Tensor:
        return self._flat(self._transposed(move_BU, None))

    def adjoint(self, signal_BD: Tensor) -> Tensor:
        signal = self._below_map(signal_BD)
        above = functional.conv2d(signal, self.weight, None, self.stride, self.padding)
        return above.permute(0, 2, 3, 1).reshape(len(signal_BD), -1)

    def pull_above(self, pull_BU: Tensor, signal_BD: Tensor) -> Tensor:
        return pull_BU - self.adjoint(signal_BD)

    def gradients(self, signal_BD: Tensor, above_BU: Tensor) -> list[Tensor]:
        count = len(signal_BD)
        signal = self._below_map(signal_BD)
        above = as_map(above_BU, self.above)
        # The adjoint of a transposed convolution is a convolution with the same weight.
        weight = conv2d_weight(signal, self.weight.shape, above, self.stride, self.padding)  # type: ignore[no-untyped-call]
        # The fused optimisers read the memory in order and ignore strides.
        weight = (weight / -count).contiguous()
        return [weight] if self.bias is None else [weight, signal.sum((0, 2, 3)) / -count]

    def matrix(self) -> Tensor:
        units = math.prod(self.above)
        eye = torch.eye(units, dtype=self.weight.dtype, device=self.weight.device)
        return self.drive_move(eye).T

    def limit_norms(self, times: float) -> None:
        above, below = self.weight.shape[:2]
        self.weight.renorm_(2, 0, times * math.sqrt(below / above) * self.stride)

    def set_prediction(self, drive_D: Tensor) -> None:
        assert self.bias is not None
        self.bias.copy_(self._below_map(drive_D[None]).mean((0, 2, 3)))

    def paints_phases(self, states: Tensor) -> bool:
        """Return whether one convolution for all phases is faster on the device of the states."""
        few = self.above[0] * self.below[0] <= FEW_CHANNELS
        return few and self.stride > 1 and states.device.type == "cpu"

    def phase_weight(self) -> Tensor:
        """Return the kernel (stride^2 channels below, channels above, K, K) of all phases.

        A convolution of the map above with this kernel, padded by `reach`, gives at each position
        the stride^2 units below it. Its rows are ordered by vertical phase, horizontal phase,
        channel.
        """
        channels, below = self.weight.shape[:2]
        taps = torch.cat([self.weight.reshape(channels, below, -1), self._no_tap()], 2)
        side = 2 * self.reach + 1
        phases = taps[:, :, self._phase_index].reshape(channels, below, -1, side, side)
        return phases.permute(2, 1, 0, 3, 4).reshape(-1, channels, side, side)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> TransposedConvolution:
        bias = None if self.bias is None else self.bias.to(device, dtype, copy=True)
        weight = self.weight.to(device, dtype, copy=True)
        return TransposedConvolution(weight, bias, self.above, self.below, self.is_data)

    def _no_tap(self) -> Tensor:
        return self.weight.new_zeros(*self.weight.shape[:2], 1)

    def _transposed(self, above_BU: Tensor, bias: Tensor | None) -> Tensor:
        """Return the map below, (B, C, H, W)."""
        above = as_map(above_BU, self.above)
        if not self.paints_phases(above):
            return functional.conv_transpose2d(
                above, self.weight, bias, self.stride, self.padding, self.output_padding
            )
        stride, (channels, height, width) = self.stride, self.below
        repeated = None if bias is None else bias.repeat(stride * stride)
        phases = functional.conv2d(above, self.phase_weight(), repeated, 1, self.reach)
        phases = phases.view(
            len(above), stride, stride, channels, height // stride, width // stride
        )
        # The order is row, vertical phase, column, horizontal phase, channel.
        whole = phases.permute(0, 4, 1, 5, 2, 3).reshape(len(above), height, width, channels)
        return whole.permute(0, 3, 1, 2)

    def _flat(self, below: Tensor) -> Tensor:
        order = below if self.is_data else below.permute(0, 2, 3, 1)
        return order.reshape(len(below), -1)

    def _below_map(self, below_BD: Tensor) -> Tensor:
        if self.is_data:
            return below_BD.view(-1, *self.below)
        return as_map(below_BD, self.below)


class Convolution:
    """A convolution: each position below sees a window of the map above.

    The drive is the whole map of the convolution. The states below may be fewer: the largest
    responses of windows of `pool` by `pool` positions, which `energy.Pooled` chooses.

    Attributes:
        weight: (channels below, channels above, kernel, kernel).
        bias: (channels below,), or None.
        above: the shape of the layer above.
        drives: the shape of the drive.
        below: the shape of the layer below, after pooling.
        channels_first: whether the states above and below have their channels first, as images do.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        above: Shape,
        *,
        stride: int = 1,
        padding: int = 1,
        pool: int = 1,
        channels_first: tuple[bool, bool] = (False, False),
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.above = above
        self.stride = stride
        self.padding = padding
        self.pool = pool
        self.channels_first = channels_first
        kernel = weight.shape[-1]
        self.reach = kernel // 2
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in above[1:])
        self.drives: Shape = (len(weight), height, width)
        self.below: Shape = (len(weight), height // pool, width // pool)

    @property
    def multiply_adds(self) -> int:
        return self.weight.numel() * math.prod(self.drives[1:])

    def drive(self, above_BU: Tensor) -> Tensor:
        return self._convolved(above_BU, self.bias)

    def drive_move(self, move_BU: Tensor) -> Tensor:
        return self._convolved(move_BU, None)

    def adjoint(self, signal_BD: Tensor) -> Tensor:
        signal, reach = self.drive_map(signal_BD), self.weight.shape[-1] - 1 - self.padding
        if self.stride == 1 and reach >= 0:
            # The same map as a convolution, in half the time on a CPU.
            turned = self.weight.flip(2, 3).transpose(0, 1)
            return _flat(functional.conv2d(signal, turned, None, 1, reach), self.channels_first[0])
        rest = [
            above - ((drive - 1) * self.stride - 2 * self.padding + self.weight.shape[-1])
            for above, drive in zip(self.above[1:], self.drives[1:], strict=True)
        ]
        above = functional.conv_transpose2d(
            signal, self.weight, None, self.stride, self.padding, rest
        )
        return _flat(above, self.channels_first[0])

    def pull_above(self, pull_BU: Tensor, signal_BD: Tensor) -> Tensor:
        return pull_BU - self.adjoint(signal_BD)

    def gradients(self, signal_BD: Tensor, above_BU: Tensor) -> list[Tensor]:
        signal, above = self.drive_map(signal_BD), self._above_map(above_BU)
        weight = conv2d_weight(above, self.weight.shape, signal, self.stride, self.padding)  # type: ignore[no-untyped-call]
        count = -len(signal_BD)
        # The fused optimisers read the memory in order and ignore strides.
        weight = (weight / count).contiguous()
        return [weight] if self.bias is None else [weight, signal.sum((0, 2, 3)) / count]

    def matrix(self) -> Tensor:
        units = math.prod(self.above)
        eye = torch.eye(units, dtype=self.weight.dtype, device=self.weight.device)
        return self.drive_move(eye).T

    def limit_norms(self, times: float) -> None:
        below, above = self.weight.shape[:2]
        self.weight.renorm_(2, 1, times * math.sqrt(below / above))

    def set_prediction(self, drive_D: Tensor) -> None:
        assert self.bias is not None
        self.bias.copy_(self.drive_map(drive_D[None]).mean((0, 2, 3)))

    def phase_weight(self) -> Tensor:
        """Return the kernel of the convolution as if its stride were 1, which bounds W'W."""
        return self.weight

    def drive_map(self, drive_BD: Tensor) -> Tensor:
        """Return drives, flat, as a map (B, C, H, W)."""
        return _map(drive_BD, self.drives, self.channels_first[1])

    def pooled(self, response_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest response of each window, flat, and 1 for those responses, else 0."""
        responses = self.drive_map(response_BD)
        largest, index = functional.max_pool2d(responses, self.pool, return_indices=True)
        chosen = torch.ops.aten.max_pool2d_with_indices_backward(
            torch.ones_like(largest), responses, [self.pool] * 2, [], [0, 0], [1, 1], False, index
        )
        first = self.channels_first[1]
        return _flat(largest, first), _flat(chosen, first)

    def summed(self, drive_BD: Tensor) -> Tensor:
        """Return the sum of each window, flat."""
        sums = functional.avg_pool2d(self.drive_map(drive_BD), self.pool, divisor_override=1)
        return _flat(sums, self.channels_first[1])

    def spread(self, state_BD: Tensor) -> Tensor:
        """Return the value of each window at all its positions, flat; 0 outside of windows."""
        pool, (channels, height, width) = self.pool, self.below
        _, whole_height, whole_width = self.drives
        count, rest = len(state_BD), (whole_height - height * pool, whole_width - width * pool)
        if self.channels_first[1]:
            places = state_BD.view(count, channels, height, 1, width, 1)
            spread = places.expand(-1, -1, -1, pool, -1, pool)
            spread = spread.reshape(count, channels, height * pool, width * pool)
            around = [0, rest[1], 0, rest[0]]
        else:
            places = state_BD.view(count, height, 1, width, 1, channels)
            spread = places.expand(-1, -1, pool, -1, pool, -1)
            spread = spread.reshape(count, height * pool, width * pool, channels)
            around = [0, 0, 0, rest[1], 0, rest[0]]
        return (functional.pad(spread, around) if any(rest) else spread).flatten(1)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Convolution:
        bias = None if self.bias is None else self.bias.to(device, dtype, copy=True)
        return Convolution(
            self.weight.to(device, dtype, copy=True),
            bias,
            self.above,
            stride=self.stride,
            padding=self.padding,
            pool=self.pool,
            channels_first=self.channels_first,
        )

    def _convolved(self, above_BU: Tensor, bias: Tensor | None) -> Tensor:
        above = self._above_map(above_BU)
        below = functional.conv2d(above, self.weight, bias, self.stride, self.padding)
        return _flat(below, self.channels_first[1])

    def _above_map(self, above_BU: Tensor) -> Tensor:
        return _map(above_BU, self.above, self.channels_first[0])


def _map(flat_BD: Tensor, shape: Shape, channels_first: bool) -> Tensor:
    return flat_BD.view(-1, *shape) if channels_first else as_map(flat_BD, shape)


def _flat(maps: Tensor, channels_first: bool) -> Tensor:
    return (maps if channels_first else maps.permute(0, 2, 3, 1)).reshape(len(maps), -1)


def as_map(flat_BU: Tensor, shape: Shape) -> Tensor:
    """Return flat hidden states as a map (B, C, H, W), without a copy."""
    channels, height, width = shape
    return flat_BU.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def _phase_index(kernel: int, stride: int, padding: int) -> tuple[Tensor, int]:
    """Return the kernel's element for each phase and offset (kernel^2 if none), and the reach.

    The unit below at stride * j + phase is connected to the position j + offset above by the
    kernel's element t = phase + padding - stride * offset.
    """
    last = kernel - 1
    offsets = [
        (phase + padding - tap) // stride
        for phase in range(stride)
        for tap in range(kernel)
        if (phase + padding - tap) % stride == 0
    ]
    reach = max(abs(offset) for offset in offsets)

    def tap(phase: int, offset: int) -> int:
        element = phase + padding - stride * offset
        return element if 0 <= element <= last else -1

    span = range(-reach, reach + 1)
    index = []
    for phase_y, phase_x, y, x in itertools.product(range(stride), range(stride), span, span):
        down, across = tap(phase_y, y), tap(phase_x, x)
        index.append(down * kernel + across if min(down, across) >= 0 else kernel * kernel)
    return torch.tensor(index), reach


# The columns of a block of a Gram matrix. Blocks below the diagonal are copied from those above.
_BLOCK = 256
_SMALL_BLOCK = 128


def gram(weight_DU: Tensor, out_UU: Tensor) -> Tensor:
    """Write weight' weight into `out_UU` and return it. Only one triangle is computed."""
    width, turned_UD = weight_DU.shape[1], weight_DU.T
    block = _BLOCK if width > 2 * _BLOCK else _SMALL_BLOCK
    if products.chosen() == products.ONEDNN:
        # Small blocks do not pay, and rows of a block must have no gaps between them.
        block, turned_UD = _BLOCK, turned_UD.contiguous()
    elif width < 2 * _SMALL_BLOCK:
        return torch.mm(turned_UD, weight_DU, out=out_UU)
    for first in range(0, width, block):
        last = min(first + block, width)
        rows = products.linear(turned_UD[first:last], turned_UD[first:])
        out_UU[first:last, first:] = rows
        out_UU[last:, first:last] = rows[:, last - first :].T
    return out_UU
