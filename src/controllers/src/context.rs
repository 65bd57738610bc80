//! What every controller is given: client, informers, configuration, and a place to run.

use std::future::Future;
use std::sync::Arc;

use client::Api;
use client::informer::Observed;
use client::{Change, EventRecorder, Informer, Informers, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::queue::Queue;
use crate::runner::{self, Reconcile};

/// Reconciliations of one controller that run at the same time.
const WORKERS: usize = 8;

#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: kube::Client,
    pub(crate) informers: Informers,
    pub(crate) config: Arc<Config>,
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
}

impl Context {
    pub(crate) fn new(client: kube::Client, informers: Informers, config: Config, stop: CancellationToken) -> Self {
        Self { client, informers, config: Arc::new(config), stop, tasks: TaskTracker::new() }
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) fn cluster_api<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub(crate) fn recorder(&self, component: &str) -> EventRecorder {
        EventRecorder::new(self.client.clone(), component, "")
    }

    /// Runs a task until it ends or the controllers stop.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task: BoxFuture<'static, ()> = Box::pin(task);
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(task).await.unwrap_or_default() });
    }

    /// Waits for the tasks after `stop`.
    pub(crate) async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Adds to `queue` the keys that `map` makes of each change of `informer`.
    pub(crate) fn feed<K: Observed>(
        &self,
        informer: &Informer<K>,
        queue: &Queue,
        map: impl Fn(&Change<K>) -> Vec<ObjectKey> + Send + 'static,
    ) {
        let (mut changes, queue) = (informer.subscribe(), queue.clone());
        self.spawn(async move {
            while let Some(change) = changes.next().await {
                map(&change).into_iter().for_each(|key| queue.add(key));
            }
        });
    }

    /// Adds the key of every object of `informer` that changes.
    pub(crate) fn feed_own<K: Observed>(&self, informer: &Informer<K>, queue: &Queue) {
        self.feed(informer, queue, |change| vec![ObjectKey::of(&**change.object())]);
    }

    pub(crate) fn queue(&self, name: &'static str) -> Queue {
        Queue::new(name, &self.config.metrics)
    }

    /// Runs a controller once the informers it reads are `synced`.
    pub(crate) fn run<R: Reconcile>(&self, queue: Queue, reconciler: R, synced: Vec<BoxFuture<'static, ()>>) {
        let stop = self.stop.clone();
        let work: BoxFuture<'static, ()> = Box::pin(runner::run(Arc::new(reconciler), queue, WORKERS, stop.clone()));
        self.tasks.spawn(async move {
            if stop.run_until_cancelled(futures::future::join_all(synced)).await.is_some() {
                work.await;
            }
        });
    }
}

/// A future for [`Context::run`] that ends when `informer` has its first list.
pub(crate) fn synced<K: Observed>(informer: &Informer<K>) -> BoxFuture<'static, ()> {
    let informer = informer.clone();
    Box::pin(async move { informer.synced().await })
}
