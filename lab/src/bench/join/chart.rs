//! The storm as a chart.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use stentor_proto::Time;

use super::storms::Row;
use crate::storm::Visit;

/// Draws a storm, second by second: those who came, were told, came in, and wait.
pub(super) fn draw(path: &Path, row: &Row) -> Result<()> {
    let area = SVGBackend::new(path, (900, 480)).into_drawing_area();
    paint(&area, row).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn paint(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    row: &Row,
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let begin = row.visits.iter().map(|visit| visit.scheduled).min().unwrap_or(Time::ZERO);
    let second = |at: Time| at.since(begin).as_secs() as usize;
    let count = |pick: fn(&Visit) -> Option<Time>| {
        let mut seconds = vec![0_u32; 1];
        for at in row.visits.iter().filter_map(pick).map(second) {
            if at >= seconds.len() {
                seconds.resize(at + 1, 0);
            }
            seconds[at] += 1;
        }
        seconds
    };
    let lines = [
        ("came", RGBColor(178, 178, 178), count(|visit| Some(visit.scheduled))),
        ("were told to wait", RGBColor(33, 102, 172), count(|visit| visit.told)),
        ("came in", RGBColor(178, 24, 43), count(|visit| visit.joined.map(|(at, _)| at))),
    ];
    let seconds = lines.iter().map(|line| line.2.len()).max().unwrap_or(1);
    let top = lines.iter().flat_map(|line| line.2.iter().copied()).max().unwrap_or(1).max(2);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}: a second at a time", row.name), ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..seconds as f64, (1.0..f64::from(top) * 1.2).log_scale())?;
    chart.configure_mesh().y_desc("people a second").x_desc("seconds").draw()?;
    for (name, color, counts) in lines {
        let points = counts.iter().enumerate().map(|(at, &n)| (at as f64, f64::from(n.max(1))));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 2), (x + 12, y + 2)], color.filled()));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}
