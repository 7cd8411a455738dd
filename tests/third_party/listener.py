#!/usr/bin/env python3
"""A stranger's listener: joins a room and writes its first speaker as an Ogg Opus file (RFC 7845).
Written from docs/PROTOCOL.md alone; the numbers in comments are that page's sections."""
import argparse, asyncio, json, struct, sys
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, StreamDataReceived
class Listener(QuicConnectionProtocol):
    ended, why, inbox, room, early = asyncio.Event(), "", b"", None, []  # one instance a process
    seen, asked, first, newest = set(), set(), 0, 0  # ticks by number
    slot, base, frames = None, 0, {}  # the speaker's frames by seq
    def start(self, room, token, stream=0):
        hello = {"type": "hello", "version": 1, "role": "listener", "room": room, "agent": "stranger/1"}
        data = json.dumps(hello | ({"token": token} if token else {})).encode()
        self._quic.send_stream_data(stream, struct.pack(">H", len(data)) + data)  # 3.1
        self.transmit()
    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self.inbox += event.data
            while self.inbox[1:] and len(self.inbox) >= (end := 2 + int.from_bytes(self.inbox[:2], "big")):
                message, self.inbox = json.loads(self.inbox[2:end]), self.inbox[end:]
                if message["type"] == "welcome":
                    self.room = message["room"]["id"], message["room"]["epoch"]
        elif isinstance(event, DatagramFrameReceived):
            self.early = self.early[:63] + [event.data]  # 3.3: some may come before the welcome
        elif isinstance(event, ConnectionTerminated):
            self.why = f"closed with {event.error_code:#04x}: {event.reason_phrase}"  # 9
            self.ended.set()
        while self.room and self.early:
            self.datagram(self.early.pop(0))
    def datagram(self, data):
        if data[0] != 1 or struct.unpack_from(">II", data, 4) != self.room:  # 4.2, 6.2
            return
        pending, current, at = *struct.unpack_from(">II", data, 12), 16
        for _ in range(data[2]):
            number, clock, _, _, size = struct.unpack_from(">IQBBH", data, at)  # 5.1
            at += 16 + size
            if number not in self.seen:  # 6.1
                self.seen.add(number)
                self.first, self.newest = self.first or number, max(self.newest, number)
                self.tick(clock, data[at - size:at])
        gap = [n for n in range(max(self.first, current - 32), current) if n not in self.seen | self.asked]
        gap = [n for n in gap if not data[1] & 1 and not pending >> (current - 1 - n) & 1]
        if gap:  # 6.4; this listener asks once
            self.asked.update(gap)
            mask = sum(1 << (n - gap[0]) for n in gap)
            self.send(struct.pack(">BxxxIIII", 3, *self.room, gap[0], mask))  # 4.4
    def send(self, data):
        self._quic.send_datagram_frame(data)
        self.transmit()
    def tick(self, clock, payload):
        at = 1
        for _ in range(payload[0]):  # 5.2, 5.3
            slot, seq, _, size = struct.unpack_from(">HIBH", payload, at)
            at += 9 + size
            if self.slot is None:
                self.slot, self.base = slot, seq
            if slot == self.slot:
                self.frames[(seq - self.base + 2**31) % 2**32] = clock, payload[at - size:at]
    def packets(self):
        before = None
        for seq, (clock, opus) in sorted(self.frames.items()):
            if before:  # 6.6: fill what is lost, and silence
                silent = round((clock - before[1]) / 20_000) - 1
                yield from [bytes([opus[0] & 0xFC])] * max(seq - before[0] - 1, silent if silent > 2 else 0)
            before = seq, clock
            yield opus
def ogg_page(packet, granule, number, flags):
    lacing = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
    head = struct.pack("<4sBBQII4xB", b"OggS", 0, flags, granule, 1, number, len(lacing))
    data, crc = head + lacing + packet, 0
    for bit in (byte >> i & 1 for byte in data for i in range(7, -1, -1)):
        crc = (crc << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if crc >> 31 ^ bit else 0)
    return data[:22] + struct.pack("<I", crc) + data[26:]
def write(path, packets):
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1 + (packets[0][0] >> 2 & 1), 312, 48000, 0, 0)
    pages = [ogg_page(head, 0, 0, 2), ogg_page(b"OpusTags" + struct.pack("<I8sI", 8, b"stranger", 0), 0, 1, 0)]
    for i, packet in enumerate(packets, 1):
        pages.append(ogg_page(packet, 960 * i, i + 1, 4 * (i == len(packets))))
    open(path, "wb").write(b"".join(pages))
async def main(listener=Listener, alpn="stentor/1"):
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in dict(host=str, port=int, room=str, seconds=float, out=str).items():
        parser.add_argument(name, type=kind)
    parser.add_argument("--ca", help="PEM file with the certificate to trust")
    parser.add_argument("--token")
    args = parser.parse_args()
    config = QuicConfiguration(alpn_protocols=[alpn], cafile=args.ca, max_datagram_frame_size=65535)
    async with connect(args.host, args.port, configuration=config, create_protocol=listener) as client:
        client.start(args.room, args.token)
        await asyncio.wait([asyncio.ensure_future(client.ended.wait())], timeout=args.seconds)
        why, packets, first = client.why, list(client.packets()), client.first
    ticks = sum(n >= first for n in client.seen)
    print(json.dumps({"ticks": ticks, "missing": client.newest - first + (first > 0) - ticks,
                      "frames": len(client.frames), "seconds": len(packets) / 50}))
    if packets:
        write(args.out, packets)
    sys.exit(why or (None if packets else "nothing was heard"))
if __name__ == "__main__":
    asyncio.run(main())
