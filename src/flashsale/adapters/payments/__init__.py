"""The payment gateway's client."""
