"""`pcgen bench sampling`: samples, chains and likelihoods beside baselines."""
