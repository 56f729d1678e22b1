"""`intel_extension_for_transformers.neural_chat.errorcode`: its numbers, and two thresholds that nothing reads here."""

from __future__ import annotations

from neuralbot.error_codes import ErrorCodes

__all__ = ["GPU_MEMORY_THRESHOLD_MB", "STORAGE_THRESHOLD_GB", "ErrorCodes"]

STORAGE_THRESHOLD_GB = 30
GPU_MEMORY_THRESHOLD_MB = 6
