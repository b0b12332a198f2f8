# The C parser of gunicorn is published as source: this stage has a compiler, the image has none.
FROM python:3.13-trixie AS build
WORKDIR /opt/docker
COPY setup.py setup.cfg README.md LICENSE ./
COPY esource esource/
COPY deploy deploy/
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir '.[postgresql,redis]'

FROM python:3.13-slim-trixie
WORKDIR /opt/docker
COPY --from=build /opt/docker/.venv .venv/
# A new volume takes the owner over, so this comes before VOLUME. A folder that is mounted has its
# own: see the README. The number needs no entry in /etc/passwd, and neither does `--user`.
RUN mkdir events && chown 1000:1000 events
ENV PATH=/opt/docker/.venv/bin:$PATH ESOURCE_BIND=0.0.0.0:9000
VOLUME /opt/docker/events
EXPOSE 9000
USER 1000:1000
# By a name that the hub takes for its own. (http.client, since urllib would ask the proxy that
# Docker puts into the environment.)
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["python", "-c", "\
import http.client, os; \
port = os.environ['ESOURCE_BIND'].rpartition(':')[2]; \
names = os.environ.get('ESOURCE_ALLOWED_HOSTS', '').replace(',', ' ').split() or ['localhost']; \
hub = http.client.HTTPConnection('127.0.0.1', port, timeout=4); \
hub.request('GET', '/-/health', headers={'Host': names[0]}); \
raise SystemExit(hub.getresponse().status != 200)"]
# Not a shell: the hub is the process that gets the signal of `docker stop`.
CMD ["esource"]
