#!/usr/bin/env bash
# start-connect.sh standalone|distributed DATA BOOTSTRAP REST_PORT [connector.properties ...] : start a Kafka Connect worker and return when its
# REST interface answers on 127.0.0.1:REST_PORT. Stop it with stop.sh DATA. A DATA that was used before keeps standalone's offsets.
#   KAFKA_HOME  what get-kafka.sh filled (default ~/.cache/aqueduct/kafka)    PLUGIN_PATH  default KAFKA_HOME/plugins
#   GROUP       group id and prefix of the three internal topics (distributed; default: connect)
#   EXTRA       more lines for worker.properties; they win                    HEAP  1g    JVM  more JVM flags
#   OWNER       a process id: when it is gone, the worker is killed and DATA removed
set -euo pipefail
MODE=${1:?usage: start-connect.sh standalone|distributed DATA BOOTSTRAP REST_PORT [connector files]} DATA=${2:?} BOOT=${3:?} PORT=${4:?}; shift 4
case $MODE in distributed) MAIN=ConnectDistributed;; standalone) MAIN=ConnectStandalone;; *) echo "mode $MODE?" >&2; exit 2;; esac
KAFKA_HOME=$(cd "${KAFKA_HOME:-$HOME/.cache/aqueduct/kafka}" && pwd); GROUP=${GROUP:-connect}
alive() { [ -e "/proc/$1/stat" ] && ! grep -q ') Z' "/proc/$1/stat" 2>/dev/null; }
mkdir -p "$DATA"; DATA=$(cd "$DATA" && pwd); PIDF=$DATA/connect.pid
(exec 3<> "/dev/tcp/127.0.0.1/$PORT") 2>/dev/null && { echo "port $PORT is taken" >&2; exit 1; }
{ cat <<P
bootstrap.servers=$BOOT
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
plugin.path=${PLUGIN_PATH:-$KAFKA_HOME/plugins}
listeners=http://127.0.0.1:$PORT
rest.advertised.host.name=127.0.0.1
P
if [ "$MODE" = standalone ]; then echo "offset.storage.file.filename=$DATA/offsets"; else
  echo "group.id=$GROUP"
  for topic in config offset status; do echo "$topic.storage.topic=$GROUP-${topic}s" | sed 's/-statuss$/-status/'; echo "$topic.storage.replication.factor=1"; done
fi
printf '%s\n' "${EXTRA:-}"; } > "$DATA/worker.properties"
cat > "$DATA/log4j2.properties" <<P
rootLogger.level=${LOG_LEVEL:-WARN}
rootLogger.appenderRef.0.ref=o
appender.o.type=Console
appender.o.name=o
appender.o.layout.type=PatternLayout
appender.o.layout.pattern=[%d] %p %X{connector.context}%m (%c{1})%n
P
A=$KAFKA_HOME/kafka.jsa; CDS=(); [ ! -e "$A" ] || CDS=(-XX:SharedArchiveFile="$A" -Xshare:auto -Xlog:cds=off -Xlog:cds+dynamic=off)
setsid java -Xms64m -Xmx"${HEAP:-1g}" ${CDS[@]+"${CDS[@]}"} ${JVM:-} -Dlog4j2.configurationFile="$DATA/log4j2.properties" \
  -cp "$KAFKA_HOME/libs/*" org.apache.kafka.connect.cli.$MAIN "$DATA/worker.properties" "$@" >> "$DATA/connect.out" 2>&1 < /dev/null &
P=$!; echo $P > "$PIDF"
if [ -n "${OWNER:-}" ]; then
  ( while alive "$OWNER" && alive "$P"; do sleep 0.5; done
    alive "$OWNER" || { kill -9 "$P"; rm -rf "$DATA"; } ) > /dev/null 2>&1 < /dev/null &
fi
for _ in $(seq 1 1200); do
  # 200 on /connectors: in distributed mode only once it has read its topics and joined the group.
  curl -fs -m 5 -o /dev/null "http://127.0.0.1:$PORT/connectors" && { echo "connect http://127.0.0.1:$PORT pid $P"; exit 0; }
  alive "$P" || { tail -30 "$DATA/connect.out" >&2; echo "Kafka Connect ended while starting" >&2; exit 1; }
  sleep 0.1
done
tail -30 "$DATA/connect.out" >&2; echo "not ready after 120 s" >&2; exit 1
