//! A room from its making to its end, everybody in a real browser: what is heard is measured at the
//! worklet's output.

use std::time::Duration;

use serde_json::json;
use stentor_tests::browser::Browser;
use stentor_tests::firefox::Firefox;

use super::cast::{ALONE, Person, Scene};

/// The tone that the speaker's fake microphone plays, and that of somebody who speaks from a file.
const MICROPHONE: f32 = 700.0;
const MICROPHONE_HZ: u32 = 700;
const FILE: f32 = 1_250.0;
/// A host's decision is in force everywhere within a second; on a busy machine ten are allowed.
const DECISION_MS: i64 = 10_000;
/// A busy machine's sound stutters by itself; what would be lost between two sessions shows in the ticks.
const BREAK_MS: i64 = 500;
/// Ticks that a page has lost.
const LOST: &str = "stentor.visitor.model.stats.lost";

#[tokio::test]
async fn a_room_lives_in_browsers() {
    let mut scene = Scene::start(3);
    let microphone =
        format!("--use-file-for-fake-audio-capture={}", scene.tone(MICROPHONE, 4).display());
    let fake = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        &microphone,
        ALONE,
    ];
    let (office, studio, crowd) = (
        Browser::start(&[ALONE]).await,
        Browser::start(&fake).await,
        Browser::start(&[ALONE]).await,
    );
    let host = Person::first("host", &office).await;
    let speaker = Person::first("speaker", &studio).await;
    let listeners = [
        Person::first("listener-1", &crowd).await,
        Person::another("listener-2", &crowd).await,
        Person::another("listener-3", &crowd).await,
    ];

    room_lives(&mut scene, &host, &speaker, &listeners).await;
    // What is asked for while the room ends, the relay that is killed, the answer to somebody who is banned.
    host.console_is_clean(&["404 (Not Found)"]).await;
    speaker.console_is_clean(&["Failed to establish a connection"]).await;
    listeners[0].console_is_clean(&["Failed to establish a connection", "403 (Forbidden)"]).await;
}

/// The same in Firefox, where it is installed.
#[tokio::test]
async fn a_room_lives_in_firefox() {
    if let Some(lack) = Firefox::lack() {
        println!("skipped: {lack}");
        return;
    }
    let mut scene = Scene::start(3);
    let firefox = Firefox::start(MICROPHONE_HZ);
    let [host, speaker, first, second, third] = [
        "firefox-host",
        "firefox-speaker",
        "firefox-listener-1",
        "firefox-listener-2",
        "firefox-listener-3",
    ]
    .map(|name| Person::at_firefox(name, &firefox));
    let listeners = [first, second, third];
    room_lives(&mut scene, &host, &speaker, &listeners).await;
    for person in [&host, &speaker, &listeners[0], &listeners[1], &listeners[2]] {
        person.console_is_clean(&[]).await;
    }
}

