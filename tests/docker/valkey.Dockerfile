# Stands in for Valkey's own image where no registry is reached: Debian's valkey-server.
FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends valkey-server valkey-tools && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
EXPOSE 6379
CMD ["valkey-server"]
