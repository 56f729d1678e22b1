"""`NeuralChatServerExecutor`, where ITREX had it."""

from neuralbot.neural_chat.server.neuralchat_server import NeuralChatServerExecutor

__all__ = ["NeuralChatServerExecutor"]
