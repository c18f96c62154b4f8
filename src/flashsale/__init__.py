"""A flash-sale backend: a fixed number of units, far more buyers, nothing sold twice and nothing lost."""

__version__ = "0.1.0"
