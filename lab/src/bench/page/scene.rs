//! The tree, the page that speaks and the page that listens.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fantoccini::Locator;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stentor_proto::token::ANY_ROOM;
use stentor_proto::wire::Role;

use super::{Figures, LISTEN, WATCH, bursts, cut, delays};
use crate::bed::{Bed, RelayPlan};
use crate::browser::Browser;
use crate::report::quantile;

const EAR: &str = include_str!("ear.js");
/// Sound, or a state of the page, is waited for this long.
const WITHIN: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(20);

/// Everything that runs.
pub(super) struct Scene {
    bed: Bed,
    host: Page,
    listener: Page,
    room: String,
}

struct Page(Browser);

/// What a page has noted at a place of its audio graph.
#[derive(Debug, Default, Deserialize)]
struct Noted {
    begins: Vec<f64>,
    last: f64,
    missed: f64,
}

/// A listener as its page shows it.
#[derive(Debug, Deserialize)]
struct Listener {
    phase: String,
    name: Option<String>,
    identity: Option<String>,
    first_sound: Option<f64>,
    hold: Option<f64>,
    ticks: f64,
    lost: f64,
}

impl Scene {
    /// Starts a tree of two levels and the browsers, makes a room, and lets the host speak.
    pub(super) async fn start(chromium: &Path) -> Result<Self> {
        let microphone = tempfile::Builder::new().suffix(".wav").tempfile()?;
        bursts::write(microphone.path())?;
        let file = format!("--use-file-for-fake-audio-capture={}", microphone.path().display());
        let flags =
            ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", file.as_str()];
        let host = Page(Browser::start(chromium, &flags).await?);
        let listener = Page(Browser::start(chromium, &[]).await?);
        let mut bed = Bed::start("page", "", None)?;
        for (name, level) in [("relay-1a", 1), ("relay-1b", 1), ("relay-2a", 2), ("relay-2b", 2)] {
            bed.add_relay(&RelayPlan::new(name, level))?;
            bed.wait_ready()?;
        }
        let base = format!("http://localhost:{}", bed.origin.address.port());
        let key = bed.token(ANY_ROOM, Role::Host)?;
        host.0.page().goto(&base).await?;
        let made = host.0.run(MAKE_ROOM, vec![json!(key)]).await?;
        let link = made["host_page"].as_str().context("a room has a page")?;
        let link = if link.starts_with('/') { format!("{base}{link}") } else { link.to_owned() };
        let room = format!("{base}{}", made["page"].as_str().context("a room has a page")?);
        host.0.page().goto(&link).await?;
        host.listen().await?;
        host.until("return stentor.visitor.model.me?.slot != null;").await?;
        host.0.run(SPEAK, Vec::new()).await?;
        host.until("return (measured.mouth?.begins.length ?? 0) > 7;").await?;
        Ok(Self { bed, host, listener, room })
    }

    /// Somebody new comes, hears, and goes on listening.
    pub(super) async fn visit(&self, figures: &mut Figures) -> Result<()> {
        let page = &self.listener;
        page.0.page().goto(&self.room).await?;
        // Another person: nothing of the last one's visit is known.
        page.0.run("sessionStorage.clear();", Vec::new()).await?;
        page.0.page().goto(&self.room).await?;
        page.listen().await?;
        page.until("return performance.getEntriesByType('measure').length > 0;").await?;
        tokio::time::sleep(LISTEN).await;
        let seen: Listener = page.read(LISTENER).await?;
        figures.first_sound.push(seen.first_sound.context("sound was heard")?);
        figures.playout_target.extend(seen.hold);
        figures.ticks += seen.ticks;
        figures.lost += seen.lost;
        let (mouth, ear) = (self.host.noted("mouth").await?, page.noted("ear").await?);
        let found = delays(&mouth.begins, &ear.begins);
        if found.is_empty() {
            bail!("no burst of the microphone was heard: {} {:?}", mouth.begins.len(), ear.begins);
        }
        figures.mouth_to_ear.extend(found);
        Ok(())
    }

    /// The host is muted by its own order, and unmuted, so many times.
    pub(super) async fn mutes(&self, times: usize, figures: &mut Figures) -> Result<()> {
        for _ in 0..times {
            let order = self.host.act(json!({"action": "mute"})).await?;
            figures.mute.push(self.silence_after(order, figures).await?);
            let order = self.host.act(json!({"action": "unmute"})).await?;
            let heard = "return measured.ear.last > arguments[0];";
            self.listener.until_with(heard, vec![json!(order)]).await?;
            tokio::time::sleep(WATCH / 3).await;
        }
        Ok(())
    }

