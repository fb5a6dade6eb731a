"""How a UNet is evaluated: as it is, traced, compiled, or from CUDA graphs, as was measured to be fastest."""
