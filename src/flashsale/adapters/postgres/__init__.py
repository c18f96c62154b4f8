"""The truth, in Postgres: statements live in sql/, one Python module per file of them."""
