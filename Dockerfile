# CUDA:         docker build -t ttl .
# CPU or ROCm:  docker build -t ttl --build-arg TORCH_INDEX_URL=URL .
# URL is what pytorch.org/get-started/locally shows after --index-url for that machine.
FROM python:3.11-slim
ARG TORCH_INDEX_URL=""
WORKDIR /opt/ttl
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt '.[all]'
# Runs and recipes are in the folder that is mounted here; its owner need not be root.
ENV HOME=/tmp
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["ttl"]
CMD ["--help"]
