"""Comparison of many trainings: leaderboard, selection of the default recipe, and hyperparameter search."""
