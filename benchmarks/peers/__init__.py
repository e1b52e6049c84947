"""Other programs that the benchmarks compare this project with: their nets, decoders and input pipelines."""
