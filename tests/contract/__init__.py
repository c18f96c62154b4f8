"""Schemathesis against a running stack: requests made from the OpenAPI document, each answer held to it."""
