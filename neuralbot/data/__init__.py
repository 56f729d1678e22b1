"""Rows from anywhere to token ids: `sources` reads, `formats` understands, `splits` divides, `tokenized` encodes."""
