"""Leaderboards. In: records. Out: tables of ranked rows."""
