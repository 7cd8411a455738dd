//! Pages beside people and networks that mean no good.

use serde_json::{Value, json};
use stentor_tests::browser::Browser;

use super::cast::{ALONE, Person, Scene};

/// The tone of a speaker who does as one should.
const FILE: f32 = 1_250.0;
/// Text that is a script, turns direction, and does not end.
const SCRIPT: &str = "<img src=x onerror=hacked=1><script>hacked=1</script>";
/// Speaks as somebody whose packets are noise behind a first byte that is in order.
const MALFORMED: &str = "const [room, token] = arguments;
    const at = (path) => document.querySelector('script').src.replace('page/main.js', path);
    const { Api } = await import(at('api.js'));
    const { openLink } = await import(at('session/link.js'));
    const { SpeechSender } = await import(at('session/speech.js'));
    const { origin } = await new Api(location.origin, token).join(room, {});
    const name = String.fromCharCode(0x202e) + 'x'.repeat(120);
    const slot = await new Promise((welcomed, refused) => {
        globalThis.bad = openLink({ relay: 'origin', ...origin }, { role: 'speaker', room, token, name }, {
            message: ({ type, slot }) => type === 'welcome' && welcomed(slot),
            datagram: () => {}, down: refused,
        });
    });
    const sender = new SpeechSender(slot, 160);
    for (let i = 0; i < 150; i++) {
        const opus = crypto.getRandomValues(new Uint8Array(3 + (i * 7) % 150));
        if (i % 3 === 0) { opus.fill(255); }
        // SILK, hybrid and CELT frames of 20 ms, one in the packet.
        opus[0] = [9 << 3, 13 << 3, 15 << 3, 31 << 3, (31 << 3) | 4][i % 5];
        bad.datagram(sender.push({ level: 10, voice: true, opus }));
        await new Promise((next) => setTimeout(next, 20));
    }
    return slot;";

#[tokio::test]
async fn a_page_stands_hostile_people() {
    let scene = Scene::start(1);
    let browser = Browser::start(&[ALONE]).await;
    let listener = Person::first("hostile", &browser).await;
    let mallory = Person::another("mallory", &browser).await;
    mallory.open(&scene.url("/")).await;
    assert_eq!(mallory.make_room(&scene, &"x".repeat(10_000)).await, "400");
    assert_eq!(mallory.make_room(&scene, "\u{202e}evil").await, "400");
    let title = format!("{SCRIPT}\u{200f}{}", "W".repeat(100));
    let room = mallory.make_room(&scene, &title).await;
    let playing = scene.speaker(&room, "file", FILE);

    listener.open(&scene.url(&format!("/rooms/{room}"))).await;
    listener.listen().await;
    listener.hears(FILE).await;
    let token = scene.token(&room, "speaker", "mallory");
    mallory.run(MALFORMED, vec![json!(room), json!(token)]).await;
    listener.wait("the long name", "document.querySelectorAll('.stage li').length === 2").await;
    listener.pictures("names").await;
    let found = "[typeof hacked, document.querySelectorAll('#app script, #app img[src=x]').length,
        document.querySelector('h1').textContent.startsWith('<img'),
        [...document.querySelectorAll('.stage .name')].every(({ textContent }) =>
            textContent.length < 200 && !/[\\u202a-\\u202e\\u2066-\\u2069]/.test(textContent))]";
    assert_eq!(listener.get(found).await, json!(["undefined", 0, true, true]));
    mallory.run("bad.leave();", vec![]).await;
    listener.hears(FILE).await;
    let stats = listener.get("stentor.visitor.model.stats").await;
    println!(
        "malformed Opus: {} refused, {} decoders replaced",
        stats["malformed"], stats["decoderErrors"]
    );

    listener.open(&scene.url("/")).await;
    listener.wait_text("Live now").await;
    listener.pictures("lobby").await;
    listener.open(&scene.url("/rooms/no-such-room%")).await;
    listener.wait_text("There is no room of this name, or it has ended.").await;
    listener.pictures("no-room").await;
    drop(playing);
    listener.console_is_clean(&["400 (Bad Request)", "404 (Not Found)"]).await;
}

#[tokio::test]
async fn a_page_that_slept_and_a_link_in_two_tabs() {
    let scene = Scene::start(2);
    let browser = Browser::start(&[ALONE]).await;
    let first = Person::first("first-tab", &browser).await;
    let second = Person::another("second-tab", &browser).await;
    first.open(&scene.url("/")).await;
    let room = first.make_room(&scene, "Two tabs").await;
    let playing = scene.speaker(&room, "file", FILE);
    let link = scene.url(&format!("/rooms/{room}#token={}", scene.token(&room, "speaker", "ann")));

    first.open(&link).await;
    first.listen().await;
    first.hears(FILE).await;
    second.open(&link).await;
    second.listen().await;
    first.wait_text("You have joined from another tab or device with the same link.").await;
    first.pictures("replaced").await;
    second.hears(FILE).await;
    first.click("Listen here").await;
    second.wait_text("You have joined from another tab or device with the same link.").await;
    first.wait("a session", "stentor.visitor.model.state.phase === 'live'").await;
    first.hears(FILE).await;

    sleep(&first).await;
    first.wait_text("You are connected.").await;
    first.hears(FILE).await;
    drop(playing);
    first.console_is_clean(&[]).await;
}

/// The browser suspends the page, as a phone does in a pocket: longer than any patience of a node.
async fn sleep(person: &Person<'_>) {
    // A new visit has none until its first second is over.
    person.wait("a first count of ticks", "stentor.visitor.model.stats").await;
    let before = person.get("stentor.visitor.model.stats.ticks").await;
    person.cdp("Page.setWebLifecycleState", json!({"state": "frozen"})).await;
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    person.cdp("Page.setWebLifecycleState", json!({"state": "active"})).await;
    assert_ne!(before, Value::Null);
}
