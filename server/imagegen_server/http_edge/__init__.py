"""The HTTP edge: Envoy's configuration filled in, an Envoy for the length of a block, and both beside a server."""
