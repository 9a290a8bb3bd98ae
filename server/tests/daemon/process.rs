//! One `kelson` process under test: its flags, its log, its ports, its end.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};

/// How long anything a test waits for may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a process that has ended left behind.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A command without the environment's settings.
fn command(arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kelson"));
    command.args(arguments).kill_on_drop(true).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(name);
        }
    }
    command
}

/// As [`run_owned`], on a file system without any room: no write to a file succeeds.
pub async fn run_without_space(arguments: &[String]) -> Ended {
    let mut command = command(arguments);
    let no_room = || {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: a plain system call with a pointer to a live value of the right type.
        match unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const none) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(no_room) };
    ended(command).await
}

/// Runs a command line that is not expected to serve.
pub async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    run_owned(&arguments, environment).await
}

/// As [`run`].
pub async fn run_owned(arguments: &[String], environment: &[(&str, &str)]) -> Ended {
    let mut command = command(arguments);
    command.envs(environment.iter().copied());
    ended(command).await
}

async fn ended(mut command: Command) -> Ended {
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .expect("to end")
        .expect("to run");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Three ports that nobody uses at the moment.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub client: u16,
    pub peer: u16,
    pub metrics: u16,
}

impl Ports {
    pub fn free() -> Self {
        let ports = kelson_ports::free_ports(3).expect("a machine has free ports");
        let [client, peer, metrics] = ports.try_into().expect("as many as asked for");
        Self {
            client,
            peer,
            metrics,
        }
    }

    /// Flags of a member called `m` that is its whole cluster.
    pub fn flags(self, data_dir: &Path) -> Vec<String> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        [
            "--name=m".to_owned(),
            format!("--data-dir={}", data_dir.display()),
            format!("--listen-client-urls={}", url(self.client)),
            format!("--advertise-client-urls={}", url(self.client)),
            format!("--listen-peer-urls={}", url(self.peer)),
            format!("--initial-advertise-peer-urls={}", url(self.peer)),
            format!("--listen-metrics-urls={}", url(self.metrics)),
            "--heartbeat-interval=50".to_owned(),
            "--election-timeout=250".to_owned(),
        ]
        .into()
    }
}

/// A running process.
pub struct Daemon {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    /// Lines read so far.
    pub seen: Vec<Value>,
}

impl Daemon {
    pub fn start(arguments: &[String], environment: &[(&str, PathBuf)]) -> Self {
        let mut child = command(arguments)
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("to start");
        let log = BufReader::new(child.stderr.take().expect("piped")).lines();
        Self {
            child,
            log,
            seen: Vec::new(),
        }
    }

    /// Starts a member that is its whole cluster and waits until it serves.
    pub async fn serving(ports: Ports, data_dir: &Path) -> Self {
        let mut daemon = Self::start(&ports.flags(data_dir), &[]);
        daemon.line("ready to serve client requests").await;
        daemon
    }

    /// Reads the log up to the line with that message.
    pub async fn line(&mut self, message: &str) -> Value {
        let search = async {
            while let Some(line) = self.log.next_line().await.expect("readable") {
                let line: Value =
                    serde_json::from_str(&line).unwrap_or_else(|_| panic!("no line of JSON: {line}"));
                self.seen.push(line.clone());
                if line["msg"] == message {
                    return Some(line);
                }
            }
            None
        };
        let found = tokio::time::timeout(PATIENCE, search).await.ok().flatten();
        found.unwrap_or_else(|| panic!("no {message:?} in {:#?}", self.seen))
    }

    /// From now on every write to a file fails.
    pub fn refuse_writes(&self) {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the pointer is to a live value of the right type; the child has not been waited for.
        let done = unsafe {
            libc::prlimit(
                self.pid(),
                libc::RLIMIT_FSIZE,
                &raw const none,
                std::ptr::null_mut(),
            )
        };
        assert_eq!(done, 0);
    }

    fn pid(&self) -> libc::pid_t {
        libc::pid_t::try_from(self.child.id().expect("running")).expect("a process id")
    }

    pub fn signal(&self, signal: i32) {
        let pid = self.pid();
        // SAFETY: plain system call on a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Reads the rest of the log and waits for the end.
    pub async fn end(&mut self) -> ExitStatus {
        let end = async {
            while let Some(line) = self.log.next_line().await.expect("readable") {
                self.seen
                    .push(serde_json::from_str(&line).expect("a line of JSON"));
            }
            self.child.wait().await.expect("to be waited for")
        };
        tokio::time::timeout(PATIENCE, end).await.expect("to end")
    }

    /// Ends it as a service manager does.
    pub async fn stop(mut self) -> Vec<Value> {
        self.signal(libc::SIGTERM);
        let status = self.end().await;
        assert_eq!(status.code(), Some(0), "{status} {:#?}", self.seen);
        self.seen
    }
}

/// `GET` over HTTP/1.1: status and body.
pub async fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("listening");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writable");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("an answer")
        .expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head
        .split(' ')
        .nth(1)
        .expect("a status")
        .parse()
        .expect("a number");
    (status, body.to_owned())
}
