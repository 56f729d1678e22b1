"""Everything between a planned recipe and a finished run folder: the loop, the folder, its picture and its card."""
