//! Meshes of real processes: the binary that cargo built, over loopback, each process with a log of
//! its own that is printed when the test fails. Whatever is started here is killed when dropped.

#![allow(dead_code, reason = "each test crate uses its part of this")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_macula-node");

/// How long anything may take on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the attempt gives something.
pub(crate) fn eventually<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, attempt)
}

/// As [`eventually`], with a deadline that is part of what is tested.
pub(crate) fn within<T>(
    deadline: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Option<T>,
) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(since.elapsed() < deadline, "not within {deadline:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Does this over and over, a hundred times a second at most, until it is told to stop.
pub(crate) fn paced(stop: &AtomicBool, mut work: impl FnMut()) {
    while !stop.load(Ordering::Relaxed) {
        work();
        thread::sleep(Duration::from_millis(10));
    }
}

/// The folder of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("node/ lies in the repository")
}

/// A port that is free for UDP and TCP, below those that the kernel gives to whoever asks for any.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    // Processes that run at once begin at different places.
    let begin = std::process::id().wrapping_mul(37);
    loop {
        let offset = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + begin.wrapping_add(offset) % COUNT;
        let port = u16::try_from(port).expect("the last port is 31999");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Fails unless the command ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Fails unless standard error has each of these.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
        self
    }
}

/// One process. Killed when dropped; then its words are printed if the test fails.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    files: TempDir,
}

impl Process {
    /// Starts a command with its standard input closed and its output in files.
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Self {
        let files = tempfile::tempdir().expect("a temporary folder");
        let file = |name| File::create(files.path().join(name)).expect("a file for the output");
        let child = command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .env("NO_COLOR", "1")
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, files }
    }

    pub(crate) fn stdout(&self) -> String {
        self.read("stdout")
    }

    pub(crate) fn stderr(&self) -> String {
        self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.files.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// SIGKILL: no goodbye.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a killed child ends");
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().expect("sh runs");
        assert!(sent.success(), "{} is gone already", self.name);
    }

    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until it ends by itself.
    pub(crate) fn outcome(mut self, deadline: Duration) -> Outcome {
        let what = format!("{} ends", self.name);
        let status = within(deadline, &what, || self.has_ended());
        Outcome { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Waits until standard error has these words.
    pub(crate) fn until_it_says(&mut self, words: &str) {
        let what = format!("{} says {words:?}", self.name);
        eventually(&what, || {
            let said = self.stderr().contains(words);
            assert!(said || self.has_ended().is_none(), "{} ended before: {what}", self.name);
            said.then_some(())
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let (out, err) = (self.stdout(), self.stderr());
            eprintln!("---- {} ----\n{out}{err}", self.name);
        }
    }
}

/// Starts `macula-node` with these arguments.
pub(crate) fn start<A: AsRef<OsStr>>(arguments: &[A]) -> Process {
    let shown: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    let name = format!("macula-node {}", shown.join(" "));
    Process::spawn(&name, Command::new(BINARY).args(arguments).current_dir(repository()))
}

/// Runs `macula-node` with these arguments to its end.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: &[A]) -> Outcome {
    start(arguments).outcome(PATIENCE)
}

/// An authority, and the nodes that it signs for.
#[derive(Debug)]
pub(crate) struct Mesh {
    folder: TempDir,
    seeds: Vec<SocketAddr>,
}

/// What a node is for its mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    Bootstrap,
    Gateway,
    Peer(&'a str),
}

/// Where a node listens, and the file that says so.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) udp: SocketAddr,
    /// Where the application asks, of a peer.
    pub(crate) api: SocketAddr,
    /// Where health and metrics are.
    pub(crate) admin: SocketAddr,
    pub(crate) config: PathBuf,
}

/// One node: a process of its own.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) process: Process,
}

impl Mesh {
    /// An authority without nodes, for a mesh with so many bootstraps.
    pub(crate) fn new(bootstraps: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let seeds = (0..bootstraps).map(|_| free_address()).collect();
        let mesh = Self { folder, seeds };
        mesh.authority("authority");
        mesh
    }

