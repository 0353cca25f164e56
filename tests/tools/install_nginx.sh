#!/bin/sh
# Look for nginx for the fault tests. If it is missing, install Debian's as root, or print what to do.
command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing nginx for the fault suite"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nginx-light; } >/dev/null && exit 0
fi
echo "No nginx found: tests that need it are skipped. Install the package nginx-light" >&2
exit 0
