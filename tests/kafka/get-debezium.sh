#!/usr/bin/env bash
# get-debezium.sh DEST : fetch Debezium's Postgres connector with Maven into DEST/postgres/plugin: DEST/postgres is for Connect's plugin.path. A complete DEST is left as it is.
# get-debezium.sh DEST jdbc : its JDBC sink too, into DEST/jdbc/plugin (for the benchmark).
# Needs a JDK 17+, mvn 3.6+ and Maven Central (or the mirror of ~/.m2/settings.xml).
set -euo pipefail
DEST=${1:?usage: get-debezium.sh DEST [jdbc]}
# The last JDBC sink that is whole in Maven Central is older.
DEBEZIUM_VERSION=${DEBEZIUM_VERSION:-3.7.0.Final} JDBC_VERSION=${JDBC_VERSION:-3.5.0.Final}
mkdir -p "$DEST"; DEST=$(cd "$DEST" && pwd)
exec 9> "$DEST/.lock"; flock 9
again() { # Maven remembers a failed download for a day: -U from the second try on
  for try in 1 2 3; do mvn -q -B -ntp -Dstyle.color=never ${MVN_ARGS:-} $([ $try = 1 ] || echo -U) "$@" && return; done
  echo "cannot fetch Debezium $DEBEZIUM_VERSION with mvn" >&2; return 1; }
PLUGIN=org.apache.maven.plugins:maven-dependency-plugin:3.6.1
if [ ! -e "$DEST/.postgres-1-$DEBEZIUM_VERSION" ]; then
  rm -rf "$DEST/postgres" "$DEST"/.postgres-* "$DEST/download"
  again $PLUGIN:copy -Dartifact="io.debezium:debezium-connector-postgres:$DEBEZIUM_VERSION:tar.gz:plugin" -DoutputDirectory="$DEST/download"
  mkdir -p "$DEST/postgres/plugin"; tar -xzf "$DEST"/download/*.tar.gz -C "$DEST/postgres/plugin" --strip-components=1 --wildcards '*.jar'
  rm -rf "$DEST/download"; ls "$DEST"/postgres/plugin/debezium-connector-postgres-*.jar > /dev/null
  touch "$DEST/.postgres-1-$DEBEZIUM_VERSION"
fi
if [ "${2:-}" = jdbc ] && [ ! -e "$DEST/.jdbc-1-$JDBC_VERSION" ]; then
  rm -rf "$DEST/jdbc" "$DEST"/.jdbc-*
  again $PLUGIN:copy -Dartifact="io.debezium:debezium-connector-jdbc:$JDBC_VERSION:tar.gz:plugin" -DoutputDirectory="$DEST/download"
  mkdir -p "$DEST/jdbc/plugin"; tar -xzf "$DEST"/download/*.tar.gz -C "$DEST/jdbc/plugin" --strip-components=1 --wildcards '*.jar'
  rm -rf "$DEST/download"
  ls "$DEST"/jdbc/plugin/debezium-connector-jdbc-*.jar > /dev/null
  touch "$DEST/.jdbc-1-$JDBC_VERSION"
fi
