"""Clients that generators make of the OpenAPI document, and a purchase with each."""
