//! Whom a room takes no longer: people, tokens, addresses. One list for each room, made by the
//! origin, passed down the tree, and asked at every hello.

use std::net::{IpAddr, Ipv6Addr};

use crate::limits;
use crate::wire::{Close, CloseCode, RevokedEntry, RevokedPage, Role};

/// Who is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearer<'a> {
    /// The identity.
    pub identity: &'a str,
    /// When its token or pass was made (seconds since 1970, UTC).
    pub minted: u64,
    /// The token's own name.
    pub jti: Option<&'a str>,
    /// Where it comes from.
    pub address: Option<IpAddr>,
    /// What it wants to be.
    pub role: Role,
}

/// A room's list. The origin's grows at its end; when an entry is taken off, the generation rises
/// and the list begins anew. A copy follows by pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    generation: u64,
    entries: Vec<RevokedEntry>,
}

impl Revoked {
    /// An empty list. `generation` is higher than that of any former life of the room.
    #[must_use]
    pub const fn new(generation: u64) -> Self {
        Self { generation, entries: Vec::new() }
    }

    /// Every entry, the oldest first.
    #[must_use]
    pub fn entries(&self) -> &[RevokedEntry] {
        &self.entries
    }

    /// Adds an entry; false if [`limits::REVOKED_PER_ROOM`] bans are held already. The oldest entries
    /// that are no bans give way.
    pub fn add(&mut self, entry: RevokedEntry) -> bool {
        if self.entries.contains(&entry) {
            return true;
        }
        if self.entries.len() >= limits::REVOKED_PER_ROOM {
            // Many at once: each new generation is the whole list anew for every relay.
            let mut left = limits::REVOKED_GIVE_WAY;
            self.entries.retain(|entry| {
                let gives_way = left > 0 && !entry.is_ban();
                left -= usize::from(gives_way);
                !gives_way
            });
            if left == limits::REVOKED_GIVE_WAY {
                return false;
            }
            self.generation += 1;
        }
        self.entries.push(entry);
        true
    }

    /// The entries of pages that follow each other: what is new of a list.
    #[must_use]
    pub fn of_pages(pages: &[RevokedPage]) -> Self {
        let entries = pages.iter().flat_map(|page| page.entries.iter().cloned()).collect();
        Self { generation: 0, entries }
    }

    /// Takes off the bans of an identity or address; how many there were.
    pub fn lift(&mut self, identity: Option<&str>, address: Option<IpAddr>) -> usize {
        let before = self.entries.len();
        self.entries.retain(|entry| {
            let person = identity.is_some() && entry.identity.as_deref() == identity;
            let place = address.is_some() && entry.address == address;
            !(entry.is_ban() && (person || place))
        });
        let lifted = before - self.entries.len();
        self.generation += u64::from(lifted > 0);
        lifted
    }

    /// Why the room does not take `bearer`, if it does not.
    #[must_use]
    pub fn refuses(&self, bearer: Bearer<'_>) -> Option<Close> {
        Self::refusal_of(&self.entries, bearer)
    }

    /// The same of entries that are kept for a room that is not there.
    #[must_use]
    pub fn refusal_of(entries: &[RevokedEntry], bearer: Bearer<'_>) -> Option<Close> {
        entries.iter().find(|entry| entry.is(bearer)).map(|entry| {
            if entry.stage {
                return Close::new(CloseCode::Demoted, "the host has taken you from the stage");
            }
            if entry.is_ban() {
                return Close::new(CloseCode::Banned, "the host has banned you from this room");
            }
            Close::new(CloseCode::Removed, "the host has taken this token back")
        })
    }

    /// Whether the ban of this identity covers the address at which it is met.
    #[must_use]
    pub fn bans_address_of(&self, identity: &str) -> bool {
        let named = |entry: &RevokedEntry| entry.identity.as_deref() == Some(identity);
        self.entries.iter().any(|entry| entry.is_ban() && entry.with_address && named(entry))
    }

    /// Whether an address is banned.
    #[must_use]
    pub fn bans_address(&self, address: IpAddr) -> bool {
        let place = Some(network(address));
        self.entries.iter().any(|entry| entry.address == place)
    }

    /// What a copy lacks that has `len` entries of `generation`, as pages.
    #[must_use]
    pub fn pages(&self, room: &str, generation: u64, len: usize) -> Vec<RevokedPage> {
        let known = if generation == self.generation { len.min(self.entries.len()) } else { 0 };
        let page = |(at, entries): (usize, &[RevokedEntry])| RevokedPage {
            room: room.to_owned(),
            generation: self.generation,
            since: u32::try_from(known + at * limits::REVOKED_PER_PAGE).unwrap_or(u32::MAX),
            entries: entries.to_vec(),
        };
        let mut pages: Vec<RevokedPage> =
            self.entries[known..].chunks(limits::REVOKED_PER_PAGE).enumerate().map(page).collect();
        if pages.is_empty() && generation != self.generation {
            pages.push(page((0, &[])));
        }
        pages
    }

