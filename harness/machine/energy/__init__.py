"""Pure computations on meter readings.

In: time series of power or energy. Out: joules with their uncertainty.
"""
