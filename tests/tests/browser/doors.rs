//! Before one is inside: the page of rooms, a room that is full, a room that is locked.

use serde_json::json;
use stentor_tests::browser::Browser;

use super::cast::{ALONE, Person, Scene};

const FILE: f32 = 1_250.0;
/// Tomorrow at 20:30, as a field of a form has it, and as the page writes it.
const TOMORROW: &str = "const day = new Date(Date.now() + 86_400_000);
    day.setHours(20, 30, 0, 0);
    const two = (value) => String(value).padStart(2, '0');
    const start = document.querySelector('#start');
    start.value = `${day.getFullYear()}-${two(day.getMonth() + 1)}-${two(day.getDate())}T20:30`;
    return new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'short' }).format(day);";
/// Whether a room is in the list under this heading with these words.
const LISTED: &str = "const [heading, ...words] = arguments;
    const lists = [...document.querySelectorAll('section:not([hidden])')];
    const list = lists.find((section) => section.querySelector('h2')?.textContent === heading);
    const rooms = [...list?.querySelectorAll('a.room') ?? []];
    return rooms.some(({ textContent }) => words.every((word) => textContent.includes(word)));";

/// Makes another room that is to come.
const MAKE: &str = "const answer = await fetch('/v1/rooms', {
        method: 'POST',
        body: JSON.stringify({ title: 'Peaks', topic: 'Mountains', public: true,
            starts_at: Math.round(Date.now() / 1000) + 3600 }),
        headers: { Authorization: `Bearer ${arguments[0]}`, 'Content-Type': 'application/json' },
    });
    return answer.status;";

#[tokio::test]
async fn visitors_choose_a_room_and_wait_for_a_place() {
    // One listener at once.
    let scene = Scene::small(1);
    let (office, crowd) = (Browser::start(&[ALONE]).await, Browser::start(&[ALONE]).await);
    let host = Person::first("door-host", &office).await;
    let first = Person::first("door-first", &crowd).await;
    let second = Person::another("door-second", &crowd).await;
    let third = Person::another("door-third", &crowd).await;

    host.open(&scene.url(&format!("/new#token={}", scene.api_key()))).await;
    host.fill("#title", "Whales").await;
    host.fill("#topic", "Ocean").await;
    host.fill("#name", "Ada").await;
    let starts = host.run(TOMORROW, vec![]).await;
    host.click("Create the room").await;
    host.wait_text("Link for everyone").await;
    let room = host.get("stentor.visitor.model.name").await.as_str().unwrap().to_owned();
    first.open(&scene.url("/")).await;
    let key = json!(scene.api_key());
    assert_eq!(first.run(MAKE, vec![key]).await, json!(201));
    first.open(&scene.url("/")).await;
    first.wait_text("To come").await;
    let words = ["To come", "Whales", "Ocean", starts.as_str().unwrap()];
    // The list is a second old at most.
    for _ in 0..20 {
        if listed(&first, &["To come", "Peaks", "Mountains"]).await == json!(true) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        first.open(&scene.url("/")).await;
        first.wait_text("To come").await;
    }
    assert_eq!(listed(&first, &["To come", "Peaks", "Mountains"]).await, json!(true));
    assert_eq!(listed(&first, &words).await, json!(true), "{words:?}");
    first.pictures("lobby-to-come").await;
    let choose = "const topic = document.querySelector('#topic');
        topic.value = 'Ocean';
        topic.dispatchEvent(new Event('change'));";
    first.run(choose, vec![]).await;
    assert_eq!(listed(&first, &words).await, json!(true));
    assert_eq!(listed(&first, &["To come", "Peaks"]).await, json!(false), "another topic");
    first.run("document.querySelector('a.room').click();", vec![]).await;
    first.wait_text("Starts").await;
    first.wait_text("Press Listen to hear the room.").await;

    let playing = scene.speaker(&room, "file", FILE);
    host.listen().await;
    host.hears(FILE).await;
    first.listen().await;
    first.hears(FILE).await;
    waits_and_comes_in(&scene, &room, &first, &second).await;

    host.click("Lock the room").await;
    host.wait_text("Unlock the room").await;
    second.wait_text("Locked").await;
    third.open(&scene.url(&format!("/rooms/{room}"))).await;
    third.click("Listen").await;
    third.wait_text("The host has locked the room: nobody new can come in at the moment.").await;
    third.pictures("locked").await;
    second.hears(FILE).await;
    host.click("Unlock the room").await;
    host.wait_text("Lock the room").await;
    drop(playing);
    host.console_is_clean(&[]).await;
    second.console_is_clean(&["403 (Forbidden)"]).await;
}

/// The place is taken: place and time are shown in words; once it is free, sound comes by itself.
async fn waits_and_comes_in(scene: &Scene, room: &str, first: &Person<'_>, second: &Person<'_>) {
    second.open(&scene.url(&format!("/rooms/{room}"))).await;
    second.click("Listen").await;
    second.wait("the line", "stentor.visitor.model.state.phase === 'waiting'").await;
    let told = r"/The room is full at the moment. You are number \d+( of \d+)? in line; about \d+/";
    second.wait("a place and a time", &format!("{told}.test(document.body.innerText)")).await;
    second.wait_text("You keep your place, and sound starts by itself.").await;
    second.pictures("waiting").await;
    assert_eq!(second.get("stentor.visitor.model.me").await, json!(null), "not inside");
    first.click("Stop listening").await;
    second.wait("a place", "stentor.visitor.model.state.phase === 'live'").await;
    second.run(super::cast::EAR, vec![]).await;
    second.hears(FILE).await;
}

async fn listed(person: &Person<'_>, words: &[&str]) -> serde_json::Value {
    person.run(LISTED, words.iter().map(|word| json!(word)).collect()).await
}
