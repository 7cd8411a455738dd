//! Tests of the whole: real QUIC over loopback, real processes, a stranger's client.
