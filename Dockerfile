# docker build -t twisted_kv .        See docs/installing.md.

FROM python:3.13-slim-bookworm AS build
WORKDIR /source
RUN python -m venv --without-pip /opt/twisted_kv
COPY setup.py pyproject.toml README.md LICENSE ./
COPY twisted twisted
COPY twisted_kv twisted_kv
# Dependencies come as wheels or not at all: there is no compiler here, and none is wanted.
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m pip --python /opt/twisted_kv/bin/python install --no-cache-dir --only-binary=:all: /wheels/*.whl \
    # Writes down which plugins there are; the daemons' user cannot.
    && /opt/twisted_kv/bin/twistd --help > /dev/null

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="twisted_kv" \
      org.opencontainers.image.description="A replicated, sharded, linearizable key-value store." \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/twisted_kv /opt/twisted_kv
COPY etc/containers/healthy.py /opt/twisted_kv/healthy.py
ENV PATH=/opt/twisted_kv/bin:$PATH PYTHONUNBUFFERED=1
# A number, so that whoever runs it can see that it is not root's.
RUN install -d -o 10001 -g 10001 -m 0700 /data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080 6380 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["python", "/opt/twisted_kv/healthy.py"]
ENTRYPOINT ["twistd", "--nodaemon", "--pidfile="]
CMD ["kvcluster", "--data-dir", "/data"]
