"""The objective: every term of the SA-AVAE's loss."""
