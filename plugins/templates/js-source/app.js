// Counts: a numbered record each interval, which goes on where it was after a restart.

import { nowMs, sleep } from "aqueduct:connector/runtime@0.1.0";
import * as aqueduct from "./aqueduct.js";

class Counter extends aqueduct.Source {
  constructor(config, share, resume) {
    super(config, share, resume);
    this.next = resume.find(({ partition }) => partition.counter === "0")?.position.next ?? 0;
  }

  poll(limits) {
    const batch = new aqueduct.Batch();
    const left = (this.config.count ?? Infinity) - this.next;
    if (left <= 0) {
      sleep(limits.waitMs);
      return { batch, resume: [] };
    }
    if (!sleep(this.config["interval.ms"]) && this.config["interval.ms"] > 0) {
      return { batch, resume: [] };
    }
    for (let n = Math.min(left, limits.maxRecords, this.config.batch); n > 0; n--) {
      const value = JSON.stringify({ n: this.next, greeting: this.config.greeting });
      batch.record(this.config.topic, value, { key: String(this.next), timestamp: nowMs() });
      this.next += 1;
    }
    return { batch, resume: [{ partition: { counter: "0" }, position: { next: this.next } }] };
  }
}

export const source = aqueduct.source(Counter);
