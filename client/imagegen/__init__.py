"""Python client of the ImageGen service."""