/// From the making of a room to its end.
async fn room_lives(
    scene: &mut Scene,
    host: &Person<'_>,
    speaker: &Person<'_>,
    listeners: &[Person<'_>; 3],
) {
    let room = create(scene, host).await;
    host.listen().await;
    let link = scene.url(&format!("/rooms/{room}"));
    at_different_relays(listeners, &link).await;
    for listener in listeners {
        listener.hears_nothing().await;
    }
    listeners[0].pictures("live-nobody-speaks").await;

    promote(scene, host, speaker, &room).await;
    for listener in listeners {
        listener.hears(MICROPHONE).await;
        listener.wait_text("Speaking now: Bo").await;
    }
    listeners[0].pictures("live-speaking").await;
    host.pictures("stage").await;
    host.is_accessible_in_the_dark("stage").await;

    mute(host, speaker, listeners).await;
    kill_relay(scene, &listeners[2]).await;
    ban(host, &listeners[1]).await;
    leave_stage(speaker, host).await;

    host.click("End the room").await;
    host.wait_text("End the room for everyone?").await;
    host.pictures("end").await;
    host.click("Yes, end it").await;
    for person in [host, speaker, &listeners[0], &listeners[2]] {
        // On a machine that is very busy the session's close may come without its code.
        person.wait("the end", "stentor.visitor.model.state.phase === 'ended'").await;
    }
    listeners[0].pictures("ended").await;
}

/// A host makes a public room in the page; returns the room's name.
async fn create(scene: &Scene, host: &Person<'_>) -> String {
    host.open(&scene.url(&format!("/new#token={}", scene.api_key()))).await;
    host.fill("#title", "The sea at night").await;
    host.fill("#topic", "Sea").await;
    host.fill("#name", "Ada").await;
    host.pictures("new").await;
    host.click("Create the room").await;
    host.wait_text("Link for everyone").await;
    assert_eq!(host.get("location.hash").await, "", "the token does not stay in the address bar");
    let share = host.get("document.querySelector('#share').value").await;
    let link = share.as_str().unwrap().to_owned();
    link.rsplit('/').next().unwrap().to_owned()
}

/// Each listener at another relay: whoever finds a neighbour there goes and comes again.
async fn at_different_relays(listeners: &[Person<'_>], link: &str) {
    let mut taken = Vec::new();
    for listener in listeners {
        listener.open(link).await;
        listener.wait_text("Press Listen to hear the room.").await;
        if taken.is_empty() {
            listener.pictures("idle").await;
            listener.is_accessible_in_the_dark("idle").await;
        }
        listener.listen().await;
        for _ in 0..60 {
            if !taken.contains(&listener.relay().await) {
                break;
            }
            listener.click("Stop listening").await;
            listener.wait_text("You have stopped listening.").await;
            listener.listen().await;
        }
        let relay = listener.relay().await;
        assert!(relay.starts_with("relay-") && !taken.contains(&relay), "{relay} of {taken:?}");
        taken.push(relay);
    }
}

/// A listener raises a hand, is invited, tries the microphone and goes on stage; meanwhile somebody else
/// is heard without a break.
async fn promote(scene: &Scene, host: &Person<'_>, speaker: &Person<'_>, room: &str) {
    let playing = scene.speaker(room, "file", FILE);
    speaker.open(&scene.url(&format!("/rooms/{room}"))).await;
    speaker.listen().await;
    speaker.hears(FILE).await;
    speaker.fill("#name", "Bo").await;
    speaker.click("Raise hand").await;
    host.wait_text("Bo").await;
    host.pictures("hand").await;
    host.click("Bring on stage").await;
    speaker.wait_text("The host invites you to the stage as speaker.").await;
    speaker.pictures("invited").await;
    speaker.click("Set up the microphone").await;
    speaker.wait("the microphone's level", "stentor.visitor.model.microphone.level < 60").await;
    speaker.pictures("microphone").await;
    let lost = speaker.get(LOST).await;
    speaker.run("follow()", vec![]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    speaker.click("Go on stage and speak").await;
    speaker.wait_text("You are on stage, and you can be heard.").await;
    assert_eq!(speaker.relay().await, "origin");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let heard = speaker.get("heard()").await;
    println!("promotion: the longest silence is {} ms", heard["longest"]);
    assert!(heard["longest"].as_i64().unwrap() < BREAK_MS, "{heard}");
    assert_eq!(speaker.get(LOST).await, lost, "no tick is lost between the relay and the origin");
    speaker.pictures("on-stage").await;
    host.click_at("file", "Remove").await;
    host.wait(
        "one other on stage",
        "document.querySelectorAll('.host ul.people > li').length === 1",
    )
    .await;
    drop(playing);
}

/// A host's mute silences the speaker, who is told so; lifted, the speaker is heard again.
async fn mute(host: &Person<'_>, speaker: &Person<'_>, listeners: &[Person<'_>]) {
    for listener in listeners {
        listener.run("follow()", vec![]).await;
    }
    let asked = host.get("Date.now()").await.as_i64().unwrap();
    host.click_at("Bo", "Mute").await;
    for listener in listeners {
        listener.hears_nothing().await;
        let last = listener.get("heard().last").await.as_i64().unwrap();
        println!("mute: {} heard {} ms of it", listener.name, last - asked);
        assert!(last - asked < DECISION_MS);
    }
    speaker.wait_text("The host has muted you. Nobody hears you.").await;
    speaker.pictures("muted-by-host").await;
    host.click_at("Bo", "Unmute").await;
    for listener in listeners {
        listener.hears(MICROPHONE).await;
    }
    speaker.click("Mute").await;
    listeners[0].hears_nothing().await;
    speaker.wait_text("You are on stage and muted. Nobody hears you.").await;
    speaker.click("Speak").await;
    listeners[0].hears(MICROPHONE).await;
}

/// A relay is killed: its listener's page goes to another one by itself and plays on.
async fn kill_relay(scene: &mut Scene, listener: &Person<'_>) {
    let relay = listener.relay().await;
    listener.run("follow()", vec![]).await;
    scene.tree.kill(&relay);
    let elsewhere =
        format!("![{}, null, undefined].includes(stentor.visitor.model.me?.relay)", json!(relay));
    listener.wait("another relay", &elsewhere).await;
    listener.wait_text("You are listening live.").await;
    listener.hears(MICROPHONE).await;
    let heard = listener.get("heard()").await;
    println!("killed relay: {} ms of silence at its listener", heard["longest"]);
    listener.pictures("recovered").await;
}

/// A hand is raised and its owner banned: cut at once, and kept out.
async fn ban(host: &Person<'_>, listener: &Person<'_>) {
    listener.fill("#name", "Mal").await;
    listener.click("Raise hand").await;
    host.wait_text("Mal").await;
    listener.run("follow()", vec![]).await;
    host.click_at("Mal", "Ban").await;
    host.wait_text("from this room?").await;
    host.pictures("ban").await;
    let asked = host.get("Date.now()").await.as_i64().unwrap();
    host.click("Yes, ban").await;
    listener.wait_text("The host has banned you from this room.").await;
    let told = listener.get("told.at(-1)[0]").await.as_i64().unwrap();
    println!("ban: cut after {} ms", told - asked);
    assert!(told - asked < DECISION_MS);
    listener.pictures("banned").await;
    listener.click("Listen").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    listener.wait_text("The host has banned you from this room.").await;
    assert_eq!(listener.get("stentor.visitor.output").await, json!(null), "nothing is played");
    host.wait_text("Lift the ban").await;
}

/// Whoever leaves the stage goes on listening.
async fn leave_stage(speaker: &Person<'_>, host: &Person<'_>) {
    speaker.click("Leave the stage").await;
    speaker.wait("the audience", "stentor.visitor.model.me?.slot === null").await;
    assert!(speaker.relay().await.starts_with("relay-"));
    host.wait_text("Nobody else is on stage.").await;
}
