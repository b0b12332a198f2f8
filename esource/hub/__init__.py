"""Channels: who writes, who follows, who waits. Greenlets."""
