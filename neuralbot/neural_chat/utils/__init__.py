"""`intel_extension_for_transformers.neural_chat.utils` under our prefix."""
