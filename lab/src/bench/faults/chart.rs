//! The rows as a chart: what is missing at playout with and without protection, and for how long
//! listeners were without sound.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Two fields of the rows side by side.
struct Panel {
    title: &'static str,
    unit: &'static str,
    bars: [(&'static str, &'static str, RGBColor); 2],
}

const GREY: RGBColor = RGBColor(178, 178, 178);
const BLUE: RGBColor = RGBColor(33, 102, 172);

const PANELS: [Panel; 2] = [
    Panel {
        title: "Ticks missing at playout",
        unit: "%",
        bars: [
            ("control_missing_percent", "without redundancy and repair", GREY),
            ("missing_percent", "as it is", BLUE),
        ],
    },
    Panel {
        title: "Time without new ticks",
        unit: "ms",
        bars: [("gap_ms_p50", "median", GREY), ("gap_ms_p99", "99th percentile", BLUE)],
    },
];

/// Draws the rows of the report.
pub(super) fn draw(path: &Path, rows: &[Value]) -> Result<()> {
    let area = SVGBackend::new(path, (1_100, 900)).into_drawing_area();
    paint(&area, rows).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn paint(area: &Area<'_>, rows: &[Value]) -> Drawn {
    area.fill(&WHITE)?;
    for (panel, part) in PANELS.iter().zip(area.split_evenly((2, 1))) {
        paint_panel(&part, panel, rows)?;
    }
    area.present()?;
    Ok(())
}

fn paint_panel(area: &Area<'_>, panel: &Panel, rows: &[Value]) -> Drawn {
    let value = |row: &Value, field: &str| row[field].as_f64().unwrap_or(0.0);
    let values = rows.iter().flat_map(|row| panel.bars.map(|(field, ..)| value(row, field)));
    let top = values.fold(0.1, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..rows.len().max(1) as f64, 0.0..top)?;
    chart.configure_mesh().disable_x_mesh().disable_x_axis().y_desc(panel.unit).draw()?;
    for (nth, (field, label, color)) in panel.bars.into_iter().enumerate() {
        let bar = |(at, row): (usize, &Value)| {
            let from = at as f64 + 0.12 + 0.38 * nth as f64;
            Rectangle::new([(from, 0.0), (from + 0.35, value(row, field))], color.filled())
        };
        chart
            .draw_series(rows.iter().enumerate().map(bar))?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
    }
    chart.draw_series(rows.iter().enumerate().map(|(at, row)| {
        let name = row["fault"].as_str().unwrap_or_default().to_owned();
        Text::new(name, (at as f64 + 0.1, top * 0.02), ("sans-serif", 11))
    }))?;
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    Ok(())
}
