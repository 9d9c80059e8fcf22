//! Deaths and stops, on paused time: a pause or a grace takes no time here.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_panic_restarts_only_the_task_whose_kind_says_so() {
    let mut house = House::new();
    house.child(Kind::HttpApi, "api");
    house.child(Kind::Discovery, "discovery");
    let running = house.run();
    running.saw(["api starts", "discovery starts"]).await;
    running.kill("discovery");
    running.saw(["discovery starts"]).await;
    let count = running.counters.get(Kind::Discovery);
    assert_eq!(count, Count { panics: 1, errors: 0, restarts: 1 });
    assert_eq!(running.counters.get(Kind::HttpApi), Count::default());
    running.stopped_cleanly(["discovery stops", "api stops"]).await;
}

#[tokio::test(start_paused = true)]
async fn one_for_all_restarts_everything_in_order() {
    let mut house = House::new();
    house.child(Kind::Discovery, "discovery");
    house.child(Kind::Mesh, "mesh");
    house.strategy(Strategy::RestartAll);
    house.child(Kind::Admin, "admin");
    let running = house.run();
    running.saw(["discovery starts", "mesh starts", "admin starts"]).await;
    running.kill("mesh");
    running
        .saw(["admin stops", "discovery stops", "discovery starts", "mesh starts", "admin starts"])
        .await;
    assert_eq!(running.counters.get(Kind::Admin).restarts, 1);
    assert_eq!(running.counters.get(Kind::Admin).panics, 0);
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_restarts_those_that_started_after_it() {
    let mut house = House::new();
    house.child(Kind::Discovery, "discovery");
    house.child(Kind::Mesh, "mesh");
    house.strategy(Strategy::RestartRest);
    house.child(Kind::HttpApi, "api");
    let running = house.run();
    running.saw(["discovery starts", "mesh starts", "api starts"]).await;
    running.kill("mesh");
    running.saw(["api stops", "mesh starts", "api starts"]).await;
    assert_eq!(running.counters.get(Kind::Discovery).restarts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_death_during_anothers_restart_is_not_forgotten() {
    let mut house = House::new();
    house.child(Kind::Discovery, "discovery");
    house.child(Kind::Mesh, "mesh");
    house.strategy(Strategy::RestartRest);
    house.child(Kind::HttpApi, "api");
    let kill = house.kill.clone();
    house.tree.child(Kind::Admin, "slow", &Handle::current(), move |stop| {
        let kill = kill.clone();
        async move {
            stop.cancelled().await;
            kill.send("discovery")?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, Error>(())
        }
    });
    let running = house.run();
    running.saw(["discovery starts", "mesh starts", "api starts"]).await;
    running.kill("mesh");
    running.saw(["api stops", "mesh starts", "api starts", "discovery starts"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_is_a_death_and_is_told_with_its_sources() {
    let mut tree = Tree::new(strict(0), CancellationToken::new());
    tree.child(Kind::Admin, "admin", &Handle::current(), |_| async {
        let source = std::io::Error::other("port taken");
        Err::<(), _>(std::io::Error::new(std::io::ErrorKind::AddrInUse, Outer(source)))
    });
    let counters = tree.counters();
    let ended = tree.run().await.unwrap_err().to_string();
    assert_eq!(ended, "admin (admin) died, death 1 within 60s: cannot listen: port taken");
    assert_eq!(counters.get(Kind::Admin), Count { panics: 0, errors: 1, restarts: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_task_that_keeps_dying_exhausts_the_budget_with_growing_pauses() {
    let mut tree = Tree::new(Settings::default(), CancellationToken::new());
    let lives = Arc::new(AtomicUsize::new(0));
    let counted = lives.clone();
    tree.child(Kind::Renewal, "renewal", &Handle::current(), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { panic!("again") as Result<(), Error> }
    });
    let start = Instant::now();
    let Err(Ended::Exhausted { kind, deaths, because, .. }) = tree.run().await else {
        panic!("it goes on");
    };
    assert_eq!((kind, deaths, because.as_str()), (Kind::Renewal, 6, "panicked: again"));
    assert_eq!(lives.load(Ordering::SeqCst), 6, "five deaths are borne");
    let pauses = Duration::from_millis(10 + 20 + 40 + 80 + 160);
    assert!(start.elapsed() >= pauses && start.elapsed() < pauses * 2, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn deaths_that_are_far_apart_are_borne_for_ever() {
    let mut tree = Tree::new(strict(1), CancellationToken::new());
    let (sender, mut deaths) = mpsc::channel(1);
    tree.child(Kind::Admin, "admin", &Handle::current(), move |_| {
        let sender = sender.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(61)).await;
            let _ = sender.send(()).await;
            panic!("now and then") as Result<(), Error>
        }
    });
    let task = tokio::spawn(tree.run());
    for _ in 0..50 {
        deaths.recv().await.unwrap();
    }
    assert!(!task.is_finished());
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_transient_panic_loses_that_work_alone() {
    let mut house = House::new();
    house.child(Kind::Mesh, "mesh");
    let running = house.run();
    running.saw(["mesh starts"]).await;
    for _ in 0..100 {
        running.spawner.spawn(Kind::Connection, async { panic!("bad peer") });
    }
    let (sender, receiver) = oneshot::channel();
    running.spawner.spawn(Kind::Connection, async { sender.send(()).unwrap() });
    receiver.await.unwrap();
    while running.spawner.alive() > 0 {
        tokio::task::yield_now().await;
    }
    let count = running.counters.get(Kind::Connection);
    assert_eq!(count, Count { panics: 100, errors: 0, restarts: 0 });
    running.stopped_cleanly(["mesh stops"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_asks_in_reverse_and_aborts_whoever_does_not_listen() {
    let mut house = House::new();
    house.child(Kind::Mesh, "mesh");
    house.tree.child(Kind::Admin, "deaf", &Handle::current(), |_| {
        std::future::pending::<Result<(), Error>>()
    });
    house.child(Kind::HttpApi, "api");
    let running = house.run();
    running.saw(["mesh starts", "api starts"]).await;
    running.spawner.spawn(Kind::Stream, std::future::pending());
    let polite = running.spawner.stopping();
    running.spawner.spawn(Kind::Connection, async move { polite.cancelled().await });
    let start = Instant::now();
    let spawner = running.spawner.clone();
    running.stopped_cleanly(["api stops", "mesh stops"]).await;
    assert!(start.elapsed() <= Settings::default().grace + ABORT_PATIENCE);
    spawner.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_done_stays_done() {
    let mut house = House::new();
    house.child(Kind::Mesh, "mesh");
    let lives = Arc::new(AtomicUsize::new(0));
    let counted = lives.clone();
    house.tree.child(Kind::Renewal, "once", &Handle::current(), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Error>(()) }
    });
    let running = house.run();
    running.saw(["mesh starts"]).await;
    running.kill("mesh");
    running.saw(["mesh starts"]).await;
    assert_eq!(lives.load(Ordering::SeqCst), 1);
}

#[test]
fn children_live_on_the_runtimes_that_they_were_given() {
    let plane = Thread::start("plane");
    let shell = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    shell.block_on(async {
        let stop = CancellationToken::new();
        let mut tree = Tree::new(Settings::default(), stop.clone());
        let (sender, mut threads) = mpsc::channel(8);
        let spawner = tree.spawner();
        tree.child(Kind::Mesh, "mesh", &plane.handle, move |stop| {
            let (sender, spawner) = (sender.clone(), spawner.clone());
            async move {
                let name = || std::thread::current().name().map(str::to_owned);
                sender.send(name()).await?;
                let transient = sender.clone();
                spawner.spawn(Kind::Stream, async move { transient.send(name()).await.unwrap() });
                failpoint(Kind::Subscription); // which no other test arms or passes
                stop.cancelled().await;
                Ok::<_, Error>(())
            }
        });
        arm(Kind::Subscription, 1);
        let counters = tree.counters();
        let task = tokio::spawn(tree.run());
        for _ in 0..4 {
            assert_eq!(threads.recv().await.unwrap().as_deref(), Some("plane"));
        }
        assert_eq!(counters.get(Kind::Mesh), Count { panics: 1, errors: 0, restarts: 1 });
        stop.cancel();
        task.await.unwrap().unwrap();
    });
}

#[test]
fn the_table_names_every_kind_once() {
    for (index, kind) in Kind::ALL.iter().enumerate() {
        assert_eq!(*kind as usize, index, "counters are kept by this number");
        assert_eq!(Kind::ALL.iter().filter(|other| other.name() == kind.name()).count(), 1);
    }
}

/// A tree whose children tell of their lives, and die when they are told to.
struct House {
    tree: Tree,
    stop: CancellationToken,
    sender: mpsc::UnboundedSender<String>,
    told: mpsc::UnboundedReceiver<String>,
    kill: tokio::sync::broadcast::Sender<&'static str>,
}

struct Running {
    task: tokio::task::JoinHandle<Result<(), Ended>>,
    stop: CancellationToken,
    told: Mutex<mpsc::UnboundedReceiver<String>>,
    kill: tokio::sync::broadcast::Sender<&'static str>,
    counters: Arc<Counters>,
    spawner: Spawner,
}

impl House {
    fn new() -> Self {
        let stop = CancellationToken::new();
        let (sender, told) = mpsc::unbounded_channel();
        let (kill, _) = tokio::sync::broadcast::channel(8);
        let tree = Tree::new(Settings::default(), stop.clone());
        Self { tree, stop, sender, told, kill }
    }

    /// The last child, but with this strategy.
    fn strategy(&mut self, strategy: Strategy) {
        self.tree.children.last_mut().unwrap().strategy = strategy;
    }

    fn child(&mut self, kind: Kind, name: &'static str) {
        let (sender, kill) = (self.sender.clone(), self.kill.clone());
        self.tree.child(kind, name, &Handle::current(), move |stop| {
            let (sender, mut killed) = (sender.clone(), kill.subscribe());
            async move {
                sender.send(format!("{name} starts"))?;
                loop {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        whom = killed.recv() => assert_ne!(whom?, name, "killed"),
                    }
                }
                sender.send(format!("{name} stops"))?;
                Ok::<_, Error>(())
            }
        });
    }

    fn run(self) -> Running {
        let Self { tree, stop, sender: _, told, kill } = self;
        let (counters, spawner) = (tree.counters(), tree.spawner());
        let task = tokio::spawn(tree.run());
        Running { task, stop, told: Mutex::new(told), kill, counters, spawner }
    }
}

impl Running {
    #[allow(clippy::await_holding_lock, reason = "one test, one task")]
    async fn saw<const N: usize>(&self, events: [&str; N]) {
        let mut told = self.told.lock().unwrap();
        for event in events {
            assert_eq!(told.recv().await.as_deref(), Some(event));
        }
    }

    fn kill(&self, name: &'static str) {
        self.kill.send(name).unwrap();
    }

    async fn stopped_cleanly<const N: usize>(self, events: [&str; N]) {
        self.stop.cancel();
        self.saw(events).await;
        self.task.await.unwrap().unwrap();
    }
}

/// A current_thread runtime in a thread of its own, as the data plane has it.
struct Thread {
    handle: Handle,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Thread {
    fn start(name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let until = stop.clone();
        let run = move || runtime.block_on(until.cancelled_owned());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).unwrap();
        Self { handle, stop, thread: Some(thread) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen")]
struct Outer(#[source] std::io::Error);

fn strict(deaths: usize) -> Settings {
    let within = Duration::from_secs(60);
    Settings { budget: Budget { deaths, within }, ..Settings::default() }
}
