"""Answer benchmark requests with pcx: run by `process.Peer` with the environment's own Python.

One JSON object a line comes in on standard input and one goes out on standard output; arrays come
as .npz files. This file imports nothing of pcgen, which its environment does not have.

The network is a decoder as pcx's own examples write it: one `Vode` a layer, `pxf.vmap` over the
images, `pxf.value_and_grad` masked to the free vodes, so that no weight gradient is computed in the
inner loop. The energy is summed over images, so an image's step does not depend on the batch size.

Layers are numbered from the data upwards in the messages (w0 predicts the data) and from the latent
downwards in the model, the order of prediction. Times are seconds.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from typing import Any

# What a library prints at import, or C++ at any time, must not fall between the answers.
_ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jax.tree_util as jtu  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import pcx  # noqa: E402
import pcx.functional as pxf  # noqa: E402
import pcx.nn as pxnn  # noqa: E402
import pcx.predictive_coding as pxc  # noqa: E402
import pcx.utils as pxu  # noqa: E402

Message = dict[str, Any]

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda x: x,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),  # torch's; jax's own default is not
}
_PER_IMAGE = pxu.M(pxc.VodeParam | pxc.VodeParam.Cache).to((None, 0))


class Decoder(pxc.EnergyModule):
    """A chain of layers from the latent down to the data, with a vode below each.

    The latent has no prior, hence no energy: it is a bare state, not a vode.
    """

    def __init__(
        self, layers: list[Any], latent: tuple[int, ...], activation: str, output: str
    ) -> None:
        super().__init__()
        self.layers = layers
        self.shape = pcx.static(latent)
        self.activations = pcx.static([activation] * (len(layers) - 1) + [output])
        self.latent = pxc.VodeParam()
        self.vodes = [pxc.Vode() for _ in layers]
        self.vodes[-1].h.frozen = True

    def __call__(self, data_D: jax.Array | None) -> None:
        """Predict every layer; with data given, start: latent 0, hidden layers as predicted."""
        if data_D is not None:
            self.latent.set(jnp.zeros(self.shape.get()))
        x = self.latent.get()
        for layer, vode, name in zip(self.layers, self.vodes, self.activations.get(), strict=True):
            x = vode(_ACTIVATIONS[name](layer(x)))
        if data_D is not None:
            self.vodes[-1].set("h", data_D)


def dense(weight: np.ndarray, bias: np.ndarray, _: Message | None) -> Any:
    """Return the layer x @ weight.T + bias, the weight (below, above)."""
    layer = pxnn.Linear(weight.shape[1], weight.shape[0])
    layer.nn.weight.set(jnp.asarray(weight))
    layer.nn.bias.set(jnp.asarray(bias))
    return layer


def deconv(weight: np.ndarray, bias: np.ndarray, geometry: Message | None) -> Any:
    """Return the transposed convolution of torch's weight (in, out, k, k).

    pxnn.ConvTranspose of 0.6.3 cannot be built (it hands its key on under a wrong name), so its
    parent wraps equinox's layer as it would. equinox's kernel is torch's flipped, (out, in, k, k).
    """
    assert geometry is not None
    layer = pxnn.Layer(
        eqx.nn.ConvTranspose,
        num_spatial_dims=2,
        in_channels=weight.shape[0],
        out_channels=weight.shape[1],
        kernel_size=weight.shape[2:],
        stride=geometry["stride"],
        padding=geometry["padding"],
        output_padding=geometry["output_padding"],
        key=jax.random.PRNGKey(0),
    )
    layer.nn.weight.set(jnp.asarray(np.flip(weight, (2, 3)).swapaxes(0, 1)))
    layer.nn.bias.set(jnp.asarray(bias)[:, None, None])
    return layer


_LAYERS = {"dense": dense, "deconv": deconv}


def build(message: Message) -> tuple[jax.Array, Decoder]:
    """Return the data (B, D or C, H, W) and the network that a set-up describes."""
    with np.load(message["npz"]) as file:
        arrays = dict(file)
    count = sum(name.startswith("w") for name in arrays)
    geometry = message.get("geometry") or [None] * count
    layers = [
        _LAYERS[message["kind"]](arrays[f"w{n}"], arrays[f"b{n}"], geometry[n])
        for n in reversed(range(count))
    ]
    data_BD = arrays["data_BD"]
    latent, shape = (arrays[f"w{count - 1}"].shape[1],), (data_BD.shape[1],)
    if message["kind"] == "deconv":
        latent, shape = tuple(geometry[-1]["in"]), tuple(geometry[0]["out"])
    model = Decoder(layers, latent, message["activation"], message["output"])
    return jnp.asarray(data_BD.reshape(-1, *shape)), model


def _is_parameter(node: Any) -> bool:
    return isinstance(node, pxnn.LayerParam)


@pxf.vmap(_PER_IMAGE, in_axes=(0,), out_axes=0)
def _start(data_D: jax.Array, *, model: Decoder) -> None:
    model(data_D)


@pxf.vmap(_PER_IMAGE, in_axes=(), out_axes=None, axis_name="images")
def _total(*, model: Decoder) -> jax.Array:
    model(None)
    return jax.lax.psum(model.energy(), "images")


@pxf.vmap(_PER_IMAGE, in_axes=(), out_axes=0)
def _each(*, model: Decoder) -> jax.Array:
    model(None)
    return model.energy()


def _free() -> Any:
    """Return the mask of the states that move, new each time: a mask's `to` changes the mask."""
    return pxu.M_hasnot(pxc.VodeParam, frozen=True)


