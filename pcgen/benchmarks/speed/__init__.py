"""`pcgen bench speed`: times to a result, beside other libraries."""
