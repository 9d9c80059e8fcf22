//! Runs one command for one call: body in, answer out, and nothing left behind.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use macula_config::period;
use macula_proto::name::ProcedureName;
use macula_proto::wire::MAX_PAYLOAD;
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// A command that answers calls.
#[derive(Debug)]
pub(crate) struct Runner {
    program: PathBuf,
    arguments: Vec<OsString>,
    procedure: ProcedureName,
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) body: Bytes,
    pub(crate) content_type: String,
    pub(crate) caller: String,
    /// What is left of the caller's deadline.
    pub(crate) timeout: Duration,
}

/// Why a command gave no answer. Its text is for the caller.
#[derive(Debug)]
pub(crate) enum Error {
    /// It could not be started, or its pipes broke.
    Io(io::Error),
    /// It ended with a code other than 0, or by a signal.
    Status { status: ExitStatus, stderr: String },
    /// It was killed at the deadline.
    Deadline(Duration),
    /// It wrote more than an answer may have.
    TooLarge,
}

/// The most bytes of a command's standard error that a caller reads: the last ones, because that is
/// where programs say why they stopped.
const STDERR: usize = 1024;

impl Runner {
    /// The command, which must be there.
    ///
    /// # Errors
    /// A sentence when it is not.
    pub(crate) fn new(command: Vec<OsString>, procedure: ProcedureName) -> Result<Self, String> {
        let mut words = command.into_iter();
        let program = words.next().ok_or("there is no command")?;
        let program = find(&program, env::var_os("PATH").as_deref())?;
        Ok(Self { program, arguments: words.collect(), procedure })
    }

    /// Runs the command. When this future is dropped, or the deadline passes, the command is killed
    /// together with what it started.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(crate) async fn run(&self, call: Call) -> Result<Vec<u8>, Error> {
        let Call { body, content_type, caller, timeout } = call;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env("MACULA_PROCEDURE", self.procedure.as_str())
            .env("MACULA_CALLER", caller)
            .env("CONTENT_TYPE", content_type)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::Io)?;
        let mut group = Group(child.id());
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let work = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A command need not read what it is given.
                    let _ = stdin.write_all(&body).await;
                }
                Ok(())
            };
            let ((), answer, stderr) = tokio::try_join!(feed, whole(stdout), last(stderr))?;
            let status = child.wait().await.map_err(Error::Io)?;
            if status.success() { Ok(answer) } else { Err(Error::Status { status, stderr }) }
        };
        let result = match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Deadline(timeout)),
        };
        if let Ok(_) | Err(Error::Status { .. }) = result {
            group.ended();
        }
        result
    }
}

