"""Stripe's API v1 as far as a shop with one payment per order needs it, over the simulator's ledger."""
