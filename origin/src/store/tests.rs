use std::time::{SystemTime, UNIX_EPOCH};

use super::*;

fn room(name: &str) -> StoredRoom {
    StoredRoom {
        settings: RoomSettings {
            name: name.to_owned(),
            title: "A title".to_owned(),
            public: true,
            profile: ProfileConfig::Music,
            audible: Some(2),
            tick_ms: 20,
        },
        card: RoomCard { topic: "talk".into(), starts_at: Some(1_900_000_000), locked: false },
    }
}

fn ban(who: &str, at: u64) -> Change {
    Change::Revoked { room: "a".into(), entry: RevokedEntry::ban(who, true), at }
}

#[tokio::test]
async fn what_was_kept_is_there_again_and_in_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let (store, kept) = Store::open(&path, 0).unwrap();
    assert_eq!(kept, Kept::default());
    let hook = Webhook {
        id: "h".into(),
        room: "a".into(),
        url: "https://example.org".into(),
        secret: vec![1; 32],
    };
    let tokens = RevokedEntry::tokens_of("bo", 90, false);
    let address = RevokedEntry::ban_address("2001:db8::1".parse().unwrap());
    for change in [
        Change::Made(Box::new(room("a"))),
        Change::Made(Box::new(room("b"))),
        ban("ann", 100),
        ban("ann", 101),
        Change::Revoked { room: "a".into(), entry: tokens.clone(), at: 100 },
        Change::Revoked { room: "a".into(), entry: address.clone(), at: 100 },
        ban("lifted", 100),
        Change::Lifted { room: "a".into(), identity: Some("lifted".into()), address: None },
        Change::Ended { room: "b".into(), epoch: 77 },
        Change::WebhookMade(hook.clone()),
    ] {
        store.keep(change).await.unwrap();
    }
    let copy = dir.path().join("copy.db");
    backup(&path, &copy).unwrap();
    let expected = Kept {
        rooms: vec![room("a")],
        revoked: [RevokedEntry::ban("ann", true), tokens, address.clone()]
            .map(|entry| ("a".to_owned(), entry))
            .into(),
        webhooks: vec![hook],
        epoch: 77,
    };
    for file in [&path, &copy] {
        assert_eq!(Store::open(file, 200).unwrap().1, expected, "{file:?}");
    }
    let later = 100 + limits::REVOKED_KEPT_S + 1;
    let revoked = Store::open(&path, later).unwrap().1.revoked;
    assert_eq!(revoked.len(), 2, "tokens past their end are forgotten, bans are not");
}

#[tokio::test]
async fn a_room_that_has_ended_does_not_forget_whom_it_took_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (store, _) = Store::open(&path, now).unwrap();
    for change in [
        Change::Made(Box::new(room("a"))),
        ban("ann", now),
        Change::Ended { room: "a".into(), epoch: 2 },
    ] {
        store.keep(change).await.unwrap();
    }
    let long_after = now + limits::REVOKED_KEPT_S + 60;
    assert_eq!(Store::open(&path, now).unwrap().1.revoked.len(), 1);
    // Made again: the ban is the room's once more, however long it lasts.
    store.keep(Change::Made(Box::new(room("a")))).await.unwrap();
    assert_eq!(Store::open(&path, long_after).unwrap().1.revoked.len(), 1);
    store.keep(Change::Ended { room: "a".into(), epoch: 3 }).await.unwrap();
    assert_eq!(Store::open(&path, long_after).unwrap().1.revoked.len(), 0);
}

#[tokio::test]
async fn a_room_of_the_configuration_stays_as_it_was_described() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let (store, _) = Store::open(&path, 0).unwrap();
    let card = RoomCard { topic: "news".into(), locked: true, ..RoomCard::default() };
    let described = Change::Described {
        room: "hall".into(),
        title: "Hall".into(),
        public: false,
        card: card.clone(),
    };
    store.keep(described).await.unwrap();
    let rooms = Store::open(&path, 0).unwrap().1.rooms;
    let [room] = rooms.as_slice() else { panic!("{rooms:?}") };
    assert_eq!((&*room.settings.name, room.settings.public, &room.card), ("hall", false, &card));
}

#[tokio::test]
async fn trouble_with_the_file_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no/such/dir.db");
    assert!(matches!(Store::open(&missing, 0), Err(StoreError::File { .. })));
    let text = dir.path().join("text.db");
    std::fs::write(&text, "this is no database, though it is a file of some length").unwrap();
    assert!(matches!(Store::open(&text, 0), Err(StoreError::File { .. })));
    assert!(matches!(Store::none().keep(ban("x", 0)).await, Err(StoreError::None)));

    let path = dir.path().join("store.db");
    let (store, _) = Store::open(&path, 0).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("DROP TABLE webhooks").unwrap();
    let gone = Change::WebhookGone { room: "a".into(), id: "h".into() };
    assert!(matches!(store.keep(gone).await, Err(StoreError::File { .. })));
    store.keep(Change::Made(Box::new(room("a")))).await.unwrap();

    other.pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(&path, 0), Err(StoreError::Version { found: 99, .. })));
}