/// The program's path, searched as a shell does; it must be a file that may be executed.
fn find(program: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, String> {
    let shown = program.display();
    if Path::new(program).components().count() > 1 || program.as_encoded_bytes().contains(&b'/') {
        let file = PathBuf::from(program);
        return match file.metadata() {
            Err(error) => Err(format!("{shown}: {error}")),
            Ok(_) if is_executable(&file) => Ok(file),
            Ok(_) => Err(format!("{shown} is not an executable file (chmod +x)")),
        };
    }
    env::split_paths(path.unwrap_or_default())
        .map(|folder| folder.join(program))
        .find(|file| is_executable(file))
        .ok_or_else(|| format!("no program named {shown} is in PATH"))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

async fn whole(from: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, Error> {
    let mut answer = Vec::new();
    if let Some(from) = from {
        let most = MAX_PAYLOAD as u64 + 1;
        from.take(most).read_to_end(&mut answer).await.map_err(Error::Io)?;
    }
    if answer.len() > MAX_PAYLOAD { Err(Error::TooLarge) } else { Ok(answer) }
}

async fn last(from: Option<impl AsyncRead + Unpin>) -> Result<String, Error> {
    let mut kept = Vec::new();
    if let Some(mut from) = from {
        let mut buffer = [0; STDERR];
        loop {
            let count = from.read(&mut buffer).await.map_err(Error::Io)?;
            if count == 0 {
                break;
            }
            kept.extend(&buffer[..count]);
            kept.drain(..kept.len().saturating_sub(STDERR));
        }
    }
    Ok(String::from_utf8_lossy(&kept).trim().to_owned())
}

/// The process group of a command: killed when dropped, unless the command has ended by itself.
/// Dropped before the child itself, so that its number is nobody else's yet.
#[derive(Debug)]
struct Group(Option<u32>);

impl Group {
    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            // A signal to a group needs either unsafe code or a shell. Without one, the command
            // alone is killed, when its child is dropped.
            let _ = std::process::Command::new("/bin/sh")
                .args(["-c", &format!("kill -KILL -{id}")])
                .stderr(Stdio::null())
                .status();
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the command cannot be run: {error}"),
            Self::Status { status, stderr } if stderr.is_empty() => {
                write!(f, "the command ended with {status}")
            }
            Self::Status { status, stderr } => {
                write!(f, "the command ended with {status}: {stderr}")
            }
            Self::Deadline(timeout) => {
                write!(f, "the command did not end within {}", period::format(*timeout))
            }
            Self::TooLarge => write!(f, "the command's answer has more than {MAX_PAYLOAD} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sh(script: &str) -> Runner {
        let command = ["sh", "-c", script].map(OsString::from).to_vec();
        Runner::new(command, "math.add".parse().unwrap()).unwrap()
    }

    fn call(body: impl Into<Bytes>) -> Call {
        Call {
            body: body.into(),
            content_type: "application/json".to_owned(),
            caller: "cart".to_owned(),
            timeout: Duration::from_secs(30),
        }
    }

    #[tokio::test]
    async fn the_body_goes_in_and_the_answer_comes_out_verbatim() {
        let body: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        assert_eq!(sh("cat").run(call(body.clone())).await.unwrap(), body);
    }

    #[tokio::test]
    async fn the_command_knows_what_was_called_by_whom() {
        let script = r#"printf '%s %s %s' "$MACULA_PROCEDURE" "$MACULA_CALLER" "$CONTENT_TYPE""#;
        assert_eq!(sh(script).run(call("")).await.unwrap(), b"math.add cart application/json");
    }

    #[tokio::test]
    async fn a_command_that_reads_nothing_answers_all_the_same() {
        assert_eq!(sh("echo 7").run(call(vec![0; 1 << 20])).await.unwrap(), b"7\n");
    }

    #[tokio::test]
    async fn another_exit_code_is_an_error_with_the_last_words() {
        let error = sh("echo ignored; echo no a >&2; exit 3").run(call("")).await.unwrap_err();
        assert_eq!(error.to_string(), "the command ended with exit status: 3: no a");
        let noise = "i=0; while [ $i -lt 500 ]; do echo 0123456789 >&2; i=$((i+1)); done; echo end >&2; exit 1";
        let Err(Error::Status { stderr, .. }) = sh(noise).run(call("")).await else {
            panic!("it succeeded")
        };
        assert!(stderr.len() <= STDERR && stderr.ends_with("\nend"), "{stderr}");
    }

    #[tokio::test]
    async fn at_the_deadline_the_command_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        // The shell waits for a child, whose number it writes down first.
        let script = format!("sleep 300 & echo $! > '{}'; wait", file.display());
        let started = Instant::now();
        let runner = sh(&script);
        let run = runner.run(Call { timeout: Duration::from_millis(300), ..call("") });
        let error = run.await.unwrap_err();
        assert_eq!(error.to_string(), "the command did not end within 300ms");
        assert!(started.elapsed() < Duration::from_secs(60));
        let child = std::fs::read_to_string(&file).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        // A zombie that nobody reaps yet is dead too.
        let alive = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z"));
        while alive() {
            assert!(started.elapsed() < Duration::from_secs(60), "the child outlived the deadline");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off() {
        let error = sh("cat /dev/zero").run(call("")).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge), "{error}");
    }

    #[test]
    fn a_command_that_is_not_there_is_refused_before_anything_is_offered() {
        let refused =
            |word: &str| Runner::new(vec![word.into()], "a".parse().unwrap()).unwrap_err();
        assert!(refused("no-such-program-of-ours").ends_with("is in PATH"));
        assert!(refused("./no/such/file").contains("No such file"));
        assert!(refused("/etc/passwd").ends_with("is not an executable file (chmod +x)"));
        assert_eq!(Runner::new(vec![], "a".parse().unwrap()).unwrap_err(), "there is no command");
    }
}
