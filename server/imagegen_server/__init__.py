"""The ImageGen server: Stable Diffusion XL in two stages behind gRPC."""
