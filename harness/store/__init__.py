"""The store of everything kept under a hash: artifacts, saved models, and the hashes of code and content."""
