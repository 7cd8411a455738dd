//! Who holds a microphone: slots, identities, and the room's document.

use crate::limits;
use crate::wire::{Close, CloseCode, Role, RoomState, StageEntry};

/// The stage of one room.
#[derive(Debug)]
pub(super) struct Stage {
    state: RoomState,
    next_slot: Option<u16>,
}

impl Stage {
    pub(super) fn new(room: &str, title: &str) -> Self {
        Self {
            state: RoomState {
                room: room.to_owned(),
                version: 1,
                title: title.to_owned(),
                stage: Vec::new(),
                ..RoomState::default()
            },
            next_slot: Some(1),
        }
    }

    /// Gives `identity` a new slot and takes the one from it that it may hold.
    pub(super) fn join(&mut self, identity: &str, name: &str, role: Role) -> Result<u16, Close> {
        if !role.speaks() {
            let reason = format!("a {} holds no slot on the stage", role.name());
            return Err(Close::new(CloseCode::TokenRole, reason));
        }
        if identity.is_empty() || identity.len() > limits::NAME_BYTES {
            let reason = format!("an identity must have 1 to {} bytes", limits::NAME_BYTES);
            return Err(Close::new(CloseCode::Protocol, reason));
        }
        let former = (self.state.stage.iter()).position(|entry| entry.identity == identity);
        if self.state.stage.len() - usize::from(former.is_some()) >= limits::SLOTS_PER_ROOM {
            let reason = format!("all {} slots are taken; try again later", limits::SLOTS_PER_ROOM);
            return Err(Close::new(CloseCode::StageFull, reason));
        }
        let Some(slot) = self.next_slot else {
            let reason = "the room's epoch has given out all of its slots; begin a new one";
            return Err(Close::new(CloseCode::StageFull, reason));
        };
        let former = former.map(|i| self.state.stage.remove(i));
        self.state.stage.push(StageEntry {
            slot,
            identity: identity.to_owned(),
            name: cut(name).to_owned(),
            role,
            muted: false,
        });
        if self.is_too_large() {
            self.state.stage.pop();
            self.state.stage.extend(former);
            self.state.stage.sort_by_key(|entry| entry.slot);
            let reason = "the names on the stage fill the room's document; use a shorter one";
            return Err(Close::new(CloseCode::StageFull, reason));
        }
        self.next_slot = slot.checked_add(1);
        self.state.version += 1;
        Ok(slot)
    }

    /// Takes a slot back; false if nobody holds it.
    pub(super) fn leave(&mut self, slot: u16) -> bool {
        let before = self.state.stage.len();
        self.state.stage.retain(|entry| entry.slot != slot);
        let left = self.state.stage.len() < before;
        self.state.version += u64::from(left);
        left
    }

    pub(super) fn set_muted(&mut self, slot: u16, muted: bool) {
        let entry = self.state.stage.iter_mut().find(|entry| entry.slot == slot);
        if let Some(entry) = entry.filter(|entry| entry.muted != muted) {
            entry.muted = muted;
            self.state.version += 1;
        }
    }

    /// Changes the document; its version rises if anything is different.
    pub(super) fn edit(&mut self, edit: impl FnOnce(&mut RoomState)) {
        let former = self.state.clone();
        edit(&mut self.state);
        if self.state != former {
            self.state.version = former.version + 1;
        }
    }

    /// Changes the title; false if the document would be too large with it.
    pub(super) fn set_title(&mut self, title: &str) -> bool {
        let former = std::mem::replace(&mut self.state.title, title.to_owned());
        if self.is_too_large() {
            self.state.title = former;
            return false;
        }
        self.state.version += u64::from(former != title);
        true
    }

    pub(super) fn slot_of(&self, identity: &str) -> Option<u16> {
        let entry = self.state.stage.iter().find(|entry| entry.identity == identity);
        entry.map(|entry| entry.slot)
    }

    pub(super) fn state(&self) -> &RoomState {
        &self.state
    }

    /// Whether the document exceeds a control message. JSON may spell a byte with six.
    fn is_too_large(&self) -> bool {
        serde_json::to_vec(&self.state)
            .map_or(true, |json| json.len() > limits::ROOM_DOCUMENT_BYTES)
    }
}

/// As much of a name as may be shown.
fn cut(name: &str) -> &str {
    let ends = name.char_indices().map(|(start, letter)| start + letter.len_utf8());
    let end = ends.take_while(|&end| end <= limits::NAME_BYTES).last();
    &name[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ServerMessage, encode_control};

    #[test]
    fn a_new_session_of_an_identity_gets_a_new_slot() {
        let mut stage = Stage::new("room", "");
        assert_eq!(stage.join("ann", "Ann", Role::Host), Ok(1));
        assert_eq!(stage.join("bob", "Bob", Role::Speaker), Ok(2));
        assert_eq!(stage.join("ann", "Ann", Role::Host), Ok(3));
        assert_eq!(stage.slot_of("ann"), Some(3));
        assert!(!stage.leave(1));
        assert!(stage.leave(3));
        assert_eq!(stage.slot_of("ann"), None);
        assert_eq!(stage.state().version, 5);
    }

    #[test]
    fn refuses_by_name() {
        let mut stage = Stage::new("room", "");
        let code = |result: Result<u16, Close>| result.unwrap_err().code;
        assert_eq!(code(stage.join("a", "", Role::Listener)), CloseCode::TokenRole);
        assert_eq!(code(stage.join("", "", Role::Speaker)), CloseCode::Protocol);
        assert_eq!(code(stage.join(&"x".repeat(129), "", Role::Speaker)), CloseCode::Protocol);
        for i in 0..limits::SLOTS_PER_ROOM {
            stage.join(&i.to_string(), "", Role::Speaker).unwrap();
        }
        assert_eq!(code(stage.join("a", "", Role::Speaker)), CloseCode::StageFull);
        // A full stage still takes a new session of someone who is on it.
        assert!(stage.join("7", "", Role::Speaker).is_ok());
    }

    #[test]
    fn slots_are_never_reused() {
        let mut stage = Stage::new("room", "");
        stage.next_slot = Some(u16::MAX);
        assert_eq!(stage.join("a", "", Role::Speaker), Ok(u16::MAX));
        assert!(stage.join("b", "", Role::Speaker).is_err());
        assert!(stage.join("a", "", Role::Speaker).is_err());
        assert_eq!(stage.slot_of("a"), Some(u16::MAX));
    }

    #[test]
    fn the_document_stays_within_a_control_message() {
        let mut stage = Stage::new(&"r".repeat(128), &"\u{1}".repeat(128));
        let mut refused = 0;
        for i in 0..limits::SLOTS_PER_ROOM {
            let name = "\u{1}".repeat(200);
            refused += usize::from(stage.join(&format!("{i:0128}"), &name, Role::Speaker).is_err());
        }
        assert!(refused > 0);
        stage.edit(|state| state.listeners = u64::MAX);
        let _ = encode_control(&ServerMessage::Room(stage.state().clone()));
        assert_eq!(cut(&"ä".repeat(65)).len(), 128);
        assert_eq!(cut(&format!("x{}", "ä".repeat(64))).len(), 127);
    }
}
