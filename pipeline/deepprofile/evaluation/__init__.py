"""How good profiles are: scores against measurements, and the stations that measure.

Here belong metrics, comparisons and readers of station files. Which of them a run computes, and where results are stored, is
decided in ``stages``.
"""

from deepprofile.evaluation.comparison import cell_scores, plain_average
from deepprofile.evaluation.metrics import score_all, score_differences, summarise

__all__ = ["cell_scores", "plain_average", "score_all", "score_differences", "summarise"]
