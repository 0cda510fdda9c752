#!/usr/bin/env python3
"""A client of the session protocol, version 1: an echo test that cuts its own connections, and a check of vectors."""
import argparse, collections, json, os, pathlib, random, select, socket, struct, sys, time, zlib

NO_ID, NEVER, CONTROL, PAYLOAD_LIMIT = bytes(16), float("inf"), 0xFFFFFF00, 32 << 20
PING_INTERVAL, PING_TIMEOUT, HELLO_TIMEOUT, CLOSE_TIMEOUT = 15, 45, 5, 5
REPLAY_BYTES = 1 << 20  # the test has at most 32 packets outstanding, far less: so nothing checks this limit
FRAMES = {  # in the order of the types; the final B of WELCOME and GOAWAY is the length of the string that follows
    "HELLO": ("BI16s16sIQQI", "version features id secret attempt received first_held replay_bytes"),
    "WELCOME": ("BI16s16sBQQIIIB", "version features id secret resumed received first_held replay_bytes "
                                   "ttl_ms min_ping_ms resume_at"),
    "REJECT": ("BI", "reason retry_after_ms"), "ACK": ("Q", "received"), "PING": ("8s", "data"), "PONG": ("8s", "data"),
    "GOAWAY": ("BIIB", "reason deadline_ms spread_ms address"), "BYE": ("BQ", "reason sent"), "STOP": ("Q", "received"),
    "DONE": ("", "")}
NAMES, WITH_STRING = list(FRAMES), ("WELCOME", "GOAWAY")

def check(holds, error):
    if not holds:
        raise error

class Codec:
    def __init__(self, big_endian=False, crc=False):
        self.order, self.prefix, self.crc = ("big", ">", crc) if big_endian else ("little", "<", crc)

    def encode(self, name, *values):
        if name == "DATA":
            frame = struct.pack(self.prefix + "I", len(values[0])) + values[0]
        else:
            text = values[-1].encode() if name in WITH_STRING else b""
            values = (*values[:-1], len(text)) if name in WITH_STRING else values
            body = struct.pack(self.prefix + FRAMES[name][0], *values) + text
            frame = struct.pack(self.prefix + "IH", CONTROL | NAMES.index(name), len(body)) + body
        return frame + struct.pack("<I", zlib.crc32(frame)) if self.crc else frame

    def decode(self, buffer):
        """Returns (name, payload or fields, bytes used), or None if the frame is incomplete."""
        if len(buffer) < 4:
            return None
        start, size, limit, name = 4, int.from_bytes(buffer[:4], self.order), PAYLOAD_LIMIT, "DATA"
        if size >= CONTROL:
            number, size = size & 0xFF, int.from_bytes(buffer[4:6], self.order)
            check(number < len(NAMES) or number >= 0x80, ValueError("type"))
            start, limit, name = 6, 1024, NAMES[number] if number < 0x80 else "IGNORED"
        check(size <= limit, ValueError("length"))
        end, used = start + size, start + size + 4 * self.crc
        if len(buffer) < used:
            return None
        check(not self.crc or buffer[end:used] == struct.pack("<I", zlib.crc32(buffer[:end])), ValueError("checksum"))
        body = bytes(buffer[start:end])
        if name not in FRAMES:
            return name, body, used
        layout = struct.Struct(self.prefix + FRAMES[name][0])
        end = layout.size + (body[layout.size - 1] if name in WITH_STRING and len(body) >= layout.size else 0)
        check(len(body) == end or len(body) > end and name in ("HELLO", "WELCOME"), ValueError("length"))
        values = list(layout.unpack_from(body))
        if name in WITH_STRING:
            values[-1] = body[layout.size:end].decode()  # raises UnicodeDecodeError, which is a ValueError
        check(name != "WELCOME" or values[4] <= 1, ValueError("field"))
        return name, dict(zip(FRAMES[name][1].split(), values)), used

