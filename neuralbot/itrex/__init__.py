"""The genuine predecessor, intel-extension-for-transformers 1.4.2, as an engine: to reproduce results of its time."""

ENGINES = ("neuralbot", "itrex")
ENGINE_HELP = "itrex: the archived package itself, to reproduce old results; see `neuralbot itrex`"
