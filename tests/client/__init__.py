"""The command as a client: `follow` and `pipe`, real processes beside real hubs."""
