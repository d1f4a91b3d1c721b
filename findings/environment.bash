# Sourced by every finding, with pinned packages as arguments: installs them into a virtual
# environment in a temporary folder, goes there, and removes it at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$@"
cd "$folder"
