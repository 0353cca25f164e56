#!/bin/sh
# install.sh FOLDER NAME: install the versions locked in requirements/NAME.txt and this project into the
# virtual environment FOLDER, which is created with $PYTHON if it does not exist.
#
# pip installs uv, and uv installs the rest in a tenth of the time. uv does not read pip's configuration,
# so its index and certificates are passed on; where uv cannot install, pip does.
set -eu
folder=$1 name=$2
cd "$(dirname "$0")/.."

if [ ! -x "$folder/bin/python" ]; then
    [ -n "${PYTHON:-}" ] || { echo "Python 3.11 or later is required and was not found" >&2; exit 1; }
    "$PYTHON" -m venv "$folder"
fi
pip() { "$folder/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

configured() { pip config list | sed -n "s/^[^ ]*\.$1='\(.*\)'\$/\1/p" | tail -n 1; }
index=$(configured index-url) certificates=$(configured cert)
[ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
[ -z "$certificates" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$certificates}"
export UV_LINK_MODE="${UV_LINK_MODE:-copy}"

pip install --require-hashes -r requirements/installer.txt
"$folder/bin/uv" pip install --quiet --python "$folder/bin/python" --require-hashes -r "requirements/$name.txt" ||
    pip install --require-hashes -r "requirements/$name.txt"
pip install --no-deps --no-build-isolation --editable .
