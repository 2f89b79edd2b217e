"""Replays of real logs under stated protocols, with the product's own feature and learning code."""
