"""The benchmark's network in fabricpc; `protocol.py` runs it in the environment of fabricpc.

The network is a graph with decoder wiring: a source node for the latent, a linear node for each
layer below, the last one clamped to the data. fabricpc starts hidden nodes at their prediction; its
source starts at 0 as pcgen's latent does, because its initialiser is set so. The library has no
momentum, as the answer's note says, and no transposed convolutions, which are refused.

Layers are numbered from the data upwards; w0 predicts the data.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fabricpc.core.activations import IdentityActivation, TanhActivation
from fabricpc.core.inference import InferenceSGD, run_inference
from fabricpc.core.initializers import ZerosInitializer
from fabricpc.core.topology import Edge
from fabricpc.core.types import GraphParams, GraphState, GraphStructure, NodeParams
from fabricpc.graph_assembly import TaskMap, graph
from fabricpc.graph_initialization.state_initializer import initialize_graph_state
from fabricpc.nodes import IdentityNode, Linear
from fabricpc.training import make_train_step

Message = dict[str, Any]


def wire(widths: list[int], rate: float, steps: int) -> Any:
    """Return the graph of layers of these widths, from the data (`x0`) up to the latent."""
    top = len(widths) - 1
    nodes = [IdentityNode((widths[top],), f"x{top}", latent_init=ZerosInitializer())]
    edges = []
    for layer in reversed(range(top)):
        activation = TanhActivation() if layer else IdentityActivation()
        node = Linear((widths[layer],), f"x{layer}", activation=activation)
        edges.append(Edge(source=nodes[-1], target=node.slot("in")))
        nodes.append(node)
    return graph(
        nodes=nodes,
        edges=edges,
        task_map=TaskMap(y=nodes[-1]),
        inference=InferenceSGD(eta_infer=rate, infer_steps=steps),
    )


def parameters(arrays: dict[str, np.ndarray], top: int) -> GraphParams:
    """Return the weights w (below, above) and biases b as the graph's parameters."""
    nodes = {f"x{top}": NodeParams(weights={}, biases={})}
    for layer in range(top):
        edge = f"x{layer + 1}->x{layer}:in"
        nodes[f"x{layer}"] = NodeParams(
            weights={edge: jnp.asarray(arrays[f"w{layer}"].T)},
            biases={"b": jnp.asarray(arrays[f"b{layer}"])[None]},
        )
    return GraphParams(nodes=nodes)


class Library:
    """The network of the last `setup`."""

    def setup(self, message: Message) -> Message:
        """Build the network and compile a training batch."""
        if message["kind"] != "dense":
            return {"ok": False, "reason": "fabricpc has no transposed convolution"}
        with np.load(message["npz"]) as file:
            arrays = dict(file)
        top = sum(name.startswith("w") for name in arrays)
        self.widths = [len(arrays[f"b{n}"]) for n in range(top)] + [arrays[f"w{top - 1}"].shape[1]]
        self.initial = parameters(arrays, top)
        self.clamps = {"x0": jnp.asarray(arrays["data_BD"])}
        self.own_rate = message["rate"]
        self.graph = wire(self.widths, message["rate"], message["steps"])
        self.optimiser = optax.adamw(message["weight_rate"])
        self.learn = make_train_step(self.graph, self.optimiser)
        self.loops: dict[tuple[float, int], Any] = {}
        self.restore()
        self.begin()
        self.train()
        note = "no momentum: the library's state descent has none" if message["momentum"] else ""
        return {"ok": True, "note": note}

    def restore(self, rate: float | None = None, momentum: float | None = None) -> None:
        """Set the weights to those of the set-up, and the rate of the states."""
        self.rate = self.own_rate if rate is None else rate
        self.params = self.initial
        self.moments = self.optimiser.init(self.params)

    def train(self) -> None:
        """Train on one batch."""
        self.params, self.moments, metrics, _ = self.learn(
            self.params, self.moments, {"y": self.clamps["x0"]}, jax.random.PRNGKey(0)
        )
        self.batch_energy = metrics["energy"]

    def finite(self) -> bool:
        """Return whether the energy of the last batch is finite."""
        return math.isfinite(float(self.batch_energy))

    def begin(self) -> None:
        """Set the latent to 0 and each layer below to its prediction."""
        self.state = _start(self.graph, self.initial, self.clamps)

    def descend(self, steps: int) -> None:
        """Move the states down the energy at the set-up's weights; compiled on first use."""
        if (self.rate, steps) not in self.loops:
            structure, clamps = wire(self.widths, self.rate, steps), self.clamps
            self.loops[self.rate, steps] = jax.jit(
                lambda params, state: run_inference(params, state, clamps, structure)
            )
        self.state = self.loops[self.rate, steps](self.initial, self.state)

    def energy(self) -> np.ndarray:
        """Return each image's energy (B,); the one that the state carries is a step old."""
        return np.asarray(_energy(self.graph, self.initial, self.state, self.clamps))

    def wait(self) -> None:
        """Wait for states and weights."""
        jax.block_until_ready((self.state, self.params, self.moments, self.batch_energy))


@jax.jit
def _start(structure: GraphStructure, params: Any, clamps: Any) -> GraphState:
    key = jax.random.PRNGKey(0)  # no random value is kept: all states are set below
    return initialize_graph_state(structure, len(clamps["x0"]), key, clamps=clamps, params=params)


@jax.jit
def _energy(structure: GraphStructure, params: Any, state: Any, clamps: Any) -> jax.Array:
    result = InferenceSGD.forward_value_and_grad(params, state, clamps, structure)
    return sum(
        result.nodes[name].energy for name in structure.nodes if name != structure.node_order[0]
    )
