#!/usr/bin/env bash
# start-kafka.sh DATA [PORT] : start a KRaft node on 127.0.0.1:PORT (default 19092; its controller takes CPORT, PORT+1) and return when it serves.
# A DATA that was used before keeps its topics. Stop it with stop.sh DATA.
#   KAFKA_HOME  what get-kafka.sh filled (default ~/.cache/aqueduct/kafka)   NODE   the node's id (1)
#   EXTRA       more lines for server.properties; they win                   HEAP   384m       JVM  more JVM flags
#   OWNER       a process id: when it is gone, the broker is killed and DATA removed
# SCRAM users: alice / alice-secret, bob / bob-secret.
set -euo pipefail
DATA=${1:?usage: start-kafka.sh DATA [PORT]}; PORT=${2:-19092}; CPORT=${CPORT:-$((PORT+1))}; NODE=${NODE:-1}
KAFKA_HOME=$(cd "${KAFKA_HOME:-$HOME/.cache/aqueduct/kafka}" && pwd); A=$KAFKA_HOME/kafka.jsa; T=$KAFKA_HOME/format
alive() { [ -e "/proc/$1/stat" ] && ! grep -q ') Z' "/proc/$1/stat" 2>/dev/null; }
mkdir -p "$DATA"; DATA=$(cd "$DATA" && pwd); PIDF=$DATA/kafka.pid
if [ -e "$PIDF" ] && alive "$(cat "$PIDF")"; then echo "already running: pid $(cat "$PIDF")" >&2; exit 1; fi
J=(java -Xmx"${HEAP:-384m}" -Xms64m -XX:+UseSerialGC)

configure() { # dir port controller-port
cat > "$1/server.properties" <<P
process.roles=broker,controller
node.id=$NODE
controller.quorum.voters=$NODE@127.0.0.1:$3
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$2,CONTROLLER://127.0.0.1:$3
advertised.listeners=PLAINTEXT://127.0.0.1:$2
inter.broker.listener.name=PLAINTEXT
log.dirs=$1/log
num.partitions=1
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
P
printf '%s\n' "${EXTRA:-}" >> "$1/server.properties"
cat > "$1/log4j2.properties" <<P
rootLogger.level=${LOG_LEVEL:-WARN}
rootLogger.appenderRef.0.ref=o
appender.o.type=Console
appender.o.name=o
appender.o.layout.type=PatternLayout
appender.o.layout.pattern=%d %p %m (%c{1})%n
logger.s.name=kafka.server.KafkaRaftServer
logger.s.level=INFO
P
}
launch() { # dir, more JVM flags: sets P
  local dir=$1; shift
  setsid "${J[@]}" "$@" -Dlog4j2.configurationFile="$dir/log4j2.properties" -cp "$KAFKA_HOME/libs/*" kafka.Kafka "$dir/server.properties" \
    >> "$dir/kafka.out" 2>&1 < /dev/null 9>&- &
  P=$!; }
wait_ready() { # dir, bytes of kafka.out before this start
  for _ in $(seq 1 1200); do
    tail -c +$(($2 + 1)) "$1/kafka.out" | grep -q 'Kafka Server started' && return
    alive "$P" || { tail -30 "$1/kafka.out" >&2; echo "the broker ended while starting" >&2; return 1; }
    sleep 0.05
  done
  tail -30 "$1/kafka.out" >&2; echo "not ready after 60 s" >&2; return 1; }

# Once per KAFKA_HOME: what formatting writes is small and takes a JVM, so it is kept as a template; and a class data archive,
# written by a clean stop, halves the time and CPU of every later start.
if [ ! -e "$T" ] || [ ! -e "$A" ]; then (
  exec 9> "$KAFKA_HOME/.lock"; flock 9
  if [ ! -e "$T" ] || [ ! -e "$A" ]; then
    W=$(mktemp -d "$KAFKA_HOME/first.XXXXXX"); trap 'rm -rf "$W"' EXIT
    free() { local p; while p=$((20000 + RANDOM % 12000)); (exec 3<> "/dev/tcp/127.0.0.1/$p") 2>/dev/null; do :; done; echo $p; }
    mkdir "$W/log"; EXTRA= NODE=1; configure "$W" "$(free)" "$(free)"
    "${J[@]}" -Dlog4j2.configurationFile="$W/log4j2.properties" -cp "$KAFKA_HOME/libs/*" kafka.tools.StorageTool format -t AqueductTestCluster0AA -c "$W/server.properties" \
      $(for user in alice bob; do for n in 256 512; do echo "--add-scram SCRAM-SHA-$n=[name=$user,password=$user-secret]"; done; done) > "$W/format.out" 2>&1 || { cat "$W/format.out" >&2; exit 1; }
    rm -rf "$T"; cp -r "$W/log" "$T"
    : > "$W/kafka.out"; launch "$W" -XX:ArchiveClassesAtExit="$W/kafka.jsa" -Xlog:cds=off -Xlog:cds+dynamic=off
    wait_ready "$W" 0; kill "$P"; while alive "$P"; do sleep 0.1; done
    mv -f "$W/kafka.jsa" "$A"
  fi ); fi

(exec 3<> "/dev/tcp/127.0.0.1/$PORT") 2>/dev/null && { echo "port $PORT is taken" >&2; exit 1; }
configure "$DATA" "$PORT" "$CPORT"
if [ ! -e "$DATA/log/meta.properties" ]; then
  mkdir -p "$DATA/log"; cp "$T"/* "$DATA/log/"
  # Directory ids differ within a cluster.
  sed -i "s/^node.id=.*/node.id=$NODE/; s/^directory.id=..../directory.id=N00$NODE/" "$DATA/log/meta.properties"
fi
touch "$DATA/kafka.out"; SAID=$(stat -c %s "$DATA/kafka.out")
launch "$DATA" -XX:SharedArchiveFile="$A" -Xshare:auto -Xlog:cds=off -Xlog:cds+dynamic=off ${JVM:-}
echo $P > "$PIDF"
if [ -n "${OWNER:-}" ]; then
  ( while alive "$OWNER" && alive "$P"; do sleep 0.5; done
    alive "$OWNER" || { kill -9 "$P"; rm -rf "$DATA"; } ) > /dev/null 2>&1 < /dev/null &
fi
wait_ready "$DATA" "$SAID"
echo "kafka 127.0.0.1:$PORT pid $P"
