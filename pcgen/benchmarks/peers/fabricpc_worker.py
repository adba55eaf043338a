"""The benchmark's network in fabricpc; `protocol.py` runs it in the environment of fabricpc.

The network is a graph with decoder wiring: a source node for the latent, a linear node for each
layer below, the last one clamped to the data. fabricpc starts hidden nodes at their prediction; its
source starts at 0 as pcgen's latent does, because its initialiser is set so. The library has no
momentum, and no transposed convolutions, which are refused.

Layers are numbered from the data upwards; w0 predicts the data.
"""

from __future__ import annotations

import functools
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
    """The network of the last `setup`; `protocol.py` describes its methods."""

    def setup(self, message: Message) -> Message:
        if message["kind"] != "dense":
            return {"ok": False, "reason": "fabricpc has no transposed convolution"}
        with np.load(message["npz"]) as file:
            arrays = dict(file)
        top = sum(name.startswith("w") for name in arrays)
        self.widths = [len(arrays[f"b{n}"]) for n in range(top)] + [arrays[f"w{top - 1}"].shape[1]]
        self.initial = parameters(arrays, top)
        self.clamps = {"x0": jnp.asarray(arrays["data_BD"])}
        self.optimiser = optax.adamw(message["weight_rate"])
        return {"ok": True}

    def use(self, setting: Message) -> None:
        assert not setting["momentum"], "the library's state descent has no momentum"
        self.graph = wire(self.widths, setting["rate"], setting["steps"])
        self.descend = jax.jit(functools.partial(_descend, self.graph))
        self.learn = make_train_step(self.graph, self.optimiser)
        self.params, self.moments = self.initial, self.optimiser.init(self.initial)
        self.state: Any = None

    def infer(self) -> None:
        self.state = self.descend(self.params, self.clamps)

    def train(self) -> None:
        self.params, self.moments, _, self.state = self.learn(
            self.params, self.moments, {"y": self.clamps["x0"]}, jax.random.PRNGKey(0)
        )

    def energy(self) -> np.ndarray:
        """Return each image's energy (B,); the one that the state carries is a step old."""
        return np.asarray(_energy(self.graph, self.params, self.state, self.clamps))

    def wait(self) -> None:
        jax.block_until_ready((self.state, self.params, self.moments))


def _descend(structure: GraphStructure, params: Any, clamps: Any) -> GraphState:
    """Return the states after the graph's steps, from a latent of 0 and what it predicts."""
    key = jax.random.PRNGKey(0)  # no random value is kept: all states are set
    state = initialize_graph_state(structure, len(clamps["x0"]), key, clamps=clamps, params=params)
    return run_inference(params, state, clamps, structure)


@jax.jit
def _energy(structure: GraphStructure, params: Any, state: Any, clamps: Any) -> jax.Array:
    result = InferenceSGD.forward_value_and_grad(params, state, clamps, structure)
    return sum(
        result.nodes[name].energy for name in structure.nodes if name != structure.node_order[0]
    )
