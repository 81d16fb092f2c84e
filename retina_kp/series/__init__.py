"""Several images of one eye in one frame: visits, or the fields of a mosaic."""
