"""Bytes <-> events: what a row is, and how it is written in other formats. Pure."""
