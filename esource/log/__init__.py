"""Bytes at offsets, appended and never changed. Blocking calls."""
