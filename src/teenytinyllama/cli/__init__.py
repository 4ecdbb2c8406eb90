"""The command line `ttl`."""
