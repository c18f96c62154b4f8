"""One order's trace through all processes: `python -m tests.tracing` prints it."""
