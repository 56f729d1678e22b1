"""Weights as integers that were chosen by calibration: neural-compressor and AutoRound choose, OpenVINO runs them."""
