#!/usr/bin/env bash
# get-kafka.sh DEST : fetch Apache Kafka with Maven into DEST. A complete DEST is left as it is, one of an older version of this script is completed.
#   DEST/libs          class path of the broker, the tools and the Connect worker
#   DEST/plugins/file  the FileStream connectors, kept off that class path for Connect's plugin.path
# Needs a JDK 17+, mvn 3.6+ and Maven Central (or the mirror of ~/.m2/settings.xml).
set -euo pipefail
DEST=${1:?usage: get-kafka.sh DEST}
KAFKA_VERSION=${KAFKA_VERSION:-4.3.1} SCALA=2.13 LOG4J_VERSION=2.25.4
mkdir -p "$DEST"; DEST=$(cd "$DEST" && pwd)
exec 9> "$DEST/.lock"; flock 9
STAMP=$DEST/.with-connect-$KAFKA_VERSION
[ -e "$STAMP" ] && exit 0
# Jars of this version may be there, and in use: only those of another version go.
[ -e "$DEST/libs/kafka_$SCALA-$KAFKA_VERSION.jar" ] || rm -rf "$DEST/libs" "$DEST/plugins"
# The class data archive and the formatted template belong to one class path and version.
rm -rf "$DEST"/kafka.jsa* "$DEST"/format-* "$DEST"/.complete-* "$DEST"/.with-connect-*
dep() { # artifact version [group]
  printf '<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version>%s</dependency>\n' "${3:-org.apache.kafka}" "$1" "$2" "${EXCLUDE:-}"; }
pom() { # name
  echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>fetch</groupId>'
  echo "<artifactId>$1</artifactId><version>1</version><packaging>pom</packaging><dependencies>"; cat; echo '</dependencies></project>'; }
copy() { # pom folder
  for try in 1 2 3; do
    # -U from the second try on: Maven remembers a failed download for a day.
    mvn -q -B -ntp -Dstyle.color=never ${MVN_ARGS:-} -f "$1" $([ $try = 1 ] || echo -U) \
      org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -DoutputDirectory="$2" -DincludeScope=runtime && return
  done
  echo "cannot fetch Apache Kafka $KAFKA_VERSION with mvn" >&2; return 1; }
{ for part in kafka_$SCALA kafka-tools connect-runtime connect-transforms connect-json; do dep $part "$KAFKA_VERSION"; done
  dep log4j-slf4j-impl "$LOG4J_VERSION" org.apache.logging.log4j; } | pom kafka > "$DEST/kafka.pom.xml"
EXCLUDE='<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>' dep connect-file "$KAFKA_VERSION" | pom file > "$DEST/file.pom.xml"
copy "$DEST/kafka.pom.xml" "$DEST/libs"
copy "$DEST/file.pom.xml" "$DEST/plugins/file"
ls "$DEST"/libs/kafka_$SCALA-*.jar "$DEST"/libs/connect-runtime-*.jar "$DEST"/plugins/file/connect-file-*.jar > /dev/null
touch "$STAMP"
