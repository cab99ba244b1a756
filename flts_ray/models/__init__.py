"""Forecasters behind one interface, and the bundle they are saved in."""
