//! The live view of the demo: the tree, who speaks, how far it has come.

mod tree;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row, Table};
use ratatui::{DefaultTerminal, Frame};
use stentor_lab::demo::{NodeState, Picture, Watcher, Wish};

use crate::console::filled;

/// Lines of progress that are kept in sight.
const LINES: usize = 3;
/// Columns of a speaker's meter.
const METER: usize = 24;
/// A tick rate below this is unhealthy while somebody speaks: two ticks in ten are missing.
const STARVING: f64 = 40.0;

/// The view. The terminal is given back when it is dropped, and on a panic.
pub(crate) struct View {
    terminal: DefaultTerminal,
    stop: Arc<AtomicBool>,
    lines: Vec<String>,
    /// The relay that is selected, by name.
    selected: Option<String>,
}

impl View {
    /// Takes the terminal.
    pub(crate) fn start(stop: Arc<AtomicBool>) -> io::Result<Self> {
        let terminal = ratatui::try_init()?;
        Ok(Self { terminal, stop, lines: Vec::new(), selected: None })
    }

    fn key(&mut self, key: KeyEvent, picture: &Picture) -> Wish {
        let relays: Vec<&NodeState> = tree::order(&picture.nodes)
            .into_iter()
            .map(|(_, at)| &picture.nodes[at])
            .filter(|node| node.level > 0)
            .collect();
        let at = relays.iter().position(|node| Some(&node.name) == self.selected.as_ref());
        let select = |at: usize| relays.get(at).map(|node| node.name.clone());
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Wish::Quit;
            }
            KeyCode::Down => {
                let next = at.map_or(0, |at| at + 1);
                self.selected = select(next.min(relays.len().saturating_sub(1)));
            }
            KeyCode::Up => self.selected = select(at.unwrap_or(1).saturating_sub(1)),
            KeyCode::Char('k') => {
                if let Some(name) = self.selected.clone() {
                    return Wish::Kill(name);
                }
                self.say("select a relay with ↑ and ↓ first");
            }
            _ => {}
        }
        Wish::GoOn
    }
}

impl Watcher for View {
    fn say(&mut self, text: &str) {
        self.lines.push(text.to_owned());
        let old = self.lines.len().saturating_sub(LINES);
        self.lines.drain(..old);
        // Before the first picture there are lines alone; a screen that fails shows in `look`.
        let (lines, selected) = (&self.lines, self.selected.as_deref());
        let _ = self.terminal.draw(|frame| draw(frame, &Picture::default(), lines, selected));
    }

    fn look(&mut self, picture: &Picture, time: Duration) -> anyhow::Result<Wish> {
        let (lines, selected) = (&self.lines, self.selected.as_deref());
        self.terminal.draw(|frame| draw(frame, picture, lines, selected))?;
        let until = Instant::now() + time;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(Wish::Quit);
            }
            if !event::poll(until.saturating_duration_since(Instant::now()))? {
                return Ok(Wish::GoOn);
            }
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                let wish = self.key(key, picture);
                if wish != Wish::GoOn {
                    return Ok(wish);
                }
            }
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn draw(frame: &mut Frame<'_>, picture: &Picture, lines: &[String], selected: Option<&str>) {
    let tree = u16::try_from(picture.nodes.len()).unwrap_or(u16::MAX).saturating_add(3);
    let voices = u16::try_from(picture.voices.len()).unwrap_or(u16::MAX).saturating_add(2);
    let [head, nodes, speakers, said, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Max(tree),
        Constraint::Max(voices),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    progress(frame, head, picture);
    frame.render_widget(table(picture, selected), nodes);
    frame.render_widget(
        Paragraph::new(meters(picture)).block(Block::bordered().title(" speakers ")),
        speakers,
    );
    frame.render_widget(Paragraph::new(lines.join("\n")).dim(), said);
    let keys = " q quit   ↑ ↓ select a relay   k kill it: below level 1 every relay has two parents, \
        and nobody misses a tick";
    frame.render_widget(Paragraph::new(keys).dim(), foot);
}

fn progress(frame: &mut Frame<'_>, area: Rect, picture: &Picture) {
    let elapsed = picture.elapsed.as_secs_f64();
    let inside = format!("{} of {} listeners inside", picture.inside, picture.listeners);
    let gone = match picture.gone {
        0 => String::new(),
        gone => format!(", {gone} gone"),
    };
    let (share, time) = match picture.seconds {
        Some(seconds) => {
            let whole = seconds.as_secs_f64();
            ((elapsed / whole).clamp(0.0, 1.0), format!("{elapsed:.0} of {whole:.0} s"))
        }
        None => (0.0, format!("{elapsed:.0} s")),
    };
    let label = format!("{}  {time}  {inside}{gone}", picture.phase);
    let colour = if picture.gone > 0 { Color::Red } else { Color::Blue };
    frame.render_widget(Gauge::default().ratio(share).label(label).gauge_style(colour), area);
}

fn table<'a>(picture: &'a Picture, selected: Option<&str>) -> Table<'a> {
    let row = |(indent, at): (String, usize)| {
        let node = &picture.nodes[at];
        let parents: Vec<&str> = node.parents.iter().map(|(name, _)| name.as_str()).collect();
        let cells = [
            format!("{indent}{}", node.name),
            node.listeners.to_string(),
            format!("{:.0}", node.ticks_in),
            format!("{:.0}", node.ticks_out),
            format!("{:.1}", node.delay_ms),
            node.lost.to_string(),
            if node.up { parents.join(" + ") } else { "gone".to_owned() },
        ];
        let mut style = Style::new().fg(health(node));
        if selected == Some(node.name.as_str()) {
            style = style.add_modifier(Modifier::REVERSED);
        }
        Row::new(cells.map(Cell::from)).style(style)
    };
    let widths = [
        Constraint::Min(20),
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(11),
        Constraint::Length(8),
        Constraint::Length(5),
        Constraint::Min(20),
    ];
    let names = ["node", "listeners", "ticks in/s", "ticks out/s", "delay ms", "lost", "parents"];
    Table::new(tree::order(&picture.nodes).into_iter().map(row), widths)
        .header(Row::new(names).bold())
        .block(Block::bordered().title(" the tree "))
}

