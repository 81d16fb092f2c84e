"""Synthetic eyes: grown as vectors, rendered in four modalities."""
