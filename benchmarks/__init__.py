"""Side-by-side measurements: `make bench`. Every figure is a ratio taken within one run."""
