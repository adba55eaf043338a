"""`pcgen bench memory`: recall beside look-ups, principal components and what is published."""
