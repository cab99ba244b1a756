"""What the program costs, each time next to a peer that does the same work: ``python -m benchmarks``."""
