# What serves a bundle: no torch, no Ray. Build from the project's root:
#   docker build -f images/server.Dockerfile -t vitruvian/server .
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
RUN python3 -m venv /opt/vitruvian
ENV PATH=/opt/vitruvian/bin:$PATH
WORKDIR /src
# First the libraries, by an empty package: a change of the code or of the README leaves this layer as it is.
COPY pyproject.toml constraints.txt LICENSE ./
RUN mkdir vitruvian && touch README.md vitruvian/__init__.py && \
    pip install --no-cache-dir --constraint constraints.txt '.[serve]' && \
    pip uninstall --yes --quiet vitruvian
COPY README.md ./
COPY vitruvian vitruvian
RUN pip install --no-cache-dir --no-deps . && pip uninstall --yes --quiet pip setuptools

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Vitruvian server" \
      org.opencontainers.image.description="Serves a Vitruvian bundle over HTTP." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 vitruvian && useradd --uid 10001 --gid 10001 --create-home vitruvian
COPY --from=build /opt/vitruvian /opt/vitruvian
ENV PATH=/opt/vitruvian/bin:$PATH PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
USER 10001:10001
WORKDIR /home/vitruvian
EXPOSE 8080
ENTRYPOINT ["vitruvian"]
CMD ["serve", "/mnt/models", "--host", "0.0.0.0"]
