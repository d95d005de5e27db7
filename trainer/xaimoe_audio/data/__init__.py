"""From the table of a dataset to clips that a model can be trained on."""
