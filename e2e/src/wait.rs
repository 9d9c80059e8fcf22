//! Waiting for something, with a deadline, and the reason why it is not yet so.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::bail;
use futures_util::{StreamExt, pin_mut};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::{interval, timeout};

/// How often something is asked for where there is nothing to watch.
const INTERVAL: Duration = Duration::from_millis(500);

/// The objects that a watch selects: all of the [`Api`], or those of a name or a label.
#[must_use]
pub fn named(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

/// Watches objects until `judge` finds what it looks for; what it returns else is why it is not yet so.
///
/// # Errors
/// When the time is over: what was waited for, and why it was not so in the end.
pub async fn until<K, T>(
    what: &str,
    within: Duration,
    api: Api<K>,
    config: watcher::Config,
    mut judge: impl FnMut(&[&K]) -> Result<T, String>,
) -> anyhow::Result<T>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Clone,
{
    let mut objects: BTreeMap<String, K> = BTreeMap::new();
    let mut last = "nothing was seen".to_owned();
    let watch = async {
        let events = watcher(api, config);
        pin_mut!(events);
        let mut listed = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => {
                    listed = false;
                    objects.clear();
                }
                Ok(Event::InitApply(object) | Event::Apply(object)) => {
                    objects.insert(object.name_any(), object);
                }
                Ok(Event::Delete(object)) => {
                    objects.remove(&object.name_any());
                }
                Ok(Event::InitDone) => listed = true,
                Err(error) => last = format!("the watch failed: {error}"),
            }
            if listed {
                match judge(&objects.values().collect::<Vec<_>>()) {
                    Ok(found) => return found,
                    Err(why) => last = why,
                }
            }
        }
        unreachable!("a watch has no end");
    };
    let outcome = timeout(within, watch).await;
    match outcome {
        Ok(found) => Ok(found),
        Err(_) => bail!("{what}: not within {} s; {last}", within.as_secs()),
    }
}

/// Asks again and again until the answer is what it should be; for what cannot be watched.
///
/// # Errors
/// When the time is over: what was waited for, and why it was not so in the end.
pub async fn poll<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Result<T, String>>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    let mut ticks = interval(INTERVAL);
    loop {
        ticks.tick().await;
        let why = match ask().await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(why)) => why,
            Err(error) => format!("{error:#}"),
        };
        if started.elapsed() > within {
            bail!("{what}: not within {} s; {why}", within.as_secs());
        }
    }
}
