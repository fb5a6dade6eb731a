"""The stages of a generation: text, denoising, decode, and what a job keeps between steps."""
