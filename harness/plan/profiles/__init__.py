"""Profiles of devices: their speed, measured before.

In: timings per operation. Out: fitted lines and predicted schedules.
"""
