//! A client that announces how rarely it acknowledges.
//!
//! An ACK costs a sender about half of what the datagram did, and audio is never sent again, so few
//! are wanted. quinn-proto's sender caps the delay that it asks for (ACK_FREQUENCY,
//! draft-ietf-quic-ack-frequency) at the larger of a round trip and 25 ms, but never asks for less
//! than the receiver's `min_ack_delay`. So our clients announce theirs. Whatever goes missing is
//! still reported at once: the reordering threshold and IMMEDIATE_ACK are not touched by it.
//!
//! quinn-proto has no setting for these transport parameters; they are put in on their way into the
//! TLS session.

use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use quinn_proto::coding::Codec;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::crypto::{ClientConfig, Session};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, Side, VarInt};

/// How long a listener's client waits before it acknowledges: longer than the ten ticks of 20 ms after
/// which the node asks for an ACK, so that each ACK is for ten.
pub const PATIENCE: Duration = Duration::from_millis(230);

/// A client's cryptography whose sessions announce `patience` (rounded to milliseconds, 16 s at
/// most: RFC 9000 section 18.2).
#[must_use]
pub fn patient(tls: QuicClientConfig, patience: Duration) -> Arc<dyn ClientConfig> {
    Arc::new(Patient { tls: Arc::new(tls), patience })
}

/// A client's TLS whose transport parameters carry a patience.
struct Patient {
    tls: Arc<QuicClientConfig>,
    patience: Duration,
}

impl ClientConfig for Patient {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let tls = self.tls.clone();
        match announce(params, self.patience) {
            Some(patient) => tls.start_session(version, server_name, &patient),
            None => tls.start_session(version, server_name, params),
        }
    }
}

/// The same parameters with `max_ack_delay` and `min_ack_delay` of `patience`; `None` if they cannot
/// be read back, and then the peer hears of no patience.
fn announce(params: &TransportParameters, patience: Duration) -> Option<TransportParameters> {
    let mut written = Vec::new();
    params.write(&mut written);
    let mut rest = written.as_slice();
    let mut patient = Vec::with_capacity(written.len() + 16);
    while !rest.is_empty() {
        let parameter = rest;
        let id = VarInt::decode(&mut rest).ok()?.into_inner();
        let length = usize::try_from(VarInt::decode(&mut rest).ok()?.into_inner()).ok()?;
        rest = rest.get(length..)?;
        if id != MAX_ACK_DELAY && id != MIN_ACK_DELAY {
            patient.extend_from_slice(&parameter[..parameter.len() - rest.len()]);
        }
    }
    let millis = u32::try_from(patience.as_millis()).ok()?.min(MOST_MS);
    put(&mut patient, MAX_ACK_DELAY, millis);
    put(&mut patient, MIN_ACK_DELAY, millis * 1_000);
    // The reader takes the part of the server, whom a client's parameters are for.
    TransportParameters::read(Side::Server, &mut patient.as_slice()).ok()
}

/// Writes one parameter: its number, its length, its value, all as variable-length integers.
fn put(parameters: &mut Vec<u8>, id: u64, value: u32) {
    let mut bytes = Vec::with_capacity(8);
    VarInt::from_u32(value).encode(&mut bytes);
    VarInt::from_u64(id).expect("both numbers are under 2^62").encode(parameters);
    parameters.put_u8(bytes.len() as u8);
    parameters.extend_from_slice(&bytes);
}

/// `max_ack_delay` in milliseconds (RFC 9000 section 18.2).
const MAX_ACK_DELAY: u64 = 0x0b;
/// `min_ack_delay` in microseconds (draft-ietf-quic-ack-frequency-07, as quinn-proto speaks it).
const MIN_ACK_DELAY: u64 = 0xff04_de1b;
/// `max_ack_delay` stays under 2^14.
const MOST_MS: u32 = (1 << 14) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_carry_the_patience_and_keep_the_rest() {
        let mut bytes = Vec::new();
        put(&mut bytes, 0x04, 32_768);
        put(&mut bytes, MAX_ACK_DELAY, 20);
        put(&mut bytes, MIN_ACK_DELAY, 1_000);
        put(&mut bytes, 0x20, 65_535);
        let params = TransportParameters::read(Side::Server, &mut bytes.as_slice()).unwrap();
        let patient = announce(&params, Duration::from_millis(150)).unwrap();
        let mut expected = Vec::new();
        put(&mut expected, 0x04, 32_768);
        put(&mut expected, 0x20, 65_535);
        put(&mut expected, MAX_ACK_DELAY, 150);
        put(&mut expected, MIN_ACK_DELAY, 150_000);
        let expected = TransportParameters::read(Side::Server, &mut expected.as_slice()).unwrap();
        assert_eq!(patient, expected);
        assert!(announce(&params, Duration::from_secs(60)).is_some());
    }
}
