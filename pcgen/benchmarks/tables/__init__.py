"""`pcgen bench tables`: unusual rows in tables, beside plain methods."""
