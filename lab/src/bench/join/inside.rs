//! Those inside: a crowd in a process of its own, so that the generator's work is not taken for the
//! relay's. It is spoken to by lines: `mark` begins a window, `end` asks for what all windows heard.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use stentor_proto::limits;
use stentor_proto::pass::{Pass, PassKey, certify};
use stentor_relay::quic::sys::pin_to_core;
use stentor_relay::tls::DevDir;

use crate::bed::Bed;
use crate::crowd::{Acks, Crowd, CrowdPlan};
use crate::nodes::binary;

/// Listeners join within this.
const JOIN_WITHIN: Duration = Duration::from_secs(60);
/// Lines are looked for this often.
const LOOK: Duration = Duration::from_millis(10);
/// What is late is waited for, so that late and lost are told apart.
const TAIL: Duration = Duration::from_millis(500);
const SOCKETS: usize = 16;

/// What the process is to do.
#[derive(Clone, Debug)]
pub struct InsideOptions {
    /// The relay.
    pub address: SocketAddr,
    /// The development directory of the tree.
    pub dev: PathBuf,
    /// The room.
    pub room: String,
    /// Listeners.
    pub listeners: usize,
    /// The core to run on.
    pub core: Option<usize>,
}

/// What those inside heard in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Those who were inside when it began.
    pub listeners: usize,
    /// Listener-ticks that there should be.
    pub expected: u64,
    /// Listener-ticks that never came.
    pub lost: u64,
    /// From the origin's clock to the kernel of a listener (milliseconds).
    pub delay_ms_p50: f64,
    /// See above.
    pub delay_ms_p99: f64,
}

/// The windows that are open and done.
#[derive(Default)]
struct Windows {
    done: Vec<(u32, u32, Window)>,
    open: Option<(u32, usize)>,
}

/// Joins, says `inside`, and follows the lines of standard input. Returns what is to be printed at the
/// end: an array of windows.
///
/// # Errors
/// When the listeners do not come in, or a socket fails.
pub fn inside(options: &InsideOptions, ready: impl FnOnce()) -> Result<String> {
    if let Some(core) = options.core {
        pin_to_core(core)?;
    }
    let mut roots = rustls::RootCertStore::empty();
    let dev = DevDir::open(&options.dev)?;
    roots.add(dev.authority())?;
    let mut crowd = Crowd::new(CrowdPlan {
        address: options.address,
        host: options.address.ip().to_string(),
        roots,
        room: options.room.clone(),
        tokens: Vec::new(),
        acks: Acks::Patient,
        sockets: SOCKETS,
        at_once: 32,
        // More come in a second than return: the rest waits as told.
        rehomes: true,
        reports: false,
    })?;
    crowd.show_pass(&pass(&dev, &options.room)?);
    crowd.grow(options.listeners, JOIN_WITHIN)?;
    let lines = lines();
    ready();
    let mut windows = Windows::default();
    loop {
        match lines.try_recv().as_deref() {
            Ok("mark") => windows.mark(&mut crowd),
            Ok("end") | Err(TryRecvError::Disconnected) => break,
            _ => {}
        }
        crowd.listen(LOOK)?;
    }
    windows.close(&mut crowd);
    crowd.listen(TAIL)?;
    let windows: Vec<Window> = windows.done.into_iter().map(|done| count(&crowd, done)).collect();
    Ok(serde_json::to_string(&windows)?)
}

/// A pass of a relay that the origin certified and that is gone: those inside come in as those who
/// return, for newcomers' budgets are what is measured.
fn pass(dev: &DevDir, room: &str) -> Result<String> {
    let iat = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let key = PassKey::from_seed([3; 32]);
    let certificate = certify(dev.signer(), "former", &key.published(), iat)?;
    let pass = Pass {
        sub: "inside".into(),
        room: room.to_owned(),
        relay: "former".into(),
        iat,
        exp: iat + limits::PASS_S,
        anonymous: true,
    };
    Ok(key.give(&certificate, &pass)?)
}

impl Windows {
    fn mark(&mut self, crowd: &mut Crowd) {
        self.close(crowd);
        self.open = Some((crowd.newest(), crowd.joined()));
        crowd.watch_delays();
    }

    fn close(&mut self, crowd: &mut Crowd) {
        let Some((after, listeners)) = self.open.take() else { return };
        let delays = crowd.watch_delays();
        let ms = |share: f64| {
            delays.as_ref().map_or(0.0, |delays| delays.value_at_quantile(share) as f64 / 1_000.0)
        };
        let (delay_ms_p50, delay_ms_p99) = (ms(0.5), ms(0.99));
        let window = Window { listeners, delay_ms_p50, delay_ms_p99, ..Window::default() };
        self.done.push((after, crowd.newest(), window));
    }
}

fn count(crowd: &Crowd, (after, last, window): (u32, u32, Window)) -> Window {
    let expected = u64::from(last.saturating_sub(after)) * window.listeners as u64;
    let lost = expected.saturating_sub(crowd.distinct(after, last));
    Window { expected, lost, ..window }
}

fn lines() -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The process as the bench holds it; it is ended by its id when it is dropped.
pub(super) struct Inside {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Inside {
    /// Starts it, and waits until everyone is inside.
    pub(super) fn start(
        bed: &Bed,
        relay: usize,
        room: &str,
        listeners: usize,
        core: usize,
    ) -> Result<Self> {
        let mut child = Command::new(binary("stentor")?)
            .args(["bench", "inside", "--room", room])
            .arg(format!("--address={}", bed.relays[relay].address))
            .arg(format!("--dev={}", bed.dev().path().display()))
            .arg(format!("--listeners={listeners}"))
            .arg(format!("--core={core}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let out = BufReader::new(child.stdout.take().context("it has no output")?);
        let mut inside = Self { child, out };
        if inside.line()? != "inside" {
            bail!("those inside did not come in");
        }
        Ok(inside)
    }

    /// Begins the next window.
    pub(super) fn mark(&mut self) -> Result<()> {
        self.say("mark")
    }

    /// What each window heard, in the order of the marks.
    pub(super) fn finish(mut self) -> Result<Vec<Window>> {
        self.say("end")?;
        let line = self.line()?;
        Ok(serde_json::from_str(&line)?)
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("it has no input")?;
        writeln!(input, "{line}").context("those inside are gone")
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // One that has ended by itself cannot be ended again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
