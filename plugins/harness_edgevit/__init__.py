"""EdgeViT: a compressor."""
