"""Types, states and their transitions, money and errors: no I/O, no clock, no framework."""
