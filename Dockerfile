# One image for both processes: `managed-session-webhook` and `managed-session-operator`.
# Any base image with a glibc-based Python 3.11 to 3.13 at the same path in both stages will do.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# The environment of the pods has no pip of its own: `pip --python` fills it from outside.
RUN python -m venv --without-pip /opt/managed-sessions && python -m venv /opt/build-tools
# Libraries first: they change less often than the project. An index behind a certificate authority of one's own:
#   docker build --secret id=ca-bundle,src=ca.pem .
COPY requirements.lock requirements-build.lock ./
RUN --mount=type=secret,id=ca-bundle,target=/run/secrets/ca-bundle,required=false \
    if [ -s /run/secrets/ca-bundle ]; then export PIP_CERT=/run/secrets/ca-bundle; fi; \
    /opt/build-tools/bin/pip install --require-hashes --only-binary=:all: --requirement requirements-build.lock \
    && /opt/build-tools/bin/pip --python /opt/managed-sessions/bin/python install \
        --require-hashes --only-binary=:all: --requirement requirements.lock
COPY . .
RUN /opt/build-tools/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/build-tools/bin/pip --python /opt/managed-sessions/bin/python install --no-index --no-deps /dist/*.whl

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="managed-sessions" \
      org.opencontainers.image.description="Kubernetes operator that gives every Claude Managed Agents session its own E2B sandbox" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/managed-sessions /opt/managed-sessions
ENV PATH=/opt/managed-sessions/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
# Numeric, so that Kubernetes can see that it is not root; nothing in the image belongs to it.
USER 65532:65532
WORKDIR /tmp
EXPOSE 8000 8080
CMD ["managed-session-operator"]
