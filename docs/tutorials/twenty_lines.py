# %% [markdown]
# # A PCN in twenty lines
#
# Here is a whole predictive coding network in numpy: it infers the states of images, and it learns. Then the same in
# pcgen. You need no more than matrices to follow; the words are those of [What is a PCN?](../concepts.md).
#
# The network has two layers of weights. The latent `z` (8 numbers for an image) predicts the hidden layer `h` (32), and
# `h` predicts the image `x` (64 pixels, scikit-learn's digits). Each layer's energy is half the sum of its squared errors.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

x = load_digits().data[:500] / 16 - 0.3
rng = np.random.default_rng(0)
W1 = rng.normal(size=(64, 32)) / 16
W2 = rng.normal(size=(32, 8)) / 8
energies = []
for _epoch in range(100):
    z = np.zeros((500, 8))
    h = np.zeros((500, 32))
    for _step in range(20):
        error_x = x - np.tanh(h) @ W1.T
        error_h = h - np.tanh(z) @ W2.T
        h = h - 0.1 * (error_h - (1 - np.tanh(h) ** 2) * (error_x @ W1))
        z = z + 0.1 * (1 - np.tanh(z) ** 2) * (error_h @ W2)
    energies.append(0.5 * (error_x**2).sum(1).mean() + 0.5 * (error_h**2).sum(1).mean())
    W1 += 0.3 * error_x.T @ np.tanh(h) / 500
    W2 += 0.3 * error_h.T @ np.tanh(z) / 500

# %% [markdown]
# The inner loop is *inference*: `h` and `z` move so that the energy falls. The last two lines are *learning*: each weight
# changes by its own layer's error times the activity above, nothing else. No error is carried back through the network.

# %%
plt.figure(figsize=(5, 2.4))
plt.plot(energies)
plt.xlabel("epoch")
plt.ylabel("energy, nats per image")
plt.ylim(0, None)
plt.show()
# caption: The energy at the end of inference falls from epoch to epoch.

# %% [markdown]
# The network now predicts the images that it has seen:

# %%
_, axes = plt.subplots(2, 8, figsize=(6, 1.6))
for i in range(8):
    axes[0, i].imshow(x[i].reshape(8, 8), cmap="gray")
    axes[1, i].imshow((x - error_x)[i].reshape(8, 8), cmap="gray")
for axis in axes.flat:
    axis.axis("off")
plt.show()
# caption: Eight digits above their predictions.

# %% [markdown]
# ## The same in pcgen
#
# `pcgen.Network` takes the layers from the latent down to the data. `pcgen.steps` shows inference step by step: the
# states, predictions, errors and energies of every layer.

# %%
import pcgen

images = load_digits().data[:500] / 16
network = pcgen.Network([8, 32, 64], activation="tanh")
for step in pcgen.steps(network, images, steps=3):
    by_layer = [round(float(energy.mean()), 3) for energy in step.energies]
    print(step.number, by_layer)

# %% [markdown]
# Each line has the energies of the data, the hidden layer and the latent's prior (there is none here), in nats per
# image. A training loop of your own uses any optimiser of PyTorch:

# %%
import torch

optimiser = torch.optim.Adam(network.weights(), lr=1e-2)
for _epoch in range(30):
    end = pcgen.infer(network, images, steps=10, tolerance=0)
    gradients = pcgen.weight_gradients(network, end.states)
    for weight, gradient in zip(network.weights(), gradients, strict=True):
        weight.grad = gradient
    optimiser.step()
print(f"energy {float(end.energy_B.mean()):.2f} nats per image")

# %% [markdown]
# Go on with [your own pictures](own_pictures.md), or with [a layer, an energy and a solver of your own](own_parts.md).
