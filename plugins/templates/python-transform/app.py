"""Writes one field of a JSON object in upper case; what is no JSON object goes to the dead letter queue."""

import json

import aqueduct


class Upper(aqueduct.Transform):
    def __init__(self, config):
        self.field = config["field"]

    def apply(self, records, out):
        for record in records:
            if record.value is None:
                out.keep(record)
                continue
            try:
                value = json.loads(record.value)
                value[self.field] = value[self.field].upper()
            except (ValueError, TypeError, AttributeError):
                out.reject(record, "it is no JSON object whose field is a text")
            except KeyError:
                out.keep(record)
            else:
                out.change(record, value=json.dumps(value))


Transform = aqueduct.transform(Upper)
