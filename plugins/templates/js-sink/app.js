// Posts records to a URL as JSON lines: a batch is in one request, so that an answer of 2xx makes all of it durable.

import { add } from "aqueduct:connector/metrics@0.1.0";
import * as aqueduct from "./aqueduct.js";

class Post extends aqueduct.Sink {
  async put(records, rejects) {
    const lines = [];
    for (const record of records) {
      try {
        lines.push(JSON.stringify(record.value === null ? null : record.json()) + "\n");
      } catch {
        rejects.reject(record, "it is no JSON");
      }
    }
    if (lines.length > 0) {
      await this.post(lines.join(""));
    }
    return true;
  }

  async post(body) {
    const headers = { "content-type": "application/x-ndjson" };
    const { status } = await fetch(this.config.url, { method: "POST", headers, body });
    add("requests", [["status", String(status)]], 1);
    if (status < 200 || status > 299) {
      // What was not committed is put again.
      const retriable = status === 408 || status === 429 || status >= 500;
      throw new aqueduct.Failure("status", `the server answered ${status}`, { retriable });
    }
  }
}

export const sink = aqueduct.sink(Post);
