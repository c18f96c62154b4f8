"""A sale over Stripe's dialect that misbehaves, and the proof that units and money add up."""
