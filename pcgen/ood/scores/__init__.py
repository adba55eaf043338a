"""Scores: how unusual an image is, in several senses. Higher is more unusual in every one.

Of the predictive coding network:

    free-energy     the network's energy at equilibrium, nats
    energy-layers   Mahalanobis length of the layers' log energies: too easy is unusual too
    cause-layers    Mahalanobis length of the errors of layers and of parts of the image, and of
                    the latent's parts, within the cause in which it is least
    cause-direction energy of the latent's direction under the mixture of all causes, nats
    twin-layers     as cause-layers, of a linear network in closed form
    class-energy    least energy over the classes' own linear networks, in its class's deviations
    class-latent    the latent's part of that energy: an unusual shape rather than unusual pixels
    class-layers    Mahalanobis length of that energy's parts, coarse to fine, within the class
    delta-energy    nats by which inference lowers the energy of its starting point
    typicality      distance of the free energy from its median, nats
    latent-knn      distance of the latent to its neighbours among known images
    twin-memory     where fewer than 400 are known: energy of the linear network's latent under a
                    memory of known latents, nats
    latent-density  where 400 to 4,999 are known: how much denser known latents lie around the
                    latent's neighbours than around it (the local outlier factor)
    twin-density    the same of the linear network's latent, where 400 or more are known

Of a table's rows, and not of the trained network:

    table-energy    the sum of the two below, nats
    table-mixture   energy of a linear network whose latent prior is a mixture
    table-memory    energy of a memory of the known rows

`COMPONENTS` names those that `pc-fisher` combines, and `ALARMS_OF_FEW` those that count only where
they are rare among known images. `classifier` has the scores of a
classifier, and `registered` those that a user has added with `pcgen.register_score`.
"""

from pcgen.ood.scores.classifier import ClassifierScorer as ClassifierScorer
from pcgen.ood.scores.scorer import ALARMS_OF_FEW as ALARMS_OF_FEW
from pcgen.ood.scores.scorer import COMPONENTS as COMPONENTS
from pcgen.ood.scores.scorer import COMPONENTS_OF_FEW as COMPONENTS_OF_FEW
from pcgen.ood.scores.scorer import COMPONENTS_OF_VERY_FEW as COMPONENTS_OF_VERY_FEW
from pcgen.ood.scores.scorer import PC_SCORES as PC_SCORES
from pcgen.ood.scores.scorer import PCScorer as PCScorer
from pcgen.ood.scores.scorer import fit as fit
from pcgen.ood.scores.scorer import load as load
from pcgen.ood.scores.table_scorer import TABLE_SCORES as TABLE_SCORES
from pcgen.ood.scores.table_scorer import TableScorer as TableScorer
