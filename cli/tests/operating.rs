//! `docs/OPERATING.md`, the alarms and the scaling rule in `deploy/` say what the code does: metrics,
//! labels, commands, configuration keys, alarms and steps are read here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use clap::{CommandFactory as _, Parser};
use stentor_cli::Cli;
use stentor_lab::evening::STEPS;
use stentor_origin::config::OriginConfig;
use stentor_relay::config::{NodeConfig, RelayConfig, Sources};
use stentor_relay::metrics;
use yaml_rust2::{Yaml, YamlLoader};

const PAGE: &str = include_str!("../../docs/OPERATING.md");
const ALARMS: &str = include_str!("../../deploy/prometheus/alarms.yml");
const SCALING: &str = include_str!("../../deploy/kubernetes/relays-hpa.yaml");

/// What Prometheus or its adapter makes of others.
const MADE: [&str; 1] = ["stentor_places_wanted"];

/// Every `stentor_…` in a text, with the labels behind it.
fn named(text: &str) -> Vec<(&str, Option<&str>)> {
    let starts = text.match_indices("stentor_").map(|(at, _)| at);
    let inside = |at: usize| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    let name = |at: usize| {
        let rest = &text[at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
        let labels = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        (name, labels)
    };
    starts.filter(|&at| inside(at)).map(name).collect()
}

/// The sources in which label values stand.
fn sources(dir: &Path, text: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

fn blocks(language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in PAGE.lines().map(str::trim) {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(opened)) if opened == language => block = Some(String::new()),
            (Some(_), Some(_)) => blocks.extend(block.take()),
            (Some(text), None) => *text += &format!("{line}\n"),
            _ => {}
        }
    }
    blocks
}

/// The alarms: name and the whole rule.
fn alarms() -> Vec<(String, Yaml)> {
    let rules = YamlLoader::load_from_str(ALARMS).unwrap();
    let groups = rules[0]["groups"].as_vec().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_vec().unwrap().clone());
    let name = |rule: Yaml| Some((rule["alert"].as_str()?.to_owned(), rule));
    rules.filter_map(name).collect()
}

/// The rows of the page's table of alarms: the alarm and how it is rehearsed.
fn rows() -> Vec<(String, String)> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let alarm = cells[0].trim_matches('`');
        alarm
            .starts_with("Stentor")
            .then(|| (alarm.to_owned(), (*cells.last().unwrap()).to_owned()))
    };
    PAGE.lines().filter(|line| line.starts_with('|')).filter_map(row).collect()
}

#[test]
fn every_metric_and_label_that_is_named_exists() {
    let mut code = String::new();
    for part in ["relay/src", "origin/src", "proto/src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(part), &mut code);
    }
    let mut seen = BTreeSet::new();
    for (name, labels) in [PAGE, ALARMS, SCALING].into_iter().flat_map(named) {
        if MADE.contains(&name) || name == "stentor_capacity_" {
            continue;
        }
        let metric = metrics::ALL.iter().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("there is no metric {name}"));
        seen.insert(name);
        for label in labels.into_iter().flat_map(|labels| labels.split(',')) {
            let (key, values) = label.split_once('=').unwrap();
            assert!(metric.labels.contains(&key.trim()), "{name} has no label {key}");
            for value in values.trim_matches(['~', '"']).split('|') {
                let written =
                    [format!("\"{value}\""), format!("drop_{value}"), format!("    {value},")];
                assert!(
                    written.iter().any(|text| code.contains(text)),
                    "{name}: no {key} is {value}"
                );
            }
        }
    }
    let capacity = metrics::ALL.iter().filter(|m| m.name.starts_with("stentor_capacity_"));
    assert!(capacity.clone().count() >= 7 && capacity.clone().all(|m| seen.contains(m.name)));
}

#[test]
fn every_alarm_has_a_severity_a_summary_and_a_row_in_the_runbook() {
    let alarms = alarms();
    let mut names = BTreeSet::new();
    for (name, rule) in &alarms {
        assert!(names.insert(name.clone()), "{name} stands there twice");
        assert!(rule["expr"].as_str().is_some_and(|expr| expr.len() > 10), "{name}");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["page", "warn", "info"].contains(&severity), "{name}: {severity}");
        assert!(
            rule["annotations"]["summary"].as_str().is_some_and(|text| text.len() > 10),
            "{name}"
        );
        assert!(matches!(rule["for"], Yaml::BadValue | Yaml::String(_)), "{name}");
    }
    assert!(alarms.len() > 15);
    let rows: BTreeSet<String> = rows().into_iter().map(|(alarm, _)| alarm).collect();
    assert_eq!(rows, names);
}

