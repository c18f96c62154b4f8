"""Webhooks to the shop's endpoints."""
