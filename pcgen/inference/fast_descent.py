"""Gradient descent of the states for a fixed number of steps, with nothing but the steps in it.

No energies, no search and no new memory in the loop. Three things make a step cheap:

    Gram form      above a linear data layer, W'(x - W a - b) = W'(x - b) - (W'W) a: W'(x - b) is
                   computed once a batch, W'W once a weight update, and no step touches the pixels
    equal layers   consecutive layers of the same width move as one batched product
    one pass       error times slope in one operation, the velocity's decay inside the product
    moved states   tanh(a) = 2 sigmoid(2a) - 1: where all maps are dense, hidden states are kept
                   higher by the 1, which the biases make up for, and no step adds it

The states are those of `directions.Descent` to rounding. Networks with skip connections, masks or
precisions per unit go the general way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.inference import cuda_graph as captured
from pcgen.inference.cuda_graph import Work
from pcgen.model.energy import Gaussian
from pcgen.model.layers import Dense, Layer, TransposedConvolution, as_map, gram
from pcgen.model.network import Network

_aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class _Fused:
    """An activation, fit for the loop.

    Attributes:
        scale: what the drive is multiplied with on the way in.
        errors: (value, scaled drive, error out, signal out); may overwrite the drive.
        gain: what the signal is still to be multiplied with.
        offset: how much higher than it is the value is given.
    """

    scale: float
    errors: Callable[[Tensor, Tensor, Tensor, Tensor], object]
    gain: float = 1.0
    offset: float = 0.0


def _tanh(value: Tensor, drive: Tensor, error: Tensor, signal: Tensor) -> None:
    # tanh(a) = 2 sigmoid(2a) - 1; on a CPU the sigmoid takes a fifth of tanh's time.
    torch.sigmoid(drive, out=drive)
    torch.sub(value, drive, alpha=2, out=error)
    error.add_(1)
    _aten.sigmoid_backward.grad_input(error, drive, grad_input=signal)


def _moved_tanh(value: Tensor, drive: Tensor, error: Tensor, signal: Tensor) -> None:
    torch.sigmoid(drive, out=drive)
    torch.sub(value, drive, alpha=2, out=error)
    _aten.sigmoid_backward.grad_input(error, drive, grad_input=signal)


def _sigmoid(value: Tensor, drive: Tensor, error: Tensor, signal: Tensor) -> None:
    torch.sigmoid(drive, out=drive)
    torch.sub(value, drive, out=error)
    _aten.sigmoid_backward.grad_input(error, drive, grad_input=signal)


def _linear(value: Tensor, drive: Tensor, error: Tensor, signal: Tensor) -> None:
    torch.sub(value, drive, out=error)
    signal.copy_(error)


def _relu(value: Tensor, drive: Tensor, error: Tensor, signal: Tensor) -> None:
    torch.clamp_min(drive, 0, out=signal)
    torch.sub(value, signal, out=error)
    _aten.threshold_backward.grad_input(error, drive, 0, grad_input=signal)


def _hard_tanh(value: Tensor, drive: Tensor, error: Tensor, signal: Tensor) -> None:
    torch.clamp(drive, -1, 1, out=signal)
    torch.sub(value, signal, out=error)
    _aten.hardtanh_backward.grad_input(error, drive, -1, 1, grad_input=signal)


def _gelu(value: Tensor, drive: Tensor, error: Tensor, signal: Tensor) -> None:
    _aten.gelu.out(drive, out=signal)
    torch.sub(value, signal, out=error)
    _aten.gelu_backward.grad_input(error, drive, grad_input=signal)


_FUSED = {
    "linear": _Fused(1.0, _linear),
    "tanh": _Fused(2.0, _tanh, 4.0),
    "hard_tanh": _Fused(1.0, _hard_tanh),
    "relu": _Fused(1.0, _relu),
    "gelu": _Fused(1.0, _gelu),
    "sigmoid": _Fused(1.0, _sigmoid),
}
# Of hidden layers, where all maps are dense.
_MOVED = _FUSED | {"tanh": _Fused(2.0, _moved_tanh, 4.0, offset=1.0)}


def fits(network: Network) -> bool:
    """Return whether `FixedDescent` knows all that the network has."""
    return (
        not network.skips
        and not network.table.labels
        and network.mixture is None
        and not network.table.precision.learned
        and all(p.ndim == 0 for p in network.log_precisions)
        and isinstance(network.energies()[0], Gaussian)
        and {network.table.activation, network.table.output} <= _FUSED.keys()
    )


# Maps in one batched product: with 29 of them, a product took 1.4 times as long as with 8.
_STACK = 8


class Loops:
    """The fixed descents of a network, one for each size of batch, their buffers used again.

    On a GPU a size that comes a second time is captured as one graph. A size met once, as that of
    an epoch's last batch, runs as it is, and so does what cannot be captured: the same operations,
    the same numbers.
    """

    def __init__(
        self,
        network: Network,
        rate: float,
        momentum: float,
        capture: Callable[[Work, Tensor, Sequence[Tensor]], Work] | None = None,
    ) -> None:
        """Begin without any loop.

        Args:
            capture: what turns a loop into a graph; `captured.capture` on a GPU if not given.
        """
        self.network = network
        self.rate = rate
        self.momentum = momentum
        on_gpu = network.layers[0].weight.device.type == "cuda"
        self.capture = captured.capture if capture is None and on_gpu else capture
        self._loops: dict[tuple[int, int, bool], _Loop] = {}

    def run(self, states: Sequence[Tensor], steps: int, clamp_latent: bool) -> list[Tensor]:
        """Return the states (B, D_l) of all layers, data first, so many steps after these."""
        data_BD, start = states[0], states[1:]
        key = (len(data_BD), steps, clamp_latent)
        if key not in self._loops:
            descent = FixedDescent(self.network, len(data_BD), steps, self.rate, self.momentum)
            work = partial(descent.run, clamp_latent=clamp_latent)
            self._loops[key] = _Loop(descent, work, self.capture)
        elif self._loops[key].capture is not None:
            self._loops[key].become_a_graph(data_BD, start)
        loop = self._loops[key]
        loop.work(data_BD, start)
        return [data_BD, *loop.descent.found()]


@dataclass(slots=True)
class _Loop:
    """A loop and the way it is run; `capture` until it was tried."""

    descent: FixedDescent
    work: Work
    capture: Callable[[Work, Tensor, Sequence[Tensor]], Work] | None

    def become_a_graph(self, data_BD: Tensor, start: Sequence[Tensor]) -> None:
        capture, self.capture = self.capture, None
        assert capture is not None
        # What cannot be captured goes on as it is.
        with contextlib.suppress(RuntimeError):
            self.work = capture(self.work, data_BD, start)


class FixedDescent:
    """Descent at a network's present weights, for batches of one size.

    Weights may change in place between two runs, precisions may not.
    """

    def __init__(
        self, network: Network, count: int, steps: int, rate: float, momentum: float
    ) -> None:
        """Set up the buffers for `count` images and as many steps a run."""
        self.network = network
        self.steps = steps
        precisions = torch.stack(network.log_precisions).exp().tolist()
        like = network.layers[0].weight
        self.groups = [
            _Group(like.new_zeros(2, last - first + 1, count, network.sizes[first]), precision)
            for first, last, precision in _alike(network, precisions)
        ]
        dense = all(isinstance(layer, Dense) for layer in network.layers)
        fused = (_MOVED if dense else _FUSED)[network.table.activation]
        self._held = [state for group in self.groups for state in group.state]
        # How much higher than they are the states of layers 1.. are held; the latent's not at all.
        self._offsets = [*[fused.offset] * (network.depth - 1), 0.0]
        maps = [_Map(*each) for each in zip(network.layers, self._offsets, strict=True)]
        self.latent_precision = precisions[-1]
        self.rate = rate
        pull = _Pull(rate, momentum, fused, _Scratch())
        self.data = _data_link(network, maps[0], self.groups[0], precisions[0], pull, steps)
        self.links: list[_Link] = [self.data]
        layer = 1
        for i, group in enumerate(self.groups):
            inner = len(group.state) - 1
            for first in range(0, inner, _STACK):
                part = slice(first, min(first + _STACK, inner))
                self.links.append(_Stack(maps[layer:], group, part, pull))
            layer += inner
            if layer < network.depth:
                self.links.append(_Single(maps[layer], group, self.groups[i + 1], pull))
            layer += 1

    def run(self, data_BD: Tensor, start: Sequence[Tensor], clamp_latent: bool = False) -> None:
        """Take the steps.

        Args:
            data_BD: of as many images as there are buffers for.
            start: states of layers 1.. upwards.
            clamp_latent: keep the latent where it starts.
        """
        for held, first, offset in zip(self._held, start, self._offsets, strict=True):
            torch.add(first, offset, out=held)
        for group in self.groups:
            group.velocity.zero_()
        self.data.begin(data_BD)
        for link in self.links:
            link.take_weights()
        for _ in range(self.steps):
            self._step(clamp_latent)

    def found(self) -> list[Tensor]:
        """Return the states of layers 1.. (B, D_l) where the last run ended, as new tensors."""
        return [held - offset for held, offset in zip(self._held, self._offsets, strict=True)]

    def _step(self, clamp_latent: bool) -> None:
        # From the data upwards, each layer moves once all that look at it have looked: what a link
        # needs is still in the cache.
        for link in self.links:
            link.step()
        if not clamp_latent:
            latent, velocity = self.groups[-1].state[-1], self.groups[-1].velocity[-1]
            if self.latent_precision:
                velocity.sub_(latent, alpha=self.rate * self.latent_precision)
            latent.add_(velocity)


class _Group:
    """Consecutive layers of equal width, moved as one: (N, B, D) each."""

    def __init__(self, buffers: Tensor, precision: float) -> None:
        self.state, self.velocity = buffers
        self.precision = precision


class _Scratch:
    """Drive, error and signal of the link at work: the links take turns, so they share."""

    def __init__(self) -> None:
        self._buffers: dict[torch.Size, Tensor] = {}

    def like(self, value: Tensor) -> Tensor:
        """Return three buffers of this shape."""
        if value.shape not in self._buffers:
            self._buffers[value.shape] = value.new_empty(3, *value.shape)
        return self._buffers[value.shape]


@dataclass(frozen=True, slots=True)
class _Pull:
    rate: float
    momentum: float
    fused: _Fused
    scratch: _Scratch

    def add(self, velocity: Tensor, signal: Tensor, weight: Tensor, gain: float) -> None:
        """Let the velocity above decay, and pull it along the signal (.., B, D)."""
        method = velocity.addmm_ if velocity.ndim == 2 else velocity.baddbmm_
        method(signal, weight, beta=self.momentum, alpha=self.rate * gain)


def _alike(network: Network, precisions: list[float]) -> list[tuple[int, int, float]]:
    """Return (first, last, precision) of the layers that form groups, from 1 upwards."""
    groups = []
    first = 1
    for i in range(1, network.depth + 1):
        together = (
            i < network.depth
            and network.sizes[i] == network.sizes[i + 1]
            and isinstance(network.layers[i], Dense)
            and (i + 1 == network.depth or precisions[i] == precisions[i + 1])
        )
        if not together:
            # The latent alone has no precision to share; its prior is put in by the step.
            groups.append((first, i, precisions[first] if first < network.depth else 1.0))
            first = i + 1
    return groups


@dataclass(frozen=True, slots=True)
class _Map:
    """A layer's map, from a state that is held `offset` higher than it is."""

    layer: Layer
    offset: float

    def bias(self) -> Tensor:
        """Return the bias (D,) that makes up for the offset."""
        bias, weight = self.layer.bias, self.layer.weight
        assert bias is not None
        return bias if self.offset == 0 else bias - self.offset * weight.sum(1)