    /// The servers of a DHT of five, all of them ready.
    pub(crate) fn of_five() -> (Self, Vec<Node>) {
        let mesh = Self::new(2);
        let mut nodes: Vec<_> =
            ["boot-0", "boot-1"].iter().map(|name| mesh.start(name, Role::Bootstrap)).collect();
        let gateways = ["gate-0", "gate-1", "gate-2"];
        nodes.extend(gateways.iter().map(|name| mesh.start(name, Role::Gateway)));
        nodes.iter_mut().for_each(Node::ready);
        (mesh, nodes)
    }

    /// Makes another authority, of a mesh with the same name.
    pub(crate) fn authority(&self, name: &str) {
        let folder = self.path(name);
        run(&[
            "authority".as_ref(),
            "init".as_ref(),
            "--dir".as_ref(),
            folder.as_os_str(),
            "--mesh".as_ref(),
            "demo.main".as_ref(),
            "--trust-domain".as_ref(),
            "macula.local".as_ref(),
        ])
        .exits(0);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues a certificate and writes a configuration, but starts nothing.
    pub(crate) fn place(&self, name: &str, role: Role<'_>) -> Place {
        self.place_by("authority", name, role)
    }

    /// As [`place`](Self::place), by another authority.
    pub(crate) fn place_by(&self, authority: &str, name: &str, role: Role<'_>) -> Place {
        let word = match role {
            Role::Bootstrap => "bootstrap",
            Role::Gateway => "gateway",
            Role::Peer(_) => "peer",
        };
        let (authority, out) = (self.path(authority), self.path(name));
        let mut command = Command::new(BINARY);
        command.args(["authority", "issue", "--role", word, "--name", name]);
        command.arg("--dir").arg(authority).arg("--out").arg(out);
        let next_bootstrap = || {
            let number = name.rsplit('-').next().and_then(|digits| digits.parse::<usize>().ok());
            self.seeds[number.expect("a bootstrap's name ends with its number")]
        };
        let udp = if role == Role::Bootstrap { next_bootstrap() } else { free_address() };
        let (api, admin) = (free_address(), free_address());
        let mut seeds: Vec<_> = self.seeds.iter().map(ToString::to_string).collect();
        seeds.retain(|seed| *seed != udp.to_string());
        let mut text = format!(
            "trustDomain: macula.local\nmesh: demo.main\nrole: {word}\nname: {name}\n\
             identity: {{ key: {name}/key.pem, certificate: {name}/certificate.pem, \
             bundle: {name}/bundle.pem }}\nlisten: {udp}\nadmin: {{ listen: \"{admin}\" }}\n",
        );
        if !seeds.is_empty() {
            text += &format!("seeds: {seeds:?}\n");
        }
        if let Role::Peer(realm) = role {
            command.args(["--realm", realm]);
            text += &format!("realm: {realm}\napi: {{ listen: \"{api}\" }}\n");
        }
        Process::spawn(&format!("issue {name}"), &mut command).outcome(PATIENCE).exits(0);
        let config = self.path(&format!("{name}.yaml"));
        fs::write(&config, text).expect("the configuration can be written");
        Place { name: name.to_owned(), udp, api, admin, config }
    }

    /// Starts a node, and does not wait for it.
    pub(crate) fn start(&self, name: &str, role: Role<'_>) -> Node {
        self.place(name, role).start(&[])
    }

    /// Starts a peer of this realm, and waits until it has joined.
    pub(crate) fn peer(&self, name: &str, realm: &str) -> Node {
        let mut node = self.start(name, Role::Peer(realm));
        node.ready();
        node
    }
}

impl Place {
    /// Runs the node, with more in its environment.
    pub(crate) fn start(self, environment: &[(&str, &str)]) -> Node {
        let mut command = Command::new(BINARY);
        command.args(["run", "--config"]).arg(&self.config).envs(environment.iter().copied());
        let process = Process::spawn(&self.name, &mut command);
        Node { place: self, process }
    }

    /// The URL of the application's API.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.api)
    }
}