    /// The first of [`Self::pages`].
    #[must_use]
    pub fn next_page(&self, room: &str, generation: u64, len: usize) -> Option<RevokedPage> {
        let anew = generation != self.generation;
        let known = if anew { 0 } else { len.min(self.entries.len()) };
        let until = self.entries.len().min(known + limits::REVOKED_PER_PAGE);
        (anew || until > known).then(|| RevokedPage {
            room: room.to_owned(),
            generation: self.generation,
            since: u32::try_from(known).unwrap_or(u32::MAX),
            entries: self.entries[known..until].to_vec(),
        })
    }

    /// Generation and length, for [`Self::pages`].
    #[must_use]
    pub fn mark(&self) -> (u64, usize) {
        (self.generation, self.entries.len())
    }

    /// Takes a page; true if it brought something. A page that is older, or that others should
    /// have come before, brings nothing.
    pub fn follow(&mut self, page: RevokedPage) -> bool {
        let since = usize::try_from(page.since).unwrap_or(usize::MAX);
        if page.generation < self.generation
            || page.entries.len() > limits::REVOKED_PER_PAGE
            || !page.entries.iter().all(RevokedEntry::is_sound)
        {
            return false;
        }
        if page.generation > self.generation {
            if since > 0 {
                return false;
            }
            *self = Self::new(page.generation);
            self.entries = page.entries;
            return true;
        }
        let known = self.entries.len();
        if since > known || since + page.entries.len() > limits::REVOKED_PER_ROOM {
            return false;
        }
        self.entries.extend(page.entries.into_iter().skip(known - since));
        self.entries.len() > known
    }
}

impl RevokedEntry {
    /// Everyone of this name, for good.
    #[must_use]
    pub fn ban(identity: &str, with_address: bool) -> Self {
        Self { identity: Some(identity.to_owned()), with_address, ..Self::default() }
    }

    /// Everyone at this address, for good.
    #[must_use]
    pub fn ban_address(address: IpAddr) -> Self {
        Self { address: Some(network(address)), ..Self::default() }
    }

    /// Tokens that an identity has got until `before`; those of the stage alone with `stage`.
    #[must_use]
    pub fn tokens_of(identity: &str, before: u64, stage: bool) -> Self {
        let identity = Some(identity.to_owned());
        Self { identity, before: Some(before), stage, ..Self::default() }
    }

    /// One token.
    #[must_use]
    pub fn token(jti: &str) -> Self {
        Self { jti: Some(jti.to_owned()), ..Self::default() }
    }

    /// Whether it holds for good.
    #[must_use]
    pub fn is_ban(&self) -> bool {
        self.address.is_some() || (self.identity.is_some() && self.before.is_none())
    }

    /// Whether it names one thing, in a name that a token may hold: pages of such entries fit a
    /// control message, however they are cut.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let fits = |name: &Option<String>| {
            name.as_ref().is_none_or(|name| {
                (1..=limits::NAME_BYTES).contains(&name.len()) && !name.contains(char::is_control)
            })
        };
        let named = [self.identity.is_some(), self.jti.is_some(), self.address.is_some()];
        let one = named.into_iter().filter(|&named| named).count() == 1;
        let of_a_person = self.before.is_some() || self.stage || self.with_address;
        one && fits(&self.identity) && fits(&self.jti) && (self.identity.is_some() || !of_a_person)
    }

    fn is(&self, bearer: Bearer<'_>) -> bool {
        if let Some(address) = self.address {
            return bearer.address.is_some_and(|from| network(from) == address);
        }
        if let Some(jti) = self.jti.as_deref() {
            return bearer.jti == Some(jti);
        }
        let Some(identity) = self.identity.as_deref() else { return false };
        let minted = self.before.is_none_or(|before| bearer.minted <= before);
        identity == bearer.identity && minted && (!self.stage || bearer.role.speaks())
    }
}

