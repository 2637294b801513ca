"""TFormer: a model builder."""
