"""One module per thing that the system does; `ports.py` says what it needs from outside."""
