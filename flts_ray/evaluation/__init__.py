"""Scores, intervals, the leaderboard, the verdict and the report."""
