"""Other architectures of a flash sale, each done well, for comparison: `cd loadtest; python -m baselines --help`.

The product imports nothing of this.
"""
