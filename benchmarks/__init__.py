"""What sseflow costs: ``python -m benchmarks`` measures core, shell and proxy, and checks every byte while it does."""