class _Link(Protocol):
    """A map of the network in the loop."""

    def take_weights(self) -> None:
        """Get ready for the present weights."""

    def step(self) -> None:
        """Bring the signal to the velocity of the layer above, and move the layer below."""


class _DataLink(_Link, Protocol):
    """The map to the data layer, which stands still."""

    def begin(self, data_BD: Tensor) -> None:
        """Take a batch's data."""


class _Stack:
    """The maps between some consecutive layers of one group."""

    def __init__(self, maps: Sequence[_Map], group: _Group, part: slice, pull: _Pull) -> None:
        """Take the maps to the layers `part` of a group, of all maps to it and above."""
        self.maps = maps[part]
        self.fused = pull.fused
        self.value, self.own_velocity = group.state[part], group.velocity[part]
        self.drive, self.error, self.signal = pull.scratch.like(self.value)
        self.pull_rate = pull.rate * group.precision
        above = slice(part.start + 1, part.stop + 1)
        self.above, self.velocity = group.state[above], group.velocity[above]
        self.gain = self.fused.gain * group.precision
        self._pull = pull
        count, width = len(self.maps), group.state.shape[2]
        self.weight = group.state.new_empty(count, width, width)
        self.bias = group.state.new_empty(count, 1, width)

    def take_weights(self) -> None:
        torch.stack([each.layer.weight for each in self.maps], out=self.weight)
        for bias, each in zip(self.bias, self.maps, strict=True):
            bias[0].copy_(each.bias())

    def step(self) -> None:
        scale = self.fused.scale
        torch.baddbmm(
            self.bias, self.above, self.weight.mT, beta=scale, alpha=scale, out=self.drive
        )
        self.fused.errors(self.value, self.drive, self.error, self.signal)
        self._pull.add(self.velocity, self.signal, self.weight, self.gain)
        self.own_velocity.sub_(self.error, alpha=self.pull_rate)
        self.value.add_(self.own_velocity)


