//! Listeners of one relay that hear the same: one machine may stand for all of them while nothing is
//! under way that is anyone's own. A simulation of a million listeners is made of it; whoever has a
//! session to care for holds a machine of its own.

use super::{HomeId, Listen, ListenSettings, ListenStats};
use crate::random::Random;
use crate::wire::{Alternate, Secret, ServerMessage};
use crate::{Time, limits};

/// What is a listener's own while another one's machine stands for it.
#[derive(Clone, Debug)]
pub struct Own {
    home: HomeId,
    next_home: u32,
    address: Box<str>,
    alternates: Box<[Alternate]>,
    pass: Option<Secret>,
    random: Random,
    stats: ListenStats,
}

impl Own {
    /// Takes a message of the session that concerns this listener alone; false for one that its
    /// machine has to see.
    pub fn handle_message(&mut self, message: &ServerMessage) -> bool {
        match message {
            ServerMessage::Alternates { alternates } => {
                if super::sound(alternates) {
                    self.alternates = alternates.clone().into();
                }
                true
            }
            ServerMessage::Room(_) | ServerMessage::Unknown => true,
            _ => false,
        }
    }
}

impl Listen {
    /// Whether nothing is under way: one session serves the listener, it is heard, and no tick is
    /// missing.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        let whole = self.reception.as_ref().is_some_and(|r| r.poll_timeout().is_none());
        let here = self.homes.first().is_some_and(|home| Some(home.id) == self.current);
        let alone = self.homes.len() == 1 && self.moving.is_none() && self.actions.is_empty();
        // What a listener reports of its sound is its own.
        whole && here && alone && self.probes == 0 && self.reporter.is_none()
    }

    /// When the listener looks for another relay unless its session is heard before: until then
    /// everything that it does follows from what it hears.
    #[must_use]
    pub fn doubts_at(&self) -> Time {
        match (self.current, &self.moving) {
            (Some(_), None) => self.silence.doubtful_at(),
            _ => Time::ZERO,
        }
    }

    /// Takes over what another listener has learned of the path that both share.
    pub fn share_path(&mut self, other: &Self) {
        if let (Some(own), Some(other)) = (&mut self.reception, &other.reception) {
            own.share_path(other);
        }
        self.silence.share_path(&other.silence);
    }

    /// What remains of a calm listener for which another one's machine stands.
    #[must_use]
    pub fn own(&self) -> Own {
        let address = self.home_address(self.current);
        Own {
            home: self.current.unwrap_or(HomeId(0)),
            next_home: self.next_home,
            address: address.unwrap_or_default().into(),
            alternates: self.alternates.clone().into(),
            pass: self.pass.clone(),
            random: self.random.clone(),
            stats: self.stats,
        }
    }

    /// A listener of its own again, which has heard what this one has: `settings` are those that it
    /// began with.
    #[must_use]
    pub fn twin(&self, settings: ListenSettings, own: Own) -> Self {
        let mut twin = self.clone();
        let Own { home, next_home, address, alternates, pass, random, stats } = own;
        for entry in twin.homes.iter_mut().filter(|entry| Some(entry.id) == self.current) {
            (entry.id, entry.address) = (home, address.to_string());
        }
        twin.settings = settings;
        twin.settings.entries.truncate(limits::ENTRIES);
        twin.current = Some(home);
        twin.next_home = next_home;
        (twin.alternates, twin.pass) = (alternates.into_vec(), pass);
        (twin.random, twin.stats) = (random, stats);
        twin.actions.clear();
        twin
    }

    fn home_address(&self, id: Option<HomeId>) -> Option<String> {
        self.home(id?).map(|home| home.address.clone())
    }
}
