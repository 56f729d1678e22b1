"""The server: OpenAI's, TGI's and SageMaker's protocols over one model; `command` starts it, `app` puts it together."""
