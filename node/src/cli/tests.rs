//! The command line as it is typed.

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    super::parse(line.split_whitespace().map(OsString::from))
}

fn refused(line: &str) -> String {
    let error = parse(line).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{line}");
    error.to_string()
}

fn help(line: &str) -> String {
    let error = parse(line).unwrap_err();
    assert_eq!(error.exit_code(), 0, "{line}");
    error.to_string()
}

fn dev(line: &str) -> crate::dev::Options {
    match parse(line).unwrap().command {
        Command::Dev(args) => args.options(Format::Text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    command().debug_assert();
}

#[test]
fn the_documented_commands_are_understood() {
    for line in [
        "macula-node dev",
        "macula-node dev -- sh -c x",
        "macula-node sub sensor.** --count 1",
        "macula-node sub a.* -o json --timeout 10s",
        "macula-node pub sensor.temp 21.5",
        "macula-node pub sensor.temp -21.5",
        "macula-node pub sensor.temp - --content-type image/png --header ce-id:7",
        "macula-node pub a b --count 10 --rate 100/s",
        "macula-node serve math.add -- examples/add.sh",
        "macula-node serve math.add --callback http://127.0.0.1:1/",
        "macula-node call math.add {\"a\":1,\"b\":2} --timeout 2s",
        "macula-node call no.such {}",
        "macula-node explain realm_mismatch",
        "macula-node status --url http://127.0.0.1:7790",
        "macula-node run --config a.yaml --seed a:1 --seed b:2 --log debug --log-format json",
        "macula-node ping 127.0.0.1:9443 --config a.yaml --count 3",
        "macula-node authority init --dir ca --mesh demo.main",
        "macula-node authority issue --dir ca --role peer --realm r --name a --out a --lifetime 1h",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (line, named) in [
        ("macula-node sub a..b", "it has an empty segment"),
        ("macula-node pub a.* x", "a wildcard is allowed in a subscription's pattern only"),
        ("macula-node call a {} --timeout 2", "--timeout"),
        ("macula-node call a {} --timeout 0s", "longer than nothing"),
        ("macula-node call a {} --timeout 99999999h", "a hundred years"),
        ("macula-node pub a b --rate fast", "--rate"),
        ("macula-node pub a b --count 0", "--count"),
        ("macula-node pub a b --header Host:x", "does not travel"),
        ("macula-node status --url https://a", "--url"),
        ("macula-node dev --api 0.0.0.0:7780", "--api"),
        ("macula-node run", "--config"),
        ("macula-node run --config a --nmae b", "--nmae"),
        ("macula-node ping 127.0.0.1:1 --config a --join b", "--join"),
        ("macula-node serve a", "--callback"),
        ("macula-node serve a --callback http://10.0.0.1/", "on this machine"),
        ("macula-node authority issue --dir a --role peer --name a --out a", "--realm"),
        ("macula-node authority issue --dir a --role king --name a --out a", "king"),
        ("macula-node authority init --dir a --mesh main", "<namespace>.<name>"),
        ("macula-node pubb a", "pubb"),
        ("macula-node", "Usage"),
    ] {
        let told = refused(line);
        assert!(told.contains(named), "{line}\n{told}");
    }
}

#[test]
fn every_command_stands_in_one_group_of_the_help() {
    let text = help("macula-node --help");
    let grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let defined: Vec<_> =
        Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
    assert_eq!(grouped, defined);
    for name in grouped {
        assert_eq!(text.matches(&format!("\n  {name:<10} ")).count(), 1, "{name}\n{text}");
    }
    for words in ["MACULA_URL", "Exit codes:", "  6  the deadline passed", "--output"] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[test]
fn every_command_teaches_with_an_example() {
    fn check(command: &clap::Command, path: &str) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains(&format!("  {path}")), "{path} has no example of itself");
        command
            .get_subcommands()
            .for_each(|inner| check(inner, &format!("{path} {}", inner.get_name())));
    }
    let command = Cli::command();
    command.get_subcommands().for_each(|c| check(c, &format!("macula-node {}", c.get_name())));
    assert!(
        help("macula-node run --help").contains(macula_config::EXAMPLE.lines().next().unwrap())
    );
}

#[test]
fn a_mesh_beside_a_command_takes_free_ports() {
    let alone = dev("macula-node dev");
    assert_eq!(alone.apis.map(|api| api.port()), [7780, 7790]);
    let beside = dev("macula-node dev -- env");
    assert_eq!(beside.apis.map(|api| api.port()), [0, 0]);
    assert_eq!(beside.command, ["env"]);
    let chosen = dev("macula-node dev --api 127.0.0.1:1 -- env --flag");
    assert_eq!((chosen.apis[0].port(), chosen.command.len()), (1, 2));
}

#[tokio::test]
async fn a_file_that_is_not_there_ends_with_the_code_of_wrong_usage() {
    let cli = parse("macula-node run --config /no/such/file.yaml").unwrap();
    let Err(Stop::Failed(failure)) = dispatch(cli).await else { panic!("it ran") };
    assert_eq!(failure.exit, Exit::Usage);
    assert_eq!(failure.because, "/no/such/file.yaml: there is no such file");
}

#[tokio::test]
async fn what_needs_no_node_succeeds_without_one() {
    assert!(dispatch(parse("macula-node explain timeout").unwrap()).await.is_ok());
    assert!(dispatch(parse("macula-node explain -o json").unwrap()).await.is_ok());
}
