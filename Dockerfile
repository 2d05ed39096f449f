# docker build -t sseflow-proxy .
# docker run --rm -p 127.0.0.1:8080:8080 sseflow-proxy --demo --listen 0.0.0.0:8080
#
# docker run --rm -p 127.0.0.1:8080:8080 sseflow-proxy --upstream https://api.example.com --listen 0.0.0.0:8080
#
# Arguments after the image's name replace CMD: say --listen again. A stop needs more time than the proxy drains (30 s),
# and Docker kills after 10 s: `docker stop -t 40`, or stop_grace_period: 40s in a compose file.

FROM python:3.13-slim AS build

WORKDIR /src
RUN python -m venv /opt/sseflow
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY sseflow ./sseflow
RUN /opt/sseflow/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[proxy]"

# Neither the source tree nor what built it is in what runs.
FROM python:3.13-slim

COPY --from=build /opt/sseflow /opt/sseflow
ENV PATH="/opt/sseflow/bin:$PATH" \
    PYTHONUNBUFFERED=1

# A number, so that Kubernetes can see for itself that it is not root (runAsNonRoot).
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent sseflow
USER 10001
WORKDIR /

EXPOSE 8080
STOPSIGNAL SIGTERM

# Python, because the image has no curl. No proxies: HTTP_PROXY is set for the upstream, not for this.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python", "-c", "from urllib.request import ProxyHandler as P, build_opener as b; b(P({})).open('http://127.0.0.1:8080/-/health', timeout=2)"]

ENTRYPOINT ["python", "-m", "sseflow.proxy"]
# All interfaces of the container; which of them the world sees is decided by `docker run -p`.
CMD ["--demo", "--listen", "0.0.0.0:8080"]
