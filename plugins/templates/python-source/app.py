"""Counts: a numbered record each interval, which goes on where it was after a restart."""

import json

import aqueduct


class Counter(aqueduct.Source):
    def __init__(self, config, share, resume):
        self.config = config
        stored = [offset.position["next"] for offset in resume if offset.partition == {"counter": "0"}]
        self.next = stored[0] if stored else 0

    def poll(self, limits):
        batch = aqueduct.Batch()
        left = self.config.get("count", float("inf")) - self.next
        if left <= 0:
            aqueduct.sleep(limits.wait_ms)
            return batch, []
        if not aqueduct.sleep(self.config["interval.ms"]) and self.config["interval.ms"] > 0:
            return batch, []
        for _ in range(int(min(left, limits.max_records, self.config["batch"]))):
            value = json.dumps({"n": self.next, "greeting": self.config["greeting"]})
            batch.record(self.config["topic"], value, key=str(self.next), timestamp=aqueduct.now_ms())
            self.next += 1
        return batch, [aqueduct.Offset({"counter": "0"}, {"next": self.next})]


Source = aqueduct.source(Counter)
