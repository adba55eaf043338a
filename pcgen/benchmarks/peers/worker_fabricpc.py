"""Answer benchmark requests with fabricpc: run by `process.Peer` with the environment's own Python.

One JSON object a line comes in on standard input and one goes out on standard output; arrays come
as .npz files. This file imports nothing of pcgen, which its environment does not have.

The network is a graph with decoder wiring: a source node for the latent, a linear node for each
layer below, the last one clamped to the data. fabricpc starts hidden nodes at their prediction; its
source starts at 0 as pcgen's latent does, once its initialiser says so. What it does not ship is
momentum and transposed convolutions: the first is said in the answer's note, the second refused.

Layers are numbered from the data upwards, w0 predicts the data. Times are seconds.
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

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from fabricpc.core import activations  # noqa: E402
from fabricpc.core.inference import InferenceSGD, run_inference  # noqa: E402
from fabricpc.core.initializers import ZerosInitializer  # noqa: E402
from fabricpc.core.topology import Edge  # noqa: E402
from fabricpc.core.types import GraphParams, GraphState, GraphStructure, NodeParams  # noqa: E402
from fabricpc.graph_assembly import TaskMap, graph  # noqa: E402
from fabricpc.graph_initialization.state_initializer import initialize_graph_state  # noqa: E402
from fabricpc.nodes import IdentityNode, Linear  # noqa: E402
from fabricpc.training import make_train_step  # noqa: E402

Message = dict[str, Any]

_ACTIVATIONS = {
    "linear": activations.IdentityActivation,
    "tanh": activations.TanhActivation,
    "sigmoid": activations.SigmoidActivation,
    "relu": activations.ReLUActivation,
    "gelu": activations.GeluActivation,
}


def wire(widths: list[int], activation: str, output: str, rate: float, steps: int) -> Any:
    """Return the graph of layers of these widths, from the data (`x0`) up to the latent."""
    top = len(widths) - 1
    nodes = [IdentityNode((widths[top],), f"x{top}", latent_init=ZerosInitializer())]
    edges = []
    for layer in reversed(range(top)):
        name = output if layer == 0 else activation
        node = Linear((widths[layer],), f"x{layer}", activation=_ACTIVATIONS[name]())
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


class Bench:
    """The network of the last `setup`, and one method for each request."""

    def setup(self, message: Message) -> Message:
        """Build the network and compile a training batch."""
        if message["kind"] != "dense":
            return {"ok": False, "reason": "fabricpc has no transposed convolution"}
        with np.load(message["npz"]) as file:
            arrays = dict(file)
        top = sum(name.startswith("w") for name in arrays)
        self.message = message
        self.widths = [len(arrays[f"b{n}"]) for n in range(top)] + [arrays[f"w{top - 1}"].shape[1]]
        self.initial = parameters(arrays, top)
        self.clamps = {"x0": jnp.asarray(arrays["data_BD"])}
        self.graph = self._wire(message["rate"], message["steps"])
        self.optimiser = optax.adamw(message["weight_rate"])
        self.learn = make_train_step(self.graph, self.optimiser)
        self.loop = self._loop(self.graph)
        self.loops: dict[tuple[float, int], Callable[[GraphState], GraphState]] = {}
        self._restore()
        return {
            "ok": True,
            "library": "fabricpc",
            "version": metadata.version("fabricpc"),
            "compile_seconds": self._clock(self._train),
            "note": self._note(),
        }

    def _note(self) -> str:
        notes = []
        if self.message["momentum"]:
            notes.append("no momentum: the library's state descent has none")
        if self.message["mode"] != "scan":
            notes.append("not unrolled: the library's inference is one fori_loop")
        return "; ".join(notes)

    def batch(self, message: Message) -> Message:
        """Time whole training batches, from the set-up's weights on."""
        self._restore()
        for _ in range(2):  # the second batch on restored weights still takes twice its time
            self._train()
        seconds = [self._clock(self._train) for _ in range(message["repeats"])]
        return {"seconds": seconds, "finite": math.isfinite(float(self.energy))}

    def steps(self, message: Message) -> Message:
        """Time the loop of state steps alone, per step."""
        state = self._start()
        self._wait(self.loop(state))
        seconds = [self._clock(lambda: self.loop(state)) for _ in range(message["repeats"])]
        return {"seconds": [second / self.message["steps"] for second in seconds]}

    def energies(self, message: Message) -> Message:
        """Return the energy per image, mean over the batch, after 0 to k steps."""
        loop = self._cached(self.message["rate"], 1)
        state, energies = self._start(), []
        for _ in range(message["steps"] + 1):
            energies.append(float(self._energy(state).mean()))
            state = loop(state)
        return {"energy": [energy if math.isfinite(energy) else None for energy in energies]}

    def equilibrium(self, message: Message) -> Message:
        """Time the descent, from its start, until every image is at or below its target energy.

        A first run finds the number of steps, a second, which does not look, is timed: the checks
        cost nothing, and compilation is over.
        """
        with np.load(message["target_npz"]) as arrays:
            target_B = arrays["target_B"]
        chunk = message["check_every"]
        loop = self._cached(message["rate"], chunk)
        chunks = self._search(loop, target_B, message["max_steps"] // chunk)
        if chunks is None:
            return {"seconds": None, "steps": None}
        return {"seconds": self._clock(lambda: self._run(loop, chunks)), "steps": chunk * chunks}

    def _search(self, loop: Any, target_B: np.ndarray, most: int) -> int | None:
        state = self._start()
        for chunks in range(most + 1):
            energy_B = np.asarray(self._energy(state))
            if (energy_B <= target_B).all():
                return chunks
            if not np.isfinite(energy_B).all():
                return None
            state = loop(state)
        return None

    def _run(self, loop: Any, chunks: int) -> GraphState:
        state = self._start()
        for _ in range(chunks):
            state = loop(state)
        return state

    def _wire(self, rate: float, steps: int) -> GraphStructure:
        message = self.message
        return wire(self.widths, message["activation"], message["output"], rate, steps)

    def _loop(self, structure: GraphStructure) -> Callable[[GraphState], GraphState]:
        """Return the structure's inference at the set-up's weights, compiled on first use."""
        params, clamps = self.initial, self.clamps
        run = jax.jit(lambda params, state: run_inference(params, state, clamps, structure))
        return lambda state: run(params, state)

    def _cached(self, rate: float, steps: int) -> Callable[[GraphState], GraphState]:
        if (rate, steps) not in self.loops:
            self.loops[rate, steps] = self._loop(self._wire(rate, steps))
        return self.loops[rate, steps]

    def _start(self) -> GraphState:
        return _start(self.graph, self.initial, self.clamps)

    def _energy(self, state: GraphState) -> jax.Array:
        """Return each image's energy at this state, (B,); the one it carries is a step old."""
        return _energy(self.graph, self.initial, state, self.clamps)

    def _restore(self) -> None:
        self.params = self.initial
        self.moments = self.optimiser.init(self.params)

    def _train(self) -> Any:
        self.params, self.moments, metrics, _ = self.learn(
            self.params, self.moments, {"y": self.clamps["x0"]}, jax.random.PRNGKey(0)
        )
        self.energy = metrics["energy"]
        return self.params, self.moments, metrics

    def _wait(self, result: Any) -> None:
        jax.block_until_ready(result)

    def _clock(self, work: Callable[[], Any]) -> float:
        started = time.perf_counter()
        self._wait(work())
        return time.perf_counter() - started


def _start_eagerly(structure: GraphStructure, params: Any, clamps: Any) -> GraphState:
    key = jax.random.PRNGKey(0)  # every draw is replaced: the latent's by 0, the others' forward
    return initialize_graph_state(structure, len(clamps["x0"]), key, clamps=clamps, params=params)


def _energy_eagerly(structure: GraphStructure, params: Any, state: Any, clamps: Any) -> jax.Array:
    look = InferenceSGD.forward_value_and_grad(params, state, clamps, structure)
    return sum(
        look.nodes[name].energy for name in structure.nodes if name != structure.node_order[0]
    )


_start = jax.jit(_start_eagerly)
_energy = jax.jit(_energy_eagerly)


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
