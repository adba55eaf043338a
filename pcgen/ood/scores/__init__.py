"""Scores of the generative network: how unusual an image is, in several senses.

    free-energy     the network's energy at equilibrium, nats
    energy-layers   Mahalanobis length of the layers' log energies: too easy is unusual too
    class-energy    least energy over the classes' own linear networks, in its class's deviations
    class-latent    the latent's part of that energy: an unusual shape rather than unusual pixels
    class-layers    Mahalanobis length of that energy's parts, coarse to fine, within the class
    delta-energy    nats that inference wins from where it starts
    typicality      distance of the free energy from its median, nats
    latent-knn      distance of the latent to its neighbours among known images

Higher is more unusual in every one. `PCScorer.components` are those that `pc-fisher` combines.
"""

from pcgen.ood.scores.scorer import PCScorer as PCScorer
from pcgen.ood.scores.scorer import fit as fit
from pcgen.ood.scores.scorer import load as load
