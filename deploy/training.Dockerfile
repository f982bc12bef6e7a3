# Training: torch and the recipes; writes finished bundles to /carry/models.
#
#   docker build -f deploy/training.Dockerfile -t carry-training .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/models:/carry/models" \
#     carry-training fit training/recipes/transit-ridership.toml

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt LICENSE ./
RUN /opt/venv/bin/pip install --quiet --constraint constraints.txt ".[training]"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin carry \
    && install --directory --owner carry --group carry --mode 0777 /carry /carry/models /carry/runs
COPY --from=build /opt/venv /opt/venv
WORKDIR /carry
COPY service service
COPY training training
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
ENTRYPOINT ["python", "-m", "training"]
CMD ["--help"]
