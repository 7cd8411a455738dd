//! The people of a relay's rooms: hands and sums on their way up, lists on their way down.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::RelayControl;
use super::feeds::RelayRoom;
use crate::node::control::{ControlEffect, LinkId};
use crate::node::messages::ToShard;
use crate::revoked::Revoked;
use crate::wire::{ClientMessage, Hand, Invitations, LoweredHands, RevokedPage, encode_control};
use crate::{Time, limits};

/// What a relay knows of a room's people.
#[derive(Debug, Default)]
pub(super) struct RoomPeople {
    revoked: Arc<Revoked>,
    invitations: Option<Arc<Invitations>>,
    /// The version of the last list of lowered hands.
    lowered_hands: u64,
    /// Who was said to have been met where, and when.
    met: BTreeMap<(String, IpAddr), Time>,
}

impl RelayControl {
    /// Hands of listeners here or of children: they wait for their turn up the tree.
    pub(super) fn hands(&mut self, now: Time, hands: Vec<Hand>) {
        for hand in hands {
            let same =
                |other: &&mut Hand| other.identity == hand.identity && other.room == hand.room;
            if let Some(other) = self.hands.iter_mut().find(same) {
                if hand.sequence >= other.sequence {
                    *other = hand;
                }
            } else if self.hands.len() < limits::HANDS_QUEUE {
                self.hands.push_back(hand);
            } else {
                self.stats.drop_hands += 1;
            }
        }
        if !self.hands.is_empty() {
            self.hands_due.get_or_insert(now);
        }
    }

    /// Sends a few hands to the primary parent.
    pub(super) fn hands_timeout(&mut self, now: Time) {
        if self.hands_due.is_none_or(|at| now < at) {
            return;
        }
        self.hands_due = Some(now + limits::HANDS_EVERY);
        let Some(link) = self.primary_link() else { return };
        let few = self.hands.len().min(limits::HANDS_PER_MESSAGE);
        let hands: Vec<Hand> = self.hands.drain(..few).collect();
        if hands.is_empty() {
            self.hands_due = None;
            return;
        }
        let bytes = encode_control(&ClientMessage::Hands { hands });
        self.effects.push_back(ControlEffect::SendControl { link, bytes });
    }

    /// Somebody was met whose ban covers the address: said once in a while, however often it knocks.
    pub(super) fn met(&mut self, now: Time, room: String, identity: String, address: IpAddr) {
        if room.len() > limits::NAME_BYTES || identity.len() > limits::NAME_BYTES {
            self.stats.bad_messages += 1;
            return;
        }
        let Some(link) = self.primary_link() else { return };
        let Some(entry) = self.rooms.get_mut(&room) else { return };
        let met = &mut entry.people.met;
        met.retain(|_, &mut at| now < at + limits::MET_AGAIN);
        let who = (identity, crate::revoked::network(address));
        let known = met.contains_key(&who);
        if known || met.len() >= limits::MEETS_PER_ROOM || !self.meets.spend(now) {
            self.stats.drop_meets += 1;
            return;
        }
        met.insert(who.clone(), now);
        let (identity, address) = who;
        let bytes = encode_control(&ClientMessage::Met { room, identity, address });
        self.effects.push_back(ControlEffect::SendControl { link, bytes });
    }

    /// A parent says whom a room takes no longer.
    pub(super) fn room_revoked(&mut self, now: Time, link: LinkId, page: RevokedPage) {
        if page.generation > self.latest_us(now) {
            self.stats.bad_messages += 1;
            return;
        }
        let feeds = self.feeds(link);
        let Some(room) = self.rooms.get_mut(&page.room).filter(|_| feeds) else { return };
        let list = Arc::make_mut(&mut room.people.revoked);
        let (generation, _) = list.mark();
        let brought = list.follow(page);
        if list.mark().0 != generation {
            // A ban may have been lifted, and may come again.
            room.people.met.clear();
        }
        if brought && let Some(message) = room.revoked_message() {
            self.effects.push_back(ControlEffect::ToShards(message));
        }
    }

    /// A parent says who may come on stage.
    pub(super) fn room_invitations(&mut self, now: Time, link: LinkId, list: Invitations) {
        let feeds = self.feeds(link);
        let fits = |name: &str| (1..=limits::NAME_BYTES).contains(&name.len());
        if list.version > self.latest_us(now)
            || list.invited.len() > limits::INVITATIONS
            || list.invited.iter().any(|e| !fits(&e.identity))
        {
            self.stats.bad_messages += 1;
            return;
        }
        let Some(room) = self.rooms.get_mut(&list.room).filter(|_| feeds) else { return };
        let held = room.people.invitations.as_ref().map_or(0, |held| held.version);
        if list.version > held {
            room.people.invitations = Some(Arc::new(list));
            if let Some(message) = room.invitations_message() {
                self.effects.push_back(ControlEffect::ToShards(message));
            }
        }
    }

    /// A parent says whose hands a host has lowered: passed on once, whichever parent says it first.
    pub(super) fn room_lowered_hands(&mut self, now: Time, link: LinkId, list: LoweredHands) {
        let feeds = self.feeds(link);
        let fits = |name: &str| (1..=limits::NAME_BYTES).contains(&name.len());
        if list.version > self.latest_us(now)
            || list.hands.len() > limits::LOWERED_HANDS
            || list.hands.iter().any(|hand| !fits(&hand.identity))
        {
            self.stats.bad_messages += 1;
            return;
        }
        let Some(entry) = self.rooms.get_mut(&list.room).filter(|_| feeds) else { return };
        let Some(room) = entry.info().map(|info| info.id) else { return };
        if list.version > entry.people.lowered_hands {
            entry.people.lowered_hands = list.version;
            let message = ToShard::LoweredHands { room, list: Arc::new(list) };
            self.effects.push_back(ControlEffect::ToShards(message));
        }
    }

    fn primary_link(&self) -> Option<LinkId> {
        self.feeding_links().next().map(|(link, _)| link)
    }
}

impl RelayRoom {
    /// What the shards are told behind the room itself.
    pub(super) fn people_messages(&self) -> impl Iterator<Item = ToShard> {
        self.revoked_message().into_iter().chain(self.invitations_message())
    }

    fn revoked_message(&self) -> Option<ToShard> {
        let room = self.info()?.id;
        Some(ToShard::Revoked { room, list: Arc::clone(&self.people.revoked) })
    }

    fn invitations_message(&self) -> Option<ToShard> {
        let room = self.info()?.id;
        let list = self.people.invitations.clone()?;
        Some(ToShard::Invitations { room, list })
    }
}
