"""Folders of images become pair records and batches."""
