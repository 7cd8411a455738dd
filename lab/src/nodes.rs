//! Origins and relays as processes of their own, ended by their id when they are dropped.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long a node may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long an answer of an admin listener may take.
const ADMIN_WITHIN: Duration = Duration::from_secs(2);

/// A running origin or relay.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where it is reached over QUIC: `127.0.0.1:port`.
    pub address: SocketAddr,
    /// Its private admin listener.
    pub admin: SocketAddr,
    log: PathBuf,
    child: Child,
}

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `stentor-origin` or `stentor-relay`.
    pub binary: &'static str,
    /// The node's name.
    pub name: String,
    /// The UDP and the admin port; free ones if absent.
    pub ports: Option<(SocketAddr, SocketAddr)>,
    /// Further arguments.
    pub args: Vec<String>,
    /// The core to run on, if any.
    pub core: Option<usize>,
    /// The folder for its log.
    pub dir: PathBuf,
}

impl Node {
    /// Starts a node on free ports of the loopback address. It is not ready yet: see
    /// [`Self::wait_ready`].
    ///
    /// # Errors
    /// When the binary is not there or no port is free.
    pub fn start(plan: &Plan) -> Result<Self> {
        let (address, admin) = plan.ports.map_or_else(free_ports, Ok)?;
        let binary = binary(plan.binary)?;
        let log = plan.dir.join(format!("{}.log", plan.name));
        let out = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = match plan.core {
            Some(core) => {
                let mut pinned = Command::new("taskset");
                pinned.args(["-c", &core.to_string()]).arg(&binary);
                pinned
            }
            None => Command::new(&binary),
        };
        command
            .args(["--listen", &address.to_string(), "--admin", &admin.to_string()])
            .args(&plan.args)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| !is_setting(name)))
            // Ctrl-C at a terminal is for whoever started the node, who ends it when it is time.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out);
        let child = command.spawn().with_context(|| format!("{} does not start", plan.binary))?;
        Ok(Self { name: plan.name.clone(), address, admin, log, child })
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// When the process ends before, or does not become ready in time; the error carries the end
    /// of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.log_end());
            }
            let last = match self.admin_get("/readyz") {
                Ok((200, _)) => return Ok(()),
                Ok((_, body)) => body,
                Err(error) => error.to_string(),
            };
            if Instant::now() > until {
                bail!("{} is not ready: {}: {}", self.name, last.trim(), self.log_end());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `/topology` says.
    ///
    /// # Errors
    /// When the admin listener does not answer.
    pub fn topology(&self) -> Result<Value> {
        topology(self.admin).with_context(|| self.name.clone())
    }

    /// The sum of a metric over all its labels.
    ///
    /// # Errors
    /// When the admin listener does not answer.
    pub fn metric(&self, name: &str) -> Result<f64> {
        Ok(metrics(self.admin)?.get(name).copied().unwrap_or(0.0))
    }

    /// One GET of the admin listener: status and body.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn admin_get(&self, path: &str) -> Result<(u16, String)> {
        admin_get(self.admin, path)
    }

    /// CPU time of all the process's threads, user and system, in seconds.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let mut sum = 0.0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let path = task?.path().join("schedstat");
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let ns = text.split_ascii_whitespace().next().and_then(|ns| ns.parse::<f64>().ok());
            sum += ns.unwrap_or(0.0) / 1e9;
        }
        Ok(sum)
    }

    /// Resident memory in KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn rss_kib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
        kib.context("the process has no resident memory")
    }

    /// Open descriptors.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// Ends the process at once, as a crash would.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops the process where it is, or lets it go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn stop(&self, stop: bool) -> Result<()> {
        signal(self.pid(), if stop { "STOP" } else { "CONT" })
    }

    /// Whether the process stands still.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        // The state follows the program's name, which may hold anything.
        stat.is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T")))
    }

    /// Whether the process has ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The end of the node's log, for an error message.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A process that has ended by itself cannot be ended again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that this program started.
///
/// # Errors
/// When the process is gone.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status()?;
    if !status.success() {
        bail!("cannot send {name} to process {pid}");
    }
    Ok(())
}

/// Whether a variable of the environment is a setting of the project's programs: a node of a bed
/// has those of its command line alone.
fn is_setting(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"STENTOR_")
}

/// Packets that the kernel had no room for, of the UDP sockets that are bound to these ports.
///
/// # Errors
/// When the kernel does not say.
pub fn kernel_drops(ports: &[u16]) -> Result<u64> {
    let mut drops = 0;
    for file in ["/proc/net/udp", "/proc/net/udp6"] {
        let table = std::fs::read_to_string(file).with_context(|| file.to_owned())?;
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let port = fields.get(1).and_then(|local| local.rsplit(':').next());
            let port = port.and_then(|port| u16::from_str_radix(port, 16).ok());
            if port.is_some_and(|port| ports.contains(&port)) {
                drops += fields.last().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
            }
        }
    }
    Ok(drops)
}

/// What `/topology` of an admin listener says.
///
/// # Errors
/// When it does not answer.
pub fn topology(admin: SocketAddr) -> Result<Value> {
    let (status, body) = admin_get(admin, "/topology")?;
    if status != 200 {
        bail!("/topology answers {status}");
    }
    Ok(serde_json::from_str(&body)?)
}

/// Every metric of an admin listener: by its name the sum over its labels, and each with its labels.
///
/// # Errors
/// When it does not answer.
pub fn metrics(admin: SocketAddr) -> Result<BTreeMap<String, f64>> {
    let (_, body) = admin_get(admin, "/metrics")?;
    let mut sums = BTreeMap::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        if let Some((key, value)) = line.rsplit_once(' ')
            && let Ok(value) = value.parse::<f64>()
        {
            let name = key.split('{').next().unwrap_or(key);
            *sums.entry(name.to_owned()).or_insert(0.0) += value;
            if name != key {
                sums.insert(key.to_owned(), value);
            }
        }
    }
    Ok(sums)
}

/// One GET of an admin listener: status and body.
fn admin_get(admin: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&admin, ADMIN_WITHIN)?;
    stream.set_read_timeout(Some(ADMIN_WITHIN))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split_ascii_whitespace().nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    Ok((status.context("the admin listener does not speak HTTP")?, body.to_owned()))
}

/// A binary of this project: beside the one that runs, or one folder up (for tests).
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let found = beside.into_iter().find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is not built: run `cargo build --release` or ./run, which builds it")
    })
}

/// A UDP and a TCP port of the loopback address that are free at this moment.
///
/// # Errors
/// When there are none.
pub fn free_ports() -> Result<(SocketAddr, SocketAddr)> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let (udp, tcp) = (UdpSocket::bind(any)?, TcpListener::bind(any)?);
    Ok((udp.local_addr()?, tcp.local_addr()?))
}

/// A folder for one run, removed with everything in it when it is dropped.
#[derive(Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Makes the folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(what: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("stentor-{what}-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What cannot be removed stays in the machine's folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
