//! An evening as one page: the verdict, the figures, and what was seen over its course.

use std::fmt::Write as _;

use plotters::prelude::*;
use serde_json::Value;

use super::EveningOptions;
use super::told::{Sample, Told};
use crate::report::Report;

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Line = (&'static str, fn(&Sample) -> f64, RGBColor);

const BLUE: RGBColor = RGBColor(33, 102, 172);
const RED: RGBColor = RGBColor(178, 24, 43);
const GREY: RGBColor = RGBColor(120, 120, 120);

/// A chart: its title, its unit, and its lines.
const CHARTS: [(&str, &str, &[Line]); 6] = [
    (
        "Arrivals",
        "people a second",
        &[
            ("come", |s| s.arrivals_per_s, BLUE),
            ("come and come again, as the origin says", |s| s.origin_arrivals, GREY),
        ],
    ),
    (
        "Inside",
        "listeners",
        &[("inside", |s| s.inside, BLUE), ("free places, as the origin says", |s| s.free, GREY)],
    ),
    (
        "Waiting",
        "people",
        &[
            ("told their place and when to come again", |s| s.waiting, BLUE),
            ("waiting, as the origin says", |s| s.origin_waiting, GREY),
        ],
    ),
    ("First sound, p99 of those who came in", "ms", &[("first sound", |s| s.first_sound_ms, BLUE)]),
    ("Delay of ticks from the origin to listeners, p99", "ms", &[("delay", |s| s.delay_ms, BLUE)]),
    (
        "Losses",
        "listeners; listener-ticks",
        &[
            ("listeners without sound for 250 ms", |s| s.silent, GREY),
            ("ticks of this second that never came", |s| s.lost, RED),
        ],
    ),
];

/// The page, complete in itself.
pub(super) fn page(options: &EveningOptions, report: &Report, told: &Told) -> String {
    let evening = &options.evening;
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <title>stentor game-day {name}</title>\
         <style>body{{font:16px sans-serif;max-width:940px;margin:2em auto;padding:0 1em}}\
         td{{padding:.1em 1em .1em 0}}.passed{{color:#1b7837}}.failed{{color:#b2182b}}\
         svg{{max-width:100%;height:auto}}</style>\
         <h1>The evening of {name}</h1>\
         <p>{} listeners at its peak, {} who tried; here {} for each of them, {:.0} times as fast. \
         Minutes count from the hour on which the speech was to begin.</p>",
        evening.listening,
        evening.tried,
        options.scale,
        options.pace(),
        name = evening.name,
    );
    let verdict = report.get("verdict").and_then(Value::as_str).unwrap_or("failed").to_owned();
    let _ = write!(page, "<h2 class=\"{verdict}\">{verdict}</h2><ul>");
    for failure in report.get("failures").and_then(Value::as_array).into_iter().flatten() {
        let _ = write!(page, "<li>{}</li>", escaped(failure.as_str().unwrap_or_default()));
    }
    page.push_str("</ul><table>");
    for (name, minute) in &told.marks {
        let what = super::STEPS.iter().find(|(step, _)| step == name).map_or("", |(_, what)| what);
        let _ = write!(page, "<tr><td>{minute:+.1} min</td><td>{name}</td><td>{what}</td></tr>");
    }
    page.push_str("</table>");
    for (title, unit, lines) in CHARTS {
        let mut svg = String::new();
        match draw(&mut svg, (title, unit), lines, told) {
            Ok(()) => page.push_str(&svg),
            Err(error) => {
                let _ = write!(page, "<p>{title}: {}</p>", escaped(&error.to_string()));
            }
        }
    }
    page.push_str("<table>");
    for (name, value) in report.fields().filter(|(_, value)| !value.is_array()) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = write!(page, "<tr><td>{name}</td><td>{}</td></tr>", escaped(&value));
    }
    page.push_str("</table></html>\n");
    page
}

fn draw(svg: &mut String, (title, unit): (&str, &str), lines: &[Line], told: &Told) -> Drawn {
    let samples = &told.samples;
    let from = samples.first().map_or(0.0, |sample| sample.minute);
    let to = samples.last().map_or(1.0, |sample| sample.minute).max(from + 0.1);
    let values = samples.iter().flat_map(|sample| lines.iter().map(move |(_, of, _)| of(sample)));
    let top = values.fold(1.0, f64::max) * 1.15;
    let area = SVGBackend::with_string(svg, (900, 280)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(from..to, 0.0..top)?;
    chart.configure_mesh().x_desc("minutes from the hour").y_desc(unit).draw()?;
    for (name, minute) in &told.marks {
        let line = [(*minute, 0.0), (*minute, top)];
        chart.draw_series(LineSeries::new(line, GREY.mix(0.5)))?;
        let label = Text::new(*name, (*minute + 0.2, top * 0.97), ("sans-serif", 12));
        chart.draw_series(std::iter::once(label))?;
    }
    for (label, of, colour) in lines {
        let points = samples.iter().map(|sample| (sample.minute, of(sample)));
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(*label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    if lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::MiddleRight)
            .background_style(WHITE.mix(0.8))
            .border_style(GREY)
            .draw()?;
    }
    area.present()?;
    drop(chart);
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
