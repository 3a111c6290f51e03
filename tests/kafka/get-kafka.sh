#!/usr/bin/env bash
# get-kafka.sh DEST : fetch Apache Kafka's broker and tools with Maven into DEST/libs. A complete DEST is left as it is.
# Needs a JDK 17+, mvn 3.6+ and Maven Central (or the mirror of ~/.m2/settings.xml).
set -euo pipefail
DEST=${1:?usage: get-kafka.sh DEST}
KAFKA_VERSION=${KAFKA_VERSION:-4.3.1} SCALA=2.13 LOG4J_VERSION=2.25.4
mkdir -p "$DEST"; DEST=$(cd "$DEST" && pwd)
STAMP=$DEST/.complete-$KAFKA_VERSION
[ -e "$STAMP" ] && exit 0
rm -rf "$DEST/libs"
dep() { printf '<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>' "$@"; }
{ echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>fetch</groupId>'
  echo '<artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging><dependencies>'
  dep org.apache.kafka kafka_$SCALA "$KAFKA_VERSION"
  dep org.apache.kafka kafka-tools "$KAFKA_VERSION"
  dep org.apache.logging.log4j log4j-slf4j-impl "$LOG4J_VERSION"
  echo '</dependencies></project>'; } > "$DEST/pom.xml"
for try in 1 2 3; do
  # -U from the second try on: Maven remembers a failed download for a day.
  mvn -q -B -ntp -Dstyle.color=never ${MVN_ARGS:-} -f "$DEST/pom.xml" $([ $try = 1 ] || echo -U) \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -DoutputDirectory="$DEST/libs" -DincludeScope=runtime && break
  [ $try = 3 ] && { echo "cannot fetch Apache Kafka $KAFKA_VERSION with mvn" >&2; exit 1; }
done
ls "$DEST"/libs/kafka_$SCALA-*.jar > /dev/null
touch "$STAMP"
