# %% [markdown]
# # Samples, and when to believe them
#
# The energy of a network defines a probability, p(states) proportional to exp(-E). Samples from it are only as good as
# the sampler. This tutorial draws from the shipped model `iris`, two columns of the iris data, and checks the draws.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_iris

import pcgen

known = load_iris().data[:, [0, 2]]
result = pcgen.sample("iris", 150)
assert result.model.scale is not None  # a table's model scales its columns
mean, deviation = map(np.array, result.model.scale)
drawn = result.samples.data_BD.numpy() * deviation + mean
print("means of the data   ", known.mean(0).round(2))
print("means of the samples", drawn.mean(0).round(2))

# %% [markdown]
# *Ancestral* sampling, the default, draws the latent from its prior and then each layer around its prediction. Its draws
# are independent and exact for the model. Whether the model is right, only a comparison with data can tell:

# %%
_, axes = plt.subplots(1, 2, figsize=(5.6, 2.5), sharex=True, sharey=True)
axes[0].scatter(*known.T, s=8)
axes[1].scatter(*drawn.T, s=8, color="tab:orange")
axes[0].set(title="data", xlabel="sepal length, cm", ylabel="petal length, cm")
axes[1].set(title="samples", xlabel="sepal length, cm")
plt.show()
# caption: The samples have the two groups of the data.

# %% [markdown]
# ## Chains
#
# Given a part of a row, there is no exact draw. A *chain* moves the states at random, step by step, and follows the
# *posterior*, the density given what is known, after many steps. Draws of a chain depend on each other. Two numbers say
# whether to believe them:
#
# * **R-hat** compares chains that began in different places. Near 1 they agree. Above 1.05, do not use them.
# * The **effective sample size** (ESS) says how many independent draws the chains are worth.
#
# Here the sepal length of one flower is given, and its petal length is drawn, with short and with longer chains:

# %%
flower = known[100:101]
results = {}
for burn_in, thin in ((1, 1), (60, 6)):
    result = pcgen.sample(
        "iris", 24, chains=4, burn_in=burn_in, thin=thin, given=flower, mask="petal length (cm)"
    )
    results[burn_in] = result
    chains = result.samples
    print(f"burn-in {burn_in}, every {thin}: R-hat {chains.r_hat:.2f}, ESS {chains.ess:.0f}")

# %%
plt.figure(figsize=(5, 2.3))
for burn_in, result in results.items():
    petal = result.samples.data_BD[:, 1].numpy() * deviation[1] + mean[1]
    plt.hist(petal, np.linspace(0, 8, 33).tolist(), alpha=0.6, label=f"burn-in {burn_in}")
plt.axvline(flower[0, 1], color="black", label="true")
plt.xlabel("petal length, cm")
plt.legend()
plt.show()
# caption: Draws of the petal length of one flower, given its sepal length.

# %% [markdown]
# A high R-hat means that the chains have not seen the same density. Here the longer chains agree better and are still
# above 1.05: give them more steps, and look again. A low R-hat means that the chains agree, not that the model is right.
# The ESS counts every step of the chains, not only the draws that are kept, so it can be larger than their number.
#
# ## By hand, from a density that is known
#
# In a network with one linear map, the posterior is a Gaussian that can be written down. With the data's precision 1,
# the prior's precision 1 and the weights W, its mean solves (1 + W'W) z = W'x. Inference must end there:

# %%
import torch

network = pcgen.Network([2, 5], latent_precision=1.0)
data = torch.rand(3, 5)
weight = network.layers[0].weight
exact = torch.linalg.solve(torch.eye(2) + weight.T @ weight, weight.T @ data.T).T
equilibrium = pcgen.infer(network, data, tolerance=1e-6).states[-1]
print(f"largest difference {float((equilibrium - exact).abs().max()):.1e}")
