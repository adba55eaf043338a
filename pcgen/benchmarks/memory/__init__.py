"""`pcgen bench memory`: recall beside look-ups, principal components and published values."""
