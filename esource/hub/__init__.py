"""Channels: writers, followers, and how they wait. Greenlets."""
