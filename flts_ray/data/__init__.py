"""Source, cleaning, features, scaling, windows, and the claim check."""
