//! A client that says what the project's own would not, in the room of the test.

use stentor_proto::wire::{Hello, Role};
pub(crate) use stentor_tests::peer::{Peer, close_name, endpoint};

use crate::scene::ROOM;

/// A good hello of this role.
pub(crate) fn hello(role: Role, token: Option<String>) -> Hello {
    stentor_tests::peer::hello(ROOM, role, token)
}
