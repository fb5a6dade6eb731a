"""Where a pair comes from: the hub, a directory, or configurations alone."""
