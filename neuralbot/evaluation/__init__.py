"""How good the answers are: pure scores, code run against its tests, and the loop that asks and scores."""
