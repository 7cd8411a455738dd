//! A disk that fails for a while: what people were told holds, and is written down in the end.

use std::time::Duration;

use axum::http::Method;
use serde_json::json;
use stentor_proto::node::ToControl;
use stentor_proto::token::ANY_ROOM;
use stentor_proto::wire::Role;

use super::tests::{Bench, on_stage};
use super::*;

/// The tables of the store under other names, as if the disk were gone; and back.
fn disk(bench: &Bench, there: bool) {
    let file = rusqlite::Connection::open(bench.dir.path().join("store.db")).unwrap();
    for table in ["rooms", "revoked", "meta"] {
        let names = [table.to_owned(), format!("{table}_away")];
        let [from, to] = if there { [&names[1], &names[0]] } else { [&names[0], &names[1]] };
        file.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}")).unwrap();
    }
}

fn kept(bench: &Bench) -> crate::store::Kept {
    Store::open(&bench.dir.path().join("store.db"), 0).unwrap().1
}

#[tokio::test]
async fn an_end_that_could_not_be_kept_is_kept_when_it_is_asked_for_again() {
    let bench = Bench::new();
    let host = bench.room("a", true).await;
    bench.room("b", true).await;
    let end = async || bench.call(Method::DELETE, "/v1/rooms/a", Some(&host), None).await;
    disk(&bench, false);
    let answer = end().await;
    answer.is(503, "store");
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(!detail.contains("store.db") && !detail.contains("no such table"), "{detail}");
    assert_eq!(bench.get("/v1/rooms/a", None).await.status, 404, "in force all the same");
    disk(&bench, true);
    assert_eq!(kept(&bench).rooms.len(), 2, "a restart would bring it back");
    assert_eq!(end().await.status, 200);
    assert_eq!(kept(&bench).rooms.len(), 1);
    end().await.is(404, "no_room");
}

#[tokio::test]
async fn a_room_that_cannot_be_kept_leaves_the_one_that_was_there() {
    let bench = Bench::new();
    on_stage(&bench, "live", "ann", Role::Speaker, 1).await;
    let key = bench.token(ANY_ROOM, Role::Host, "operator");
    disk(&bench, false);
    let new = json!({"title": "Taken over", "name": "live", "public": true});
    bench.post("/v1/rooms", Some(&key), new.clone()).await.is(503, "store");
    let room = bench.get("/v1/rooms/live", Some(&key)).await;
    assert_eq!(room.body["stage"][0]["identity"], "ann", "she is still there: {}", room.body);
    assert_ne!(room.body["title"], "Taken over");
    let fresh = json!({"title": "Fresh", "name": "fresh"});
    bench.post("/v1/rooms", Some(&key), fresh).await.is(503, "store");
    bench.get("/v1/rooms/fresh", Some(&key)).await.is(404, "no_room");
    disk(&bench, true);
    assert_eq!(bench.post("/v1/rooms", Some(&key), new).await.status, 201);
    let room = bench.get("/v1/rooms/live", None).await;
    assert_eq!(
        (&room.body["title"], &room.body["stage"][0]["identity"]),
        (&json!("Taken over"), &json!("ann"))
    );
}

#[tokio::test]
async fn an_address_that_the_tree_found_out_is_kept_when_the_disk_is_back() {
    let bench = Bench::new();
    let host = bench.room("a", true).await;
    let following = tokio::spawn(bench.api.clone().follow_rooms());
    let ban = json!({"action": "ban", "identity": "mal", "address": true});
    assert_eq!(bench.post("/v1/rooms/a/actions", Some(&host), ban).await.status, 200);
    disk(&bench, false);
    let address = "192.0.2.9".parse().unwrap();
    let met = ToControl::Met { room: "a".to_owned(), identity: "mal".to_owned(), address };
    let asked = bench.api.parts().commands.ask(move |origin, now| origin.handle_message(now, met));
    asked.await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    disk(&bench, true);
    let there = || kept(&bench).revoked.iter().any(|(_, entry)| entry.address == Some(address));
    assert!(!there(), "the disk was away");
    for _ in 0..200 {
        if there() {
            following.abort();
            return;
        }
        tokio::time::sleep(limits::STORE_AGAIN / 50).await;
    }
    panic!("the ban of the address is lost");
}
