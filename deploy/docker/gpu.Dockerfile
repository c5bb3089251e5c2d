# One image for every service of docker-compose.yml, on NVIDIA GPUs:   docker build -t tributary:gpu -f deploy/docker/gpu.Dockerfile .
# Checked by hadolint only; it has not been built on the machines of this project.
# Add a digest to pin the base: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm
# hadolint ignore=DL3006
FROM ${BASE}

# Triton compiles its launchers with gcc; the CUDA libraries come as wheels. Unpinned: Debian keeps only the newest build.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libnuma1 \
    && rm -rf /var/lib/apt/lists/*

# The user owns only the folders where volumes are mounted: a new volume takes its owner from them.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp tributary \
    && install --directory --owner=tributary --group=tributary /runs /cache /data /tasks

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    VIRTUAL_ENV=/opt/venv
WORKDIR /app

# The packages are gigabytes and change rarely; the code is added after them.
ARG UV_VERSION=0.13.9
COPY deploy/docker/install.sh deploy/docker/
COPY deploy/install/ deploy/install/
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache --mount=type=secret,id=ca \
    sh deploy/docker/install.sh gpu packages

COPY . .
RUN sh deploy/docker/install.sh gpu code

# Programs that need a home folder write into the container's temporary memory.
ENV HOME=/tmp
USER 10001:10001
CMD ["tributary", "--help"]
