"""Holds two runs, datasets, configurations or deployments against each other and says what makes them differ."""

from flts_ray.reconcile.comparison import Comparison, compare
from flts_ray.reconcile.side import Side, load_side
from flts_ray.reconcile.view import print_comparison

__all__ = ["Comparison", "Side", "compare", "load_side", "print_comparison"]