/// What one household has: an IPv4 address, or the first address of an IPv6 /64.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(identity: &str) -> Bearer<'_> {
        let address = Some("2001:db8::77".parse().unwrap());
        Bearer { identity, minted: 100, jti: Some("t1"), address, role: Role::Listener }
    }

    fn code(list: &Revoked, bearer: Bearer<'_>) -> Option<CloseCode> {
        list.refuses(bearer).map(|close| close.code)
    }

    #[test]
    fn each_kind_of_entry_refuses_what_it_names() {
        let only = |entry| {
            let mut list = Revoked::new(1);
            assert!(list.add(entry));
            list
        };
        let removed = only(RevokedEntry::tokens_of("ann", 100, false));
        assert_eq!(code(&removed, bearer("ann")), Some(CloseCode::Removed));
        assert_eq!(code(&removed, Bearer { minted: 101, ..bearer("ann") }), None);
        let banned = only(RevokedEntry::ban("ann", false));
        assert_eq!(code(&banned, Bearer { minted: 900, ..bearer("ann") }), Some(CloseCode::Banned));
        assert_eq!(code(&banned, bearer("bob")), None);
        let demoted = only(RevokedEntry::tokens_of("ann", 100, true));
        assert_eq!(code(&demoted, bearer("ann")), None);
        let speaker = Bearer { role: Role::Speaker, ..bearer("ann") };
        assert_eq!(code(&demoted, speaker), Some(CloseCode::Demoted));
        let place = only(RevokedEntry::ban_address("2001:db8::1".parse().unwrap()));
        assert_eq!(code(&place, bearer("anyone")), Some(CloseCode::Banned));
        let elsewhere = Bearer { address: Some("2001:db8:0:1::1".parse().unwrap()), ..bearer("x") };
        assert_eq!(code(&place, elsewhere), None);
        assert_eq!(code(&only(RevokedEntry::token("t1")), bearer("x")), Some(CloseCode::Removed));
        assert_eq!(code(&only(RevokedEntry::default()), bearer("x")), None);
    }

    #[test]
    fn a_copy_follows_whatever_happens() {
        let (mut list, mut first, mut second) =
            (Revoked::new(7), Revoked::default(), Revoked::default());
        for n in 0..100_u32 {
            assert!(list.add(RevokedEntry::ban(&format!("p{n}"), false)));
            if n % 40 == 39 {
                assert_eq!(list.lift(Some(&format!("p{}", n - 5)), None), 1);
            }
            let (generation, len) = first.mark();
            for page in list.pages("r", generation, len) {
                assert!(page.entries.len() <= limits::REVOKED_PER_PAGE);
                assert!(first.follow(page.clone()));
                assert!(!first.follow(page), "the other parent's copy");
            }
            assert_eq!(first, list);
        }
        for page in list.pages("r", 0, 0) {
            assert!(second.follow(page));
        }
        assert_eq!(second, list);
        let gap = RevokedPage { room: "r".into(), generation: 99, since: 3, entries: Vec::new() };
        assert!(!second.follow(gap));
    }

    #[test]
    fn entries_that_would_not_fit_a_page_are_not_taken() {
        let long = "\u{1}".repeat(limits::NAME_BYTES);
        let person = RevokedEntry::ban("ann", true);
        let place = Some("192.0.2.9".parse().unwrap());
        for bad in [
            RevokedEntry { jti: Some("t1".into()), ..person.clone() },
            RevokedEntry { address: place, ..person.clone() },
            RevokedEntry { address: place, before: Some(1), ..RevokedEntry::default() },
            RevokedEntry { stage: true, ..RevokedEntry::token("t1") },
            RevokedEntry::ban(&long, false),
            RevokedEntry::token(&long),
            RevokedEntry::token(""),
            RevokedEntry::default(),
        ] {
            let mut copy = Revoked::default();
            let entries = vec![person.clone(), bad.clone()];
            let page = RevokedPage { room: "r".into(), generation: 9, since: 0, entries };
            assert!(!copy.follow(page), "{bad:?}");
            assert_eq!(copy, Revoked::default());
        }
    }

    #[test]
    fn the_largest_pages_fit_a_control_message() {
        let quotes = "\"".repeat(limits::NAME_BYTES - 4);
        let mut list = Revoked::new(u64::MAX - 1);
        for n in 0..100_u64 {
            let identity = Some(format!("{n:04}{quotes}"));
            let (before, stage) = (Some(u64::MAX), true);
            let entry =
                RevokedEntry { identity, before, stage, with_address: true, ..Default::default() };
            assert!(entry.is_sound() && list.add(entry));
        }
        let pages = list.pages(&"\u{1}".repeat(limits::NAME_BYTES), 0, 0);
        assert_eq!(pages.iter().map(|page| page.entries.len()).sum::<usize>(), 100);
        for page in pages {
            let json = serde_json::to_vec(&crate::wire::ServerMessage::Revoked(page)).unwrap();
            assert!(json.len() <= limits::CONTROL_BYTES, "{} bytes", json.len());
        }
    }

    #[test]
    fn a_full_list_rarely_begins_anew() {
        let mut list = Revoked::new(1);
        for n in 0..2 * limits::REVOKED_PER_ROOM as u64 {
            assert!(list.add(RevokedEntry::tokens_of(&n.to_string(), n, false)));
            assert!(list.entries().len() <= limits::REVOKED_PER_ROOM);
        }
        let (generation, len) = list.mark();
        assert!(generation <= 1 + (limits::REVOKED_PER_ROOM / limits::REVOKED_GIVE_WAY) as u64);
        assert!(len > limits::REVOKED_PER_ROOM - limits::REVOKED_GIVE_WAY);
        assert_eq!(
            list.entries().last().unwrap().before,
            Some(2 * limits::REVOKED_PER_ROOM as u64 - 1)
        );
        assert_eq!(Revoked::of_pages(&list.pages("r", 0, 0)).entries(), list.entries());
    }

    #[test]
    fn bans_stay_when_the_list_is_full() {
        let mut list = Revoked::new(1);
        assert!(list.add(RevokedEntry::tokens_of("a", 1, false)));
        for n in 0..limits::REVOKED_PER_ROOM {
            assert!(list.add(RevokedEntry::ban(&n.to_string(), false)));
        }
        assert!(!list.add(RevokedEntry::ban("one more", false)));
        assert!(list.entries().iter().all(RevokedEntry::is_ban));
    }
}
