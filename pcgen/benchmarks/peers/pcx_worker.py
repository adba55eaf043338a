"""The benchmark's network in pcx; `protocol.py` runs it in the environment of pcx.

The network is a decoder as pcx's own examples write it: one `Vode` a layer, `pxf.vmap` over the
images, `pxf.value_and_grad` masked to the free vodes, so that no weight gradient is computed in the
inner loop. The energy is summed over images, so an image's step does not depend on the batch size.

Layers are numbered from the data upwards in the messages (w0 predicts the data) and from the latent
downwards in the model, the order of prediction.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import pcx
import pcx.functional as pxf
import pcx.nn as pxnn
import pcx.predictive_coding as pxc
import pcx.utils as pxu

Message = dict[str, Any]

_PER_IMAGE = pxu.M(pxc.VodeParam | pxc.VodeParam.Cache).to((None, 0))


class Decoder(pxc.EnergyModule):
    """A chain of layers from the latent down to the data, with a vode below each.

    The activation is tanh, and linear at the data. The latent has no prior, hence no energy: it is
    a bare state, not a vode.
    """

    def __init__(self, layers: list[Any], latent: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = layers
        self.shape = pcx.static(latent)
        self.latent = pxc.VodeParam()
        self.vodes = [pxc.Vode() for _ in layers]
        self.vodes[-1].h.frozen = True

    def __call__(self, data_D: jax.Array | None) -> None:
        """Predict every layer; with data, first set the latent to 0 and the layers as predicted."""
        if data_D is not None:
            self.latent.set(jnp.zeros(self.shape.get()))
        x = self.latent.get()
        for layer, vode in zip(self.layers[:-1], self.vodes[:-1], strict=True):
            x = vode(jnp.tanh(layer(x)))
        self.vodes[-1](self.layers[-1](x))
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
    """Return the data (B, D or C, H, W) and the network of a set-up."""
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
    return jnp.asarray(data_BD.reshape(-1, *shape)), Decoder(layers, latent)


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


def _descend(steps: int, data_BD: jax.Array, *, model: Decoder, states: pxu.Optim) -> None:
    """Set the states to their start, then take the steps down the energy."""
    with pxu.step(model, (pxc.STATUS.INIT, None), clear_params=pxc.VodeParam.Cache):
        _start(data_BD, model=model)
    states.state.set(jtu.tree_map(jnp.zeros_like, states.state.get()))

    def step(_: Any, *, model: Decoder, states: pxu.Optim) -> tuple[tuple[()], None]:
        with pxu.step(model, clear_params=pxc.VodeParam.Cache):
            _, gradient = _SLOPE_OF_STATES(model=model)
        states.step(model, gradient["model"])
        return (), None

    pxf.scan(step, length=steps)(model=model, states=states)


_infer = pxf.jit(static_argnums=(0,))(_descend)


@pxf.jit(static_argnums=(0,))
def _train(
    steps: int, data_BD: jax.Array, *, model: Decoder, states: pxu.Optim, weights: pxu.Optim
) -> None:
    _descend(steps, data_BD, model=model, states=states)
    with pxu.step(model, clear_params=pxc.VodeParam.Cache):
        _, gradient = _SLOPE_OF_WEIGHTS(model=model)
    weights.step(model, gradient["model"], scale_by=1 / data_BD.shape[0])


@pxf.jit()
def _energies(*, model: Decoder) -> jax.Array:
    with pxu.step(model, clear_params=pxc.VodeParam.Cache):
        return _each(model=model)


class Library:
    """The network of the last `setup`; `protocol.py` describes its methods."""

    def setup(self, message: Message) -> Message:
        pcx.RKG.seed(0)  # an error while tracing leaves an invalid key behind
        self.data_BD, self.model = build(message)
        with pxu.step(self.model, (pxc.STATUS.INIT, None), clear_params=pxc.VodeParam.Cache):
            _start(self.data_BD, model=self.model)
        weights = pxu.M(pxnn.LayerParam)(self.model)
        self.initial = jtu.tree_leaves(weights)
        adamw = optax.adamw(message["weight_rate"])
        self.weights = pxu.Optim(lambda: adamw, weights)
        self.optimisers: dict[tuple[float, float], pxu.Optim] = {}
        return {"ok": True}

    def use(self, setting: Message) -> None:
        """Go back to the weights of the set-up; take the rate, momentum and steps of a setting.

        The objects stay: jit would compile everything again for a new model or optimiser.
        """
        parameters = jtu.tree_leaves(pxu.M(pxnn.LayerParam)(self.model), is_leaf=_is_parameter)
        for parameter, value in zip(parameters, self.initial, strict=True):
            parameter.set(value)
        self.weights.state.set(jtu.tree_map(jnp.zeros_like, self.weights.state.get()))
        self.steps, key = setting["steps"], (setting["rate"], setting["momentum"])
        if key not in self.optimisers:
            sgd = optax.sgd(key[0], momentum=key[1] or None)
            self.optimisers[key] = pxu.Optim(lambda: sgd, _free()(self.model))
        self.states = self.optimisers[key]

    def infer(self) -> None:
        _infer(self.steps, self.data_BD, model=self.model, states=self.states)

    def train(self) -> None:
        _train(self.steps, self.data_BD, model=self.model, states=self.states, weights=self.weights)

    def energy(self) -> np.ndarray:
        return np.asarray(_energies(model=self.model))

    def wait(self) -> None:
        jax.block_until_ready(jtu.tree_leaves(self.model))
