"""Synthetic data for the benchmarks: photographs, stores, and small archives in the formats of real datasets."""
