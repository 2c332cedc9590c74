"""The SA-AVAE, the front ends before it, and the bundle that holds everything scoring needs."""
