"""Engines turn prompt ids into answer ids; text never enters here (see textstream)."""
