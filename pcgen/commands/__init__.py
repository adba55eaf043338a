"""The public functions, one file each. Every command of the command line calls one of them."""
