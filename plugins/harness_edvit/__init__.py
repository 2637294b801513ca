"""ED-ViT: a partitioner, and placers."""
