//! What a site's `/metrics` page shows, under the names of the original design where it has them.

use super::SiteDaemon;
use super::peers::SiteLink;
use crate::node::{cache_metrics, name_metrics};
use crate::telemetry::metrics::{Metrics, Sample};
use globalfs_controlplane::model::record::PendingChanges;
use globalfs_dataplane::replicas::Replicas;
use globalfs_dataplane::serve::ServeCounters;
use globalfs_proto::ChunkEncoding;
use std::sync::atomic::Ordering;

impl SiteDaemon {
    /// Every metric of this daemon.
    pub(super) fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new();
        cache_metrics(&mut metrics, &self.cache, &[("site", self.config.name.to_string())]);
        self.fetch_metrics(&mut metrics);
        self.name_metrics(&mut metrics);
        self.serve_metrics(&mut metrics);
        self.origin_metrics(&mut metrics);
        self.pending_metrics(&mut metrics);
        self.replica_metrics(&mut metrics);
        metrics
    }

    fn fetch_metrics(&self, metrics: &mut Metrics) {
        let mut add = |name, help, read: fn(&SiteLink) -> u64| {
            let (peers, here) = (self.peers.clone(), self.config.name.clone());
            metrics.counter(name, help, move || {
                let links = peers.links();
                let sample = |(site, link): &(_, SiteLink)| {
                    Sample::count(read(link)).label("src", site).label("dst", &here)
                };
                links.iter().map(sample).collect()
            });
        };
        add(
            "globalfs_replication_bytes_transferred",
            "Bytes received from another site, on the wire",
            |link| link.remote.peer().counters().bytes_received,
        );
        add("globalfs_fetched_bytes_total", "Bytes of files fetched, as files have them", |link| {
            link.cached.counters().bytes_fetched
        });
        add("globalfs_fetched_chunks_total", "Chunks fetched from another site", |link| {
            link.cached.counters().chunks_fetched
        });
        add("globalfs_joined_chunks_total", "Chunks that a reader got from another one's transfer", |link| {
            link.cached.counters().chunks_joined
        });
        add(
            "globalfs_dedup_bytes_total",
            "Bytes copied from elsewhere in the cache instead of fetched",
            |link| link.cached.counters().bytes_deduplicated,
        );
        add(
            "globalfs_dedup_chunks_total",
            "Chunks copied from elsewhere in the cache instead of fetched",
            |link| link.cached.counters().chunks_deduplicated,
        );
        add(
            "globalfs_wire_damaged_chunks_total",
            "Chunks that arrived damaged and were asked for again",
            |link| link.remote.counters().chunks_damaged,
        );
    }

    fn name_metrics(&self, metrics: &mut Metrics) {
        let (peers, here) = (self.peers.clone(), self.config.name.clone());
        name_metrics(metrics, move || {
            let labels = |site: &dyn ToString| vec![("src", site.to_string()), ("dst", here.to_string())];
            let links = peers.links();
            links.iter().map(|(site, link)| (labels(site), link.cached.name_counters())).collect()
        });
        let (origin, here) = (self.origin.clone(), self.config.name.clone());
        metrics.gauge(
            "globalfs_origin_watched_directories",
            "Directories whose changes are told",
            move || vec![Sample::count(origin.watched_directories() as u64).label("site", &here)],
        );
    }

    fn serve_metrics(&self, metrics: &mut Metrics) {
        let mut add = |name, help, read: fn(&ServeCounters) -> u64| {
            let (handler, here) = (self.handler.clone(), self.config.name.clone());
            metrics.counter(name, help, move || {
                let sample = |(to, counters): (&str, ServeCounters)| {
                    Sample::count(read(&counters)).label("site", &here).label("to", to)
                };
                handler.counters().into_iter().map(sample).collect()
            });
        };
        add("globalfs_served_chunks_total", "Chunks served", |c| c.chunks);
        add("globalfs_served_bytes_total", "Bytes served, as files have them", |c| c.bytes);
        add("globalfs_served_wire_bytes_total", "Bytes served, as they travelled", |c| c.wire_bytes);
        add("globalfs_served_directories_total", "Directories served", |c| c.directories);
        add("globalfs_served_entries_total", "Directory entries served", |c| c.entries);
        add("globalfs_served_changes_total", "Messages of changes sent", |c| c.changes);
        let (handler, here) = (self.handler.clone(), self.config.name.clone());
        metrics.counter(
            "globalfs_served_chunks_by_encoding_total",
            "Chunks served, by encoding",
            move || {
                let mut samples = Vec::new();
                for (to, counters) in handler.counters() {
                    let sample = |encoding: ChunkEncoding| {
                        let count = Sample::count(counters.chunks_as[encoding as usize]);
                        count.label("site", &here).label("to", to).label("encoding", encoding.name())
                    };
                    samples.extend(ChunkEncoding::ALL.map(sample));
                }
                samples
            },
        );
    }

    /// What is not home.
    fn pending_metrics(&self, metrics: &mut Metrics) {
        let mut add = |name, help, read: fn(&PendingChanges) -> u64| {
            let (leases, here) = (self.leases.clone(), self.config.name.clone());
            metrics.gauge(name, help, move || {
                let total = leases.pending().iter().map(read).sum();
                vec![Sample::count(total).label("site", &here)]
            });
        };
        add("globalfs_pending_files", "Paths that were changed here and are not home", |p| p.files);
        add("globalfs_pending_bytes", "Bytes of the files among them, as far as known", |p| p.bytes);
        add("globalfs_pending_late_files", "Paths that are owed for longer than sync_deadline", |p| p.late);
        add("globalfs_pending_troubled_leases", "Leases of which something does not come home", |p| {
            p.trouble.is_some().into()
        });
        let (leases, here) = (self.leases.clone(), self.config.name.clone());
        let help = "Age of the oldest change that is not home";
        metrics.gauge("globalfs_pending_oldest_seconds", help, move || {
            let oldest = leases.oldest_pending().map_or(0, |age| age.as_secs());
            vec![Sample::count(oldest).label("site", &here)]
        });
        let (leases, here) = (self.leases.clone(), self.config.name.clone());
        metrics.gauge("globalfs_leases_held", "Subtrees that this site holds", move || {
            vec![Sample::count(leases.count() as u64).label("site", &here)]
        });
    }

    fn replica_metrics(&self, metrics: &mut Metrics) {
        let mut add = |name, help, read: fn(&Replicas) -> u64| {
            let (replicas, here) = (self.replicas.clone(), self.config.name.clone());
            let sample = move || vec![Sample::count(read(&replicas)).label("site", &here)];
            metrics.gauge(name, help, sample);
        };
        add("globalfs_replica_files", "Files of other sites that are copied here", |r| r.totals().files);
        add("globalfs_replica_bytes", "Their bytes", |r| r.totals().bytes);
        add("globalfs_replica_missing_files", "Paths that wait to be replicated here", |r| {
            r.missing().values().map(|debt| debt.paths).sum()
        });
        add("globalfs_replica_missing_bytes", "Bytes of the files among them", |r| {
            r.missing().values().map(|debt| debt.bytes).sum()
        });
        add("globalfs_replica_missing_oldest_seconds", "Age of the oldest of them", |r| {
            r.missing().values().filter_map(|debt| debt.oldest).max().map_or(0, |age| age.as_secs())
        });
        add("globalfs_replica_late_files", "Paths that are missing for longer than sync_deadline", |r| {
            r.missing().keys().map(|policy| r.late(policy)).sum()
        });
        add("globalfs_replica_obstructed", "Paths where something else is in the way of a replica", |r| {
            r.obstructed() as u64
        });
    }

    fn origin_metrics(&self, metrics: &mut Metrics) {
        let (origin, here) = (self.origin.clone(), self.config.name.clone());
        metrics.counter("globalfs_origin_read_bytes_total", "Bytes read from the origin", move || {
            let read = origin.counters().bytes_read.load(Ordering::Relaxed);
            vec![Sample::count(read).label("site", &here)]
        });
        let (reachable, here) = (self.origin_reachable.clone(), self.config.name.clone());
        metrics.gauge("globalfs_origin_reachable", "1 while the origin answers", move || {
            vec![Sample::count(reachable.load(Ordering::Relaxed).into()).label("site", &here)]
        });
    }
}
