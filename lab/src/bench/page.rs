//! What people in browsers wait for: the first sound, a voice's way from mouth to ear, a mute, a ban.
//!
//! One page speaks, by a microphone whose sound is known, and decides as a host; another page comes
//! in again and again, as somebody new each time, listens, and is banned. Both clocks are one: the
//! machine's.

mod bursts;
mod scene;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use self::bursts::{cut, delays};
use self::scene::Scene;
use crate::report::{Report, quantile};

/// What to measure.
#[derive(Clone, Debug)]
pub struct PageOptions {
    /// Listeners who come, one after the other, listen, and are banned.
    pub visits: usize,
    /// How many times the speaker is muted.
    pub mutes: usize,
    /// The browser.
    pub chromium: PathBuf,
}

/// A listener listens for this long before it is banned.
const LISTEN: Duration = Duration::from_millis(2_500);
/// A mute or ban is watched for this long, and so is its end.
const WATCH: Duration = Duration::from_millis(1_500);

/// Runs the bench and returns its report. Progress goes to `say`.
///
/// # Errors
/// When something could not be measured; where the browser is missing, with what to install.
pub fn run(options: &PageOptions, say: &mut dyn FnMut(&str)) -> Result<Report> {
    if !(1..=40).contains(&options.visits) || !(1..=40).contains(&options.mutes) {
        bail!("--visits and --mutes must be 1 to 40");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(options, say))
}

/// What was measured, in milliseconds.
#[derive(Debug, Default)]
struct Figures {
    first_sound: Vec<f64>,
    mouth_to_ear: Vec<f64>,
    playout_target: Vec<f64>,
    mute: Vec<f64>,
    ban_cut: Vec<f64>,
    /// Ticks that were lost, of how many.
    lost: f64,
    ticks: f64,
}

async fn measure(options: &PageOptions, say: &mut dyn FnMut(&str)) -> Result<Report> {
    let mut report = Report::start();
    say("an origin, four relays on two levels, two browsers");
    let scene = Scene::start(&options.chromium).await?;
    let mut figures = Figures::default();
    for visit in 1..=options.visits {
        scene.visit(&mut figures).await?;
        say(&format!(
            "visit {visit} of {}: first sound after {:.0} ms",
            options.visits,
            figures.first_sound.last().copied().unwrap_or_default()
        ));
        if visit == options.visits {
            say(&format!("{} mutes", options.mutes));
            scene.mutes(options.mutes, &mut figures).await?;
        }
        scene.ban(&mut figures).await?;
    }
    figures.report(&mut report)?;
    report.set("visits", options.visits);
    report.set("mutes", options.mutes);
    report.set("relays", scene.relays());
    report.set("chromium", scene.chromium().await?);
    Ok(report)
}

impl Figures {
    fn report(&mut self, report: &mut Report) -> Result<()> {
        let mut set = |name: &str, samples: &mut [f64], share| -> Result<()> {
            report.set(name, quantile(samples, share)?);
            Ok(())
        };
        set("first_sound_ms_p50", &mut self.first_sound, 0.5)?;
        set("first_sound_ms_p99", &mut self.first_sound, 0.99)?;
        set("mouth_to_ear_ms_p50", &mut self.mouth_to_ear, 0.5)?;
        set("mouth_to_ear_ms_p99", &mut self.mouth_to_ear, 0.99)?;
        set("playout_target_ms", &mut self.playout_target, 0.5)?;
        set("mute_ms_p50", &mut self.mute, 0.5)?;
        set("mute_ms_p99", &mut self.mute, 0.99)?;
        set("ban_cut_ms_p50", &mut self.ban_cut, 0.5)?;
        set("ban_cut_ms_p99", &mut self.ban_cut, 0.99)?;
        report.set("mouth_to_ear_samples", self.mouth_to_ear.len());
        report.set("ticks", self.ticks);
        report.set("ticks_lost", self.lost);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browser::CHROMIUM;

    #[test]
    fn a_machine_without_a_browser_is_told_what_to_install() {
        let options = PageOptions { visits: 1, mutes: 1, chromium: "/nowhere/chromium".into() };
        let error = run(&options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("apt install chromium chromium-driver"), "{error}");
        let none = PageOptions { visits: 0, mutes: 1, chromium: CHROMIUM.into() };
        assert!(run(&none, &mut |_| {}).is_err());
    }

    #[test]
    fn a_figure_without_a_sample_is_an_error_and_no_number() {
        let mut figures = Figures { first_sound: vec![1.0], ..Figures::default() };
        assert!(figures.report(&mut Report::start()).is_err());
    }
}
