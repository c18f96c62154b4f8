"""The pages in a real browser, on a real stack: `nox -s browser`."""
