# One image for all processes: `managed-session-webhook`, `managed-session-operator` and `managed-session-dashboard`.
# Any base image with a glibc-based Python 3.11 to 3.13 at the same path in all stages will do.
ARG BASE_IMAGE=python:3.13-slim
# The same content gives the same bytes: every file has this time, and bytecode is checked against none.
ARG SOURCE_DATE_EPOCH=1577836800

FROM ${BASE_IMAGE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
# The environment of the pods has no pip of its own: `pip --python` fills it from outside.
RUN python -m venv --without-pip /opt/managed-sessions && python -m venv /opt/build-tools
# Libraries first: they change less often than the project. An index behind a certificate authority of one's own:
#   docker build --secret id=ca-bundle,src=ca.pem .
COPY requirements.lock requirements-build.lock requirements-sbom.lock ./
RUN --mount=type=secret,id=ca-bundle,target=/run/secrets/ca-bundle,required=false \
    if [ -s /run/secrets/ca-bundle ]; then export PIP_CERT=/run/secrets/ca-bundle; fi; \
    /opt/build-tools/bin/pip install --require-hashes --only-binary=:all: --requirement requirements-build.lock \
    && /opt/build-tools/bin/pip install --require-hashes --only-binary=:all: --requirement requirements-sbom.lock \
    && /opt/build-tools/bin/pip --python /opt/managed-sessions/bin/python install --no-compile \
        --require-hashes --only-binary=:all: --requirement requirements.lock
COPY . .
ARG SOURCE_DATE_EPOCH
RUN export SOURCE_DATE_EPOCH PYTHONHASHSEED=0 \
    && /opt/build-tools/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/build-tools/bin/pip --python /opt/managed-sessions/bin/python install --no-compile --no-index --no-deps /dist/*.whl \
    && /opt/build-tools/bin/cyclonedx-py environment --output-reproducible --of JSON \
        --output-file /opt/managed-sessions/sbom.cdx.json /opt/managed-sessions/bin/python \
    && python -m compileall -q -j 1 --invalidation-mode unchecked-hash /opt/managed-sessions/lib \
    && find /opt/managed-sessions -exec touch --no-dereference --date "@${SOURCE_DATE_EPOCH}" {} +

# The devkit and what it needs beyond the product (the tests on a real cluster run its simulators as pods).
FROM build AS build-simulators
RUN --mount=type=secret,id=ca-bundle,target=/run/secrets/ca-bundle,required=false \
    if [ -s /run/secrets/ca-bundle ]; then export PIP_CERT=/run/secrets/ca-bundle; fi; \
    /opt/build-tools/bin/pip --python /opt/managed-sessions/bin/python install --no-compile \
        --require-hashes --only-binary=:all: --requirement requirements-devkit.lock \
    && /opt/build-tools/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist/devkit ./devkit \
    && /opt/build-tools/bin/pip --python /opt/managed-sessions/bin/python install --no-compile --no-index --no-deps \
        /dist/devkit/*.whl \
    && python -m compileall -q /opt/managed-sessions/lib

# docker build --target simulators: python -m managed_session_devkit.simulators.anthropic (or .e2b)
# A simulated sandbox is a group of processes in Linux namespaces: that of E2B runs as root in a privileged pod.
FROM ${BASE_IMAGE} AS simulators
LABEL org.opencontainers.image.title="managed-sessions-simulators" \
      org.opencontainers.image.description="Simulators of Anthropic and E2B for tests of managed-sessions" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-simulators /opt/managed-sessions /opt/managed-sessions
ENV PATH=/opt/managed-sessions/bin:${PATH} \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
EXPOSE 8000

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="managed-sessions" \
      org.opencontainers.image.description="Kubernetes operator that gives every Claude Managed Agents session its own E2B sandbox" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Nothing can be installed here.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/site-packages/pip* \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip"
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
