"""Streams of live values: the hub and its channels."""
