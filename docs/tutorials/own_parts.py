# %% [markdown]
# # Your own layer, energy and solver
#
# A network is made of maps between layers, an energy of the data layer, and a solver. Each is a small piece of Python.
#
# ## A layer
#
# A layer is a linear map from the states above to the drive below. Derive it from `Dense`, and give `matrix()` where the
# solvers need the whole map. Here every unit below sees only the units above that are near it:

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import pcgen
from pcgen.model.layers import Dense


class Local(Dense):
    """A dense map whose far connections are held at zero."""

    def near(self) -> Tensor:
        """Return 1 where a connection is allowed, (D, U)."""
        below = torch.linspace(0, 1, self.weight.shape[0])[:, None]
        above = torch.linspace(0, 1, self.weight.shape[1])[None]
        return ((below - above).abs() < 0.2).to(self.weight)

    def gradients(self, signal_BD: Tensor, above_BU: Tensor) -> list[Tensor]:
        """Return the slopes in the weight and the bias; none for connections that are not there."""
        weight, *bias = super().gradients(signal_BD, above_BU)
        return [weight * self.near(), *bias]


layer = Local.initial((1, 1, 64), (1, 1, 32), torch.Generator().manual_seed(0))
layer.weight.mul_(layer.near())
network = pcgen.Network([8, 32, layer, 64], activation="tanh")

# %% [markdown]
# The map stands in the list between the layers that it joins. Train it as any other:

# %%
images = load_digits().data[:500] / 16
optimiser = torch.optim.Adam(network.weights(), lr=1e-2)
energies = []
for _epoch in range(40):
    end = pcgen.infer(network, images, steps=10, tolerance=0)
    energies.append(float(end.energy_B.mean()))
    for weight, gradient in zip(
        network.weights(), pcgen.weight_gradients(network, end.states), strict=True
    ):
        weight.grad = gradient
    optimiser.step()
print(f"energy {energies[0]:.2f} at first, {energies[-1]:.2f} nats per image at the end")

_, (left, right) = plt.subplots(1, 2, figsize=(5.5, 2.4))
left.imshow((layer.weight != 0).numpy(), cmap="gray_r", aspect="auto")
left.set(title="connections", xlabel="hidden unit", ylabel="pixel")
right.plot(energies)
right.set(xlabel="epoch", ylabel="energy, nats")
plt.tight_layout()
plt.show()
# caption: Left: the connections of the map; white ones stay zero. Right: the energy falls.

# %% [markdown]
# ## An energy
#
# The energy of the data layer is a function of its value and its drive, in nats per unit. This one counts outliers less
# than a square does. After `register_likelihood` its name works in every recipe.

# %%
from pcgen.model.energy import AutogradEnergy


def log_cosh(value: Tensor, drive: Tensor) -> Tensor:
    """Return about the square of a small error, and the size of a large one."""
    error = value - drive
    return torch.nn.functional.softplus(2 * error) - error


def energy() -> AutogradEnergy:
    """Return the energy of a data layer."""
    return AutogradEnergy(log_cosh, mean=lambda drive: drive, largest_curvature=1.0)


pcgen.register_likelihood("log-cosh", energy)
robust = pcgen.Network([8, 32, 64], likelihood="log-cosh")
*earlier, last = pcgen.steps(robust, images, steps=10)
print(f"{float(last.energy_B.mean()):.2f} nats per image after 10 steps")

# %% [markdown]
# ## A solver
#
# A solver makes a `Method` from a network: which variables move (states here) and in which direction. This one moves
# down the slope, by conjugate gradients.

# %%
from pcgen.config import InferenceTable
from pcgen.inference.directions import Conjugate
from pcgen.inference.solvers import Method
from pcgen.inference.states import StateInference
from pcgen.model.network import Network


def conjugate(network: Network, table: InferenceTable) -> Method:
    """Return conjugate gradients without a preconditioner."""
    return Method(network, StateInference, lambda: Conjugate(lambda slopes, terms: slopes))


pcgen.register_solver("conjugate", conjugate)

plt.figure(figsize=(5, 2.4))
for solver in ("descent", "conjugate", "majorise"):
    walk = [float(step.energy_B.mean()) for step in pcgen.steps(network, images, 20, solver=solver)]
    plt.plot(walk, label=solver)
plt.xlabel("step of inference")
plt.ylabel("energy, nats per image")
plt.legend()
plt.show()
# caption: The new solver beside two that come with pcgen, on the network from above.

# %% [markdown]
# On the command line, name the file with these calls in `PCGEN_PLUGINS`. Scores, activations and data sets are
# registered in the same way: [Python](../reference/python.md#your-own-parts).
