//! The `stentor` command: the demo, speaking and listening by hand, tokens, benches.
//!
//! Standard output carries what was asked for (sound, a token, one JSON object) and nothing else;
//! all that is said to a person goes through [`console`] to standard error.
#![warn(missing_docs)]

mod api;
mod bench;
pub mod console;
mod credentials;
mod demo;
mod ending;
mod game_day;
mod listen;
mod relay;
mod room;
mod sim;
mod speak;
mod token;
mod view;

use clap::{Parser, Subcommand};
use stentor_relay::exit::Error;

const EXAMPLES: &str = "\
Examples:
  stentor demo
      a tree of relays on this machine with speakers and listeners, drawn live
  stentor demo --levels 3 --listeners 100 --seconds 20 --json
      the same without the view; one JSON object at the end
  stentor speak --dev 127.0.0.1:4433 hall speech.wav
  stentor listen --dev 127.0.0.1:4434 hall | aplay
      one speaks at the origin, one listens at a relay
  stentor token --dev --room hall --role speaker --identity ann
      a token for whoever speaks from elsewhere
  stentor room create --dev --title 'Town hall' --public
      a room with links for its listeners and its host; stentor room --help lists what hosts do
  stentor relay drain --admin 127.0.0.1:9434
      empties a relay, whose listeners go elsewhere, and ends it
  stentor bench fanout --json > fanout.json
      what a relay costs beside the floor
  stentor bench join --json > join.json
      what a storm of joins costs those inside
  stentor bench faults --only loss_5,burst_5
      what faults cost listeners
  stentor game-day 2023 --report evening.html
      an evening that went wrong elsewhere, at this machine's scale, with a verdict
  stentor sim --seeds 10
      ten worlds of forty relays with every fault, in virtual time

Exit codes: 0 success, 1 failure at run time, 2 wrong usage, 3 a simulated world broke a rule
or a game day failed, 78 wrong configuration.";

/// Speaks into rooms, listens to them, and shows and measures a tree of relays.
#[derive(Debug, Parser)]
#[command(name = "stentor", version, about, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a whole tree on this machine: speakers, relays, listeners; exit code 0 only if every
    /// listener heard
    Demo(demo::DemoArgs),
    /// Listen to a room, into a file or any player
    Listen(listen::ListenArgs),
    /// Speak into a room, from files or a pipe
    Speak(speak::SpeakArgs),
    /// Make, show, change and end rooms, and decide about the people in them
    #[command(subcommand)]
    Room(room::RoomCommand),
    /// Print a token, or what one says
    Token(token::TokenCommand),
    /// Look after a running relay
    #[command(subcommand)]
    Relay(relay::RelayCommand),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Play an evening that went wrong elsewhere on this machine, with a verdict
    GameDay(game_day::GameDayArgs),
    /// Let a whole tree live in virtual time, with faults, and compare it with a reference model
    Sim(sim::SimArgs),
}

impl Cli {
    /// Does what the command line asks for.
    ///
    /// # Errors
    /// Whatever ends the program; [`stentor_relay::exit::report`] maps it to an exit code.
    pub fn run(&self) -> Result<(), Error> {
        match &self.command {
            Command::Demo(args) => demo::run(args),
            Command::Listen(args) => listen::run(args),
            Command::Speak(args) => speak::run(args),
            Command::Room(command) => room::run(command),
            Command::Token(args) => token::run(args),
            Command::Relay(command) => relay::run(command),
            Command::Bench(bench::Bench::Fanout(args)) => bench::fanout(args),
            Command::Bench(bench::Bench::Join(args)) => bench::join(args),
            Command::Bench(bench::Bench::Inside(args)) => bench::inside(args),
            Command::Bench(bench::Bench::Faults(args)) => bench::faults(args),
            Command::Bench(bench::Bench::Page(args)) => bench::page(args),
            Command::GameDay(args) => game_day::run(args),
            Command::Sim(args) => sim::run(args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        let mut cli = Cli::command();
        for words in [
            &[][..],
            &["demo"],
            &["listen"],
            &["speak"],
            &["token"],
            &["room", "create"],
            &["relay", "drain"],
            &["bench", "fanout"],
            &["bench", "faults"],
            &["bench", "join"],
            &["bench", "page"],
            &["game-day"],
            &["sim"],
        ] {
            let mut command = &mut cli;
            for word in words {
                command = command.find_subcommand_mut(word).unwrap();
            }
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{words:?}: {help}");
        }
    }
}
