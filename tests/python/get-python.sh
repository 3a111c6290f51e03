#!/usr/bin/env bash
# get-python.sh DEST NAME : a virtual environment DEST/NAME with what NAME.txt beside this script lists. A complete one is left as it is.
# One for each list: programs of different authors want different versions of the same packages.
# Needs python3 (3.11+) with venv, and PyPI (or the mirror of pip's configuration).
set -euo pipefail
DEST=${1:?usage: get-python.sh DEST NAME} NAME=${2:?usage: get-python.sh DEST NAME}
LIST=$(cd "$(dirname "$0")" && pwd)/$NAME.txt
mkdir -p "$DEST"; DEST=$(cd "$DEST" && pwd)
exec 9> "$DEST/.lock-$NAME"; flock 9
cmp -s "$LIST" "$DEST/$NAME/.complete" && "$DEST/$NAME/bin/python" -c '' 2> /dev/null && exit 0
rm -rf "${DEST:?}/$NAME"
python3 -m venv "$DEST/$NAME"
for try in 1 2 3; do
  "$DEST/$NAME/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps -r "$LIST" && break
  [ $try != 3 ] || { echo "cannot install $LIST with pip" >&2; exit 1; }
done
# The list names what its packages need, too: nothing is resolved anew on another day.
"$DEST/$NAME/bin/python" -m pip check --disable-pip-version-check > /dev/null \
  || { "$DEST/$NAME/bin/python" -m pip check >&2; echo "$LIST is not complete" >&2; exit 1; }
cp "$LIST" "$DEST/$NAME/.complete"
