"""The comparison of architectures: every approach, the same crowd, one verdict (`nox -s analysis`)."""
