"""Speed of devices that was measured before.

In: timings per operation. Out: fitted lines and predicted schedules.
"""
