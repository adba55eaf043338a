"""Scores that a generative network's must beat: of classifiers, of linear models, of no model.

As everywhere, a higher score is more unusual, and an image's score depends on itself alone.
"""

from __future__ import annotations

from pcgen.ood.baselines.classifier import ClassifierScorer as ClassifierScorer
from pcgen.ood.baselines.images import AutoencoderScorer as AutoencoderScorer
from pcgen.ood.baselines.images import PPCAScorer as PPCAScorer
from pcgen.ood.baselines.images import TrivialScorer as TrivialScorer
