//! `stentor speak`.

mod input;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use stentor_client::audio::{Block, EncoderSettings, dbov};
use stentor_client::session::{Connector, Join};
use stentor_client::speak::{Mouth, SpeakStats, Speaker};
use stentor_lab::report::Report;
use stentor_proto::limits;
use stentor_proto::wire::Role;
use stentor_relay::exit::Error;

use crate::console::{Meter, bar, say};
use crate::credentials::Credentials;
use crate::ending::{Signals, parse_seconds, runtime};

use self::input::Playlist;

const EXAMPLES: &str = "\
Examples:
  stentor speak --dev 127.0.0.1:4433 hall
      says the built-in speech
  stentor speak origin.example:4433 hall --token-file ann.token welcome.opus talk.wav
  arecord -f S16_LE -r 48000 -c 1 -t raw | stentor speak --dev 127.0.0.1:4433 hall -
      raw samples from standard input: 16-bit little-endian, mono, 48 kHz

Files are Ogg Opus or WAV of any rate and channel count. Ctrl-C ends in good order.";
/// Blocks between two writings of the meter: 200 ms.
const METER_BLOCKS: u64 = 10;

/// What to say, and where.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SpeakArgs {
    /// The origin
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// The room
    room: String,
    /// Files, one after the other, or - for raw samples from standard input; default a minute of
    /// speech made for the project
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Begin again at the end
    #[arg(long = "loop")]
    looped: bool,
    /// How long; default to the end of the files
    #[arg(long, value_name = "N", value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// The name to show
    #[arg(long)]
    name: Option<String>,
    /// Who speaks, in the token that development mode signs; default the user's name
    #[arg(long, env = "USER", default_value = "speaker")]
    identity: String,
    /// Bits a second; a voice room takes at most 32000
    #[arg(long, value_name = "N", default_value_t = EncoderSettings::default().bitrate,
          value_parser = clap::value_parser!(u32).range(6_000..=128_000))]
    bitrate: u32,
    #[command(flatten)]
    credentials: Credentials,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

/// Speaks.
pub(crate) fn run(args: &SpeakArgs) -> Result<(), Error> {
    let report = Report::start();
    let playlist = Playlist::open(&args.files, args.looped)?;
    let name = args.name.as_deref();
    let trust = args.credentials.trust()?;
    let token = args.credentials.token(&args.room, Role::Speaker, &args.identity, name)?;
    let join = Join {
        address: args.address.clone(),
        room: args.room.clone(),
        role: Role::Speaker,
        token,
        name: args.name.clone(),
        playout: limits::PLAYOUT,
        last: None,
    };
    let settings = EncoderSettings { bitrate: args.bitrate, ..EncoderSettings::default() };
    let meter = Meter::start();
    let mut mouth = Speech { playlist, meter: meter.clone(), blocks: 0 };
    let spoken = runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let connector = Connector::new(&trust).map_err(Error::runtime)?;
        let session = tokio::select! {
            session = connector.join(&join) => session.map_err(Error::runtime)?,
            () = signals.end(None) => return Err(Error::Runtime("ended before it joined".into())),
        };
        let joined_in = session.joined_in;
        let identity = session.welcome.identity.clone();
        let mut speaker = Speaker::new(session, settings).map_err(Error::runtime)?;
        let slot = speaker.slot();
        meter.say(&format!("{identity} speaks in {} at {}, slot {slot}", join.room, join.address));
        let result = speaker.run(&mut mouth, signals.end(args.seconds)).await;
        connector.finish().await;
        Ok((result, speaker.stats(), slot, joined_in))
    });
    drop(mouth);
    drop(meter);
    let (result, stats, slot, joined_in) = spoken?;
    if args.json {
        let report = figures(report, args, &stats, slot, joined_in);
        report.print().map_err(|error| Error::Runtime(format!("standard output: {error}")))?;
    }
    result.map_err(Error::runtime)?;
    match (stats.oversized, stats.frames) {
        (0, _) => Ok(()),
        (oversized, frames) if frames > oversized => {
            say(&format!("{oversized} frames were larger than the room takes; lower --bitrate"));
            Ok(())
        }
        (oversized, _) => {
            let problem = "frames were larger than the room takes; lower --bitrate";
            Err(Error::Runtime(format!("{oversized} {problem}")))
        }
    }
}

fn figures(
    mut report: Report,
    args: &SpeakArgs,
    stats: &SpeakStats,
    slot: u16,
    joined_in: Duration,
) -> Report {
    report.set("room", args.room.as_str());
    report.set("address", args.address.as_str());
    report.set("slot", slot);
    report.set("join_ms", joined_in.as_secs_f64() * 1_000.0);
    report.set("spoken_s", stats.blocks as f64 / 50.0);
    report.set("frames", stats.frames);
    report.set("frames_repaired", stats.repaired);
    report.set("frames_oversized", stats.oversized);
    report
}

/// What is said, with its meter.
struct Speech {
    playlist: Playlist,
    meter: Meter,
    blocks: u64,
}

impl Mouth for Speech {
    async fn block(&mut self, _at: Instant) -> Result<Option<Block>, String> {
        let block = self.playlist.next().await?;
        if let Some(block) = &block
            && self.blocks.is_multiple_of(METER_BLOCKS)
        {
            self.meter.show(format!("{}  {}", bar(dbov(block)), self.playlist.name()));
        }
        self.blocks += 1;
        Ok(block)
    }
}
