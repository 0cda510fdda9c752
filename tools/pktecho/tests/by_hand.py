"""Tests pktecho with a client that implements the wire format with only struct and zlib.

Usage: by_hand.py PATH_OF_PKTECHO [UNITTEST OPTIONS]
"""

import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import unittest
import zlib

PKTECHO = sys.argv.pop(1)
LIMIT = 32 * 1024 * 1024


def pattern(length, seed):
    """A payload with the pattern of the captured test vectors."""
    period = bytes((i * 131 + seed * 17 + 7) % 256 for i in range(256))
    return (period * (length // 256 + 1))[:length]


class Server:
    def __init__(self, *options, log="warn"):
        command = [PKTECHO, "--listen", "127.0.0.1:0", "--threads", "1", *options]
        environment = {**os.environ, "RUST_LOG": log}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        first_line = self.process.stdout.readline()
        assert first_line.startswith("listening on "), first_line
        self.port = int(first_line.rsplit(":", 1)[1])

    def rss_bytes(self):
        return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(self.process.pid)])) * 1024

    def stop(self):
        """Stops the server. Returns its exit code and its standard error."""
        self.process.terminate()
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


class Client:
    def __init__(self, server, crc=False):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self.crc = crc

    def frame(self, payload):
        frame = struct.pack("<I", len(payload)) + payload
        return frame + struct.pack("<I", zlib.crc32(frame)) if self.crc else frame

    def send(self, payload):
        self.socket.sendall(self.frame(payload))

    def read(self, length):
        data = bytearray()
        while len(data) < length:
            part = self.socket.recv(min(length - len(data), 1 << 20))
            if not part:
                raise EOFError(f"{len(data)} of {length} bytes")
            data += part
        return bytes(data)

    def receive(self):
        header = self.read(4)
        payload = self.read(struct.unpack("<I", header)[0])
        if self.crc:
            expected = zlib.crc32(header + payload)
            assert struct.unpack("<I", self.read(4))[0] == expected, "wrong checksum"
        return payload

    def is_closed_by_the_server(self):
        """Waits for the end of the stream. A reset counts as an end: the server resets a connection with unread bytes."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.socket.close()


class Echo(unittest.TestCase):
    def start(self, *options, log="warn"):
        server = Server(*options, log=log)
        # Kills the server if the test fails before it stops it.
        self.addCleanup(lambda: server.process.poll() is None and server.process.kill())
        return server

    def connect(self, server, crc=False):
        client = Client(server, crc)
        self.addCleanup(client.close)
        return client

    def stop_cleanly(self, server):
        code, errors = server.stop()
        self.assertEqual(code, 0)
        return errors

    def test_every_byte_comes_back(self):
        for crc in (False, True):
            server = self.start(*["--crc"] * crc)
            client = self.connect(server, crc)
            for length in [0, 1, 3, 4, 127, 128, 129, 255, 256, 511, 512, 513, 2047, 2048, 65535, 65536, 1 << 20]:
                client.send(pattern(length, length))
                self.assertEqual(client.receive(), pattern(length, length), f"{length} bytes, crc {crc}")
            largest = pattern(LIMIT, 5)
            sending = threading.Thread(target=client.send, args=(largest,))
            sending.start()
            self.assertTrue(client.receive() == largest, f"32 MiB, crc {crc}")
            sending.join()
            client.close()
            self.assertEqual(self.stop_cleanly(server), "")

    def test_an_echo_of_32_mib_uses_at_most_2_2_times_its_size(self):
        if not os.path.exists("/proc/self/status"):
            self.skipTest("needs /proc for the peak memory")
        for crc in (False, True):
            server = self.start(*(["--crc"] if crc else []))
            client = self.connect(server, crc)
            largest = pattern(LIMIT, 5)
            for _ in range(3):
                client.send(largest)
                self.assertTrue(client.receive() == largest)
            with open(f"/proc/{server.process.pid}/status") as status:
                peak = next(line for line in status if line.startswith("VmHWM:"))
            times = int(peak.split()[1]) * 1024 / LIMIT
            print(f"an echo of 32 MiB, crc {crc}: peak memory of {times:.2f} times its size", file=sys.stderr)
            self.assertLessEqual(times, 2.2)
            client.close()
            self.stop_cleanly(server)

    def test_all_replies_arrive_after_a_half_close(self):
        server = self.start()
        client = self.connect(server)
        for number in range(2000):
            client.send(pattern(number, number))
        client.socket.shutdown(socket.SHUT_WR)
        for number in range(2000):
            self.assertEqual(client.receive(), pattern(number, number))
        self.assertTrue(client.is_closed_by_the_server())
        self.assertEqual(self.stop_cleanly(server), "")

    def test_a_length_over_the_limit_closes_the_connection_and_allocates_nothing(self):
        # Errors of clients are logged at the level DEBUG.
        server = self.start(log="pktconn=debug")
        client, bystander = self.connect(server), self.connect(server)
        client.send(b"before")
        self.assertEqual(client.receive(), b"before")
        before = server.rss_bytes()
        client.socket.sendall(struct.pack("<I", LIMIT + 1))
        self.assertTrue(client.is_closed_by_the_server())
        self.assertLess(server.rss_bytes() - before, 1 << 20)
        bystander.send(b"still served")
        self.assertEqual(bystander.receive(), b"still served")
        bystander.close()
        errors = self.stop_cleanly(server)
        self.assertIn(f"frame of {LIMIT + 1} bytes exceeds the limit of {LIMIT}", errors)

    def test_a_wrong_checksum_closes_the_connection(self):
        server = self.start("--crc", log="pktconn=debug")
        client = self.connect(server, crc=True)
        frame = bytearray(client.frame(b"corrupted on the way"))
        frame[8] ^= 1
        client.socket.sendall(frame)
        self.assertTrue(client.is_closed_by_the_server())
        self.assertIn("checksum mismatch: the frame contains", self.stop_cleanly(server))

    def test_an_end_in_the_middle_of_a_frame_is_logged(self):
        server = self.start(log="pktconn=debug")
        client = self.connect(server)
        client.socket.sendall(client.frame(b"cut")[:5])
        client.socket.shutdown(socket.SHUT_WR)
        self.assertTrue(client.is_closed_by_the_server())
        self.assertIn("after 5 of the 7 bytes of a frame", self.stop_cleanly(server))

    def test_a_header_that_announces_32_mib_costs_at_most_8_kib(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 1100:
            self.skipTest(f"the limit on open files is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
        server = self.start()
        before = server.rss_bytes()
        clients = []
        for _ in range(1000):
            client = self.connect(server)
            # The reply to the packet before the header shows that the server has read the header too.
            client.socket.sendall(client.frame(b"x") + struct.pack("<I", LIMIT))
            clients.append(client)
        for client in clients:
            self.assertEqual(client.receive(), b"x")
        grown = (server.rss_bytes() - before) / 1000
        print(f"a connection that announced 32 MiB: {grown / 1024:.2f} KiB", file=sys.stderr)
        self.assertLessEqual(grown, 8 * 1024)
        for client in clients:
            client.close()
        self.stop_cleanly(server)


if __name__ == "__main__":
    unittest.main()
