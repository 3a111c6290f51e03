"""An exchange for the scenario: pages of trades behind a cursor, and 429 for who asks more than ten times in a second."""
import http.server, json, random, sys, time, urllib.parse

BEGIN, PAGE, RATE = time.time(), 50, 10
tokens, filled = float(RATE), BEGIN


class Exchange(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global tokens, filled
        now = time.time()
        tokens, filled = min(RATE, tokens + (now - filled) * RATE), now
        if tokens < 1:
            return self.answer(429, {"error": "too many requests"}, {"Retry-After": "1"})
        tokens -= 1
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        first = int(query.get("cursor", ["0"])[0])
        last = min(first + PAGE, 1000 + int((now - BEGIN) * 20))
        trades = [self.trade(number) for number in range(first, last)]
        self.answer(200, {"trades": trades, "next": str(last) if last == first + PAGE else None}, {})

    def trade(self, number):
        chance = random.Random(number)
        price = round(chance.uniform(10, 500), 2)
        return {"id": number, "symbol": chance.choice(["ACME", "INIT", "HOOL", "UMBR"]), "price": price, "shares": chance.randint(1, 900)}

    def answer(self, status, body, headers):
        body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("localhost", int(sys.argv[1])), Exchange).serve_forever()
