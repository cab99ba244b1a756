"""Prometheus, its rules and the dashboard."""
