"""The store of everything that is kept under a hash: artifacts, saved models, and the hashes of code and content."""