    /// The listener is banned: its sound ends, and its page says why.
    pub(super) async fn ban(&self, figures: &mut Figures) -> Result<()> {
        let seen: Listener = self.listener.read(LISTENER).await?;
        let identity = seen.identity.context("the listener has a name")?;
        let order = self.host.act(json!({"action": "ban", "identity": identity})).await?;
        figures.ban_cut.push(self.silence_after(order, figures).await?);
        let after: Listener = self.listener.read(LISTENER).await?;
        if (after.phase.as_str(), after.name.as_deref()) != ("ended", Some("banned")) {
            bail!("a banned listener's page says {} {:?}", after.phase, after.name);
        }
        Ok(())
    }

    /// How long after an order the listener's ear was spared what was said.
    async fn silence_after(&self, order: f64, figures: &Figures) -> Result<f64> {
        tokio::time::sleep(WATCH).await;
        let (mouth, ear) = (self.host.noted("mouth").await?, self.listener.noted("ear").await?);
        let delay = quantile(&mut figures.mouth_to_ear.clone(), 0.5)?;
        let cut = cut(&mouth.begins, delay, ear.last, order);
        cut.with_context(|| format!("sound went on for {:.0} ms", ear.last - order))
    }

    pub(super) fn relays(&self) -> usize {
        self.bed.relays.len()
    }

    /// The browser's version.
    pub(super) async fn chromium(&self) -> Result<String> {
        let agent = self.listener.0.run("return navigator.userAgent;", Vec::new()).await?;
        let agent = agent.as_str().unwrap_or_default();
        let version = agent.split("Chrome/").nth(1).and_then(|rest| rest.split(' ').next());
        Ok(version.unwrap_or("unknown").to_owned())
    }
}

impl Page {
    /// Presses Listen, as a person does.
    async fn listen(&self) -> Result<()> {
        self.until("return Boolean(globalThis.stentor?.visitor);").await?;
        self.0.run(EAR, Vec::new()).await?;
        let button = self.0.page().wait().for_element(Locator::Css("button.listen")).await?;
        button.click().await?;
        Ok(())
    }

    /// Waits until a script's answer is true.
    async fn until(&self, script: &str) -> Result<()> {
        self.until_with(script, Vec::new()).await
    }

    async fn until_with(&self, script: &str, arguments: Vec<Value>) -> Result<()> {
        let until = Instant::now() + WITHIN;
        while self.0.run(script, arguments.clone()).await? != json!(true) {
            if Instant::now() > until {
                let state = self.0.run("return document.body.innerText;", Vec::new()).await?;
                bail!("the page waits in vain for {script}: {state}");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn read<T: DeserializeOwned>(&self, script: &str) -> Result<T> {
        Ok(serde_json::from_value(self.0.run(script, Vec::new()).await?)?)
    }

    async fn noted(&self, place: &str) -> Result<Noted> {
        let noted = self.0.run(NOTED, vec![json!(place)]).await?;
        let noted: Noted = serde_json::from_value(noted)?;
        if noted.missed > 0.0 {
            bail!("the page was too busy: {} samples of the {place} were not seen", noted.missed);
        }
        Ok(noted)
    }

    /// Gives an order as a host; when it was given.
    async fn act(&self, order: Value) -> Result<f64> {
        let at = self.0.run(ACT, vec![order]).await?;
        at.as_f64().with_context(|| format!("the order was refused: {at}"))
    }
}

const MAKE_ROOM: &str = "
    const response = await fetch('/v1/rooms', {
        method: 'POST', body: JSON.stringify({ title: 'Bench', name: 'bench', public: true }),
        headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${arguments[0]}` },
    });
    const made = await response.json();
    if (!response.ok) {
        throw new Error(JSON.stringify(made));
    }
    return made.links;";

const SPEAK: &str = "
    const { visitor } = stentor;
    await visitor.openMicrophone();
    if (visitor.model.microphone.phase !== 'live') {
        throw new Error(`the microphone is ${JSON.stringify(visitor.model.microphone)}`);
    }
    visitor.mute(false);";

/// The person itself where the order names nobody.
const ACT: &str = "
    const { visitor } = stentor;
    const at = measured.clock();
    await visitor.act({ identity: visitor.model.me.identity, ...arguments[0] });
    return visitor.model.host.error || at;";

const NOTED: &str = "
    const tap = measured[arguments[0]];
    tap.look();
    return { begins: tap.begins, last: tap.last, missed: tap.missed };";

const LISTENER: &str = "
    const { model } = stentor.visitor;
    const [heard] = performance.getEntriesByType('measure');
    return {
        phase: model.state.phase, name: model.state.name ?? null,
        identity: model.me?.identity ?? null, first_sound: heard?.duration ?? null,
        hold: model.stats?.holdMs ?? null, ticks: model.stats?.ticks ?? 0, lost: model.stats?.lost ?? 0,
    };";
