"""The gate, in Redis or Valkey."""
