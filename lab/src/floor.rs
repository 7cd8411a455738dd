//! The floor: what the packets of a fan-out cost without QUIC.
//!
//! One socket, `sendmmsg` of 64, and for each packet what no sender of QUIC can leave out: a copy of
//! the payload, AES-128-GCM and header protection under the receiver's own keys (RFC 9001 section
//! 5). No connection, no acknowledgement, no timer, no allocation.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ring::aead::quic::{AES_128, HeaderProtectionKey};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use stentor_relay::quic::sys::{
    BindOptions, ReceiveBatch, SendBatch, bind, family, pin_to_core, thread_cpu_time,
};

/// Bytes of a short header as the relay's listeners see it: flags, connection ID, packet number.
const HEADER: usize = 1 + 8 + 2;
/// Bytes of the authentication tag.
const TAG: usize = 16;

/// What the floor is to send.
#[derive(Clone, Copy, Debug)]
pub struct FloorPlan {
    /// Receivers.
    pub listeners: usize,
    /// Sockets that they share.
    pub sockets: usize,
    /// Packets a second to each.
    pub rate_hz: f64,
    /// Bytes of each packet (the UDP payload).
    pub packet_bytes: usize,
    /// How long.
    pub time: Duration,
    /// The sender's core.
    pub core: usize,
    /// The receiver's core.
    pub receiver_core: usize,
}

/// What it cost.
#[derive(Clone, Copy, Debug)]
pub struct FloorCost {
    /// Packets sent.
    pub sent: u64,
    /// Packets that the receiver took.
    pub received: u64,
    /// The sender's CPU time, user and system, for each packet, in microseconds.
    pub cpu_us: f64,
}

/// One receiver's keys.
struct Target {
    address: SocketAddr,
    key: LessSafeKey,
    mask: HeaderProtectionKey,
    cid: [u8; 8],
}

/// Sends the floor's packets on a thread of its own and says what they cost.
///
/// # Errors
/// When a socket or a core is not to be had.
pub fn run(plan: FloorPlan) -> Result<FloorCost> {
    let sockets = (0..plan.sockets.max(1))
        .map(|_| bind((Ipv4Addr::LOCALHOST, 0).into(), BindOptions::default()))
        .collect::<std::io::Result<Vec<UdpSocket>>>()?;
    let addresses =
        sockets.iter().map(UdpSocket::local_addr).collect::<std::io::Result<Vec<_>>>()?;
    let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let receiver = {
        let (stop, received) = (stop.clone(), received.clone());
        std::thread::spawn(move || receive(&sockets, plan.receiver_core, &stop, &received))
    };
    let sender = std::thread::spawn(move || send(&plan, &addresses));
    let sent = sender.join().map_err(|_| anyhow!("the floor's sender panicked"))?;
    std::thread::sleep(Duration::from_millis(50));
    stop.store(true, Ordering::Relaxed);
    receiver.join().map_err(|_| anyhow!("the floor's receiver panicked"))??;
    let (sent, cpu) = sent?;
    let cpu_us = cpu.as_secs_f64() * 1e6 / sent.max(1) as f64;
    Ok(FloorCost { sent, received: received.load(Ordering::Relaxed), cpu_us })
}

fn send(plan: &FloorPlan, addresses: &[SocketAddr]) -> Result<(u64, Duration)> {
    pin_to_core(plan.core)?;
    let socket = bind((Ipv4Addr::UNSPECIFIED, 0).into(), BindOptions::default())?;
    let mut batch = SendBatch::new(family(&socket)?, 0);
    let targets = (0..plan.listeners)
        .map(|n| target(n, addresses[n % addresses.len()]))
        .collect::<Result<Vec<_>>>()?;
    let payload = vec![0x5a; plan.packet_bytes.saturating_sub(HEADER + TAG)];
    let interval = Duration::from_secs_f64(1.0 / plan.rate_hz);
    let (started, mut due) = (Instant::now(), Instant::now());
    let (before, mut sent, mut number) = (thread_cpu_time(), 0, 0u16);
    while started.elapsed() < plan.time {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += interval;
        number = number.wrapping_add(1);
        for target in &targets {
            seal(batch.slot(), target, number, &payload)?;
            let marks = stentor_relay::quic::sys::Marks { ecn: 0, source: None };
            batch.commit(target.address, marks);
            if batch.is_full() {
                sent += batch.flush(socket.as_fd()).sent as u64;
            }
        }
        sent += batch.flush(socket.as_fd()).sent as u64;
    }
    Ok((sent, thread_cpu_time().saturating_sub(before)))
}

fn target(n: usize, address: SocketAddr) -> Result<Target> {
    let secret = [(n % 251) as u8; 16];
    let unspecified = |_| anyhow!("ring refuses a key of 16 bytes");
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &secret).map_err(unspecified)?);
    let mask = HeaderProtectionKey::new(&AES_128, &secret).map_err(unspecified)?;
    let cid = (n as u64).to_be_bytes();
    Ok(Target { address, key, mask, cid })
}

/// One packet as RFC 9001 section 5 has it: sealed payload, protected header.
fn seal(out: &mut Vec<u8>, target: &Target, number: u16, payload: &[u8]) -> Result<()> {
    out.push(0x41);
    out.extend_from_slice(&target.cid);
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(payload);
    let mut nonce = [0x17; 12];
    nonce[10] ^= (number >> 8) as u8;
    nonce[11] ^= number as u8;
    let (header, body) = out.split_at_mut(HEADER);
    let tag = target
        .key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&*header), body)
        .map_err(|_| anyhow!("ring does not seal"))?;
    out.extend_from_slice(tag.as_ref());
    // The sample starts four bytes after the start of the packet number (section 5.4.2).
    let sample = out.get(HEADER + 2..HEADER + 18).context("the packet is too short")?;
    let mask = target.mask.new_mask(sample).map_err(|_| anyhow!("ring does not mask"))?;
    out[0] ^= mask[0] & 0x1f;
    out[9] ^= mask[1];
    out[10] ^= mask[2];
    Ok(())
}

fn receive(
    sockets: &[UdpSocket],
    core: usize,
    stop: &AtomicBool,
    received: &AtomicU64,
) -> Result<()> {
    pin_to_core(core)?;
    let mut batch = ReceiveBatch::new();
    while !stop.load(Ordering::Relaxed) {
        for socket in sockets {
            loop {
                let count = batch.receive(socket.as_fd(), 64)?;
                received.fetch_add(count as u64, Ordering::Relaxed);
                if count < 64 {
                    break;
                }
            }
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_its_size_and_opens_again() {
        let target = target(7, ([127, 0, 0, 1], 9).into()).unwrap();
        let mut packet = Vec::new();
        seal(&mut packet, &target, 0x0102, &[9; 100]).unwrap();
        assert_eq!(packet.len(), HEADER + 100 + TAG);
        let mask = target.mask.new_mask(&packet[HEADER + 2..HEADER + 18]).unwrap();
        packet[0] ^= mask[0] & 0x1f;
        packet[9] ^= mask[1];
        packet[10] ^= mask[2];
        assert_eq!((packet[0], &packet[9..11]), (0x41, &[1, 2][..]));
        let mut nonce = [0x17; 12];
        nonce[10] ^= 1;
        nonce[11] ^= 2;
        let (header, body) = packet.split_at_mut(HEADER);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let open = target.key.open_in_place(nonce, Aad::from(&*header), body);
        assert_eq!(open.unwrap(), [9; 100]);
    }
}
