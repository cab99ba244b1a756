"""Forecasts on request: from a history to numbers, the same for a service and a batch."""
