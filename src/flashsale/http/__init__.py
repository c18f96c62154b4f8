"""Litestar: parse, call a use case, render."""
