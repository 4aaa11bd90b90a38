"""Networks that only embed: their convolutions fused with what follows, for as long as a split is embedded.

May import: nothing of the project but itself.
"""
