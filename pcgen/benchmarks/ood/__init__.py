"""`pcgen bench ood`: scores of unusual data beside their baselines, with intervals."""