/// Green is well; yellow has one parent down; red starves or is gone.
fn health(node: &NodeState) -> Color {
    if !node.up {
        return Color::DarkGray;
    }
    // The origin makes ticks; it has none coming in.
    if !node.not_ready.is_empty() || (node.level > 0 && node.ticks_in < STARVING) {
        return Color::Red;
    }
    if node.parents.iter().any(|(_, up)| !up) { Color::Yellow } else { Color::Green }
}

fn meters(picture: &Picture) -> Vec<Line<'_>> {
    let line = |voice: &stentor_lab::demo::VoiceState| {
        let full = filled(voice.level, METER);
        let colour = if voice.audible { Color::Green } else { Color::DarkGray };
        Line::from(vec![
            Span::raw(format!("{:<10}", voice.name)),
            Span::styled("█".repeat(full), colour),
            Span::raw("░".repeat(METER - full)).dim(),
            Span::raw(if voice.audible { "  audible" } else { "" }).dim(),
        ])
    };
    picture.voices.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use stentor_lab::demo::VoiceState;

    use super::*;

    fn node(name: &str, level: u8, parents: &[&str]) -> NodeState {
        NodeState {
            name: name.into(),
            level,
            up: true,
            listeners: 7,
            parents: parents.iter().map(|name| ((*name).to_owned(), true)).collect(),
            ticks_in: 50.0,
            ..NodeState::default()
        }
    }

    #[test]
    fn the_tree_the_speakers_and_the_progress_are_in_the_picture() {
        let picture = Picture {
            phase: "on air".into(),
            elapsed: Duration::from_secs(5),
            seconds: Some(Duration::from_secs(20)),
            nodes: vec![
                node("origin", 0, &[]),
                node("relay-1-1", 1, &[]),
                node("relay-2-1", 2, &["relay-1-1"]),
            ],
            voices: vec![VoiceState { name: "Ann".into(), level: 20, audible: true }],
            listeners: 20,
            inside: 20,
            gone: 0,
        };
        let mut terminal = Terminal::new(TestBackend::new(110, 20)).unwrap();
        terminal
            .draw(|frame| draw(frame, &picture, &["a line".into()], Some("relay-2-1")))
            .unwrap();
        let text = terminal.backend().to_string();
        for part in [
            "5 of 20 s",
            "20 of 20 listeners",
            "origin",
            "└─ relay-1-1",
            "Ann",
            "audible",
            "a line",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        // A terminal too small for anything is no reason to panic.
        let mut small = Terminal::new(TestBackend::new(3, 2)).unwrap();
        small.draw(|frame| draw(frame, &picture, &[], None)).unwrap();
        small.draw(|frame| draw(frame, &Picture::default(), &[], None)).unwrap();
    }

    #[test]
    fn colours_tell_the_well_from_the_starving() {
        let mut relay = node("relay-2-1", 2, &["a", "b"]);
        assert_eq!(health(&relay), Color::Green);
        relay.parents[1].1 = false;
        assert_eq!(health(&relay), Color::Yellow);
        relay.ticks_in = 0.0;
        assert_eq!(health(&relay), Color::Red);
        relay.up = false;
        assert_eq!(health(&relay), Color::DarkGray);
        assert_eq!(health(&NodeState { up: true, ..NodeState::default() }), Color::Green);
    }
}
