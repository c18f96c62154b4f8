"""The sale that checks itself."""
