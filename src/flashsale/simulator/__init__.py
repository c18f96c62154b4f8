"""The payment provider that fails on demand: a separate service."""
