"""Training and evaluation of torch modules.

In: a module, data and a recipe. Out: trained weights and their history.
"""
