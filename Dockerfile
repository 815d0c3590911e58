# coinseg in a container. UNTESTED: no container engine was at hand when this was written; the steps are those of make and .ci/run.
#   docker build -t coinseg .
#   docker build -t coinseg-cuda --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#   docker build --target test .                                  runs what CI runs
#   docker run --rm -v "$PWD:/work" coinseg run my_images -o out/run --data.size 96         (with a GPU: --gpus all)
ARG BASE=python:3.12-slim

FROM ${BASE} AS base
# The base is an argument, so versions of its packages are not known here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/coinseg
ENV PATH="/opt/coinseg/bin:$PATH" PYTHONUNBUFFERED=1
# PyTorch's wheels for the CPU are a tenth of those for GPUs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Their versions have another suffix on each index, so constraints.txt does not hold for them.
# hadolint ignore=DL3013
RUN python -m pip install --no-cache-dir --index-url "${TORCH_INDEX}" torch torchvision

FROM base AS test
COPY . /src
WORKDIR /src
RUN make lint docs test slow learn kills package && make stranger STRANGER=--quick

FROM base AS coinseg
COPY pyproject.toml MANIFEST.in README.md LICENSE CHANGELOG.md CITATION.cff SECURITY.md constraints.txt /src/
COPY src /src/src
# torch and torchvision stay those of the index above.
RUN grep --invert-match --extended-regexp '^(torch|torchvision|triton|nvidia-.*|cuda-.*)==' /src/constraints.txt > /tmp/constraints.txt \
    && python -m pip install --no-cache-dir --constraint /tmp/constraints.txt '/src[all]' \
    && rm -rf /src /tmp/constraints.txt
RUN useradd --create-home --uid 10001 coinseg
USER 10001
WORKDIR /work
ENTRYPOINT ["coinseg"]
CMD []
