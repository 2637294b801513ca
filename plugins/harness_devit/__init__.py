"""DeViT: a partitioner, and the model builder ``cct``."""
