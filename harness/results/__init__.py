"""The results folder. In: records. Out: verified records, and what is computed from them."""
