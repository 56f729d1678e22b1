"""`python -m neuralbot` is the command `neuralbot`."""

from __future__ import annotations

import sys

from neuralbot.cli import main

if __name__ == "__main__":
    sys.exit(main())
