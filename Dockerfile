# A server of one model, for SageMaker or any host of containers; its command is what tests/server/test_container.py starts.
#   docker build -t neuralbot . && docker run -p 8080:8080 -v $PWD/runs/alpaca:/opt/ml/model:ro -e NEURALBOT_API_KEY=... neuralbot
# Only where something else keeps strangers out, as SageMaker does, set NEURALBOT_INSECURE=1 instead of a key.
FROM python:3.11-slim
RUN useradd --uid 5000 --create-home neuralbot
WORKDIR /opt/neuralbot
COPY pyproject.toml README.md LICENSE ./
COPY neuralbot neuralbot
COPY recipes recipes
COPY data data
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu '.[server,openvino]'
USER neuralbot
ENV NEURALBOT_HOST=0.0.0.0 NEURALBOT_PORT=8080 NEURALBOT_MODEL=/opt/ml/model HF_HUB_OFFLINE=1
EXPOSE 8080
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health')"]
ENTRYPOINT ["neuralbot"]
# SageMaker starts a container with this one word.
CMD ["serve"]