impl Node {
    /// Waits until it has joined its mesh.
    pub(crate) fn ready(&mut self) {
        let what = format!("{} is ready", self.place.name);
        eventually(&what, || {
            let ended = self.process.has_ended();
            assert!(ended.is_none(), "{} ended: {ended:?}", self.place.name);
            let answer = Answer::try_get(self.place.admin, "/healthz/ready")?;
            (answer.status == 200).then_some(())
        });
    }

    /// Runs a command of `macula-node` at this peer.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        run(&self.at(arguments))
    }

    /// Starts a command of `macula-node` at this peer.
    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        start(&self.at(arguments))
    }

    fn at(&self, arguments: &[&str]) -> Vec<String> {
        let (command, rest) = arguments.split_first().expect("a command");
        let mut all = vec![(*command).to_owned(), "--url".to_owned(), self.place.url()];
        all.extend(rest.iter().map(ToString::to_string));
        all
    }

    /// Subscribes; returns when publishers can find it. It ends after so many messages.
    pub(crate) fn subscribe(&self, pattern: &str, count: usize) -> Process {
        let mut process =
            self.start(&["sub", pattern, "--count", &count.to_string(), "--timeout", "25s"]);
        process.until_it_says("subscribed");
        process
    }

    /// Serves a procedure by a shell command; returns when callers can find it.
    pub(crate) fn serve(&self, procedure: &str, script: &str) -> Process {
        let mut process = self.start(&["serve", procedure, "--", "sh", "-c", script]);
        process.until_it_says("serving");
        process
    }

    /// What the node says of itself.
    pub(crate) fn status(&self) -> Value {
        Answer::get(self.place.api, "/v1/status").json()
    }

    /// One counter or gauge; 0 when it has never been counted.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        metric(self.place.admin, name)
    }
}

/// One counter or gauge of `/metrics` by its name with labels; 0 when it is not there.
pub(crate) fn metric(at: SocketAddr, name: &str) -> u64 {
    let text = Answer::get(at, "/metrics").body;
    let after = |line: &'_ str| -> Option<u64> {
        let rest = line.strip_prefix(name)?;
        rest.strip_prefix("{}").unwrap_or(rest).strip_prefix(' ')?.parse().ok()
    };
    text.lines().find_map(after).unwrap_or(0)
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn get(at: SocketAddr, path: &str) -> Self {
        Self::try_get(at, path).unwrap_or_else(|| panic!("no answer to GET {path} at {at}"))
    }

    pub(crate) fn try_get(at: SocketAddr, path: &str) -> Option<Self> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        Self::to(at, request.as_bytes())
    }

    pub(crate) fn post(at: SocketAddr, path: &str, body: &[u8]) -> Option<Self> {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        Self::to(at, &[head.as_bytes(), body].concat())
    }

    /// Sends these very bytes, and reads what comes until the node closes.
    pub(crate) fn to(at: SocketAddr, request: &[u8]) -> Option<Self> {
        Self::of(at, request, false)
    }

    /// As [`to`](Self::to), and says that no more follow.
    pub(crate) fn to_the_last(at: SocketAddr, request: &[u8]) -> Option<Self> {
        Self::of(at, request, true)
    }

    fn of(at: SocketAddr, request: &[u8], last: bool) -> Option<Self> {
        let mut stream = TcpStream::connect(at).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        // A refusal may come before all is written, and is worth reading.
        if stream.write_all(request).is_ok() && last {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let mut answer = Vec::new();
        // What came before a reset counts.
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head: head.to_owned(), body: body.to_owned() })
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let read = serde_json::from_str(&self.body);
        read.unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Fails unless it is a problem document with this status and code.
    #[track_caller]
    pub(crate) fn refuses(&self, status: u16, code: &str) -> Value {
        let head = self.head.to_ascii_lowercase();
        assert!(head.contains("content-type: application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!((self.status, problem["code"].as_str()), (status, Some(code)), "{self:?}");
        assert_eq!(problem["status"], status, "{self:?}");
        problem
    }
}
