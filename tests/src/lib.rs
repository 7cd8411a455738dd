//! Tests of the whole: real QUIC over loopback, real processes, a stranger's client.
//!
//! Here is what they share: the project's programs as an operator starts them, a browser, and the
//! verdict on what comes out of a tree.
#![warn(missing_docs)]
#![allow(clippy::unwrap_used, reason = "what tests share may panic as tests do")]

pub mod browser;
pub mod firefox;
pub mod peer;

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use stentor_client::audio::{BLOCK, Format, Sink, Source, collect, default_speech};
use stentor_lab::hears::{self, Heard, Hearing, Reference};
use stentor_proto::Time;

/// How long a node may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// A window of the verdict is half a second.
const WINDOWS_PER_S: usize = 2;

/// A program of the project: in `TESTS_BIN_DIR`, or beside the folder of the tests.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let dir = match std::env::var_os("TESTS_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        // target/debug/deps/test-1234 → target/debug
        None => own.ancestors().nth(2).unwrap().to_owned(),
    };
    let path = dir.join(name);
    let hint = "cargo build -p stentor-origin -p stentor-relay -p stentor-cli";
    assert!(path.is_file(), "{} is not built: {hint}", path.display());
    path
}

/// A program of the project without any setting of the environment: some are the tests' own.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"STENTOR_") {
            command.env_remove(variable);
        }
    }
    command
}

/// A process that is killed, by its id, when it is dropped.
#[derive(Debug)]
pub struct Process(Option<Child>);

