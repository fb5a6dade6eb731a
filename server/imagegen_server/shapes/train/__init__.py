"""How the embedded pair is made: trainer, measurements, model card and gallery. `make shapes` runs it all."""
