"""A sale whose buyers pay at the provider in Stripe's dialect: some never, some too late."""
