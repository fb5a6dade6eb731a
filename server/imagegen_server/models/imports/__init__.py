"""Importing the libraries without what a pair does not need."""
