"""Train and evaluate torch modules.

In: a module, data and a recipe. Out: trained weights and their history.
"""
