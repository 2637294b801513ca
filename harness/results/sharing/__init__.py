"""Results that are shared. In: results folders. Out: folders in ``results/published``, and the problems of such folders."""