class Session:
    """A session, and its successor after GOAWAY. EOFError ends the session, OSError and ValueError the connection."""
    def __init__(self, address, codec):
        self.address, self.codec, self.waiting, self.inbox = address, codec, [], []
        self.resumes = self.sessions = self.tries = self.retry_at = 0
        self.sock, self.finished, self.over, self.problem = None, False, False, None
        self.begin()

    def begin(self):
        self.id, self.secret, self.resume_at, self.ttl, self.peer_stop = NO_ID, NO_ID, self.address, NEVER, None
        self.held = []  # the packets from first_held to `sent`; those in self.waiting have no number yet
        self.attempt, self.first_held, self.received, self.confirmed, self.was_settled = 0, 0, 0, False, False
        self.lost_at = self.move_at = self.close_at = NEVER

    def connect(self):
        self.tries += 1
        host, port = self.resume_at.rsplit(":", 1)
        self.sock = socket.create_connection((host.strip("[]"), int(port)), timeout=HELLO_TIMEOUT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbuf, self.due, self.written, self.seen = bytearray(), {}, set(), set()
        self.heard = self.pinged = time.monotonic()
        self.next, self.attempt = self.first_held + len(self.held), 1 if self.id == NO_ID else self.attempt + 1
        self.send("HELLO", 1, 0, self.id, self.secret, self.attempt, self.received, self.first_held, REPLAY_BYTES)

    def send(self, name, *values):
        self.written.add(name)
        self.sock.sendall(self.codec.encode(name, *values))  # the server always reads the little that is outstanding

    def detach(self):  # the pause before the next connection grows until there is progress
        if self.sock:
            self.sock.close()
        self.sock, self.lost_at = None, min(self.lost_at, time.monotonic())
        self.retry_at = max(self.retry_at, time.monotonic() + 0.02 * (2 ** min(self.tries, 6) - 1))

    def end(self, why):
        self.detach()
        nothing_numbered = why == "unknown" and not self.confirmed
        doubt = len(self.held) if self.peer_stop is None else 0
        check(self.was_settled or nothing_numbered, SystemExit(f"failed: session {why}, {doubt} packets in doubt"))
        if self.was_settled:
            self.sessions, self.over = self.sessions + 1, self.finished or self.move_at == NEVER
        self.waiting = self.held + self.waiting  # if any are held here, STOP has returned them
        self.begin()

    def poll(self, timeout):
        now = time.monotonic()
        try:
            check(now < min(self.close_at, self.lost_at + self.ttl if self.confirmed else NEVER), EOFError("expired"))
            if self.sock is None:
                return self.connect() if now >= self.retry_at else time.sleep(min(timeout, self.retry_at - now))
            check(now < self.heard + (PING_TIMEOUT if "WELCOME" in self.seen else HELLO_TIMEOUT), OSError("silence"))
            if "WELCOME" in self.seen:
                self.write(now)
            if select.select([self.sock], [], [], timeout)[0]:
                chunk, self.heard = self.sock.recv(65536), time.monotonic()
                self.inbuf += chunk
                while frame := self.codec.decode(self.inbuf):
                    del self.inbuf[:frame[2]]
                    self.frame(*frame[:2])
                check(chunk, OSError("closed by the server"))
        except (OSError, ValueError) as error:
            self.problem = error
            self.detach()
        except EOFError as error:
            self.end(str(error))

    def write(self, now):
        """Sends what may be written now: PING, ACK and PONG, the replay, new packets, BYE, DONE."""
        if now - max(self.heard, self.pinged) > self.ping_interval:
            self.pinged, self.due["PING"] = now, os.urandom(8)
        while self.due and "DONE" not in self.written:  # ACK after each read is sooner than required
            self.send(*self.due.popitem())
        if self.confirmed and "BYE" not in self.written:
            closing = self.peer_stop is not None or now > self.move_at
            if not closing:
                self.held, self.waiting = self.held + self.waiting, []
            for payload in self.held[self.next - self.first_held:]:
                self.next += 1
                self.send("DATA", payload)
            if closing or self.finished:
                self.send("BYE", 1 if now > self.move_at and not self.finished else 0, self.next)
        settled = "BYE" in self.written & self.seen and (not self.held or self.peer_stop is not None)
        check(settled or "DONE" not in self.seen, OSError("DONE too early"))
        if settled and "DONE" not in self.written:
            self.was_settled, self.close_at = True, now + self.ttl
            self.send("DONE")
        check("DONE" not in self.written & self.seen, EOFError("over"))

    def require(self, holds):
        if not holds:
            self.send("BYE", 5, 0)
            raise EOFError("diverged")

    def frame(self, name, value):
        now, welcomed = time.monotonic(), "WELCOME" in self.seen
        if name == "IGNORED" or name == "DATA" and not welcomed:
            return
        if name == "REJECT" and (not welcomed or value["reason"] == 3):
            ending = {1: "unknown", 2: "diverged", 3: "superseded", 6: "refused"}.get(value["reason"])
            check(not ending, EOFError(ending))
            self.retry_at = now + value["retry_after_ms"] / 1000
        check(welcomed != (name == "WELCOME") and name not in ("HELLO", "REJECT"), OSError(f"unexpected {name}"))
        check(name != "BYE" or value["reason"] != 5, EOFError("diverged"))
        self.require(name not in ("DATA", "BYE") or "BYE" not in self.seen)
        self.seen.add(name)
        self.confirmed = self.confirmed or welcomed
        if name == "WELCOME":
            new = dict(version=1, resumed=0, received=0, first_held=0)
            expected = new if self.id == NO_ID else dict(version=1, resumed=1, id=self.id, secret=self.secret)
            check(value["id"] != NO_ID and expected.items() <= value.items(), OSError("WELCOME does not fit HELLO"))
            self.require(value["first_held"] <= self.received)
            self.id, self.secret, self.resume_at = value["id"], value["secret"], value["resume_at"] or self.address
            self.ttl, self.ping_interval = value["ttl_ms"] / 1000, max(PING_INTERVAL, value["min_ping_ms"] / 1000)
            self.lost_at, self.confirmed, self.resumes = NEVER, value["resumed"] == 1, self.resumes + value["resumed"]
            self.due = {} if self.confirmed else {"ACK": 0}
        if name in ("WELCOME", "ACK", "STOP"):
            received = value["received"]
            self.require(self.first_held <= received <= self.next and self.peer_stop in (None, received))
            self.tries = 0 if received > self.first_held else self.tries
            self.held, self.first_held = self.held[received - self.first_held:], received
            self.next = received if name == "WELCOME" else self.next
            self.peer_stop = received if name == "STOP" else self.peer_stop
        elif name == "DATA":
            self.inbox.append(value)  # to take it over and to count it is one step
            self.tries, self.received = 0, self.received + 1
            self.due["ACK"] = self.received
        elif name == "PING":
            self.due["PONG"] = value["data"]
        elif name == "GOAWAY" and "BYE" not in self.written:
            spread_ms = min(value["spread_ms"], value["deadline_ms"])
            self.move_at = min(self.move_at, now + random.uniform(0, spread_ms) / 1000)
            self.close_at = min(self.close_at, now + value["deadline_ms"] / 1000 + CLOSE_TIMEOUT)
        elif name == "BYE":
            self.require(value["sent"] == self.received)

def content(index):
    generator = random.Random(index)
    return generator.randbytes(generator.choice((0, 1, 7, 2048, generator.randrange(2049), generator.randrange(200))))

def run(args):
    session, packets = Session(args.address, Codec(args.big_endian, args.crc)), [*map(content, range(args.packets))]
    received, queued, echo_at = 0, 0, time.monotonic()
    while not session.over and time.monotonic() < echo_at + 60:
        allowed = (session.resumes + 1) * len(packets) // max(1, args.cuts)  # spreads the cuts over the packets
        session.waiting += packets[queued:min(received + 32, allowed)]
        queued = max(queued, min(len(packets), received + 32, allowed))
        behind = session.resumes * len(packets) < args.cuts * queued
        if session.sock and behind and random.random() < (0.2 if "WELCOME" in session.seen else 0.02):
            session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
            session.detach()
        session.poll(0.005)
        echoes, session.inbox = session.inbox, []
        check(echoes == packets[received:received + len(echoes)], SystemExit(f"failed: wrong echo after {received}"))
        received, echo_at = received + len(echoes), time.monotonic() if echoes else echo_at
        session.finished = received == len(packets) and session.resumes >= args.cuts
    summary = f"{received} packets, {session.resumes} resumes, {session.sessions} sessions"
    why = f"{'ended early' if session.over else 'no echo in 60 s'} after {summary}, last problem: {session.problem}"
    check(session.over and session.finished, SystemExit(f"failed: {why}"))
    print(f"ok: {summary}")

def check_vectors(path):
    counts = collections.Counter()
    parsers = dict.fromkeys(("id", "secret", "data"), bytes.fromhex) | dict.fromkeys(("resume_at", "address"), str)
    for kind, entries in json.loads(pathlib.Path(path).read_text("utf-8")).items():
        for entry, key in ((entry, key) for entry in entries for key in entry if key[:2] in ("le", "be")):
            codec, raw, frame = Codec("be" in key, "crc" in key), bytes.fromhex(entry[key]), entry.get("frame")
            wanted = entry.get("error", ("IGNORED", raw[6:], len(raw)))
            if frame:
                fields = {name: parsers.get(name, int)(text) for name, text in frame["fields"].items()}
                wanted = (frame["name"], fields, len(raw))
            try:
                result = codec.decode(raw)
            except ValueError as error:
                result = "field" if isinstance(error, UnicodeDecodeError) else str(error)
            good = result == wanted and (kind != "frames" or codec.encode(result[0], *result[1].values()) == raw)
            counts[kind if good else f"WRONG {kind}"] += 1
    print(", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items())))
    sys.exit(any("WRONG" in kind for kind in counts))

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", nargs="?", metavar="HOST:PORT", default="127.0.0.1:14572")
    parser.add_argument("--packets", type=int, default=1000)
    parser.add_argument("--cuts", type=int, default=0, help="how many resumes to force at least")
    parser.add_argument("--crc", action="store_true")
    parser.add_argument("--big-endian", action="store_true")
    parser.add_argument("--vectors", metavar="FILE", help="check the vectors instead")
    arguments = parser.parse_args()
    check_vectors(arguments.vectors) if arguments.vectors else run(arguments)
