#!/bin/sh
# Ask for a prediction from a shell, with Debian's amqp-tools: ask.sh price '{"pair": "ETH/EUR"}'
# AMQP_URL says where. It prints the reply's body; exit status 1 when there is none within 10 s.
set -eu
url="${AMQP_URL:-amqp://guest:guest@localhost/%2F}"
queue="replies.shell.$$.$(od -An -N8 -tx1 /dev/urandom | tr -d ' ')"
case "$url" in */) url="$url%2F" ;; esac  # librabbitmq reads an empty virtual host as one without a name
amqp-declare-queue --url "$url" -d -q "$queue" >/dev/null
trap 'amqp-delete-queue --url "$url" -q "$queue" >/dev/null' EXIT
amqp-publish --url "$url" -r "predictions.$1" -C application/json -t "$queue" -b "$2"
timeout 10 amqp-consume --url "$url" -q "$queue" -c 1 cat || { echo "no answer within 10 s" >&2; exit 1; }
echo
