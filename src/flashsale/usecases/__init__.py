"""One module per use case; `ports.py` declares what the use cases need from outside."""