class _Single:
    """The map to a group's uppermost layer from the group above."""

    def __init__(self, map_: _Map, group: _Group, group_above: _Group, pull: _Pull) -> None:
        self.map = map_
        self.layer = map_.layer
        self.fused = pull.fused
        self.value, self.own_velocity = group.state[-1], group.velocity[-1]
        self.drive, self.error, self.signal = pull.scratch.like(self.value)
        self.pull_rate = pull.rate * group.precision
        self.gain = self.fused.gain * group.precision
        self.above, self.velocity = group_above.state[0], group_above.velocity[0]
        self._pull = pull

    def take_weights(self) -> None:
        self.bias = self.map.bias()

    def step(self) -> None:
        _drive(self.layer, self.above, self.bias, self.fused.scale, self.drive)
        self.fused.errors(self.value, self.drive, self.error, self.signal)
        _pull(self._pull, self.velocity, self.signal, self.layer, self.gain)
        self.own_velocity.sub_(self.error, alpha=self.pull_rate)
        self.value.add_(self.own_velocity)


def _drive(layer: Layer, above: Tensor, bias: Tensor, scale: float, out: Tensor) -> None:
    if isinstance(layer, Dense):
        torch.addmm(bias, above, layer.weight.T, beta=scale, alpha=scale, out=out)
    else:
        torch.mul(layer.drive(above), scale, out=out)


