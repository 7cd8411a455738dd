//! How an evening goes, step by step, and what was seen meanwhile.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use stentor_proto::Time;

use super::house::{Budgets, House, Operator};
use super::told::{Sample, Told};
use super::{EveningOptions, Outcome, STEPS};
use crate::nodes::kernel_drops;
use crate::report::quantile;
use crate::storm::{Curve, Figures, NEVER_MS, Storm, Visit};

/// People come in stretches of this, with a look at everything between.
const STRETCH: Duration = Duration::from_secs(1);
/// The speaker joins this many minutes before the hour.
const SPEAKER_BEFORE: f64 = 1.0;
/// The relay is killed when the tree is full and people wait, but so many minutes after the hour at
/// the latest …
const KILLED_BY: f64 = 24.0;
/// … and no sooner than this.
const KILLED_AFTER: f64 = 4.0;
/// It comes back so many minutes later, of the evening's or of the clock's own seconds.
const BACK_AFTER: f64 = 6.0;
const BACK_LEAST: Duration = Duration::from_secs(6);
/// Who gives out addresses stops to give out a dead relay's after this.
const ADDRESS_CHECK: Duration = Duration::from_secs(2);
/// By then whoever lost the relay hears the room again, or has not returned.
const RETURNED_BY: Duration = Duration::from_secs(5);
/// Whoever heard nothing new for this long is without sound: heartbeats come each 100 ms.
const SILENT: Duration = Duration::from_millis(250);
/// After the last arrival: what is under way ends.
const TAIL: Duration = Duration::from_secs(3);
/// People stay for so many minutes on average.
const STAYS: f64 = 120.0;

/// The relay that is killed.
struct Victim {
    relay: usize,
    killed: Time,
    /// The visits that it served.
    served: Vec<usize>,
    /// When it was started again, and when it served somebody.
    back: Option<Time>,
    serves: Option<Time>,
    /// Those of them who heard the room again in time, or had left by themselves after it.
    returned: Option<usize>,
    given_out: bool,
}

/// An evening that is being played.
pub(super) struct Night<'a> {
    options: &'a EveningOptions,
    house: House,
    operator: Operator,
    storm: Storm,
    begun: Time,
    samples: Vec<Sample>,
    marks: Vec<(&'static str, f64)>,
    victim: Option<Victim>,
    speaker: bool,
    hour: Option<Time>,
    full_for: u32,
}

impl<'a> Night<'a> {
    /// Plays it.
    pub(super) fn play(
        options: &'a EveningOptions,
        budgets: Budgets,
        cores: usize,
        say: &mut dyn FnMut(&str),
    ) -> Result<Told> {
        say("starting an origin and two levels of relays");
        let house = House::open(budgets, cores)?;
        let dwell = Duration::from_secs_f64(STAYS * options.minute());
        let storm = house.storm(dwell, options.seed)?;
        let operator = house.operator()?;
        let mut night = Self {
            options,
            house,
            operator,
            begun: storm.now(),
            storm,
            samples: Vec::new(),
            marks: Vec::new(),
            victim: None,
            speaker: false,
            hour: None,
            full_for: 0,
        };
        night.step("doors", say);
        let end = night.at(options.evening.span().1);
        while night.storm.now() < end {
            night.happens(say)?;
            night.stretch(end)?;
            say(&night.line());
        }
        night.tell()
    }

    /// The storm's time at a minute from the hour.
    fn at(&self, minute: f64) -> Time {
        let from = self.options.evening.span().0;
        self.begun + Duration::from_secs_f64((minute - from).max(0.0) * self.options.minute())
    }

    /// Minutes from the hour.
    fn minute(&self) -> f64 {
        let since = self.storm.now().since(self.begun).as_secs_f64();
        self.options.evening.span().0 + since / self.options.minute()
    }

    fn step(&mut self, name: &'static str, say: &mut dyn FnMut(&str)) {
        let minute = self.minute();
        self.marks.push((name, minute));
        let what = STEPS.iter().find(|(step, _)| *step == name).map_or("", |(_, what)| what);
        say(&format!("{name} at {minute:+.1} min: {what}"));
    }

