"""Requests -> answers. Flask."""
