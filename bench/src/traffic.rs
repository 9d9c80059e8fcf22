//! Calls and one-way messages: between two peers, through HTTP, and over raw quinn, in one run.
//!
//! The floor is what quinn does with the same bytes and no mesh: one stream a request, and frames in
//! batches of 64 KiB. Ratios are to it. Nothing is asserted: machines differ.

mod floor;
mod mesh;

use std::time::{Duration, Instant};

/// How long each measurement lasts.
const LASTS: Duration = Duration::from_secs(3);
/// Requests in flight when the rate is measured.
const IN_FLIGHT: usize = 64;
/// Bytes of a call's payload, both ways.
const CALL_BYTES: usize = 64;
/// Bytes of a one-way message's payload.
const MESSAGE_BYTES: [usize; 2] = [16, 256];

/// What was measured of calls.
struct Calls {
    p50: Duration,
    p99: Duration,
    per_second: f64,
}

/// Measures, and prints.
pub(crate) async fn run() -> anyhow::Result<()> {
    println!(
        "{:<34} {:>10} {:>10} {:>12} {:>7}",
        "calls, 64 B", "p50", "p99", "calls/s @64", "ratio"
    );
    let floor = floor::calls().await?;
    print_calls("raw quinn, a stream a request", &floor, &floor);
    let mesh = mesh::Pair::start().await?;
    print_calls("two peers", &mesh.calls().await?, &floor);
    print_calls("two peers, through HTTP", &mesh.calls_by_http().await?, &floor);

    for bytes in MESSAGE_BYTES {
        println!(
            "\n{:<34} {:>12} {:>7}",
            format!("one-way messages, {bytes} B"),
            "messages/s",
            "ratio"
        );
        let floor = floor::messages(bytes, false).await?;
        print_rate("raw quinn, 64 KiB batches", floor, floor);
        let channels = floor::messages(bytes, true).await?;
        print_rate("the same, a channel a message", channels, floor);
        let (rate, lost) = mesh.messages(bytes).await?;
        print_rate("two peers", rate, floor);
        println!("{:<34} {lost:>12}", "  lost and said (gap)");
        print_rate("two peers, through HTTP", mesh.messages_by_http(bytes).await?, floor);
    }
    mesh.stop().await;
    Ok(())
}

fn print_calls(what: &str, calls: &Calls, floor: &Calls) {
    let Calls { p50, p99, per_second } = calls;
    let ratio = per_second / floor.per_second;
    println!("{what:<34} {p50:>10.1?} {p99:>10.1?} {per_second:>12.0} {ratio:>6.2}x");
}

fn print_rate(what: &str, rate: f64, floor: f64) {
    println!("{what:<34} {rate:>12.0} {:>6.2}x", rate / floor);
}

/// One after the other for the latency, then many in flight for the rate.
async fn measure<F, C>(call: C) -> anyhow::Result<Calls>
where
    C: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = anyhow::Result<()>> + Send,
{
    for _ in 0..200 {
        call().await?;
    }
    let mut took = Vec::new();
    let end = Instant::now() + LASTS;
    while Instant::now() < end {
        let since = Instant::now();
        call().await?;
        took.push(since.elapsed());
    }
    took.sort_unstable();
    let since = Instant::now();
    let workers: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut count = 0_u64;
                while since.elapsed() < LASTS {
                    call().await?;
                    count += 1;
                }
                anyhow::Ok(count)
            })
        })
        .collect();
    let mut count = 0;
    for worker in workers {
        count += worker.await??;
    }
    Ok(Calls {
        p50: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
        per_second: count as f64 / since.elapsed().as_secs_f64(),
    })
}
