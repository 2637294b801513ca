"""Leaderboards. In: records. Out: boards of ranked rows."""
