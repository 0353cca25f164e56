#!/bin/sh
# Look for Chromium for the browser tests. If it is missing, install Debian's as root, or print what to do.
for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing Chromium for the browser tests"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >/dev/null && exit 0
fi
echo "No Chromium found: the browser tests are skipped. Install the package chromium, or run" >&2
echo "  .venv/bin/playwright install chromium" >&2
exit 0