    fn seen(&self, step: &str) -> bool {
        self.marks.iter().any(|(name, _)| *name == step)
    }

    /// Does what is due.
    fn happens(&mut self, say: &mut dyn FnMut(&str)) -> Result<()> {
        let minute = self.minute();
        if !self.speaker && minute >= -SPEAKER_BEFORE {
            self.speaker = true;
            self.house.speaker_joins()?;
        }
        if !self.seen("speech") && minute >= 0.0 {
            self.house.speech_begins();
            self.hour = Some(self.at(0.0));
            self.step("speech", say);
        }
        if !self.seen("crowd") && minute >= 0.0 && self.storm.waiting() > 0 {
            self.step("crowd", say);
        }
        let full = self.operator.sees("stentor_capacity_free") == 0.0;
        let crowded = full && self.storm.waiting() > 0 && minute >= KILLED_AFTER;
        self.full_for = if crowded { self.full_for + 1 } else { 0 };
        if self.victim.is_none() && (self.full_for >= 2 || minute >= KILLED_BY) {
            self.kill(say)?;
        }
        self.recovers(say)?;
        let (_, end) = self.options.evening.span();
        if self.seen("back") && !self.seen("ebb") && minute >= end - 15.0 {
            self.step("ebb", say);
        }
        self.house.check()
    }

    fn kill(&mut self, say: &mut dyn FnMut(&str)) -> Result<()> {
        let relay = self.house.fullest(&self.storm.inside_by_relay());
        let served = self.storm.guests_at(self.house.address(relay));
        self.house.kill(relay)?;
        let killed = self.storm.now();
        self.step("kill", say);
        say(&format!("{} is killed with {} listeners on it", self.house.name(relay), served.len()));
        self.victim = Some(Victim {
            relay,
            killed,
            served,
            back: None,
            serves: None,
            returned: None,
            given_out: true,
        });
        Ok(())
    }

