"""The sale that proves itself."""
