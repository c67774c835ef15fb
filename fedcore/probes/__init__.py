"""What trained features are worth: label-free progress, kNN, linear classification, count regression, collapse."""

from fedcore.probes.collapse import effective_rank, feature_std
from fedcore.probes.counts import CountScore, count_regression
from fedcore.probes.features import extract_features, raw_pixels
from fedcore.probes.infonce import HeldOutInfoNCE
from fedcore.probes.knn import knn_accuracy
from fedcore.probes.linear import linear_accuracy
from fedcore.probes.next_token import HeldOutLoss

__all__ = [
    "CountScore",
    "HeldOutInfoNCE",
    "HeldOutLoss",
    "count_regression",
    "effective_rank",
    "extract_features",
    "feature_std",
    "knn_accuracy",
    "linear_accuracy",
    "raw_pixels",
]
