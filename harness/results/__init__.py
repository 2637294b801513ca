"""Records on disk. In: records. Out: verified records, and the figures that are computed from them."""
