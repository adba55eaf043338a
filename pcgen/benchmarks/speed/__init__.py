"""`pcgen bench speed`: the same network and the same steps, timed beside other libraries."""
