# The generic worker: Python, what most numeric code needs, and uv. `batchexec image build` builds it; so do
#   docker build .                        with --build-arg PYTHON=3.12, or BASE=<any image with Python and pip>
# The worker itself is not in it: it travels with each job.
#
# Build arguments: PYTHON (minor), BASE, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL (they stay in the image's history).
# Secrets, which do not: `ca` (certificate authorities, PEM) and `pip` (a pip.conf, for indexes with credentials).
ARG PYTHON=3.11
ARG BASE=python:${PYTHON}-slim
FROM ${BASE}

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY worker_image/ /opt/batchexec/
# Into the base's own interpreter, where environments that tasks make see it; Debian's has to be told that we mean it.
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    set -e; \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    if [ -s /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; \
    PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
    python3 -m pip install --no-cache-dir --compile --requirement /opt/batchexec/requirements.txt; \
    python3 /opt/batchexec/smoke_test.py; \
    rm -rf /root/.cache /tmp/*

LABEL org.opencontainers.image.title="batchexec worker" \
      org.opencontainers.image.description="Python with numpy, scipy, pandas, scikit-learn, pyarrow, joblib and uv"
# Tasks set the entry point themselves, and run as whatever user the node has.
CMD ["python3"]
