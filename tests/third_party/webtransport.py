#!/usr/bin/env python3
"""The stranger's listener over WebTransport: the same messages and datagrams, inside of HTTP/3.
Written from docs/PROTOCOL.md section 2.4; what is not WebTransport's is in listener.py."""
import asyncio, struct
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, DatagramReceived, HeadersReceived
from aioquic.quic.events import DatagramFrameReceived, StreamDataReceived
from listener import Listener, main

class Page(Listener):
    http, wanted, control, capsules = None, None, None, b""
    def start(self, room, token):
        self.http, self.wanted = H3Connection(self._quic, enable_webtransport=True), (room, token)
        host = self._quic.configuration.server_name.encode()
        request = {":method": b"CONNECT", ":scheme": b"https", ":authority": host, ":path": b"/v1/session",
                   ":protocol": b"webtransport"}
        stream = self._quic.get_next_available_stream_id()
        self.http.send_headers(stream, [(name.encode(), value) for name, value in request.items()])
        self.transmit()
    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived) and event.stream_id == self.control:
            return super().quic_event_received(event)  # aioquic would look for frames in it
        for inner in self.http.handle_event(event) if self.http else []:
            if isinstance(inner, HeadersReceived):
                status = dict(inner.headers)[b":status"]
                if status == b"200":  # the session is the CONNECT stream's: 0
                    self.control = self.http.create_webtransport_stream(inner.stream_id)
                    super().start(*self.wanted, stream=self.control)
                else:
                    self.end(f"refused with {status.decode()}")
            elif isinstance(inner, DatagramReceived):
                super().quic_event_received(DatagramFrameReceived(inner.data))
            elif isinstance(inner, DataReceived):
                self.capsules += inner.data
                if len(self.capsules) >= 7 and inner.stream_ended:  # type 0x2843, length, code, reason
                    at = 2 + (1 << (self.capsules[2] >> 6))
                    code, reason = *struct.unpack_from(">I", self.capsules, at), self.capsules[at + 4:]
                    self.end(f"closed with {code:#04x}: {reason.decode()}")
        if not isinstance(event, (StreamDataReceived, DatagramFrameReceived)) and not self.why:
            super().quic_event_received(event)
    def send(self, data):
        super().send(b"\0" + data)  # quarter stream id of the session
    def end(self, why):
        self.why = why
        self.ended.set()

if __name__ == "__main__":
    asyncio.run(main(Page, H3_ALPN[0]))
