# What trains: Ray, torch with CUDA, the exporters. Build from the project's root:
#   docker build -f images/trainer.Dockerfile -t vitruvian/trainer .
# torch brings its own CUDA libraries, so that a plain base serves GPU nodes too; name another with BASE_IMAGE.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS libraries
# KubeRay's probes call wget.
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 vitruvian && useradd --uid 10001 --gid 10001 --create-home vitruvian && \
    python3 -m venv /opt/vitruvian
ENV PATH=/opt/vitruvian/bin:$PATH
WORKDIR /src
# torch in a layer of its own: it is most of the image and changes seldom.
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch
COPY pyproject.toml LICENSE ./
RUN mkdir vitruvian && touch README.md vitruvian/__init__.py && \
    pip install --no-cache-dir --constraint constraints.txt '.[serve,train,track]' && \
    pip uninstall --yes --quiet vitruvian

FROM libraries
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Vitruvian trainer" \
      org.opencontainers.image.description="Trains, checks and publishes Vitruvian bundles on Ray." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY README.md ./
COPY vitruvian vitruvian
RUN pip install --no-cache-dir --no-deps .
ENV PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 ORT_DISABLE_TELEMETRY=1
USER 10001:10001
WORKDIR /home/vitruvian
CMD ["vitruvian", "--help"]
