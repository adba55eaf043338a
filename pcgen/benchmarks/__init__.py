"""The tables behind `pcgen bench`, their baselines and peers."""
