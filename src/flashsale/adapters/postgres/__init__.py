"""Everything that reads and writes Postgres. The statements are files in sql/, with one Python module per file."""
