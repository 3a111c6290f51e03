#!/usr/bin/env bash
# stop.sh DIR... : stop what start-kafka.sh and start-connect.sh started there, by the recorded ids (TERM, and KILL after 20 s).
for dir; do for file in "$dir"/*.pid; do [ -e "$file" ] || continue
  alive() { [ -e "/proc/$1/stat" ] && ! grep -q ') Z' "/proc/$1/stat" 2>/dev/null; }
  pid=$(cat "$file"); kill "$pid" 2>/dev/null
  for _ in $(seq 1 200); do alive "$pid" || break; sleep 0.1; done
  alive "$pid" && kill -9 "$pid"; rm -f "$file"
done; done; exit 0
