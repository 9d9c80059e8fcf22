//! The commands of the quickstart, each typed by itself into a shell, and what they say when they
//! are typed wrongly.

#![allow(clippy::unwrap_used, reason = "in a test's helpers too it is the test that fails")]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    Answer, BINARY, Mesh, Outcome, PATIENCE, Process, Role, eventually, metric, repository,
};

/// `macula-node dev` on free ports.
struct Dev {
    process: Process,
    apis: [SocketAddr; 2],
}

impl Dev {
    fn start() -> Self {
        let dev = "macula-node dev --api 127.0.0.1:0 --second-api 127.0.0.1:0";
        let mut process = spawn(dev, &[]);
        let text = eventually("dev prints the next commands", || {
            assert!(process.has_ended().is_none());
            Some(process.stdout()).filter(|text| text.contains("Ctrl-C ends it."))
        });
        let urls: Vec<_> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("peer "))
            .map(|url| url.trim().trim_start_matches("http://").parse().unwrap())
            .collect();
        Self { process, apis: urls.try_into().unwrap() }
    }

    fn url(&self, peer: usize) -> String {
        format!("http://{}", self.apis[peer])
    }

    /// Starts a command line at one of the two peers.
    fn spawn(&self, peer: usize, line: &str) -> Process {
        spawn(line, &[("MACULA_URL", &self.url(peer))])
    }

    fn shell(&self, peer: usize, line: &str) -> Outcome {
        self.spawn(peer, line).outcome(PATIENCE)
    }
}

/// Types this into a shell, in the repository, with the binary on the PATH.
fn spawn(line: &str, environment: &[(&str, &str)]) -> Process {
    let folder = std::path::Path::new(BINARY).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    // `exec`, so that the command is the process itself and dies with the test.
    let exec = if line.starts_with("macula-node") { "exec " } else { "" };
    command.args(["-c", &format!("{exec}{line}")]).env("PATH", path).current_dir(repository());
    command.env_remove("MACULA_URL").envs(environment.iter().copied());
    Process::spawn(line, &mut command)
}

fn shell(line: &str) -> Outcome {
    spawn(line, &[]).outcome(PATIENCE)
}

