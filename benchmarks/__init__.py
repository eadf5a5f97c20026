"""Side-by-side measurements: `make bench`, ratios taken within one run; and, by itself, `pages`."""