impl Process {
    /// Starts a program.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        Self(Some(command.stdin(Stdio::null()).spawn().unwrap()))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When its output cannot be read.
    #[must_use]
    pub fn output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl From<Child> for Process {
    fn from(child: Child) -> Self {
        Self(Some(child))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // One that has ended cannot be ended again.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An origin and relays, one below the other, as an operator starts them in development mode.
#[derive(Debug)]
pub struct Tree {
    /// Where the origin serves.
    pub origin: SocketAddr,
    /// Where the relays serve, in the order in which they were started.
    pub relays: Vec<SocketAddr>,
    /// Everything of the run is in here.
    pub dir: tempfile::TempDir,
    /// The origin, then the relays.
    nodes: Vec<Option<Process>>,
}

impl Tree {
    /// Starts an origin and `levels` relays, one below the other, and waits until all are ready.
    ///
    /// # Panics
    /// When one does not become ready.
    #[must_use]
    pub fn start(levels: usize) -> Self {
        Self::of_levels(1..=levels, &[])
    }

    /// Starts an origin, with `flags` beside its usual ones, and a relay for each of these levels, `relay-1`
    /// being the first, and waits until all are ready.
    ///
    /// # Panics
    /// When one does not become ready.
    #[must_use]
    pub fn of_levels(levels: impl IntoIterator<Item = usize>, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (origin, admin) = free_ports();
        let mut nodes = Vec::new();
        let mut node = command("stentor-origin");
        node.args(flags);
        nodes.push(Some(Process::start(node.args(node_flags(dir.path(), origin, admin)))));
        wait_ready("origin", admin);
        let mut relays = Vec::new();
        for (ix, level) in levels.into_iter().enumerate() {
            let name = format!("relay-{}", ix + 1);
            let (address, admin) = free_ports();
            let mut node = command("stentor-relay");
            node.args(node_flags(dir.path(), address, admin));
            node.arg(format!("--origin={origin}"));
            node.args([format!("--id={name}"), format!("--level={level}")]);
            nodes.push(Some(Process::start(&mut node)));
            wait_ready(&name, admin);
            relays.push(address);
        }
        Self { origin, relays, dir, nodes }
    }

    /// Kills the relay `relay-N`.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn kill(&mut self, relay: &str) {
        let number = relay.strip_prefix("relay-").and_then(|number| number.parse::<usize>().ok());
        let node = number.filter(|&number| number > 0).and_then(|ix| self.nodes.get_mut(ix));
        *node.unwrap_or_else(|| panic!("there is no {relay}")) = None;
    }

    /// The development directory.
    #[must_use]
    pub fn dev(&self) -> PathBuf {
        self.dir.path().join("dev")
    }

    /// `stentor COMMAND --dev=…`, without the environment's token.
    #[must_use]
    pub fn stentor(&self, command: &str) -> Command {
        let mut stentor = self::command("stentor");
        stentor.current_dir(self.dir.path());
        stentor.arg(command).arg(format!("--dev={}", self.dev().display()));
        stentor.stdout(Stdio::piped()).stderr(Stdio::piped());
        stentor
    }

    /// The first `seconds` of the built-in speech, and a WAV file with them.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn speech(&self, seconds: usize) -> (Vec<f32>, PathBuf) {
        let source = Source::from_bytes("speech", default_speech()).unwrap();
        let path = self.dir.path().join("speech.wav");
        let mut sink = Sink::create(&path, Format::Wav).unwrap();
        let mut pcm = Vec::new();
        for block in source.take(seconds * 50) {
            let block = block.unwrap();
            sink.write(&block).unwrap();
            pcm.extend_from_slice(&block);
        }
        sink.finish().unwrap();
        (pcm, path)
    }
}

fn node_flags(dir: &Path, address: SocketAddr, admin: SocketAddr) -> Vec<String> {
    vec![
        format!("--dev={}", dir.join("dev").display()),
        format!("--listen={address}"),
        format!("--admin={admin}"),
        "--shards=1".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

/// A UDP and a TCP port that are free at this moment.
fn free_ports() -> (SocketAddr, SocketAddr) {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let (udp, tcp) = (UdpSocket::bind(any).unwrap(), TcpListener::bind(any).unwrap());
    (udp.local_addr().unwrap(), tcp.local_addr().unwrap())
}

fn wait_ready(node: &str, admin: SocketAddr) {
    let until = Instant::now() + READY_WITHIN;
    loop {
        let answer = get(admin, "/readyz");
        if answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            return;
        }
        assert!(Instant::now() < until, "{node} is not ready: {answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn get(admin: SocketAddr, path: &str) -> std::io::Result<String> {
    use std::io::Write as _;
    let mut stream = TcpStream::connect(admin)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What a command printed, as JSON.
///
/// # Panics
/// When it failed, or printed anything but one JSON object.
#[must_use]
pub fn json(output: &Output) -> serde_json::Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)));
    assert!(value.is_object());
    value
}

/// Reads sound back: a WAV or Ogg Opus file, or raw samples by the name `.raw`.
///
/// # Panics
/// When it is no sound.
#[must_use]
pub fn sound(path: &Path) -> Vec<f32> {
    let raw = path.extension().is_some_and(|extension| extension == "raw");
    let source = match raw {
        true => Source::raw("raw", std::fs::File::open(path).unwrap()),
        false => Source::open(path).unwrap(),
    };
    collect(source).unwrap()
}

/// How well `input` is heard in `output`, wherever in it the output begins.
#[must_use]
pub fn heard(input: &[f32], output: &[f32]) -> Hearing {
    let blocks = (0..input.len() / BLOCK).map(|block| hears::Block {
        at: Time::from_millis(60_000 + 20 * block as u64),
        audible: true,
    });
    let references = [Reference { pcm: input.to_vec(), blocks: blocks.collect() }];
    // The verdict seeks a delay up to 1.4 s; every second is tried as the output's beginning.
    let seconds = input.len() / (50 * BLOCK);
    let hearings = (0..=seconds).map(|second| {
        let start = Time::from_millis(60_000 + 1_000 * second as u64);
        let heard = Heard { pcm: output.to_vec(), start };
        hears::verdict(&references, &heard).speakers[0]
    });
    hearings.max_by_key(|hearing| hearing.windows_heard).unwrap_or_default()
}

/// Asserts that `seconds` of `input` lie in `output` (but for a window at each edge) and that most of
/// them are heard. A client that was kept from the processor shortens its delay for some seconds, and
/// a window with such a cut counts as unheard; sound that is not the input's is heard in none.
///
/// # Panics
/// When it is not so.
pub fn assert_heard(what: &str, input: &[f32], output: &[f32], seconds: usize) {
    let hearing = heard(input, output);
    let wanted = WINDOWS_PER_S * seconds - 2;
    assert!(hearing.windows >= wanted, "{what}: {hearing:?}, wanted {wanted} windows");
    assert!(3 * hearing.windows_heard >= hearing.windows, "{what}: {hearing:?}");
}