#[test]
fn the_commands_of_the_quickstart_do_what_their_comments_say() {
    let since = Instant::now();
    let dev = Dev::start();
    let took = since.elapsed();
    let welcome = dev.process.stdout();
    for next in ["macula-node sub 'sensor.**'", "macula-node pub sensor.temp 21.5", "ready in "] {
        assert!(welcome.contains(next), "{welcome}");
    }
    assert!(took < Duration::from_secs(5), "{took:?}");

    let mut sub = dev.spawn(1, "macula-node sub 'sensor.**' --count 1");
    sub.until_it_says("subscribed");
    dev.shell(0, "macula-node pub sensor.temp 21.5").exits(0);
    assert_eq!(sub.outcome(PATIENCE).exits(0).stdout, "sensor.temp 21.5\n");

    let mut serve = dev.spawn(1, "macula-node serve math.add -- examples/add.sh");
    serve.until_it_says("serving");
    let call = "macula-node call math.add '{\"a\":1,\"b\":2}' --timeout 2s";
    assert_eq!(dev.shell(0, call).exits(0).stdout.trim(), "3");
    let wrong = dev.shell(0, "macula-node call math.add 'x'").exits(1);
    wrong.says(&["handler_error", "no number under"]);
    serve.terminate();
    serve.outcome(PATIENCE).exits(0);

    let call = dev.shell(0, "macula-node call no.such '{}'").exits(4);
    call.says(&["no_provider", "tried:", "because:", "next:", "more:"]);

    // It went through a lookup, and over QUIC to the other peer.
    for counter in ["macula_lookups_completed_total", "macula_messages_sent_total"] {
        eventually(counter, || (metric(dev.apis[0], counter) > 0).then_some(()));
    }
    for api in dev.apis {
        assert!(metric(api, "macula_connections_dialled_total") > 0);
        eventually("connections", || (metric(api, "macula_connections") >= 2).then_some(()));
    }
    assert_eq!(metric(dev.apis[0], r#"macula_datagrams_dropped_total{reason="not_quic"}"#), 0);

    dev.process.terminate();
    dev.process.outcome(PATIENCE).exits(0);
}

#[test]
fn dev_runs_a_command_beside_a_peer_and_exits_with_its_code() {
    let line = r#"macula-node dev -- sh -c 'curl -s "$MACULA_URL/v1/status"'"#;
    let status: Value = serde_json::from_str(&shell(line).exits(0).stdout).unwrap();
    assert_eq!((&status["ready"], &status["node"]["role"]), (&json!(true), &json!("peer")));
    shell("macula-node dev -- sh -c 'exit 7'").exits(7);
    shell("macula-node dev -- sh -c 'kill -TERM $$'").exits(143);
    shell("macula-node dev -- ./no-such-command").exits(2).says(&["no-such-command"]);
    let two = r#"macula-node dev -- sh -c 'test "$MACULA_URL" != "$MACULA_URL_2" && test -f "$MACULA_JOIN"'"#;
    shell(two).exits(0);
}

#[test]
fn explain_says_what_a_code_means_and_knows_no_other() {
    let explained = shell("macula-node explain realm_mismatch").exits(0).stdout;
    assert!(explained.starts_with("realm_mismatch"), "{explained}");
    shell("macula-node explain realm_mismatchh").exits(2).says(&["realm_mismatch"]);
}

#[test]
fn a_wrong_command_line_is_refused_by_name() {
    for (line, words) in [
        ("macula-node dev --prot 1", &["--prot"][..]),
        ("macula-node pub sensor..temp 1", &["sensor..temp"]),
        ("macula-node pub 'sensor.*' 1", &["sensor.*"]),
        ("macula-node sub 'a.**.b'", &["a.**.b"]),
        ("macula-node call a.b x --timeout 2parsecs", &["--timeout", "2parsecs"]),
        ("macula-node dev --api 0.0.0.0:1", &["--api", "0.0.0.0:1", "loopback"]),
        ("macula-node run", &["--config"]),
        ("macula-node run --config no.yaml", &["invalid_config", "no.yaml", "no such file"]),
    ] {
        shell(line).exits(2).says(words);
    }
    let nobody = "macula-node pub a.b x --url http://127.0.0.1:9";
    shell(nobody).exits(4).says(&["unreachable", "http://127.0.0.1:9", "macula-node dev"]);
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place() {
    let mesh = Mesh::new(1);
    let place = mesh.place("shop.one", Role::Peer("com.example.shop"));
    let good = fs::read_to_string(&place.config).unwrap();
    let run = |text: &str| {
        fs::write(&place.config, text).unwrap();
        shell(&format!("macula-node run --config {}", place.config.display()))
    };
    let file = place.config.to_str().unwrap();
    for (text, words) in [
        (good.replace("listen: 127", "lissen: 127"), &["lissen"][..]),
        (good.replace("role: peer", "role: pear"), &["role", "pear"]),
        (good.replace("realm: com.example.shop", ""), &["realm"]),
        (good.replace("realm: com.example.shop", "realm: Com"), &["realm", "Com"]),
        (good.replace("shop.one/key.pem", "shop.one/gone.pem"), &["identity.key", "gone.pem"]),
        (good.replace("name: shop.one", "name: shop.two"), &["certificate.pem", "shop.two"]),
    ] {
        assert_ne!(text, good);
        run(&text).exits(2).says(words).says(&[place.config.parent().unwrap().to_str().unwrap()]);
    }
    // The file is right in itself, but not the certificate's.
    let other = run(&good.replace("mesh: demo.main", "mesh: demo.other")).exits(5);
    other.says(&["mesh_mismatch", "demo.main", "demo.other"]);
    fs::write(&place.config, good).unwrap();
    let check = shell(&format!("macula-node run --config {file} --check")).exits(0);
    assert!(check.stdout.starts_with("valid: "), "{check:?}");
}

#[test]
fn what_the_api_cannot_take_is_refused_by_name() {
    let dev = Dev::start();
    let at = dev.apis[0];
    let big = vec![b'x'; 2_000_000];
    Answer::post(at, "/v1/publish/a.b", &big).unwrap().refuses(413, "too_large");
    Answer::post(at, "/v1/publish/a..b", b"x").unwrap().refuses(400, "invalid_name");
    Answer::get(at, "/v1/subscribe?topic=a.**.b").refuses(400, "invalid_name");
    Answer::post(at, "/v1/call/no.such", b"x").unwrap().refuses(404, "no_provider");
    Answer::get(at, "/v1/nothing").refuses(404, "not_found");

    let head = |length: &str| {
        format!("POST /v1/publish/a.b HTTP/1.1\r\nHost: {at}\r\nContent-Length: {length}\r\n\r\n")
    };
    let shorter = format!("{}half", head("8"));
    Answer::to_the_last(at, shorter.as_bytes()).unwrap().refuses(400, "incomplete_body");
    for wrong in ["x", "-1", "99999999999999999999999"] {
        let answer = Answer::to(at, head(wrong).as_bytes()).unwrap();
        assert_eq!(answer.refuses(400, "invalid_request")["status"], 400);
    }

    let pipe = format!("head -c 2000000 /dev/zero | macula-node pub a.b - --url {}", dev.url(0));
    shell(&pipe).exits(5).says(&["too_large"]);
    let wait = format!("curl -s -H 'Prefer: wait' -d x {}/v1/publish/a.b", dev.url(0));
    let problem: Value = serde_json::from_str(&shell(&wait).exits(0).stdout).unwrap();
    assert_eq!((&problem["status"], &problem["code"]), (&json!(501), &json!("unsupported")));
    // And it goes on.
    let answer = Answer::post(at, "/v1/publish/a.b", b"x").unwrap();
    assert_eq!(answer.status, 202);
}
