#!/usr/bin/env bash
# get-javascript.sh DEST [FROM] : DEST/node_modules with what FROM/package-lock.json lists, else the one beside this script. A complete one is left as it is.
# Needs node (20+) with npm, and npm's registry (or the mirror of its configuration). No package's own scripts are run.
set -euo pipefail
DEST=${1:?usage: get-javascript.sh DEST [FROM]}
FROM=$(cd "${2:-$(dirname "$0")}" && pwd)
mkdir -p "$DEST"; DEST=$(cd "$DEST" && pwd)
exec 9> "$DEST/.lock"; flock 9
cmp -s "$FROM/package-lock.json" "$DEST/.complete" && exit 0
cp "$FROM/package.json" "$FROM/package-lock.json" "$DEST/"
for try in 1 2 3; do
  (cd "$DEST" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error > /dev/null) && break
  [ $try != 3 ] || { echo "cannot install $FROM/package-lock.json with npm" >&2; exit 1; }
done
cp "$FROM/package-lock.json" "$DEST/.complete"