#[test]
fn every_alarm_is_rehearsed_by_a_step_or_a_command() {
    for (alarm, rehearsed) in rows() {
        let code: Vec<&str> = rehearsed.split('`').skip(1).step_by(2).collect();
        let known = |code: &&str| {
            STEPS.iter().any(|(step, _)| step == code)
                || Cli::try_parse_from(code.split_whitespace()).is_ok()
        };
        assert!(code.iter().all(known), "{alarm}: {rehearsed}");
        assert!(!code.is_empty() || rehearsed.starts_with("by hand"), "{alarm}: {rehearsed}");
    }
    let step = |line: &str| {
        let name = line.strip_prefix("| `")?.split('`').next()?;
        STEPS.iter().any(|(step, _)| *step == name).then(|| name.to_owned())
    };
    let steps: Vec<String> = PAGE.lines().filter_map(step).collect();
    assert_eq!(steps, STEPS.map(|(step, _)| step.to_owned()));
}

#[test]
fn every_command_is_one() {
    let inline = PAGE.split('`').skip(1).step_by(2).map(str::to_owned);
    let lines = blocks("sh").concat();
    let mut count = 0;
    for line in lines.lines().map(str::to_owned).chain(inline) {
        let line = line.split(" > ").next().unwrap().trim().to_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        let parsed = match words.as_slice() {
            ["stentor", subcommand] => {
                assert!(Cli::command().find_subcommand(subcommand).is_some(), "{line}");
                continue;
            }
            ["stentor", ..] => Cli::try_parse_from(&words).map(drop),
            ["stentor-origin", _, ..] => stentor_origin::cli::Cli::try_parse_from(&words).map(drop),
            ["stentor-relay", _, ..] => stentor_relay::cli::Cli::try_parse_from(&words).map(drop),
            _ => continue,
        };
        count += 1;
        parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    assert!(count >= 15, "{count} commands");
}

#[test]
fn every_configuration_key_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut read = 0;
    for (n, block) in blocks("toml").iter().enumerate() {
        let file = dir.path().join(format!("{n}.toml"));
        std::fs::write(&file, block).unwrap();
        let sources = Sources::new(Some(&file), serde_json::json!({})).unwrap();
        match block.lines().next() {
            Some("# relay.toml") => drop(sources.read::<NodeConfig, RelayConfig>().unwrap()),
            Some("# origin.toml") => drop(sources.read::<NodeConfig, OriginConfig>().unwrap()),
            other => panic!("whose configuration is {other:?}?"),
        }
        read += 1;
    }
    assert_eq!(read, 2);
    let keys = ["limits.children", "limits.returns_per_s", "tree.origin_children", "`capacity`"];
    let known = [include_str!("../../deploy/origin.toml"), include_str!("../../deploy/relay.toml")];
    for key in keys {
        assert!(PAGE.contains(key));
        let last = key.trim_matches('`').rsplit('.').next().unwrap();
        assert!(known.iter().any(|text| text.contains(&format!("{last} ="))), "{key}");
    }
}

/// What a core carries, as the sum of the page says.
fn listeners_a_core() -> (String, u32) {
    let line = PAGE.lines().find(|line| line.starts_with("listeners a core")).unwrap();
    let figure = line.rsplit("= ").next().unwrap().to_owned();
    let number = figure.replace(',', "").parse().unwrap();
    (figure, number)
}

#[test]
fn the_page_alone_says_what_a_core_carries() {
    let (figure, number) = listeners_a_core();
    for config in
        [include_str!("../../deploy/origin.toml"), include_str!("../../deploy/relay.toml")]
    {
        let said = format!("60 % of a core carries {figure} (the sum is in docs/OPERATING.md)");
        assert!(config.contains(&said), "{said}");
        assert!(config.contains(&format!("10,000 want {} cores", 10_000_u32.div_ceil(number))));
    }
    assert!(PAGE.contains(&format!("cores × {figure}")));
    assert!(PAGE.contains(&format!(
        "relays of 4 cores ({},{:03} places)",
        4 * number / 1_000,
        4 * number % 1_000
    )));
    assert!(PAGE.contains(&format!("capacity = {} ", 4 * number)));
}

#[test]
fn relays_scale_by_the_metric_that_the_rules_record() {
    let documents = YamlLoader::load_from_str(SCALING).unwrap();
    let [rule, adapter] = documents.as_slice() else { panic!("two documents") };
    assert_eq!(rule["kind"].as_str(), Some("HorizontalPodAutoscaler"));
    let external = &rule["spec"]["metrics"][0]["external"];
    let metric = external["metric"]["name"].as_str().unwrap();
    assert!(
        external["target"]["averageValue"].as_str().unwrap().parse::<u32>().unwrap()
            <= listeners_a_core().1
    );
    let (least, most) = (&rule["spec"]["minReplicas"], &rule["spec"]["maxReplicas"]);
    assert!(least.as_i64().unwrap() >= 4 && most.as_i64().unwrap() > least.as_i64().unwrap());
    let config =
        YamlLoader::load_from_str(adapter["data"]["config.yaml"].as_str().unwrap()).unwrap();
    let asked = &config[0]["externalRules"][0];
    assert_eq!(asked["name"]["as"].as_str(), Some(metric));
    let series = asked["seriesQuery"].as_str().unwrap();
    assert!(ALARMS.contains(&format!("record: {series}\n")));
    assert!(asked["metricsQuery"].as_str().unwrap().contains(series));
}
