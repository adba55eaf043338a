"""The benchmark's network in pcgen; `protocol.py` runs it in this environment.

The solver `backprop` stands for an autoencoder with the same decoder, trained by backpropagation.
"""

from __future__ import annotations

import functools
import os

import numpy as np
import torch
from torch import Tensor

from pcgen.benchmarks.baselines import autoencoder
from pcgen.benchmarks.peers.protocol import Message
from pcgen.benchmarks.speed.workloads import MOST_UPDATES, Setting, Workload, batch_of
from pcgen.config import InferenceTable
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.model import products
from pcgen.model.network import Network

_DIVERGED = 1e3  # times the energy at the start; descent may first rise, and still arrive soon
# Images that no method trains on, updates between two looks at their error, and steps of a look.
_HELD_OUT, _EVERY, _LOOK_STEPS = 50, 2, 30


class Library:
    """The network of the last `setup`."""

    def setup(self, message: Message) -> Message:
        """Build the network on the message's device.

        Returns:
            Also the `product` in use, the operations of one with the largest layer, and how many
            of these `products` one with every layer is worth.
        """
        torch.set_grad_enabled(False)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.workload = Workload(**message["workload"])
        self.device = torch.device(message["device"])
        with np.load(message["npz"]) as file:
            self.arrays = {n: torch.from_numpy(a).to(self.device) for n, a in file.items()}
        self.data_BD = self.arrays["data_BD"]
        self.network = self.workload.network().to(self.device)
        weights = [layer.weight.flatten(1) for layer in self.network.layers]
        self.largest_DU = max(weights, key=Tensor.numel)
        self.above_BU = self.data_BD.new_ones(self.workload.batch, self.largest_DU.shape[1])
        if self.device.type == "cpu":
            products.use(products.resolve(os.environ.get("PCGEN_PRODUCTS") or "auto"))
        largest, every = self.largest_DU.numel(), sum(x.multiply_adds for x in self.network.layers)
        return {
            "ok": True,
            "product": products.chosen(),
            "operations": 2 * self.workload.batch * largest,
            "products": every / largest,
        }

    def use(self, setting: Setting) -> None:
        """Go back to the weights of the set-up; take the solver and the steps of a setting."""
        for i, layer in enumerate(self.network.layers):
            assert layer.bias is not None
            layer.weight.copy_(self.arrays[f"w{i}"])
            layer.bias.copy_(self.arrays[f"b{i}"])
        self.network.typical_latents.copy_(self.arrays["typical_latents"])
        self.learner: LocalErrors | Backprop
        if setting["solver"] == "backprop":
            self.learner = Backprop(self.workload, self.device)
        else:
            self.learner = LocalErrors(self.network, self.workload, setting, self.data_BD)
            self.table = self.learner.table
        self.energy_B = torch.zeros(1)

    def infer(self) -> None:
        """Infer the batch, with everything that the solver prepares for the weights."""
        method = prepare(self.network, self.table)
        self.energy_B = infer(method, self.data_BD, steps=self.table.steps).energy_B

    def train(self) -> None:
        self.energy_B = self.learner.learn(self.data_BD)

    def product(self) -> None:
        """Multiply a batch of states with the largest layer's weights."""
        products.linear(self.above_BU, self.largest_DU)

    def energy(self) -> np.ndarray:
        """Return each image's energy (B,), or their mean (1,) after training."""
        return self.energy_B.cpu().numpy()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def steps(self, message: Message) -> Message:
        """Return the steps until every image is at its target, None if not within `most`."""
        self.use(message["setting"])
        inference = prepare(self.network, self.table).begin(self.data_BD)
        limit = _DIVERGED * inference.energy_B.sum()
        for steps in range(message["most"] + 1):
            if bool((inference.energy_B <= self.arrays["target_B"]).all()):
                return {"steps": steps}
            if not bool(inference.energy_B.sum() < limit):
                break
            inference.step()
        return {"steps": None}

    def updates(self, message: Message) -> Message:
        """Train until the error of held-out images is at the target; return updates and MSE.

        The error is that of decoding the latent where the energy is least, for every method.
        `updates` is None if the target is not reached within `most`.
        """
        self.use(message["setting"])
        *batches, held_out_BD = self._stream
        mse = float("inf")
        for update, batch_BD in enumerate(batches[: message["most"]], start=1):
            self.learner.learn(batch_BD)
            if update % _EVERY == 0:
                output_BD = self.learner.reconstruct(held_out_BD)
                mse = float((output_BD - held_out_BD).square().mean())
                if mse <= message["target"]:
                    return {"updates": update, "mse": mse}
        return {"updates": None, "mse": mse if np.isfinite(mse) else None}

    @functools.cached_property
    def _stream(self) -> tuple[Tensor, ...]:
        """A batch for each update, then the held-out images."""
        count = self.workload.batch
        images_BD = self.workload.data(count * MOST_UPDATES + _HELD_OUT).to(self.device)
        return torch.split(images_BD, count)


class LocalErrors:
    """Learns by a setting's inference."""

    def __init__(
        self, network: Network, workload: Workload, setting: Setting, data_BD: Tensor
    ) -> None:
        recipe = workload.recipe(setting)
        self.network, self.table = network, recipe.inference
        self.learner = PredictiveCoding(network, recipe, data_BD)

    def learn(self, data_BD: Tensor) -> Tensor:
        """Train on a batch; return its mean energy (1,)."""
        energy, _ = self.learner.learn(batch_of(data_BD))
        return torch.tensor([energy / len(data_BD)])

    def reconstruct(self, data_BD: Tensor) -> Tensor:
        """Return the images (B, D) that the latent decodes to at the equilibrium."""
        method = prepare(self.network, InferenceTable(solver="majorise"))
        return self.network.decode(infer(method, data_BD, steps=_LOOK_STEPS).states[-1])


class Backprop:
    """Trains an autoencoder with the same decoder by backpropagation."""

    def __init__(self, workload: Workload, device: torch.device) -> None:
        recipe = workload.recipe({})
        channels, height, width = workload.shape
        self.model = autoencoder(recipe, (channels, height, width)).to(device)
        parameters = list(self.model.parameters())
        for parameter in parameters:
            parameter.requires_grad_()
        self.optimiser = torch.optim.AdamW(parameters, lr=recipe.learning.rate, fused=True)

    def learn(self, data_BD: Tensor) -> Tensor:
        """Train on a batch; return its mean loss (1,)."""
        self.optimiser.zero_grad()
        with torch.enable_grad():
            loss = 0.5 * (self.model(data_BD) - data_BD).square().sum() / len(data_BD)
            loss.backward()
        self.optimiser.step()
        return loss.detach()[None]

    def reconstruct(self, data_BD: Tensor) -> Tensor:
        """Return the reconstruction (B, D)."""
        output_BD: Tensor = self.model(data_BD)
        return output_BD
