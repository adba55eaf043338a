"""The public functions, one file each: every command of the command line calls one of them."""
