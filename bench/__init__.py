"""Benchmarks: one file each, run by `make bench NAME=…`; every one measures a peer or a physical limit in the same run."""
