# syntax=docker/dockerfile:1
# The whole service in one image: model engine, REST API and page, with the bundled demo inside.
#
#   docker build -t steerdeck .                                     torch as PyPI has it (CUDA, large)
#   docker build -t steerdeck --build-arg TORCH_INDEX=https://… .   PyTorch's CPU wheel index: CPU only
#   docker run --rm -p 127.0.0.1:8000:8000 -e STEERDECK_API_KEYS=… -v steerdeck:/data steerdeck
#
# Options stand behind the image's name and its command, `… steerdeck serve --model gpt2-small`;
# another port outside is `-p 127.0.0.1:9000:8000`.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=""
ARG EXTRAS="server,ui"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv
WORKDIR /src
# What we depend on changes rarely, the rooms often: the packages are installed over empty rooms
# first, so that an edit of ours rebuilds only the last layer.
COPY pyproject.toml constraints.txt ./
RUN pip install -c constraints.txt torch ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}
RUN mkdir server ui dictionaries && touch README.md LICENSE \
    && pip install -c constraints.txt ".[${EXTRAS}]" \
    && pip uninstall --yes steerdeck
COPY README.md LICENSE ./
COPY dictionaries dictionaries
COPY server server
COPY ui ui
RUN pip install --no-deps .
# Our own code for the CPU: the image that runs has no compiler.
RUN if [ "$(uname -m)" = x86_64 ]; then apt-get update && apt-get install -y --no-install-recommends g++ \
    && cd / && python -m server.engine.native.build; fi

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="Steerdeck" \
      org.opencontainers.image.licenses="Apache-2.0"
# PASSIVE: libgomp's waiting threads must not spin where cores are shared.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    HF_HOME=/data/huggingface \
    STEERDECK_DATA_DIR=/data/steerdeck \
    STEERDECK_HOST=0.0.0.0 \
    STEERDECK_PORT=8000 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    GRADIO_ANALYTICS_ENABLED=False
RUN useradd --uid 1000 --create-home steerdeck && install -d -o steerdeck -g steerdeck /data
COPY --from=build /opt/venv /opt/venv
USER 1000:1000
WORKDIR /home/steerdeck
VOLUME /data
EXPOSE 8000
# Not SIGTERM, which the first process of a container does not hear while it is still importing.
STOPSIGNAL SIGINT
# Ready means the weights are in memory; a first start may have to download them.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["steerdeck"]
CMD ["serve"]
