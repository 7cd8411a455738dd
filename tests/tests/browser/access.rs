//! A page by the keyboard alone, and for those whom motion makes ill.

use fantoccini::key::Key;
use serde_json::json;
use stentor_tests::browser::Browser;

use super::cast::{ALONE, Person, Scene};

#[tokio::test]
async fn a_listener_needs_no_mouse() {
    let scene = Scene::start(1);
    let browser = Browser::start(&[ALONE]).await;
    let person = Person::first("keyboard", &browser).await;
    person.open(&scene.url("/")).await;
    let room = person.make_room(&scene, "By keyboard").await;
    let token = scene.token(&room, "host", "ada");
    person.open(&scene.url(&format!("/rooms/{room}#token={token}"))).await;
    person.wait_text("Press Listen to hear the room.").await;
    press(&person, "Listen", Key::Enter).await;
    person.wait("a session", "stentor.visitor.model.state.phase === 'live'").await;
    assert_eq!(focused(&person).await, "Stop listening", "the focus stays where it was");
    let before = person.get("stentor.visitor.model.volume").await;
    press(&person, "Volume", Key::Left).await;
    assert_ne!(person.get("stentor.visitor.model.volume").await, before);
    press(&person, "Lock the room", Key::Enter).await;
    person.wait_text("Unlock the room").await;
    assert_eq!(focused(&person).await, "Unlock the room");
    press(&person, "End the room", Key::Enter).await;
    person.wait("the question", "document.activeElement.closest('dialog')").await;
    person.page().await.active_element().await.unwrap().send_keys(&key(Key::Escape)).await.unwrap();
    person.wait("the answer", "!document.querySelector('dialog[open]')").await;
    assert_eq!(focused(&person).await, "End the room", "the focus comes back");
    let told = "(node => [node.getAttribute('role'), node.getAttribute('aria-live')])(document.querySelector('.join .status'))";
    assert_eq!(person.get(told).await, json!(["status", "polite"]));

    let motion = json!({"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]});
    person.cdp("Emulation.setEmulatedMedia", motion).await;
    let moves = "[...document.querySelectorAll('*')].filter((node) => {
        const { transitionDuration, animationName } = getComputedStyle(node);
        return animationName !== 'none' || transitionDuration.split(', ').some((time) => time !== '0s');
    }).length";
    assert_eq!(person.get(moves).await, 0);
    person.console_is_clean(&[]).await;
}

/// Goes on by the tab key until that control has the focus, and presses a key there.
async fn press(person: &Person<'_>, label: &str, pressed: Key) {
    for _ in 0..60 {
        if focused(person).await == label {
            let element = person.page().await.active_element().await.unwrap();
            element.send_keys(&key(pressed)).await.unwrap();
            return;
        }
        let element = person.page().await.active_element().await.unwrap();
        element.send_keys(&key(Key::Tab)).await.unwrap();
    }
    panic!("{label} is not reached by the tab key");
}

/// What the control that has the focus is called.
async fn focused(person: &Person<'_>) -> String {
    let name = "(node => node.labels?.[0]?.textContent ?? node.getAttribute('aria-label') ?? node.textContent.trim())(document.activeElement)";
    person.get(name).await.as_str().unwrap_or_default().to_owned()
}

fn key(key: Key) -> String {
    char::from(key).to_string()
}
