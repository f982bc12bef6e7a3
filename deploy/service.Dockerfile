# The service: no torch, no compiler, no root. Run it with a read-only root file system, a writable
# /data when the store is a file, and a small writable /tmp.
#
#   docker build -f deploy/service.Dockerfile -t carry-service .
#   docker build -f deploy/service.Dockerfile -t carry-service:cuda --build-arg EXTRA=cuda .

FROM python:3.11-slim AS build
ARG EXTRA=cpu
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN case "$EXTRA" in cpu|cuda) ;; *) echo "EXTRA: expected cpu or cuda, got '$EXTRA'" >&2; exit 1;; esac \
    && python -m venv /opt/venv
# What changes seldom comes first: the requirements alone, then the few files of the service itself.
COPY pyproject.toml constraints.txt LICENSE ./
RUN /opt/venv/bin/pip install --quiet --constraint constraints.txt ".[$EXTRA,bulk,tracing]"
COPY service service
RUN /opt/venv/bin/pip install --quiet --no-deps --force-reinstall .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin carry \
    && install --directory --owner carry --group carry --mode 0750 /data
COPY --from=build /opt/venv /opt/venv
COPY models /models
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CARRY_HOST=0.0.0.0 \
    CARRY_PORT=8000 \
    CARRY_MODELS=/models \
    CARRY_STORE=sqlite:////data/carry.db
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive, not ready: a service that waits for its store must not be killed for it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['CARRY_PORT'] + '/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]