def _pull(pull: _Pull, velocity: Tensor, signal: Tensor, layer: Layer, gain: float) -> None:
    if isinstance(layer, Dense):
        pull.add(velocity, signal, layer.weight, gain)
    else:
        velocity.mul_(pull.momentum).add_(layer.adjoint(signal), alpha=pull.rate * gain)


class _Data:
    """The map to the data layer, as it is."""

    def __init__(
        self, network: Network, map_: _Map, group: _Group, precision: float, pull: _Pull
    ) -> None:
        self.map = map_
        self.layer = map_.layer
        self.fused = _FUSED[network.table.output]
        self.gain = self.fused.gain * precision
        self.above, self.velocity = group.state[0], group.velocity[0]
        count = len(self.above)
        self.drive, self.error, self.signal = self.above.new_empty(3, count, network.sizes[0])
        self._pull = pull

    def begin(self, data_BD: Tensor) -> None:
        self.data = data_BD

    def take_weights(self) -> None:
        self.bias = self.map.bias()

    def step(self) -> None:
        _drive(self.layer, self.above, self.bias, self.fused.scale, self.drive)
        self.fused.errors(self.data, self.drive, self.error, self.signal)
        _pull(self._pull, self.velocity, self.signal, self.layer, self.gain)


class _GramData:
    """A dense map to a linear data layer: W'(x - b) less (W'W) times the state."""

    def __init__(self, map_: _Map, group: _Group, precision: float, pull: _Pull) -> None:
        self.map = map_
        self.layer = map_.layer
        self.precision = precision
        self.above, self.velocity = group.state[0], group.velocity[0]
        self._pull = pull
        width = self.above.shape[1]
        self.gram_UU = self.above.new_empty(width, width)
        self.pull_BU = torch.empty_like(self.above)

    def begin(self, data_BD: Tensor) -> None:
        torch.mm(data_BD - self.map.bias(), self.layer.weight, out=self.pull_BU)
        self.pull_BU.mul_(self._pull.rate * self.precision)

    def take_weights(self) -> None:
        gram(self.layer.weight, self.gram_UU)

    def step(self) -> None:
        self._pull.add(self.velocity, self.above, self.gram_UU, -self.precision)
        self.velocity.add_(self.pull_BU)


