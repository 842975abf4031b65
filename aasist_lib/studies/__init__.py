"""Many trainings compared: leaderboard, selection of the default recipe, search for settings."""
