"""What stands behind the notebooks: runs, reports, settings."""
