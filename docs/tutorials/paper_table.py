# %% [markdown]
# # A table of the paper, small
#
# Pinchetti et al. (2025) compare predictive coding with backprop by the error of reconstructions. The full table is
# [repeated](../results/reconstruction.md) on MNIST and FashionMNIST with five seeds; that takes hours. This tutorial
# makes the same comparison on scikit-learn's digits, with two seeds and few epochs: the same code, smaller numbers of
# everything. So read it as the way to make such a table, not as a result.

# %%
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import pcgen

images = (load_digits().data / 16).astype(np.float32)
train, test = images[:1400], images[1400:]
shape = (-1, 1, 8, 8)

# %% [markdown]
# **Predictive coding.** The recipe `digits` has 16 numbers in its latent. The error is per pixel, decoded from the
# latent alone.

# %%
errors = []
for seed in (0, 1):
    folder = tempfile.mkdtemp()
    settings = ["learning.epochs=15", "inference.test_steps=50"]
    pcgen.train("digits", folder, data=train.reshape(shape), settings=settings, seed=seed)
    result = pcgen.reconstruct(folder, test.reshape(shape))
    errors.append(result.metrics["mse"])

# %% [markdown]
# **A baseline that everybody has**: principal component analysis (PCA) with as many components.

# %%
pca = PCA(16).fit(train)
baseline = np.square(pca.inverse_transform(pca.transform(test)).clip(0, 1) - test).mean()

# %% [markdown]
# **The table**, with the spread over the seeds:

# %%
print("| method | test MSE x 1e-3 | seeds |")
print("|---|---|---|")
print(f"| predictive coding | {1e3 * min(errors):.2f} to {1e3 * max(errors):.2f} | 2 |")
print(f"| PCA, clipped to [0, 1] | {1e3 * baseline:.2f} | 1 |")

# %%
plt.figure(figsize=(4, 2.2))
plt.barh(["PCA", "predictive coding"], [1e3 * baseline, 1e3 * np.mean(errors)])
plt.xlabel("test MSE per pixel x 1e-3")
plt.tight_layout()
plt.show()
# caption: The error on 397 test digits; less is better.

# %% [markdown]
# Three rules of such a table: every choice is made on held-out training images, never on the test images; every method
# gets the same data and as many numbers in its code; and the command stands beside the table. The full one is
#
#     pcgen bench reconstruction --data mnist --seeds 5
