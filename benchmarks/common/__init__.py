"""Parts that the benchmarks share: timing, the rates of the machine, the training step, and output."""
