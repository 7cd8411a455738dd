//! The rounds as a chart.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::FanoutOptions;
use super::rounds::Round;

/// Draws the rounds: the relay's cost beside the floor's, a pair of bars each.
pub(super) fn draw(path: &Path, options: &FanoutOptions, rounds: &[Round]) -> Result<()> {
    let area = SVGBackend::new(path, (900, 480)).into_drawing_area();
    paint(&area, options, rounds).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn paint(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    options: &FanoutOptions,
    rounds: &[Round],
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let top = rounds.iter().map(|r| r.cpu_us.max(r.floor_us)).fold(1.0, f64::max) * 1.15;
    let title = format!(
        "CPU per delivered tick: {} listeners, {} ticks/s",
        options.listeners, options.rate_hz
    );
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..rounds.len() as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .y_desc("µs per datagram")
        .x_desc("round (speakers)")
        .x_labels(rounds.len() + 1)
        .x_label_formatter(&|x| {
            rounds.get(*x as usize).map_or_else(String::new, |round| {
                format!("{} ({})", *x as usize / options.speakers.len() + 1, round.speakers)
            })
        })
        .draw()?;
    let relay = RGBColor(33, 102, 172);
    let floor = RGBColor(178, 178, 178);
    let bars = |offset: f64, color: RGBColor, pick: fn(&Round) -> f64| {
        rounds.iter().enumerate().map(move |(at, round)| {
            let from = at as f64 + offset;
            Rectangle::new([(from, 0.0), (from + 0.35, pick(round))], color.filled())
        })
    };
    chart
        .draw_series(bars(0.12, floor, |r| r.floor_us))?
        .label("floor: sendmmsg and AES-128-GCM")
        .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], floor.filled()));
    chart
        .draw_series(bars(0.5, relay, |r| r.cpu_us))?
        .label("relay: all threads, user and system")
        .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], relay.filled()));
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}