    /// What follows a relay's death.
    fn recovers(&mut self, say: &mut dyn FnMut(&str)) -> Result<()> {
        let now = self.storm.now();
        let pause = Duration::from_secs_f64(BACK_AFTER * self.options.minute()).max(BACK_LEAST);
        let Some(victim) = &mut self.victim else { return Ok(()) };
        let since = now.since(victim.killed);
        if since >= RETURNED_BY
            && victim.returned.is_none()
            && let Some(hearing) = self.storm.hearing()
        {
            let (killed, stretch) = (victim.killed, Duration::from_secs(1));
            let returned = |visit: &&usize| {
                let heard = hearing.last_new(**visit);
                hearing.left(**visit) || heard.is_some_and(|at| at > killed + stretch)
            };
            victim.returned = Some(victim.served.iter().filter(returned).count());
        }
        if victim.given_out && victim.back.is_none() && since >= ADDRESS_CHECK {
            victim.given_out = false;
            self.storm.set_entries(self.house.entries(Some(victim.relay)));
        }
        let address = self.house.address(victim.relay);
        match victim.back {
            None if since >= pause => {
                self.house.bring_back(victim.relay)?;
                victim.back = Some(now);
                self.step("back", say);
            }
            Some(back) => {
                if victim.serves.is_none() && !self.storm.guests_at(address).is_empty() {
                    victim.serves = Some(now);
                }
                if !victim.given_out && now.since(back) >= ADDRESS_CHECK {
                    victim.given_out = true;
                    self.storm.set_entries(self.house.entries(None));
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Lets people come for a while, up to what is to happen at its own time.
    fn stretch(&mut self, end: Time) -> Result<()> {
        let now = self.storm.now();
        let hour = self.at(0.0);
        let until = if now < hour { end.min(hour) } else { end };
        let time = until.since(now).min(STRETCH);
        let (from, visits) = (self.minute(), self.storm.visits().len());
        let (evening, minute) = (&self.options.evening, self.options.minute());
        let rate = |at: f64| evening.rate(at) * self.options.scale / minute;
        let later = from + time.as_secs_f64() / minute;
        let curve = Curve::through(vec![(Duration::ZERO, rate(from)), (time, rate(later))]);
        self.storm.run(&curve, time)?;
        self.look(visits, now);
        Ok(())
    }

    /// Notes how things stand.
    fn look(&mut self, visits: usize, since: Time) {
        let now = self.storm.now();
        let seconds = now.since(since).as_secs_f64().max(1e-3);
        let mut first: Vec<f64> = self
            .storm
            .visits()
            .iter()
            .filter(|visit| visit.sound.is_some_and(|at| at > since))
            .filter_map(|visit| Some(visit.first_sound()?.as_secs_f64() * 1_000.0))
            .collect();
        let mut sample = Sample {
            minute: self.minute(),
            arrivals_per_s: (self.storm.visits().len() - visits) as f64 / seconds,
            inside: self.storm.inside() as f64,
            waiting: self.storm.waiting() as f64,
            first_sound_ms: quantile(&mut first, 0.99).unwrap_or(0.0),
            free: self.operator.sees("stentor_capacity_free"),
            origin_waiting: self.operator.sees("stentor_capacity_waiting"),
            origin_arrivals: self.operator.sees("stentor_capacity_arrivals_per_second"),
            ..Sample::default()
        };
        if let Some(hearing) = self.storm.hearing() {
            sample.delay_ms = hearing.take_delay_ms();
            sample.silent = hearing.silent(now, SILENT) as f64;
            sample.newest = hearing.newest();
        }
        self.samples.push(sample);
    }

    /// How things stand, in a line.
    fn line(&self) -> String {
        let Some(now) = self.samples.last() else { return String::new() };
        format!(
            "{:+.1} min: {:.0} come in a second, {:.0} inside, {:.0} wait, first sound {:.0} ms, \
             delay {:.1} ms, {:.0} without sound",
            now.minute,
            now.arrivals_per_s,
            now.inside,
            now.waiting,
            now.first_sound_ms,
            now.delay_ms,
            now.silent,
        )
    }

    /// The evening is over: what came of it.
    fn tell(mut self) -> Result<Told> {
        let until = self.storm.now();
        self.storm.until(TAIL, |_| false)?;
        let figures = Figures::over(self.storm.visits(), self.begun, until);
        let visits = self.storm.visits().to_vec();
        let put_out = visits.iter().filter(|v| v.joined.is_some() && v.refused.is_some()).count();
        let (mut lost, mut late) = (0, Vec::new());
        let mut gaps = Vec::new();
        let hour = self.hour.unwrap_or(until);
        if let Some(hearing) = self.storm.hearing() {
            for (number, visit) in visits.iter().enumerate() {
                let mut gap: Option<(u32, u32)> = None;
                for tick in hearing.missing(number) {
                    lost += 1;
                    gap = match gap {
                        Some((from, to)) if to + 1 == tick => Some((from, tick)),
                        former => {
                            gaps.extend(former.map(|gap| (number, gap)));
                            Some((tick, tick))
                        }
                    };
                    let at = self.samples.partition_point(|sample| sample.newest < tick);
                    if let Some(sample) = self.samples.get_mut(at) {
                        sample.lost += 1.0;
                    }
                }
                gaps.extend(gap.map(|gap| (number, gap)));
                let there = visit.sound.is_some_and(|at| at < hour)
                    && visit.left.is_none_or(|at| at > hour + Duration::from_secs(1));
                if there {
                    let heard = hearing.speech(number).map(|at| at.since(hour).as_secs_f64());
                    late.push(heard.unwrap_or(NEVER_MS / 1_000.0));
                }
            }
        }
        let never_late = NEVER_MS / 1_000.0;
        let (served, returned) = self
            .victim
            .as_ref()
            .map_or((0, 0), |victim| (victim.served.len(), victim.returned.unwrap_or(0)));
        let outcome = Outcome {
            inside_ticks_lost: lost,
            returned_percent: 100.0 * returned as f64 / (served as f64).max(1.0),
            late_start_s: quantile(&mut late, 0.99).unwrap_or(never_late),
            first_sound_ms_p99: figures.first_sound_ms.1,
            told_ms_p99: figures.told_ms.1,
            never_answered: figures.never_answered,
            refused: figures.refusals() + put_out as u64,
            admitted: figures.admitted,
            on_the_killed: served as u64,
        };
        let mut more = self.more(&late);
        more.push(("ticks_lost_in", self.gaps(&visits, &gaps)));
        self.operator.goes()?;
        self.house.close()?;
        Ok(Told { samples: self.samples, marks: self.marks, figures, outcome, more })
    }

    /// Where ticks are missing: whose, which, and what else happened to them. The first few will do.
    fn gaps(&mut self, visits: &[Visit], gaps: &[(usize, (u32, u32))]) -> Value {
        const NAMED: usize = 32;
        let since = |at: Time| at.since(self.begun).as_secs_f64();
        let killed = self.victim.as_ref().map(|victim| victim.killed);
        let newest = |at: Time| {
            let minute = self.options.evening.span().0 + since(at) / self.options.minute();
            let at = self.samples.partition_point(|sample| sample.minute < minute);
            self.samples.get(at).map_or(0, |sample| sample.newest)
        };
        let around = killed.map(newest);
        let named = gaps.iter().take(NAMED).map(|&(visit, (from, to))| {
            let of = &visits[visit];
            let served = self.victim.as_ref().is_some_and(|v| v.served.contains(&visit));
            json!({
                "visit": visit,
                "from": from,
                "to": to,
                "newest_after_the_kill": around,
                "on_the_killed": served,
                "http": of.http,
                "waits": of.waits,
                "redirects": of.redirects,
                "joined_s": of.joined.map(|(at, _)| since(at)),
                "moved_s": of.moved.map(since),
                "left_s": of.left.map(since),
                "killed_s": killed.map(since),
            })
        });
        let mut named: Vec<Value> = named.collect();
        if let Some(hearing) = self.storm.hearing() {
            for (entry, &(visit, _)) in named.iter_mut().zip(gaps) {
                entry["first"] = json!(hearing.first(visit));
            }
        }
        named.into()
    }

    /// What the verdict does not ask for.
    fn more(&self, late: &[f64]) -> Vec<(&'static str, Value)> {
        let most = |of: fn(&Sample) -> f64| self.samples.iter().map(of).fold(0.0, f64::max);
        let mut more = vec![
            ("inside_most", json!(most(|sample| sample.inside))),
            ("waiting_most", json!(most(|sample| sample.waiting))),
            ("origin_waiting_most", json!(most(|sample| sample.origin_waiting))),
            ("arrivals_per_s_most", json!(most(|sample| sample.arrivals_per_s).round())),
            ("delay_ms_p99_most", json!((most(|sample| sample.delay_ms) * 10.0).round() / 10.0)),
            ("heard_the_hour", json!(late.len())),
            // What the machine had no time for is no loss of the tree's.
            ("kernel_drops_crowd", json!(kernel_drops(&self.storm.ports()).unwrap_or(0))),
            ("kernel_drops_tree", json!(kernel_drops(&self.house.ports()).unwrap_or(0))),
        ];
        if let Some(victim) = &self.victim {
            let visits = self.storm.visits();
            let moved = victim.served.iter().filter_map(|&visit| visits[visit].moved);
            let moved = moved.filter(|&at| at > victim.killed);
            let mut moved: Vec<f64> =
                moved.map(|at| at.since(victim.killed).as_secs_f64() * 1_000.0).collect();
            let gap = quantile(&mut moved, 0.99).unwrap_or(0.0);
            let load = victim.back.zip(victim.serves).map(|(back, at)| at.since(back));
            more.push(("killed_listeners", json!(victim.served.len())));
            more.push(("returned_ms_p99", json!(gap.round())));
            let load = load.map_or(Value::from(-1), |load| json!(load.as_secs_f64().round()));
            more.push(("back_with_load_s", load));
        }
        more
    }
}
