"""Model builders over timm, and cuts of ViTs."""
