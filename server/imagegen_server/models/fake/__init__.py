"""The scripted model: timed stages and deterministic pixels, without torch."""
