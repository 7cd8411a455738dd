//! Every seed passes its target, and every target has seeds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use stentor_fuzz::{TARGETS, directory};

#[test]
fn every_seed_passes_its_target() {
    for target in TARGETS {
        let seeds = target.seeds().unwrap_or_else(|e| panic!("{}: {e}", target.corpus().display()));
        assert!(!seeds.is_empty(), "{} has no seed", target.name);
        for seed in seeds {
            (target.run)(&seed);
        }
    }
}

#[test]
fn every_folder_of_seeds_has_its_target() {
    let mut folders: Vec<String> = fs::read_dir(directory().join("corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    names.sort_unstable();
    assert_eq!(folders, names);
}
