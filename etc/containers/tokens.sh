#!/bin/sh
# Draws the tokens that compose.yaml hands to the containers, into .env in this folder: etc/containers/tokens.sh
set -eu
umask 077
if [ -e .env ]; then
    echo ".env is there already; move it away to draw others" >&2
    exit 1
fi
draw() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
reader=$(draw)
# A file of tokens has several lines: compose turns \n between double quotes into their ends.
cat > .env <<END
KV_CLIENT_TOKENS="read-write $(draw)\nread-only $reader"
KV_NODE_TOKENS="read-write $(draw)\nread-only $reader"
KV_PROMETHEUS_TOKEN=$reader
KV_GRAFANA_PASSWORD=$(draw)
END
echo "drawn into .env: the token for clients is the first of KV_CLIENT_TOKENS"
