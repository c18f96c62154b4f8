"""The one-machine stack: finds or unpacks Postgres and Redis, starts and stops everything."""
