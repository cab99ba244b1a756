"""Measurements of the service: is it right, how fast is it, and what happens to requests when something changes."""
