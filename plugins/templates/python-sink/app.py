"""Posts records to a URL as JSON lines: a batch is in one request, so that an answer of 2xx makes all of it durable."""

import json

import aqueduct


class Post(aqueduct.Sink):
    def __init__(self, config):
        self.url = config["url"]

    def put(self, records, rejects):
        lines = []
        for record in records:
            try:
                lines.append(json.dumps(None if record.value is None else json.loads(record.value)))
            except ValueError:
                rejects.reject(record, "it is no JSON")
        if lines:
            self.post("".join(line + "\n" for line in lines))
        return True

    def post(self, body):
        answer = aqueduct.http(self.url, "POST", headers=[("content-type", "application/x-ndjson")], body=body)
        aqueduct.metrics.add("requests", status=answer.status)
        if not 200 <= answer.status < 300:
            # What was not committed is put again.
            later = answer.status in (408, 429) or answer.status >= 500
            raise aqueduct.Failure("status", f"the server answered {answer.status}", retriable=later)


Sink = aqueduct.sink(Post)
