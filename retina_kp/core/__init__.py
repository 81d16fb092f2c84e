"""What everything stands on: files, images, geometry, classical image analysis."""
