//! Runs the commands of the README's laptop quickstart, as they stand there, in their order. Only
//! the two ports are replaced, by free ones.

#![allow(clippy::unwrap_used, reason = "in a test's helpers too it is the test that fails")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// A command that goes on until the test ends it.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, lines }
    }

    /// The next line that holds this.
    fn line_with(&self, words: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line with {words:?} ({error}); there was {seen:#?}"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The commands of the `sh` blocks after the README's marker.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, marked) = readme.split_once("node/tests/quickstart.rs. -->").expect("the marker");
    let (marked, _) = marked.split_once("\n## ").expect("the next heading");
    marked
        .split("```sh\n")
        .skip(1)
        .map(|block| block.split("\n```").next().unwrap().to_owned())
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn shell(text: &str, ports: &[String; 2]) -> Command {
    let text = text.replace("127.0.0.1:7780", &ports[0]).replace("127.0.0.1:7790", &ports[1]);
    let binary = Path::new(env!("CARGO_BIN_EXE_macula-node")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec {text}")])
        .current_dir(root())
        .env("PATH", format!("{}:{path}", binary.display()))
        .env("MACULA_URL", format!("http://{}", ports[0]));
    command
}

fn run(text: &str, ports: &[String; 2]) -> String {
    let output = shell(text, ports).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_commands_of_the_readme_do_what_it_says() {
    let free = ["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()];
    let dev = Running::start(shell(
        "macula-node dev --api 127.0.0.1:7780 --second-api 127.0.0.1:7790 -o json",
        &free,
    ));
    let ready = dev.line_with("peers");
    let urls: Vec<&str> = ready.split('"').filter(|text| text.starts_with("http://")).collect();
    let ports = [0, 1].map(|at: usize| urls[at].trim_start_matches("http://").to_owned());

    let commands = commands();
    let [sub, publish, serve, call, curl_sub, curl_pub, curl_call, explain] = &commands[..] else {
        panic!("the quickstart has changed: {commands:#?}");
    };

    let subscriber = Running::start(shell(sub, &ports));
    subscriber.line_with("subscribed");
    run(publish, &ports);
    assert!(subscriber.line_with("sensor.temp").contains("21.5"));

    let server = Running::start(shell(serve, &ports));
    server.line_with("serving");
    assert_eq!(run(call, &ports).trim(), "3");

    let events = Running::start(shell(curl_sub, &ports));
    // The stream says nothing until there is a message, so it is published until one is heard.
    let heard = (0..50).any(|_| {
        run(curl_pub, &ports);
        events.lines.recv_timeout(Duration::from_millis(200)).is_ok()
    });
    assert!(heard, "curl heard nothing");
    assert_eq!(run(curl_call, &ports).trim(), "3");
    assert!(run(explain, &ports).contains("realm_mismatch"));
}
