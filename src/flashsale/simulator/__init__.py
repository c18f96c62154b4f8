"""The payment provider that misbehaves on demand: a service of its own."""
