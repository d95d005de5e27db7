"""Training: the recipe, the saliency teacher, the loop, and the figures measured afterwards."""
