//! One watch that keeps one store.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::ready;
use futures_util::stream::BoxStream;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, broadcast};
use tracing::warn;

use super::Change;

/// What a watch brings.
pub(super) type Events<K> = BoxStream<'static, watcher::Result<Event<K>>>;

/// What becomes of an object in a store.
pub(super) enum Seen<'a, K> {
    /// It is new.
    Came(&'a K),
    /// It was the first, and is the second.
    Changed(&'a K, &'a K),
    /// It is gone.
    Went(&'a K),
}

impl<K> Seen<'_, K> {
    /// As it is now, or was at last.
    pub(super) const fn object(&self) -> &K {
        match self {
            Self::Came(object) | Self::Changed(_, object) | Self::Went(object) => object,
        }
    }
}

/// What to tell about an object.
type Tell<K> = Box<dyn Fn(Seen<'_, K>) -> Option<Change> + Send>;

/// How a store is kept.
pub(super) struct Keeper<K: 'static> {
    /// Leaves out of an object what nobody reads.
    pub(super) trim: fn(&mut K),
    /// Whether an object is kept at all.
    pub(super) matters: Box<dyn Fn(&K) -> bool + Send>,
    /// What to tell about it.
    pub(super) change: Tell<K>,
    /// Whom to tell.
    pub(super) changes: broadcast::Sender<Change>,
    /// Notified when everything should be listed anew.
    pub(super) again: Arc<Notify>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Keeper<K> {
    /// Keeps the store until it is dropped, beginning the watch again when it is asked to.
    pub(super) async fn keep(self, mut writer: Writer<K>, begin: impl Fn() -> Events<K>) {
        let store = writer.as_reader();
        let mut events = begin();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.step(event, &mut writer, &store),
                    Some(Err(error)) => {
                        let (kind, why) = (K::kind(&()), crate::failure::chain(&error));
                        warn!(%kind, why, "a watch was interrupted, and begins again");
                    }
                    None => events = begin(),
                },
                () = self.again.notified() => events = begin(),
            }
        }
    }

    fn step(&self, event: Event<K>, writer: &mut Writer<K>, store: &Store<K>) {
        let event = event.modify(self.trim);
        let change = match &event {
            Event::Init => None,
            Event::InitApply(object) if !(self.matters)(object) => return,
            Event::InitApply(_) => None,
            Event::InitDone => Some(Change::Everything),
            Event::Apply(object) => {
                let known = store.get(&ObjectRef::from_obj(object));
                match (known, (self.matters)(object)) {
                    (None, false) => return,
                    (None, true) => (self.change)(Seen::Came(object)),
                    (Some(old), true) => (self.change)(Seen::Changed(&old, object)),
                    (Some(_), false) => {
                        return self.step(Event::Delete(object.clone()), writer, store);
                    }
                }
            }
            Event::Delete(object) if store.get(&ObjectRef::from_obj(object)).is_none() => return,
            Event::Delete(object) => (self.change)(Seen::Went(object)),
        };
        writer.apply_watcher_event(&event);
        if let Some(change) = change {
            let _nobody_listens = self.changes.send(change);
        }
    }
}

/// A watch of whole objects. One that cannot be read is logged, and stays as it was known; when it
/// is deleted, everything is listed anew.
pub(super) fn objects<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    again: Arc<Notify>,
) -> impl Fn() -> Events<K> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    move || {
        let again = Arc::clone(&again);
        watcher(api.clone(), config.clone())
            .default_backoff()
            .filter_map(move |event| ready(event.map(|it| readable(it, &again)).transpose()))
            .boxed()
    }
}

/// A watch of metadata: the API server sends nothing else.
pub(super) fn metadata<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
) -> impl Fn() -> Events<PartialObjectMeta<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    move || watcher(api.clone(), config.clone()).default_backoff().boxed()
}

fn readable<K: Resource<DynamicType = ()>>(
    event: Event<DeserializeGuard<K>>,
    again: &Notify,
) -> Option<Event<K>> {
    let read = |guard: DeserializeGuard<K>| match guard {
        DeserializeGuard(Ok(object)) => Some(object),
        DeserializeGuard(Err(invalid)) => {
            let kind = K::kind(&());
            let namespace = invalid.metadata.namespace.as_deref().unwrap_or_default();
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            warn!(%kind, namespace, name, why = invalid.error, "an object cannot be read");
            None
        }
    };
    match event {
        Event::Apply(object) => read(object).map(Event::Apply),
        Event::InitApply(object) => read(object).map(Event::InitApply),
        Event::Delete(object) => {
            let gone = read(object).map(Event::Delete);
            if gone.is_none() {
                again.notify_one();
            }
            gone
        }
        Event::Init => Some(Event::Init),
        Event::InitDone => Some(Event::InitDone),
    }
}
