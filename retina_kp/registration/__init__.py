"""From two images to a transform, or a refusal."""
