"""Forecasts of base-station load with Ray: preprocess, train, evaluate, promote."""

__version__ = "0.1.0"