_SLOPE_OF_STATES = pxf.value_and_grad(_free().to([False, True]))(_total)
_SLOPE_OF_WEIGHTS = pxf.value_and_grad(pxu.M(pxnn.LayerParam).to([False, True]))(_total)


def begin(data_BD: jax.Array, *, model: Decoder, states: pxu.Optim) -> None:
    """Put the states where they start, at rest."""
    with pxu.step(model, (pxc.STATUS.INIT, None), clear_params=pxc.VodeParam.Cache):
        _start(data_BD, model=model)
    states.state.set(jtu.tree_map(jnp.zeros_like, states.state.get()))


def descend(mode: str, steps: int, *, model: Decoder, states: pxu.Optim) -> None:
    """Take `steps` steps of the states down the energy: one scan, or as many copies of a step."""

    def step(_: Any, *, model: Decoder, states: pxu.Optim) -> tuple[tuple[()], None]:
        with pxu.step(model, clear_params=pxc.VodeParam.Cache):
            _, gradient = _SLOPE_OF_STATES(model=model)
        states.step(model, gradient["model"])
        return (), None

    if mode == "scan":
        pxf.scan(step, length=steps)(model=model, states=states)
    else:
        for _ in range(steps):
            step(None, model=model, states=states)


@pxf.jit(static_argnums=(0, 1))
def _train(
    mode: str,
    steps: int,
    data_BD: jax.Array,
    *,
    model: Decoder,
    states: pxu.Optim,
    weights: pxu.Optim,
) -> None:
    begin(data_BD, model=model, states=states)
    descend(mode, steps, model=model, states=states)
    with pxu.step(model, clear_params=pxc.VodeParam.Cache):
        _, gradient = _SLOPE_OF_WEIGHTS(model=model)
    weights.step(model, gradient["model"], scale_by=1 / data_BD.shape[0])


_begin = pxf.jit()(begin)
_descend = pxf.jit(static_argnums=(0, 1))(descend)


@pxf.jit()
def _energies(*, model: Decoder) -> jax.Array:
    with pxu.step(model, clear_params=pxc.VodeParam.Cache):
        return _each(model=model)


