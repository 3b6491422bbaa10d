"""Continuous batching on any transformers decoder, every row steered its own way."""
