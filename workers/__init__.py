"""The job workers: thin procrastinate tasks that parse a payload and call a use case."""