class Bench:
    """The network of the last `setup`, and one method for each request."""

    def setup(self, message: Message) -> Message:
        """Build the network and compile a training batch."""
        pcx.RKG.seed(0)  # an error while tracing leaves a dead key behind
        self.message = message
        self.data_BD, self.model = build(message)
        with pxu.step(self.model, (pxc.STATUS.INIT, None), clear_params=pxc.VodeParam.Cache):
            _start(self.data_BD, model=self.model)
        weights = pxu.M(pxnn.LayerParam)(self.model)
        self.initial = jtu.tree_leaves(weights)
        adamw = optax.adamw(message["weight_rate"])
        self.weights = pxu.Optim(lambda: adamw, weights)
        self.optimisers: dict[tuple[float, float], pxu.Optim] = {}
        self._restore()
        return {
            "ok": True,
            "library": "pcx",
            "version": metadata.version("pcx"),
            "compile_seconds": self._clock(self._train),
            "note": "",
        }

    def batch(self, message: Message) -> Message:
        """Time whole training batches, from the set-up's weights on."""
        self._restore()
        for _ in range(2):  # the second batch on restored weights still takes twice its time
            self._train()
        seconds = [self._clock(self._train) for _ in range(message["repeats"])]
        return {"seconds": seconds, "finite": bool(jnp.isfinite(self._energy()).all())}

    def steps(self, message: Message) -> Message:
        """Time the loop of state steps alone, per step."""
        self._restore()
        steps = self.message["steps"]
        self._begin()
        self._descend(steps)
        seconds = []
        for _ in range(message["repeats"]):
            self._begin()
            seconds.append(self._clock(lambda: self._descend(steps)) / steps)
        return {"seconds": seconds}

    def energies(self, message: Message) -> Message:
        """Return the energy per image, mean over the batch, after 0 to k steps."""
        self._restore()
        self._begin()
        energies = [float(self._energy().mean())]
        for _ in range(message["steps"]):
            self._descend(1)
            energies.append(float(self._energy().mean()))
        return {"energy": [energy if math.isfinite(energy) else None for energy in energies]}

    def equilibrium(self, message: Message) -> Message:
        """Time the descent, from its start, until every image is at or below its target energy.

        A first run finds the number of steps, a second, which does not look, is timed: the checks
        cost nothing, and compilation is over.
        """
        self._restore(message["rate"], message["momentum"])
        with np.load(message["target_npz"]) as arrays:
            target_B = arrays["target_B"]
        chunk = message["check_every"]
        chunks = self._search(target_B, chunk, message["max_steps"])
        if chunks is None:
            return {"seconds": None, "steps": None}
        return {"seconds": self._clock(lambda: self._run(chunk, chunks)), "steps": chunk * chunks}

    def _search(self, target_B: np.ndarray, chunk: int, max_steps: int) -> int | None:
        self._begin()
        for chunks in range(max_steps // chunk + 1):
            energy_B = np.asarray(self._energy())
            if (energy_B <= target_B).all():
                return chunks
            if not np.isfinite(energy_B).all():
                return None
            self._descend(chunk)
        return None

    def _run(self, chunk: int, chunks: int) -> None:
        self._begin()
        for _ in range(chunks):
            self._descend(chunk)

    def _restore(self, rate: float | None = None, momentum: float | None = None) -> None:
        """Set weights and optimisers to how they were at set-up.

        The objects stay: to a new model or optimiser jit would compile everything again.
        """
        parameters = jtu.tree_leaves(pxu.M(pxnn.LayerParam)(self.model), is_leaf=_is_parameter)
        for parameter, value in zip(parameters, self.initial, strict=True):
            parameter.set(value)
        self.weights.state.set(jtu.tree_map(jnp.zeros_like, self.weights.state.get()))
        key = (
            self.message["rate"] if rate is None else rate,
            self.message["momentum"] if momentum is None else momentum,
        )
        if key not in self.optimisers:
            sgd = optax.sgd(key[0], momentum=key[1] or None)
            self.optimisers[key] = pxu.Optim(lambda: sgd, _free()(self.model))
        self.states = self.optimisers[key]

    def _train(self) -> None:
        _train(
            self.message["mode"],
            self.message["steps"],
            self.data_BD,
            model=self.model,
            states=self.states,
            weights=self.weights,
        )

    def _begin(self) -> None:
        _begin(self.data_BD, model=self.model, states=self.states)
        self._wait()

    def _descend(self, steps: int) -> None:
        _descend(self.message["mode"], steps, model=self.model, states=self.states)

    def _energy(self) -> jax.Array:
        """Return each image's energy, (B,)."""
        return _energies(model=self.model)

    def _wait(self) -> None:
        jax.block_until_ready(jtu.tree_leaves(self.model))

    def _clock(self, work: Callable[[], None]) -> float:
        started = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started


def serve(bench: Bench) -> None:
    """Answer each line of standard input until it ends or says quit."""
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "quit":
            return
        try:
            answer = getattr(bench, message["do"])(message)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, allow_nan=False), file=_ANSWERS)


if __name__ == "__main__":
    serve(Bench())
