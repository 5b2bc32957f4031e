#!/usr/bin/env bash
# Everything that the local stack needs and this machine lacks: uv, Python packages, Java and Maven, Kafka's jars,
# and the Debian packages of the servers named. Quick when all of it is there. Says what to do where it may not install.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[2msetup: %s\033[0m\n' "$*" >&2; }
fail() { printf 'setup: %s\n  fix: %s\n' "$1" "$2" >&2; exit 1; }

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  uv=.tidewatch/uv/bin/uv
  if [ ! -x "$uv" ]; then
    say "installing uv into .tidewatch/uv"
    command -v python3 > /dev/null || fail "there is no python3" "install Python 3.11 or newer"
    python3 -m venv .tidewatch/uv 2> /dev/null || fail "python3 cannot make a virtual environment" "apt-get install python3-venv"
    .tidewatch/uv/bin/pip install --quiet uv || fail "uv could not be installed" "see https://docs.astral.sh/uv/getting-started/installation/"
  fi
fi
"$uv" sync --locked --quiet || fail "the Python packages could not be installed" "see uv's message above"

debian=()
command -v java > /dev/null || debian+=(openjdk-17-jre-headless)
command -v mvn > /dev/null || debian+=(maven)
if [ ${#debian[@]} -gt 0 ]; then
  fix="install Java 17 and Maven, for instance: sudo apt-get install ${debian[*]}"
  [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || fail "this machine lacks ${debian[*]}" "$fix"
  say "installing ${debian[*]}"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${debian[@]}"; } > /dev/null || fail "apt-get failed" "$fix"
fi

others=()
for name in "$@"; do [ "$name" = kafka ] || others+=("$name"); done
with=$(IFS=,; echo "${others[*]}")
.venv/bin/python -m devstack.install ${with:+--with "$with"}
