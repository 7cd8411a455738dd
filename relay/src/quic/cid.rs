//! Connection IDs that carry their shard.
//!
//! Eight bytes: a random nonce (4), the shard under a mask (2), a tag (2). Mask and tag come from a
//! keyed hash of the nonce, so that an observer learns neither the shard nor which IDs belong to one
//! connection (RFC 9000 section 5.1), while every shard, holding the same key, can tell whose packet
//! it has been handed.

use std::fmt;
use std::hash::Hasher;
use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use ring::rand::{SecureRandom, SystemRandom};
use siphasher::sip::SipHasher13;

/// Bytes of every connection ID that this node issues.
pub const CID_BYTES: usize = 8;

/// The key under which all shards of a node mask and check connection IDs.
#[derive(Clone, Copy)]
pub struct CidKey([u8; 16]);

impl CidKey {
    /// A key from secret bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The shard that issued `cid`; `None` if no shard with this key did.
    ///
    /// One random ID in 65,536 passes. Somebody who has seen an ID can make it name another shard:
    /// that shard then finds no connection for it, and drops the packet.
    #[inline]
    #[must_use]
    pub fn shard_of(&self, cid: &[u8]) -> Option<u16> {
        let cid: &[u8; CID_BYTES] = cid.try_into().ok()?;
        let [n0, n1, n2, n3, s0, s1, t0, t1] = *cid;
        let (mask, tag) = self.mask_and_tag([n0, n1, n2, n3]);
        (u16::from_le_bytes([t0, t1]) == tag).then_some(u16::from_le_bytes([s0, s1]) ^ mask)
    }

    fn issue(&self, shard: u16, nonce: [u8; 4]) -> [u8; CID_BYTES] {
        let (mask, tag) = self.mask_and_tag(nonce);
        let [n0, n1, n2, n3] = nonce;
        let [s0, s1] = (shard ^ mask).to_le_bytes();
        let [t0, t1] = tag.to_le_bytes();
        [n0, n1, n2, n3, s0, s1, t0, t1]
    }

    #[inline]
    fn mask_and_tag(&self, nonce: [u8; 4]) -> (u16, u16) {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write_u32(u32::from_le_bytes(nonce));
        let hash = hasher.finish();
        (hash as u16, (hash >> 16) as u16)
    }
}

impl fmt::Debug for CidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CidKey(..)")
    }
}

/// Issues the connection IDs of one shard.
pub(super) struct ShardCids {
    key: CidKey,
    shard: u16,
    random: SystemRandom,
    /// Nonces in stock: eight IDs are issued for each connection.
    nonces: [[u8; 4]; 16],
    left: usize,
}

impl ShardCids {
    pub(super) fn new(key: CidKey, shard: u16) -> Self {
        Self { key, shard, random: SystemRandom::new(), nonces: [[0; 4]; 16], left: 0 }
    }
}

impl ConnectionIdGenerator for ShardCids {
    fn generate_cid(&mut self) -> ConnectionId {
        if self.left == 0 {
            self.random
                .fill(self.nonces.as_flattened_mut())
                .expect("the kernel's random source works once the process has keys");
            self.left = self.nonces.len();
        }
        self.left -= 1;
        ConnectionId::new(&self.key.issue(self.shard, self.nonces[self.left]))
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        match self.key.shard_of(cid) {
            Some(shard) if shard == self.shard => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_shard_under_its_key_alone() {
        let key = CidKey::new([7; 16]);
        let other = CidKey::new([8; 16]);
        let mut foreign = 0;
        for shard in [0, 1, 2, 300, u16::MAX] {
            let mut cids = ShardCids::new(key, shard);
            for _ in 0..100 {
                let cid = cids.generate_cid();
                assert_eq!(key.shard_of(&cid), Some(shard));
                assert!(cids.validate(&cid).is_ok());
                assert!(ShardCids::new(key, shard ^ 1).validate(&cid).is_err());
                foreign += usize::from(other.shard_of(&cid).is_some());
            }
        }
        assert!(foreign < 5, "{foreign} of 500 pass under another key");
        assert_eq!(key.shard_of(&[0; 7]), None);
        assert_eq!(key.shard_of(&[0; 20]), None);
    }

    #[test]
    fn the_shard_does_not_show() {
        let key = CidKey::new([9; 16]);
        let mut cids = ShardCids::new(key, 0);
        let shown: std::collections::BTreeSet<_> = (0..64)
            .map(|_| {
                let cid = cids.generate_cid();
                [cid[4], cid[5]]
            })
            .collect();
        assert!(shown.len() > 60);
    }
}
