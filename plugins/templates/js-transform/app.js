// Writes one field of a JSON object in upper case; what is no JSON object goes to the dead letter queue.

import * as aqueduct from "./aqueduct.js";

class Upper extends aqueduct.Transform {
  apply(records, out) {
    for (const record of records) {
      if (record.value === null) {
        out.keep(record);
        continue;
      }
      let value;
      try {
        value = record.json();
      } catch {
        // Judged below.
      }
      if (typeof value !== "object" || value === null || Array.isArray(value)) {
        out.reject(record, "it is no JSON object");
      } else if (typeof value[this.config.field] === "string") {
        value[this.config.field] = value[this.config.field].toUpperCase();
        out.change(record, { value: JSON.stringify(value) });
      } else {
        out.keep(record);
      }
    }
  }
}

export const transform = aqueduct.transform(Upper);
