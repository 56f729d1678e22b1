"""Making data sets. Nothing here is needed to train on data that already exists."""