class _PhaseData:
    """A transposed convolution to a linear data layer, its pixels ordered as it paints them."""

    def __init__(self, network: Network, group: _Group, precision: float, pull: _Pull) -> None:
        layer = network.layers[0]
        assert isinstance(layer, TransposedConvolution)
        self.layer = layer
        self.precision = precision
        self.above, self.velocity = group.state[0], group.velocity[0]
        self._pull = pull

    def begin(self, data_BD: Tensor) -> None:
        assert self.layer.bias is not None
        channels, height, width = self.layer.below
        stride = self.layer.stride
        pixels = data_BD.view(-1, channels, height, width) - self.layer.bias[:, None, None]
        split = pixels.view(-1, channels, height // stride, stride, width // stride, stride)
        phases = split.permute(0, 2, 4, 3, 5, 1).flatten(3)
        self.data = phases.permute(0, 3, 1, 2)

    def take_weights(self) -> None:
        self.weight = self.layer.phase_weight().neg_()
        self.adjoint = -self.weight.flip(2, 3).transpose(0, 1).contiguous()

    def step(self) -> None:
        above = as_map(self.above, self.layer.above)
        error = functional.conv2d(above, self.weight, None, 1, self.layer.reach)
        error.add_(self.data)
        arrived = functional.conv2d(error, self.adjoint, None, 1, self.layer.reach)
        flat = arrived.permute(0, 2, 3, 1).reshape(self.velocity.shape)
        self.velocity.mul_(self._pull.momentum)
        self.velocity.add_(flat, alpha=self._pull.rate * self.precision)


def _data_link(
    network: Network, map_: _Map, group: _Group, precision: float, pull: _Pull, steps: int
) -> _DataLink:
    """Return the cheapest form of the map to the data."""
    layer = map_.layer
    if network.table.output == "linear":
        if isinstance(layer, Dense):
            data, above = layer.weight.shape
            images = steps * group.state.shape[1]
            # Multiply-adds of a run: W'W, of which one triangle, and its products; or both ways.
            if 0.6 * data * above * above + images * above * above < 2 * images * data * above:
                return _GramData(map_, group, precision, pull)
        if isinstance(layer, TransposedConvolution) and layer.paints_phases(group.state):
            return _PhaseData(network, group, precision, pull)
    return _Data(network, map_, group, precision, pull)
