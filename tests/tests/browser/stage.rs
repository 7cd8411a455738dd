//! On and off the stage: hands, the microphone, a co-host, what the audience says, who is put out.

use serde_json::json;
use stentor_tests::browser::Browser;

use super::cast::{ALONE, Person, Scene};

const MICROPHONE: f32 = 700.0;
/// Chooses another microphone than the present one: its id.
const OTHER: &str = "const list = document.querySelector('#microphone');
    const other = [...list.options].map(({ value }) => value).findLast((id) => id && id !== list.value);
    list.value = other;
    list.dispatchEvent(new Event('change'));
    return other;";
/// Keeps the largest count of applause that the page shows.
const APPLAUSE: &str = "globalThis.applause = 0;
    setInterval(() => {
        const shown = document.querySelector('button[aria-label=Applause] .number').textContent;
        globalThis.applause = Math.max(globalThis.applause, Number(shown));
    }, 50);";

#[tokio::test]
async fn people_come_on_stage_and_leave_it() {
    let scene = Scene::start(2);
    // Eight seconds without a word, again and again.
    let microphone = scene.tone_and_silence(MICROPHONE, 6, 8);
    let microphone = format!("--use-file-for-fake-audio-capture={}", microphone.display());
    let fake = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        &microphone,
        ALONE,
    ];
    let (office, studio) = (Browser::start(&[ALONE]).await, Browser::start(&fake).await);
    let host = Person::first("stage-host", &office).await;
    let listener = Person::first("stage-listener", &studio).await;
    let speaker = Person::another("stage-speaker", &studio).await;
    host.open(&scene.url("/")).await;
    let room = host.make_room(&scene, "On and off").await;
    let token = scene.token(&room, "host", "ada");
    host.open(&scene.url(&format!("/rooms/{room}#token={token}"))).await;
    host.listen().await;
    for person in [&listener, &speaker] {
        person.open(&scene.url(&format!("/rooms/{room}"))).await;
        person.listen().await;
    }

    raise(&host, &listener, "Lis").await;
    raise(&host, &speaker, "Bo").await;
    host.click_at("Lis", "Lower").await;
    listener.wait_text("The host has lowered your hand.").await;
    assert_eq!(listener.get("stentor.visitor.model.hand").await, json!(false));
    assert_eq!(speaker.get("stentor.visitor.model.hand").await, json!(true), "only that one");
    raise(&host, &listener, "Lis").await;
    listener.click("Lower hand").await;

    host.click_at("Bo", "Bring on stage").await;
    choose_microphone(&speaker, &listener).await;
    go_on_stage(&speaker).await;
    listener.hears(MICROPHONE).await;
    speaker.wait_text("Your microphone is silent. Nobody hears you").await;
    speaker.pictures("silent").await;
    speaker.wait_text("You are on stage, and you can be heard.").await;

    co_host(&host, &speaker).await;
    audience_speaks(&host, &listener).await;

    raise(&host, &speaker, "Bo").await;
    host.click_at("Bo", "Bring on stage").await;
    speaker.click("Set up the microphone").await;
    go_on_stage(&speaker).await;
    host.click_at("Bo", "Remove").await;
    speaker.wait_text("The host has removed you from this room.").await;
    speaker.pictures("removed").await;
    assert_eq!(speaker.get("stentor.visitor.output").await, json!(null), "nothing is played");
    host.wait_text("Nobody else is on stage.").await;
    listener.wait_text("You are listening live.").await;
    for person in [&host, &listener, &speaker] {
        // What a co-host's page asks for while the host takes the role.
        person.console_is_clean(&["403 (Forbidden)"]).await;
    }
}

/// A hand is raised under a name, and the host sees it.
async fn raise(host: &Person<'_>, person: &Person<'_>, name: &str) {
    person.fill("#name", name).await;
    person.click("Raise hand").await;
    host.wait_text(name).await;
}

/// The level is seen, of one microphone and of another, before anybody hears it.
async fn choose_microphone(speaker: &Person<'_>, listener: &Person<'_>) {
    speaker.click("Set up the microphone").await;
    speaker.wait_text("Choose a microphone and say a few words. Nobody hears you yet.").await;
    let loud = "stentor.visitor.model.microphone.level < 60
        && Number(document.querySelector('.microphone .meter').getAttribute('aria-valuenow')) > 0";
    speaker.wait("the microphone's level", loud).await;
    let other = speaker.run(OTHER, vec![]).await;
    assert!(other.as_str().is_some_and(|id| !id.is_empty()), "{other}: there are several");
    let chosen = format!(
        "(({{ device, phase }}) => phase === 'open' && device === {other})(stentor.visitor.model.microphone)"
    );
    speaker.wait("the other microphone", &chosen).await;
    speaker.wait("the other microphone's level", loud).await;
    assert_eq!(speaker.get("document.querySelector('#microphone').value").await, other);
    listener.hears_nothing().await;
}

async fn go_on_stage(speaker: &Person<'_>) {
    speaker.click("Go on stage and speak").await;
    speaker.wait_text("You are on stage, and you can be heard.").await;
}

/// A speaker becomes a co-host, decides, and is taken back to the audience.
async fn co_host(host: &Person<'_>, speaker: &Person<'_>) {
    host.click_at("Bo", "Make co-host").await;
    host.wait_text("Invited as co-host").await;
    speaker.wait_text("The host invites you to the stage as co-host.").await;
    speaker.click("Become co-host").await;
    speaker.wait_text("Your room").await;
    host.wait_text("Co-host").await;
    speaker.pictures("co-host").await;
    speaker.click("Lock the room").await;
    host.wait_text("Unlock the room").await;
    host.click("Unlock the room").await;
    host.click_at("Bo", "Back to the audience").await;
    speaker.wait_text("The host has taken you back to the audience.").await;
    speaker.wait("the audience", "stentor.visitor.model.me?.slot === null").await;
    speaker.wait("a page without a host's part", "document.querySelector('.host').hidden").await;
    assert!(speaker.relay().await.starts_with("relay-"));
    host.wait_text("Nobody else is on stage.").await;
}

/// Applause is seen by everyone, a glitch by the host.
async fn audience_speaks(host: &Person<'_>, listener: &Person<'_>) {
    host.run(APPLAUSE, vec![]).await;
    for _ in 0..3 {
        listener.click("Applause").await;
    }
    host.wait("the applause", "applause > 0").await;
    assert_eq!(host.get("stentor.visitor.model.host.stats.glitches").await, json!(0));
    listener.click("I hear a glitch").await;
    listener.wait_text("Thank you. The host sees where listeners hear glitches.").await;
    let shown = "[...document.querySelectorAll('.host dl.figures > div')].some((figure) =>
        figure.querySelector('dt').textContent === 'Glitches in the last minute'
        && Number(figure.querySelector('dd').textContent) === 1)";
    host.wait("the glitch", shown).await;
    host.pictures("glitch").await;
}
